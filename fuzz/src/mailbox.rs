// SPDX-License-Identifier: GPL-2.0-only
//! The mailbox: memory that the host can read although the guest is dead. The
//! program about to run is in it before it runs. Layout: see the crate's docs.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};

use crate::exec::{Stats, Violation};

/// Bytes of the mailbox; what backs it must be at least as large.
pub const BYTES: usize = 64 << 10;
const MAGIC: u64 = u64::from_le_bytes(*b"HPFUZZ01");
const PROGRAM: usize = 4 << 10;
const PROGRAM_BYTES: usize = 28 << 10;
const REPORT: usize = 32 << 10;
const REPORT_BYTES: usize = 32 << 10;

/// Words of the header, in order.
mod header {
    pub const MAGIC: usize = 0;
    pub const SEQUENCE: usize = 1;
    pub const STATE: usize = 2;
    pub const PROGRAM_BYTES: usize = 3;
    pub const REPORT_BYTES: usize = 4;
    pub const CALLS: usize = 5;
    pub const SUCCEEDED: usize = 6;
    pub const OVERFLOWS: usize = 7;
    pub const COVERED: usize = 8;
    pub const CORPUS: usize = 9;
    pub const AVOIDED: usize = 10;
}

/// What the guest does, as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum State {
    /// No program has begun.
    Idle = 0,
    /// The program in the mailbox is running.
    Running = 1,
    /// It has ended; the report says if it showed a violation.
    Done = 2,
}

/// A mapped mailbox.
pub struct Mailbox {
    base: *mut u8,
}

impl Mailbox {
    /// Maps the file or PCI resource at `path`; none if that fails, since
    /// fuzzing without a host is useful too.
    pub fn open(path: &Path) -> Option<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
        // SAFETY: a new mapping.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                std::os::fd::AsRawFd::as_raw_fd(&file),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            eprintln!(
                "failed to map the mailbox {}: {}",
                path.display(),
                std::io::Error::last_os_error()
            );
            return None;
        }
        let mut mailbox = Self { base: base.cast() };
        mailbox.put(header::STATE, State::Idle as u64);
        mailbox.put(header::MAGIC, MAGIC);
        Some(mailbox)
    }

    /// Announces a program; it runs after this returns.
    pub fn begin(&mut self, program: &str) {
        self.put(header::REPORT_BYTES, 0);
        self.text(PROGRAM, PROGRAM_BYTES, header::PROGRAM_BYTES, program);
        let sequence = self.get(header::SEQUENCE);
        self.put(header::SEQUENCE, sequence + 1);
        fence(Ordering::SeqCst);
        self.put(header::STATE, State::Running as u64);
    }

    /// The program has ended.
    pub fn end(&mut self, stats: &Stats, violation: Option<&Violation>) {
        self.put(header::CALLS, stats.calls);
        self.put(header::SUCCEEDED, stats.succeeded);
        self.put(header::OVERFLOWS, stats.overflows);
        if let Some(violation) = violation {
            self.text(
                REPORT,
                REPORT_BYTES,
                header::REPORT_BYTES,
                &violation.print(),
            );
        }
        fence(Ordering::SeqCst);
        self.put(header::STATE, State::Done as u64);
    }

    /// Publishes what the fuzzer has: call sites covered, programs kept,
    /// programs passed over because a known finding would show again.
    pub fn progress(&mut self, covered: u64, corpus: u64, avoided: u64) {
        self.put(header::COVERED, covered);
        self.put(header::CORPUS, corpus);
        self.put(header::AVOIDED, avoided);
    }

    fn put(&mut self, word: usize, value: u64) {
        // SAFETY: `word` is one of the header, which is inside the mapping.
        unsafe { self.base.cast::<u64>().add(word).write_volatile(value) };
    }

    fn get(&self, word: usize) -> u64 {
        // SAFETY: as in `put`.
        unsafe { self.base.cast::<u64>().add(word).read_volatile() }
    }

    /// Writes at most `limit` bytes of `text`, then their number.
    fn text(&mut self, offset: usize, limit: usize, length: usize, text: &str) {
        let bytes = &text.as_bytes()[..text.len().min(limit)];
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: offset + limit is at most BYTES. By volatile stores,
            // because device memory may back the mapping.
            unsafe { self.base.add(offset + i).write_volatile(*byte) };
        }
        self.put(length, bytes.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_there_before_it_runs_and_the_report_after() {
        let file = selftests::mapping::memfd("mailbox", BYTES).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let mut mailbox = Mailbox::open(Path::new(&path)).unwrap();
        let bytes = || {
            let mut bytes = vec![0; BYTES];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
            bytes
        };
        mailbox.begin("p0 verify\n");
        let seen = bytes();
        assert_eq!(&seen[..8], b"HPFUZZ01");
        assert_eq!((seen[8], seen[16], seen[24]), (1, State::Running as u8, 10));
        assert_eq!(&seen[PROGRAM..PROGRAM + 10], b"p0 verify\n");
        mailbox.end(
            &Stats {
                calls: 7,
                ..Stats::default()
            },
            None,
        );
        let seen = bytes();
        assert_eq!((seen[16], seen[32], seen[40]), (State::Done as u8, 0, 7));
    }
}
