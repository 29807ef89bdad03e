// SPDX-License-Identifier: GPL-2.0-only
//! KCOV of tests: which kernel call sites they reach, from the outside.
//!
//! The buffers belong to the guest, which maps them; a test gets the open
//! descriptors, so it needs no memory for them and loses nothing when it is
//! killed. A descriptor traces one task at a time, from KCOV_ENABLE until that
//! task ends, also across exec. The first task of a test is traced by
//! [`Coverage::attach`]; its threads and children do so themselves
//! (`selftests/src/coverage.rs`).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::num::NonZero;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap};

const KCOV: &str = "/sys/kernel/debug/kcov";
/// Tasks of a test that can be traced at the same time.
const AREAS: usize = 16;
/// Words of each buffer; the first is the count of the others.
const WORDS: usize = 1 << 20;
const INIT_TRACE: u64 = 0x8008_6301;
const ENABLE: u64 = 0x6364;
/// Where the descriptors are named to a test.
const VARIABLE: &str = "HUGEPROBE_KCOV";
/// Where the kernel's text is linked to, and how much of it has a mark for
/// each byte. KCOV takes the offset of KASLR off.
const TEXT: u64 = 0xffff_ffff_8100_0000;
const TEXT_BYTES: usize = 64 << 20;

/// The buffers must be read this often, or a busy test fills them.
pub const PERIOD: Duration = Duration::from_millis(20);

/// All buffers, and what was seen in them.
pub struct Coverage {
    areas: Vec<Area>,
    seen: Seen,
    file: File,
}

impl Coverage {
    /// Opens the kernel's KCOV; call sites are appended to `path` as they are
    /// first seen, one address a line.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn open(path: &Path) -> Result<Self, String> {
        let areas: io::Result<Vec<Area>> = (0..AREAS).map(|_| Area::open()).collect();
        let areas =
            areas.map_err(|error| format!("{KCOV}: {error}; build with the profile kcov"))?;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(Self {
            areas,
            seen: Seen::default(),
            file,
        })
    }

    /// Traces `command` when it runs, and lets it trace its own tasks.
    pub fn attach(&self, command: &mut Command) {
        let fds: Vec<RawFd> = self
            .areas
            .iter()
            .map(|area| area.file.as_raw_fd())
            .collect();
        let names: Vec<String> = fds.iter().map(RawFd::to_string).collect();
        command.env(VARIABLE, names.join(","));
        let hand_over = move || {
            for &fd in &fds {
                // SAFETY: takes the flags by value; the descriptor is open.
                unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
            }
            // SAFETY: takes the mode (0, KCOV_TRACE_PC) by value.
            match unsafe { libc::ioctl(fds[0], ENABLE, 0) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: fcntl() and ioctl() are async-signal-safe, and the closure
        // allocates nothing.
        unsafe { command.pre_exec(hand_over) };
    }

    /// Takes what was recorded out of the buffers.
    pub fn drain(&mut self) {
        for area in &mut self.areas {
            area.drain(&mut self.seen);
        }
    }

    /// Drains, and writes down what the test was the first to reach.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn test_ends(&mut self, name: &str) -> io::Result<()> {
        self.drain();
        let mut text = format!("# {name}\n");
        for pc in self.seen.fresh.drain(..) {
            text.push_str(&format!("{pc:#x}\n"));
        }
        if std::mem::take(&mut self.seen.full) {
            text.push_str("# full\n");
        }
        self.file.write_all(text.as_bytes())
    }
}

/// One descriptor with its buffer.
struct Area {
    file: File,
    words: &'static [AtomicU64],
    /// How many records were read since the count was last reset.
    taken: usize,
}

impl Area {
    fn open() -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(KCOV)?;
        // SAFETY: the request takes the size by value.
        if unsafe { libc::ioctl(file.as_raw_fd(), INIT_TRACE, WORDS) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let bytes = NonZero::new(WORDS * 8).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, which is never unmapped; its words are aligned,
        // and shared with nobody but the kernel, so atomics it is. No fork copies
        // it: to take the copies down would fill the buffer of every test.
        let words = unsafe {
            let base = mmap(None, bytes, access, MapFlags::MAP_SHARED, &file, 0)?;
            madvise(base, bytes.get(), MmapAdvise::MADV_DONTFORK)?;
            std::slice::from_raw_parts(base.as_ptr().cast::<AtomicU64>(), WORDS)
        };
        Ok(Self {
            file,
            words,
            taken: 0,
        })
    }

    fn drain(&mut self, seen: &mut Seen) {
        drain(self.words, &mut self.taken, seen);
    }
}

/// Reads the records that are new, and makes room when half of it is used.
///
/// The traced task goes on meanwhile: it adds one to the count, then writes the
/// record. The count is only reset if it is what was read up to; if the task
/// overwrites the reset, its next records stand where they would have stood.
fn drain(words: &[AtomicU64], taken: &mut usize, seen: &mut Seen) {
    loop {
        let count = words[0].load(Ordering::Acquire);
        let end = usize::try_from(count).map_or(words.len() - 1, |n| n.min(words.len() - 1));
        if end < *taken {
            *taken = 0;
        }
        for word in &words[*taken + 1..=end] {
            seen.add(word.load(Ordering::Relaxed));
        }
        // The task may be about to write the last one: it is read again.
        *taken = end.saturating_sub(1);
        if end < words.len() / 2 {
            return;
        }
        seen.full |= end == words.len() - 1;
        if words[0]
            .compare_exchange(count, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            *taken = 0;
            return;
        }
    }
}

/// Every call site that was seen.
#[derive(Default)]
struct Seen {
    text: Vec<u64>,
    outside: std::collections::HashSet<u64>,
    fresh: Vec<u64>,
    /// A buffer was full: there may have been more.
    full: bool,
}

impl Seen {
    fn add(&mut self, pc: u64) {
        if pc == 0 {
            return;
        }
        let offset = usize::try_from(pc.wrapping_sub(TEXT)).unwrap_or(usize::MAX);
        let new = if offset < TEXT_BYTES {
            if self.text.is_empty() {
                self.text = vec![0; TEXT_BYTES / 64];
            }
            let (word, bit) = (&mut self.text[offset / 64], 1 << (offset % 64));
            let new = *word & bit == 0;
            *word |= bit;
            new
        } else {
            self.outside.insert(pc)
        };
        if new {
            self.fresh.push(pc);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(count: u64, records: &[u64], size: usize) -> Vec<AtomicU64> {
        let mut words = vec![count];
        words.extend(records);
        words.resize(size, 0);
        words.into_iter().map(AtomicU64::new).collect()
    }

    #[test]
    fn each_call_site_is_told_once_wherever_it_lies() {
        let mut seen = Seen::default();
        let (text, module) = (TEXT + 5, 0xffff_ffff_c000_0005);
        let words = buffer(4, &[text, module, text, TEXT + 6], 64);
        drain(&words, &mut 0, &mut seen);
        assert_eq!(seen.fresh, [text, module, TEXT + 6]);
        assert!(!seen.full);
    }

    #[test]
    fn records_are_read_once_and_room_is_made_in_time() {
        let (mut seen, mut taken) = (Seen::default(), 0);
        let words = buffer(3, &[TEXT + 1, TEXT + 2, TEXT + 3, TEXT + 4], 8);
        drain(&words, &mut taken, &mut seen);
        assert_eq!((taken, words[0].load(Ordering::Relaxed)), (2, 3));
        words[0].store(4, Ordering::Relaxed);
        drain(&words, &mut taken, &mut seen);
        assert_eq!((taken, words[0].load(Ordering::Relaxed)), (0, 0));
        assert_eq!(seen.fresh.len(), 4);
        assert!(!seen.full);
    }

    #[test]
    fn a_full_buffer_is_not_passed_over_in_silence() {
        let (mut seen, mut taken) = (Seen::default(), 0);
        let words = buffer(7, &[TEXT + 1; 7], 8);
        drain(&words, &mut taken, &mut seen);
        assert!(seen.full);
    }
}
