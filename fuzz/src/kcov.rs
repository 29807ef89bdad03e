// SPDX-License-Identifier: GPL-2.0-only
//! KCOV of one thread: which kernel call sites it went through.
//!
//! The descriptors are opened once, before programs run, and used again: when a
//! task ends, the kernel detaches it. A descriptor belongs to one process of a
//! program, so children have their own. Each process maps only its own buffer,
//! and no fork copies it: the page tables of four would cost more than the fork.
//! The buffer lies outside the arena, where no operation of a program reaches.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::exec::cover::Cover;

const PATH: &str = "/sys/kernel/debug/kcov";
/// Words of the buffer; the first is the count of the others.
const WORDS: usize = 64 << 10;
const INIT_TRACE: u64 = 0x8008_6301;
const ENABLE: u64 = 0x6364;
const DISABLE: u64 = 0x6365;
const TRACE_PC: u64 = 0;

/// One descriptor.
pub struct Kcov(File);

impl Kcov {
    /// Opens a descriptor; fails where the kernel has no KCOV.
    pub fn open() -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(PATH)?;
        // SAFETY: the request takes the size by value.
        if unsafe { libc::ioctl(file.as_raw_fd(), INIT_TRACE, WORDS) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(file))
    }

    /// Maps the buffer and starts to trace the calling thread, until it ends.
    pub fn trace(&self) -> io::Result<Trace> {
        let bytes = WORDS * 8;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let fd = self.0.as_raw_fd();
        // SAFETY: a new mapping of the size that was asked for.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping just made; and the request takes the mode by value.
        let failed = unsafe {
            libc::madvise(base, bytes, libc::MADV_DONTFORK) != 0
                || libc::ioctl(fd, ENABLE, TRACE_PC) != 0
        };
        if failed {
            return Err(io::Error::last_os_error());
        }
        Ok(Trace(base.cast(), fd))
    }
}

/// The buffer of a thread that is traced, mapped until the process ends.
pub struct Trace(*mut u64, RawFd);

// SAFETY: the mapping belongs to the process; only one thread uses the buffer.
unsafe impl Send for Trace {}

impl Trace {
    /// Forgets what was recorded.
    pub fn reset(&self) {
        // SAFETY: the buffer has WORDS words; the kernel writes to it only on
        // behalf of this thread.
        unsafe { self.0.write_volatile(0) };
    }

    /// Records nothing until `resume`: what is not looked at costs twice as much
    /// while it is recorded. The calling thread is the one that is traced.
    pub fn pause(&self) {
        // SAFETY: the request takes no argument; the descriptor outlives all programs.
        unsafe { libc::ioctl(self.1, DISABLE, 0) };
    }

    /// Records again.
    pub fn resume(&self) {
        // SAFETY: as in `pause`.
        unsafe { libc::ioctl(self.1, ENABLE, TRACE_PC) };
    }

    /// How much was recorded.
    pub fn length(&self) -> u64 {
        // SAFETY: as in `reset`.
        unsafe { self.0.read_volatile() }
    }

    /// Unmaps the buffer; the thread ends before the descriptor is used again.
    pub fn unmap(&self) {
        // SAFETY: the mapping of `Kcov::trace`; the kernel writes to its pages by
        // a mapping of its own, and this one is not used any more.
        unsafe { libc::munmap(self.0.cast(), WORDS * 8) };
    }

    /// Whether it is time to collect, before the buffer is full.
    pub fn is_half_full(&self) -> bool {
        self.length() as usize > WORDS / 2
    }

    /// Adds what was recorded, and forgets it. False if the buffer was full.
    pub fn collect(&self, cover: &mut Cover) -> bool {
        let count = self.length() as usize;
        // SAFETY: inside the buffer; the kernel only writes behind what it has counted.
        let pcs = unsafe { std::slice::from_raw_parts(self.0.add(1), count.min(WORDS - 1)) };
        cover.add_all(pcs);
        self.reset();
        count < WORDS - 1
    }
}

/// First address of the kernel's text, from `/proc/kallsyms`.
pub fn text_start() -> Option<u64> {
    let symbols = std::fs::read_to_string("/proc/kallsyms").ok()?;
    let line = symbols
        .lines()
        .find(|line| line.ends_with(" _stext") || line.ends_with(" _text"))?;
    u64::from_str_radix(line.split(' ').next()?, 16).ok()
}
