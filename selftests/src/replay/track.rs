// SPDX-License-Identifier: GPL-2.0-only
//! Steps that watch memory: userfaultfd and PAGEMAP_SCAN. Not by
//! [`crate::uffd`], which leaves the answers to the test: here a thread answers
//! every fault with the page that is there, or with zeros.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};

use nix::errno::Errno;

use super::Process;
use super::check::{PAGE_WORDS, WORDS, word};
use crate::mapping::PAGE;
use crate::pagemap::scan::{self, Is};

const API: u64 = 0xc018_aa3f;
const REGISTER: u64 = 0xc020_aa00;
const UNREGISTER: u64 = 0x8010_aa01;
const WAKE: u64 = 0x8010_aa02;
const COPY: u64 = 0xc028_aa03;
const ZEROPAGE: u64 = 0xc020_aa04;
const MOVE: u64 = 0xc028_aa05;
const WRITEPROTECT: u64 = 0xc018_aa06;
const CONTINUE: u64 = 0xc020_aa07;
const POISON: u64 = 0xc020_aa08;
const RWPROTECT: u64 = 0xc018_aa09;
const SET_MODE: u64 = 0x4010_aa0a;

/// `UFFD_FEATURE_*` that every one has: WP, EVENT_REMAP, WP_UNPOPULATED.
const BASE: u64 = 1 | 1 << 2 | 1 << 13;
/// MINOR_SHMEM and MISSING_SHMEM.
const SHMEM: u64 = 1 << 5 | 1 << 10;
/// RWP, and RWP_ASYNC.
const RWP: u64 = 1 << 17;
const RWP_ASYNC: u64 = 1 << 18;
const SIGBUS: u64 = 1 << 7;
const WP_ASYNC: u64 = 1 << 15;
/// `UFFD_EVENT_PAGEFAULT`, and the flag of a fault on a page that is there.
const PAGEFAULT: u64 = 0x12;
const MINOR: u64 = 1 << 2;
/// UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES.
const OVER_HOLES: u64 = 2;

/// Registered for write protection; `UFFDIO_REGISTER_MODE_*`.
pub const WATCH_WP: u64 = 2;

/// How pages that are not there are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// UFFDIO_COPY.
    Copy,
    /// The same, and write-protected.
    CopyProtected,
    /// UFFDIO_ZEROPAGE.
    Zero,
    /// UFFDIO_CONTINUE.
    Continue,
    /// UFFDIO_POISON.
    Poison,
}

impl Process {
    /// Opens a userfaultfd if there is none yet, and registers the range for
    /// write protection. Stores are resolved by the kernel, or get SIGBUS.
    pub fn uffd_register(&mut self, page: usize, count: usize, sigbus: bool) {
        let result = self.watch(page, count, sigbus, WATCH_WP);
        self.say(result);
    }

    /// As [`Self::uffd_register`], for the faults of `mode`.
    pub fn uffd_watch(&mut self, page: usize, count: usize, sigbus: bool, mode: u64) {
        let result = self.watch(page, count, sigbus, mode);
        self.need(result);
    }

    fn watch(&mut self, page: usize, count: usize, sigbus: bool, mode: u64) -> Result<(), Errno> {
        if self.uffd.is_none() {
            self.uffd = Some(open(if sigbus { SIGBUS } else { WP_ASYNC })?);
        }
        self.uffd_call(REGISTER, page, count, &[mode, 0])
    }

    /// UFFDIO_UNREGISTER.
    pub fn uffd_unregister(&mut self, page: usize, count: usize) {
        let result = self.uffd_call(UNREGISTER, page, count, &[]);
        self.say(result);
    }

    /// UFFDIO_WRITEPROTECT, or its end.
    pub fn uffd_protect(&mut self, page: usize, count: usize, protect: bool) {
        let result = self.uffd_call(WRITEPROTECT, page, count, &[u64::from(protect)]);
        self.say(result);
    }

    /// UFFDIO_RWPROTECT, or its end.
    pub fn uffd_close(&mut self, page: usize, count: usize, close: bool) {
        let result = self.uffd_call(RWPROTECT, page, count, &[u64::from(close)]);
        self.need(result);
    }

    /// UFFDIO_SET_MODE: whether the kernel opens closed pages by itself.
    pub fn uffd_mode(&mut self, opens: bool) {
        let mut modes = if opens {
            [RWP_ASYNC, 0]
        } else {
            [0, RWP_ASYNC]
        };
        let result = self.uffd_ioctl(SET_MODE, &mut modes);
        self.need(result);
    }

    /// UFFDIO_MOVE of pages to page `to`, over holes in the source.
    pub fn uffd_move(&mut self, page: usize, count: usize, to: usize) {
        let source = self.arena.page_addr(page) as u64;
        let bytes = (count * PAGE) as u64;
        let target = self.arena.page_addr(to) as u64;
        let result = self.uffd_ioctl(MOVE, &mut [target, source, bytes, OVER_HOLES, 0]);
        self.need(result);
    }

    /// Fills pages that are not there.
    pub fn uffd_fill(&mut self, page: usize, count: usize, stamp: u64, step: u64, how: Fill) {
        let mut content = vec![0_u64; count * PAGE_WORDS];
        for n in 0..count {
            let stamp = stamp.wrapping_add(step.wrapping_mul(n as u64));
            for (index, at) in WORDS.into_iter().enumerate() {
                content[n * PAGE_WORDS + at / 8] = word(stamp, index);
            }
        }
        let (target, bytes) = (self.arena.page_addr(page) as u64, (count * PAGE) as u64);
        let source = content.as_ptr() as u64;
        let result = match how {
            Fill::Copy => self.uffd_ioctl(COPY, &mut [target, source, bytes, 0, 0]),
            Fill::CopyProtected => self.uffd_ioctl(COPY, &mut [target, source, bytes, 2, 0]),
            Fill::Zero => self.uffd_ioctl(ZEROPAGE, &mut [target, bytes, 0, 0]),
            Fill::Continue => self.uffd_ioctl(CONTINUE, &mut [target, bytes, 0, 0]),
            Fill::Poison => self.uffd_ioctl(POISON, &mut [target, bytes, 0, 0]),
        };
        self.need(result);
    }

    fn uffd_call(
        &self,
        request: u64,
        page: usize,
        count: usize,
        more: &[u64],
    ) -> Result<(), Errno> {
        let mut argument = [0; 4];
        argument[0] = self.arena.page_addr(page) as u64;
        argument[1] = (count * PAGE) as u64;
        argument[2..2 + more.len()].copy_from_slice(more);
        self.uffd_ioctl(request, &mut argument)
    }

    fn uffd_ioctl(&self, request: u64, argument: &mut [u64]) -> Result<(), Errno> {
        let file = self.uffd.as_ref().ok_or(Errno::EBADF)?;
        ioctl(file, request, argument)
    }

    /// PAGEMAP_SCAN that protects every page.
    pub fn scan_protect(&mut self, page: usize, count: usize) {
        let range = crate::mapping::pages(page..page + count);
        let result = scan::write_protect(&self.arena, &range, Is::default());
        self.say(result.map(drop));
    }

    /// PAGEMAP_SCAN for anything.
    pub fn scan_all(&mut self, page: usize, count: usize) {
        let range = crate::mapping::pages(page..page + count);
        let result = scan::runs(&self.arena, &range, Is::default());
        self.say(result.map(drop));
    }
}

/// A userfaultfd with as many features as this kernel has.
fn open(kind: u64) -> Result<File, Errno> {
    let closed = if kind == WP_ASYNC {
        RWP | RWP_ASYNC
    } else {
        RWP
    };
    let base = BASE | kind;
    let mut failed = Errno::EINVAL;
    for features in [base | SHMEM | closed, base | SHMEM, base] {
        // SAFETY: makes a new descriptor, which belongs to nobody else yet.
        let file = unsafe {
            let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
            File::from_raw_fd(Errno::result(fd)? as i32)
        };
        match ioctl(&file, API, &mut [0xaa, features, 0]) {
            Ok(()) => {
                answer_in_background(&file)?;
                return Ok(file);
            }
            Err(errno) => failed = errno,
        }
    }
    Err(failed)
}

fn answer_in_background(file: &File) -> Result<(), Errno> {
    let mut file = file.try_clone().map_err(|_| Errno::EMFILE)?;
    let answer = move || {
        let mut bytes = [0; 32];
        while file.read(&mut bytes).is_ok_and(|count| count > 0) {
            let word =
                |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| bytes[at * 8 + byte]));
            if word(0) & 0xff != PAGEFAULT {
                continue;
            }
            let page = word(2) & !(PAGE as u64 - 1);
            let request = if word(1) & MINOR != 0 {
                CONTINUE
            } else {
                ZEROPAGE
            };
            if ioctl(&file, request, &mut [page, PAGE as u64, 0, 0]).is_err() {
                // Somebody else has filled it; whoever waits shall look again.
                let _ = ioctl(&file, WAKE, &mut [page, PAGE as u64]);
            }
        }
    };
    let thread = std::thread::Builder::new()
        .stack_size(64 << 10)
        .spawn(answer);
    thread.map(drop).map_err(|_| Errno::EAGAIN)
}

fn ioctl(file: &File, request: u64, argument: &mut [u64]) -> Result<(), Errno> {
    debug_assert!(argument.len() * 8 >= (request >> 16 & 0x3fff) as usize);
    // SAFETY: the argument is at least as large as the request says; what it
    // points to lies in the arena, or is borrowed by the caller.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, argument.as_mut_ptr()) };
    Errno::result(result).map(drop)
}
