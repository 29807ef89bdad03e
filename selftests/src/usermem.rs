// SPDX-License-Identifier: GPL-2.0-only
//! System calls that make the kernel take a page of this process by its
//! address (GUP): what they return says whether there is a page to take.

use std::io::{PipeReader, Read, pipe};
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use crate::mapping::PAGE;

/// Wakes nobody at a shared futex at `address`: the kernel looks the page up
/// by `get_user_pages_fast()`.
///
/// # Errors
/// `EFAULT` where no page can be taken.
pub fn futex_wake_shared(address: usize) -> Result<(), Errno> {
    // SAFETY: wakes at most one waiter of an address that nobody waits at; the
    // kernel checks the address.
    let woken = unsafe { libc::syscall(libc::SYS_futex, address, libc::FUTEX_WAKE, 1, 0, 0, 0) };
    Errno::result(woken).map(drop)
}

/// A page in a pipe: the kernel holds a reference to it, though no pin, until
/// this is dropped or its content is taken.
#[derive(Debug)]
pub struct HeldPage {
    reader: PipeReader,
    bytes: usize,
}

impl HeldPage {
    /// Puts the page at `address` into a pipe without a copy (vmsplice).
    ///
    /// # Errors
    /// `EFAULT` where no page can be taken.
    ///
    /// # Panics
    /// When no pipe can be made.
    pub fn take(address: usize) -> Result<Self, Errno> {
        let (reader, writer) = pipe().expect("a process can make a pipe");
        let part = libc::iovec {
            iov_base: address as *mut _,
            iov_len: PAGE,
        };
        // SAFETY: the kernel checks the address, and only reads there.
        let spliced = unsafe { libc::vmsplice(writer.as_raw_fd(), &raw const part, 1, 0) };
        let bytes = Errno::result(spliced)? as usize;
        Ok(Self { reader, bytes })
    }

    /// What the page holds now, as it comes out of the pipe.
    ///
    /// # Panics
    /// When it does not come out.
    pub fn content(mut self) -> Vec<u8> {
        let mut content = vec![0; self.bytes];
        self.reader
            .read_exact(&mut content)
            .expect("what went into the pipe comes out");
        content
    }
}

/// Puts the page at `address` into a pipe and returns what comes out of it.
///
/// # Errors
/// `EFAULT` where no page can be taken.
pub fn splice_page(address: usize) -> Result<Vec<u8>, Errno> {
    HeldPage::take(address).map(HeldPage::content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Region;
    use crate::pattern::FIRST;

    #[test]
    fn pages_are_taken_and_holes_refused() {
        let mut region = Region::shared(2 * PAGE).unwrap();
        FIRST.fill_all(&region);
        let bytes = FIRST.page(1).map(u64::to_ne_bytes).concat();
        let page = region.page_addr(1);
        assert_eq!(splice_page(page).unwrap(), bytes);
        assert_eq!(futex_wake_shared(page), Ok(()));
        region.munmap(PAGE..2 * PAGE).unwrap();
        assert_eq!(splice_page(page), Err(Errno::EFAULT));
        assert_eq!(futex_wake_shared(page), Err(Errno::EFAULT));
    }
}
