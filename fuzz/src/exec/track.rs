// SPDX-License-Identifier: GPL-2.0-only
//! The userfaultfd of a process, for write protection.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::sys::{address, errno};
use crate::program::{Addr, Len, PAGE, PAGES, Track};

const API: u64 = 0xc018_aa3f;
const REGISTER: u64 = 0xc020_aa00;
const UNREGISTER: u64 = 0x8010_aa01;
const WRITEPROTECT: u64 = 0xc018_aa06;

const EVENT_REMAP: u64 = 1 << 2;
const SIGBUS: u64 = 1 << 7;
const WP_UNPOPULATED: u64 = 1 << 13;
const WP_ASYNC: u64 = 1 << 15;
const FAULT_WP: u64 = 1;
const MODE_WP: u64 = 2;

/// A userfaultfd that keeps protection over mremap; a thread reads its events,
/// because an mremap waits for that.
pub struct Tracker(OwnedFd);

impl Tracker {
    /// Opens one for this process. The error is an errno.
    pub fn open(track: Track) -> Result<Self, i32> {
        // SAFETY: a new descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) } as i32;
        if fd < 0 {
            return Err(errno());
        }
        // SAFETY: just opened, nobody else has it.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        let kind = if track == Track::Async {
            WP_ASYNC
        } else {
            SIGBUS
        };
        let mut api = [0xaa, FAULT_WP | EVENT_REMAP | WP_UNPOPULATED | kind, 0];
        request(&file, API, &mut api)?;
        let reader = file.try_clone().map_err(|_| errno())?;
        let spawned = std::thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(move || drain(&reader));
        spawned.map_err(|_| libc::EAGAIN)?;
        Ok(Self(file))
    }

    /// UFFDIO_REGISTER for write protection. Returns 0 or an errno.
    pub fn register(&self, at: Addr, len: Len) -> i32 {
        let [start, bytes] = range(at, len);
        outcome(request(&self.0, REGISTER, &mut [start, bytes, MODE_WP, 0]))
    }

    /// UFFDIO_UNREGISTER. Returns 0 or an errno.
    pub fn unregister(&self, at: Addr, len: Len) -> i32 {
        outcome(request(&self.0, UNREGISTER, &mut range(at, len)))
    }

    /// UFFDIO_WRITEPROTECT. Returns 0 or an errno.
    pub fn protect(&self, at: Addr, len: Len, protect: bool) -> i32 {
        let [start, bytes] = range(at, len);
        outcome(request(
            &self.0,
            WRITEPROTECT,
            &mut [start, bytes, u64::from(protect)],
        ))
    }
}

fn range(at: Addr, len: Len) -> [u64; 2] {
    let pages = len.pages().min(PAGES - at.page());
    [address(at.page()) as u64, (pages * PAGE) as u64]
}

fn request<const N: usize>(
    file: &OwnedFd,
    number: u64,
    argument: &mut [u64; N],
) -> Result<(), i32> {
    // SAFETY: the argument is as large as the request says.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), number, argument.as_mut_ptr()) };
    if result == 0 { Ok(()) } else { Err(errno()) }
}

fn outcome(result: Result<(), i32>) -> i32 {
    result.err().unwrap_or(0)
}

/// Reads events until the descriptor fails or the process ends.
fn drain(file: &OwnedFd) {
    let mut event = [0u8; 32];
    loop {
        // SAFETY: reads into `event`.
        let count = unsafe { libc::read(file.as_raw_fd(), event.as_mut_ptr().cast(), event.len()) };
        if count <= 0 {
            return;
        }
    }
}
