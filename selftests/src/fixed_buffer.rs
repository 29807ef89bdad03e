// SPDX-License-Identifier: GPL-2.0-only
//! A fixed buffer of io_uring: memory that the kernel pins for as long as it is registered
//! (`io_sqe_buffer_register()` in io_uring/rsrc.c: FOLL_LONGTERM, for writing), and moves data
//! to and from without looking at page tables again.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use io_uring::{IoUring, opcode, types};
use nix::errno::Errno;

/// A registered buffer; dropping it gives the pin up.
pub struct FixedBuffer(IoUring);

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the start of a file into memory (IORING_OP_READ_FIXED).
    In,
    /// From memory to the start of a file (IORING_OP_WRITE_FIXED).
    Out,
}

impl FixedBuffer {
    /// Registers the range of addresses with a ring of its own, which children do not inherit.
    ///
    /// # Errors
    /// As io_uring_setup(2) and io_uring_register(2): EFAULT where a page allows no store.
    ///
    /// # Safety
    /// The caller uses the memory as what it is: changed by [`Self::transfer`] without a store.
    pub unsafe fn register(range: &Range<usize>) -> Result<Self, Errno> {
        let ring = IoUring::builder().dontfork().build(2).map_err(errno)?;
        let part = libc::iovec {
            iov_base: range.start as *mut _,
            iov_len: range.len(),
        };
        // SAFETY: the caller's promise; an address of no memory is an error.
        unsafe { ring.submitter().register_buffers(&[part]) }.map_err(errno)?;
        Ok(Self(ring))
    }

    /// Transfers a part of the buffer, and waits for the end. Returns how many bytes.
    ///
    /// # Errors
    /// What the request ended with; EFAULT for a part outside the buffer.
    pub fn transfer(
        &mut self,
        file: impl AsFd,
        part: &Range<usize>,
        way: Way,
    ) -> Result<usize, Errno> {
        let file = types::Fd(file.as_fd().as_raw_fd());
        let bytes = part.len() as u32;
        let request = match way {
            Way::In => opcode::ReadFixed::new(file, part.start as *mut u8, bytes, 0).build(),
            Way::Out => opcode::WriteFixed::new(file, part.start as *const u8, bytes, 0).build(),
        };
        // SAFETY: the memory is the registered buffer's, and this waits for the end.
        unsafe { self.0.submission().push(&request) }.map_err(|_| Errno::EBUSY)?;
        self.0.submit_and_wait(1).map_err(errno)?;
        let done = self.0.completion().next().ok_or(Errno::EIO)?;
        usize::try_from(done.result()).map_err(|_| Errno::from_raw(-done.result()))
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
