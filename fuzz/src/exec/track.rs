// SPDX-License-Identifier: GPL-2.0-only
//! The userfaultfd of a process, and the thread that answers it.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::sys::{address, errno};
use crate::program::{Addr, Fill, Len, PAGE, PAGES, Switch, Track, Watch};

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

const EVENT_REMAP: u64 = 1 << 2;
const MISSING_SHMEM: u64 = 1 << 5;
const SIGBUS: u64 = 1 << 7;
const MINOR_SHMEM: u64 = 1 << 10;
const WP_UNPOPULATED: u64 = 1 << 13;
const WP_ASYNC: u64 = 1 << 15;
const RWP: u64 = 1 << 17;
const RWP_ASYNC: u64 = 1 << 18;
const FAULT_WP: u64 = 1;
const MODE_MISSING: u64 = 1;
const MODE_WP: u64 = 2;
const MODE_MINOR: u64 = 4;
const MODE_RWP: u64 = 8;
const COPY_WP: u64 = 2;
const MOVE_OVER_HOLES: u64 = 2;

/// What `read` gives for a fault: its number, and the bit that it is a minor one.
const FAULT: u8 = 0x12;
const FAULT_MINOR: u64 = 4;

static ZEROS: [u8; PAGE] = [0; PAGE];

/// A userfaultfd that keeps protection over mremap; a thread reads its events,
/// because an mremap waits for that, and answers faults that wait.
pub struct Tracker(OwnedFd);

impl Tracker {
    /// Opens one for this process. The error is an errno.
    pub fn open(track: Track) -> Result<Self, i32> {
        let base = FAULT_WP | EVENT_REMAP | WP_UNPOPULATED;
        let more = base | MISSING_SHMEM | MINOR_SHMEM;
        let (kind, close) = match track {
            Track::Async => (WP_ASYNC, RWP | RWP_ASYNC),
            Track::Sigbus => (SIGBUS, RWP),
        };
        let file = opened(more | kind | close)
            .or_else(|_| opened(more | kind))
            .or_else(|_| opened(base | kind))?;
        let reader = file.try_clone().map_err(|_| errno())?;
        let spawned = std::thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(move || serve(&reader));
        spawned.map_err(|_| libc::EAGAIN)?;
        Ok(Self(file))
    }

    /// UFFDIO_REGISTER for write protection. Returns 0 or an errno.
    pub fn register(&self, at: Addr, len: Len) -> i32 {
        self.register_for(at, len, MODE_WP)
    }

    /// UFFDIO_REGISTER for other faults. Returns 0 or an errno.
    pub fn watch(&self, at: Addr, len: Len, kind: Watch) -> i32 {
        let mode = match kind {
            Watch::Missing => MODE_MISSING,
            Watch::MissingWp => MODE_MISSING | MODE_WP,
            Watch::Minor => MODE_MINOR,
            Watch::Rwp => MODE_RWP,
            Watch::MissingRwp => MODE_MISSING | MODE_RWP,
        };
        self.register_for(at, len, mode)
    }

    fn register_for(&self, at: Addr, len: Len, mode: u64) -> i32 {
        let [start, bytes] = range(at, len);
        outcome(request(&self.0, REGISTER, &mut [start, bytes, mode, 0]))
    }

    /// UFFDIO_UNREGISTER. Returns 0 or an errno.
    pub fn unregister(&self, at: Addr, len: Len) -> i32 {
        outcome(request(&self.0, UNREGISTER, &mut range(at, len)))
    }

    /// UFFDIO_WRITEPROTECT. Returns 0 or an errno.
    pub fn protect(&self, at: Addr, len: Len, protect: bool) -> i32 {
        let [start, bytes] = range(at, len);
        let mut argument = [start, bytes, u64::from(protect)];
        outcome(request(&self.0, WRITEPROTECT, &mut argument))
    }

    /// UFFDIO_RWPROTECT. Returns 0 or an errno.
    pub fn close(&self, at: Addr, len: Len, on: Switch) -> i32 {
        let [start, bytes] = range(at, len);
        let mut argument = [start, bytes, u64::from(on == Switch::On)];
        outcome(request(&self.0, RWPROTECT, &mut argument))
    }

    /// UFFDIO_SET_MODE: whether the kernel opens closed pages by itself. Returns 0 or an errno.
    pub fn opens(&self, on: Switch) -> i32 {
        let mut modes = match on {
            Switch::On => [RWP_ASYNC, 0],
            Switch::Off => [0, RWP_ASYNC],
        };
        outcome(request(&self.0, SET_MODE, &mut modes))
    }

    /// Fills the pages at `at`, from `content` where that is needed: 0 or an errno,
    /// and the number of pages that the kernel says it filled.
    pub fn fill(&self, at: Addr, content: &[u8], how: Fill) -> (i32, usize) {
        let (start, bytes) = (address(at.page()) as u64, content.len() as u64);
        let source = content.as_ptr() as u64;
        match how {
            Fill::Copy | Fill::CopyProtected => {
                let mode = if how == Fill::Copy { 0 } else { COPY_WP };
                counted(&self.0, COPY, [start, source, bytes, mode, 0])
            }
            Fill::Zero => counted(&self.0, ZEROPAGE, [start, bytes, 0, 0]),
            Fill::Continue => counted(&self.0, CONTINUE, [start, bytes, 0, 0]),
            Fill::Poison => counted(&self.0, POISON, [start, bytes, 0, 0]),
        }
    }

    /// UFFDIO_MOVE: 0 or an errno, and the number of pages that the kernel says it moved.
    pub fn shift(&self, at: Addr, len: Len, to: Addr) -> (i32, usize) {
        let [source, bytes] = range(at, len);
        let target = address(to.page()) as u64;
        let argument = [target, source, bytes, MOVE_OVER_HOLES, 0];
        counted(&self.0, MOVE, argument)
    }
}

/// A userfaultfd with these features.
fn opened(features: u64) -> Result<OwnedFd, i32> {
    // SAFETY: a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) } as i32;
    if fd < 0 {
        return Err(errno());
    }
    // SAFETY: just opened, nobody else has it.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    request(&file, API, &mut [0xaa, features, 0])?;
    Ok(file)
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
    // SAFETY: the argument is as large as the request says, and what it points to
    // is as long as its length says.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), number, argument.as_mut_ptr()) };
    if result == 0 { Ok(()) } else { Err(errno()) }
}

/// A request whose last word comes back with the bytes that were done, or a negative errno.
fn counted<const N: usize>(file: &OwnedFd, number: u64, mut argument: [u64; N]) -> (i32, usize) {
    let result = outcome(request(file, number, &mut argument));
    let done = argument.last().map_or(0, |word| word.cast_signed().max(0));
    (result, done as usize / PAGE)
}

fn outcome(result: Result<(), i32>) -> i32 {
    result.err().unwrap_or(0)
}

/// Reads events until the descriptor fails or the process ends. A fault is answered
/// with the page that is there, or with zeros.
fn serve(file: &OwnedFd) {
    let mut event = [0u64; 4];
    loop {
        // SAFETY: reads one event of 32 bytes into `event`.
        let count = unsafe { libc::read(file.as_raw_fd(), event.as_mut_ptr().cast(), 32) };
        if count <= 0 {
            return;
        }
        if event[0].to_le_bytes()[0] != FAULT {
            continue;
        }
        let start = event[2] & !(PAGE as u64 - 1);
        let minor = event[1] & FAULT_MINOR != 0;
        let number = if minor { CONTINUE } else { ZEROPAGE };
        let zeros = ZEROS.as_ptr() as u64;
        let mut copy = [start, zeros, PAGE as u64, COPY_WP, 0];
        // UFFDIO_ZEROPAGE does not replace the mark of a protected page, UFFDIO_COPY does
        if request(file, number, &mut [start, PAGE as u64, 0, 0]).is_err()
            && (minor || request(file, COPY, &mut copy).is_err())
        {
            // somebody else was faster, or the area is gone: the access finds out itself
            let _ = request(file, WAKE, &mut [start, PAGE as u64]);
        }
    }
}
