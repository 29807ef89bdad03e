// SPDX-License-Identifier: GPL-2.0-only
//! Steps that hold pages or put them somewhere, and accesses to another process.

use std::os::unix::fs::FileExt;

use nix::errno::Errno;

use super::Process;
use super::check::{WORDS, word};
use super::transfer::{page_words, put_page};
use crate::fixed_buffer::{FixedBuffer, Way};
use crate::gup;
use crate::mapping::{PAGE, memfd, pages};

/// Pages of the file that a fixed buffer exchanges data with.
const EXCHANGED: usize = 32;

impl Process {
    /// Holds a longterm pin for writing, instead of the one before.
    pub fn pin(&mut self, page: usize, count: usize) {
        (self.pin, self.fixed) = (None, None);
        let range = pages(page..page + count);
        let pin = gup::Pin::take(&self.arena, &range, gup::Way::Write);
        let result = pin.map(|pin| self.pin = Some(pin));
        self.say(result);
    }

    /// Gives the pin up.
    pub fn unpin(&mut self) {
        let held = self.pin.take().map(drop);
        let held = held.or(self.fixed.take().map(drop));
        self.say(held.ok_or(Errno::EINVAL));
    }

    /// Registers pages as a fixed buffer of io_uring, instead of the pin before.
    pub fn buffer(&mut self, page: usize, count: usize) {
        (self.pin, self.fixed) = (None, None);
        let range = self.range(page, count);
        // SAFETY: nothing of Rust lies in the arena.
        let result = unsafe { FixedBuffer::register(&range) };
        let result = result.map(|buffer| self.fixed = Some(buffer));
        self.say(result);
    }

    /// Data through the fixed buffer: into pages, or out of them, where it is checked.
    pub fn fixed(
        &mut self,
        page: usize,
        count: usize,
        stamp: u64,
        step: u64,
        store: u32,
        flags: u32,
    ) {
        let part = self.range(page, count);
        let file = self.exchange.take();
        let file = file.unwrap_or_else(|| {
            memfd("exchange", EXCHANGED * PAGE).expect("a file in memory can be made")
        });
        let stamps = |n: usize| stamp.wrapping_add(step.wrapping_mul(n as u64));
        for n in (0..count).filter(|_| store != 0) {
            put_page(&file, n, stamps(n));
        }
        let way = if store != 0 { Way::In } else { Way::Out };
        let buffer = self.fixed.as_mut().ok_or(Errno::EINVAL);
        match buffer.and_then(|buffer| buffer.transfer(&file, &part, way)) {
            Ok(bytes) if bytes == part.len() => {
                for n in (0..count).filter(|_| store == 0) {
                    self.equal(page + n, &page_words(&file, n), stamps(n), flags);
                }
            }
            Ok(bytes) => self.bad("fixed buffer not transferred", page, bytes as u64),
            Err(errno) => self.bad("fixed buffer not transferred", page, errno as u64),
        }
        self.exchange = Some(file);
    }

    /// Moves pages to a NUMA node, by move_pages(2) or, with `bind`, by mbind(2).
    pub fn place(&mut self, page: usize, count: usize, node: usize, bind: bool) {
        const MPOL_PREFERRED: usize = 1;
        const MPOL_BIND: usize = 2;
        const MPOL_MF_MOVE: usize = 2;
        let start = self.arena.page_addr(page);
        let result = if bind {
            let mask = 1_usize << node;
            let policy = if node == 0 { MPOL_BIND } else { MPOL_PREFERRED };
            // SAFETY: changes the policy of the arena only; the mask has 64 bits.
            unsafe {
                let bytes = count * PAGE;
                libc::syscall(
                    libc::SYS_mbind,
                    start,
                    bytes,
                    policy,
                    &raw const mask,
                    64,
                    MPOL_MF_MOVE,
                )
            }
        } else {
            let addresses: Vec<usize> = (0..count).map(|i| start + i * PAGE).collect();
            let nodes = vec![node as i32; count];
            let mut status = vec![0_i32; count];
            // SAFETY: three arrays of `count` entries.
            unsafe {
                let (at, to) = (addresses.as_ptr(), nodes.as_ptr());
                libc::syscall(
                    libc::SYS_move_pages,
                    0,
                    count,
                    at,
                    to,
                    status.as_mut_ptr(),
                    MPOL_MF_MOVE,
                )
            }
        };
        // The number of pages that could not be moved is no failure.
        self.say(Errno::result(result).map(drop));
    }

    /// migrate_pages(2) of the whole process, from one set of nodes to another.
    pub fn migrate_all(&mut self, from: u64, to: u64) {
        let masks = [from, to];
        // SAFETY: two masks of 64 bits.
        let result = unsafe {
            let (from, to) = (&raw const masks[0], &raw const masks[1]);
            libc::syscall(libc::SYS_migrate_pages, 0, 65, from, to)
        };
        self.say(Errno::result(result).map(drop));
    }

    /// Stores to pages of another process, or loads from them and checks.
    #[expect(
        clippy::too_many_arguments,
        reason = "they are those of `check`, and whose"
    )]
    pub fn remote(
        &mut self,
        peer: usize,
        page: usize,
        count: usize,
        stamp: u64,
        step: u64,
        store: u32,
        flags: u32,
    ) {
        for n in 0..count {
            let (page, stamp) = (page + n, stamp.wrapping_add(step.wrapping_mul(n as u64)));
            if self.board.doubts(peer, page) {
                continue;
            }
            let mut words = std::array::from_fn(|index| word(stamp, index));
            match self.transfer(peer, page, &mut words, store != 0) {
                Err(errno) => self.bad("remote access refused", page, errno as u64),
                Ok(()) if store == 0 => self.equal(page, &words, stamp, flags),
                Ok(()) => {}
            }
        }
    }

    /// The four words of a page of another process.
    fn transfer(
        &self,
        peer: usize,
        page: usize,
        words: &mut [u64; 4],
        store: bool,
    ) -> Result<(), Errno> {
        let pid = self.board.pid(peer);
        let here = libc::iovec {
            iov_base: words.as_mut_ptr().cast(),
            iov_len: 32,
        };
        let there = WORDS.map(|offset| libc::iovec {
            iov_base: (self.arena.page_addr(page) + offset) as *mut _,
            iov_len: 8,
        });
        // SAFETY: the local side is `words`; the other lies in the peer's arena.
        let count = unsafe {
            let (here, there) = (&raw const here, there.as_ptr());
            if store {
                libc::process_vm_writev(pid, here, 1, there, 4, 0)
            } else {
                libc::process_vm_readv(pid, here, 1, there, 4, 0)
            }
        };
        match Errno::result(count) {
            Ok(32) => Ok(()),
            // Some kernels are built without these calls.
            Err(Errno::ENOSYS) => self.transfer_by_file(pid, page, words, store),
            Ok(_) => Err(Errno::EIO),
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn transfer_by_file(
        &self,
        pid: i32,
        page: usize,
        words: &mut [u64; 4],
        store: bool,
    ) -> Result<(), Errno> {
        let errno =
            |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        let path = format!("/proc/{pid}/mem");
        let file = std::fs::File::options().read(true).write(true).open(path);
        let file = file.map_err(errno)?;
        for (word, offset) in words.iter_mut().zip(WORDS) {
            let at = (self.arena.page_addr(page) + offset) as u64;
            let mut bytes = word.to_ne_bytes();
            if store {
                file.write_all_at(&bytes, at).map_err(errno)?;
            } else {
                file.read_exact_at(&mut bytes, at).map_err(errno)?;
                *word = u64::from_ne_bytes(bytes);
            }
        }
        Ok(())
    }
}
