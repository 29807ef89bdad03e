// SPDX-License-Identifier: GPL-2.0-only
//! KCOV of one thread: which kernel call sites it went through.
//!
//! The descriptors are opened once, before programs run, and used again: when a
//! task ends, the kernel detaches it. A descriptor belongs to one process of a
//! program, so children have their own. The buffer lies outside the arena,
//! where no operation of a program reaches.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use crate::exec::cover::Cover;

const PATH: &str = "/sys/kernel/debug/kcov";
/// Words of the buffer; the first is the count of the others.
const WORDS: usize = 128 << 10;
const INIT_TRACE: u64 = 0x8008_6301;
const ENABLE: u64 = 0x6364;
const DISABLE: u64 = 0x6365;
const TRACE_PC: u64 = 0;

/// One descriptor and its buffer.
pub struct Kcov {
    file: File,
    buffer: *mut u64,
}

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
        // SAFETY: a new mapping of the size that was asked for.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                WORDS * 8,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            file,
            buffer: base.cast(),
        })
    }

    /// Starts tracing the calling thread; it ends with the thread.
    pub fn enable(&self) -> io::Result<()> {
        // SAFETY: the request takes the mode by value.
        if unsafe { libc::ioctl(self.file.as_raw_fd(), ENABLE, TRACE_PC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Stops tracing the calling thread.
    pub fn disable(&self) {
        // SAFETY: the request takes no argument.
        unsafe { libc::ioctl(self.file.as_raw_fd(), DISABLE, 0) };
    }

    /// Forgets what was recorded.
    pub fn reset(&self) {
        // SAFETY: the buffer has WORDS words; the kernel writes to it only on
        // behalf of this thread.
        unsafe { self.buffer.write_volatile(0) };
    }

    /// Adds what was recorded, and forgets it. False if the buffer was full.
    pub fn collect(&self, cover: &mut Cover) -> bool {
        // SAFETY: as in `reset`; the count is at most WORDS - 1.
        let count = unsafe { self.buffer.read_volatile() } as usize;
        for i in 1..=count.min(WORDS - 1) {
            // SAFETY: index inside the buffer.
            cover.add(unsafe { self.buffer.add(i).read_volatile() });
        }
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
