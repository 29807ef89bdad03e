// SPDX-License-Identifier: GPL-2.0-only
//! Steps that map, unmap, move and advise.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;

use super::check::{WORDS, word};
use super::{PAGES, Process};
use crate::mapping::{PAGE, Prot, memfd, pages};
use crate::memory_failure;
use crate::program_break::Start;

/// What a mapping is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Anonymous memory.
    Anon,
    /// The same, all of it faulted in.
    Populated,
    /// Anonymous memory that forks share.
    Shared,
    /// A private mapping of a file whose pages have stamps of their own.
    File,
}

/// How `mremap` moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// To the given place.
    Fixed,
    /// The same, and the source stays mapped and empty.
    Dontunmap,
    /// Grows or shrinks where it is.
    Inplace,
}

/// Pages of the stamped file.
const FILE_PAGES: usize = 1024;
/// The stamp of its first page.
const FILE_STAMP: u64 = 0xf11e << 48;

impl Process {
    pub(super) fn range(&self, page: usize, count: usize) -> Range<usize> {
        self.arena.absolute(&pages(page..page + count))
    }

    /// mmap(2) over whatever is there.
    pub fn mmap(&mut self, page: usize, count: usize, prot: Prot, backing: Backing) {
        let (flags, fd) = match backing {
            Backing::Anon => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
            Backing::Populated => (
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
            ),
            Backing::Shared => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
            Backing::File => (libc::MAP_PRIVATE, self.stamped().as_raw_fd()),
        };
        let flags = flags | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let at = self.range(page, count);
        let result = self.injected(|_| {
            // SAFETY: maps over the arena only, which Rust does not reference.
            let mapped = unsafe { libc::mmap(at.start as *mut _, at.len(), prot.0, flags, fd, 0) };
            if mapped == libc::MAP_FAILED {
                return Err(Errno::last());
            }
            Ok(())
        });
        self.say(result);
    }

    /// munmap(2).
    pub fn munmap(&mut self, page: usize, count: usize) {
        let at = self.range(page, count);
        // SAFETY: unmaps in the arena only.
        let result = self.injected(|_| unsafe { libc::munmap(at.start as *mut _, at.len()) });
        let result = Errno::result(result).map(drop);
        self.say(result);
    }

    /// brk(2) over the range, as if the break had come there: maps it, or unmaps it.
    pub fn brk(&mut self, page: usize, count: usize, grow: bool) {
        let at = self.range(page, count);
        let (from, to) = if grow {
            (at.start, at.end)
        } else {
            (at.end, at.start)
        };
        let low = self.arena.page_addr(0);
        let start = Start::of_this_process();
        // SAFETY: maps and unmaps in the arena only; a thread that answers a
        // userfaultfd allocates nothing.
        let call = |start: Start| unsafe { start.move_from(low, from, to) };
        let result = self.injected(|_| start.and_then(call));
        self.say(result);
    }

    /// mprotect(2).
    pub fn mprotect(&mut self, page: usize, count: usize, prot: Prot) {
        let result = self.arena.mprotect(pages(page..page + count), prot);
        self.say(result);
    }

    /// mlock(2).
    pub fn mlock(&mut self, page: usize, count: usize) {
        let result = self.arena.mlock(pages(page..page + count));
        self.say(result);
    }

    /// mlock2(2) with MLOCK_ONFAULT.
    pub fn mlock_onfault(&mut self, page: usize, count: usize) {
        let (at, flags) = (self.range(page, count), libc::MLOCK_ONFAULT);
        // SAFETY: locks pages of the arena.
        let result = unsafe { libc::syscall(libc::SYS_mlock2, at.start, at.len(), flags) };
        self.say(Errno::result(result).map(drop));
    }

    /// munlock(2).
    pub fn munlock(&mut self, page: usize, count: usize) {
        let result = self.arena.munlock(pages(page..page + count));
        self.say(result);
    }

    /// madvise(2).
    pub fn madvise(&mut self, page: usize, count: usize, advice: i32) {
        let at = self.range(page, count);
        // SAFETY: advises about the arena only.
        let call = |_: &mut Self| unsafe { libc::madvise(at.start as *mut _, at.len(), advice) };
        let result = self.injected(call);
        self.say(Errno::result(result).map(drop));
    }

    /// MADV_HWPOISON of a page.
    pub fn fail_memory(&mut self, page: usize) {
        let at = self.range(page, 1);
        // SAFETY: nothing of Rust lies in the arena.
        let result = unsafe { memory_failure::inject(&at) };
        self.say(result);
    }

    /// mremap(2) of `old` pages to `new` pages at page `to`.
    pub fn mremap(&mut self, page: usize, old: usize, to: usize, new: usize, how: Move) {
        let fixed = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let flags = match how {
            Move::Inplace => 0,
            Move::Fixed => fixed,
            Move::Dontunmap => fixed | libc::MREMAP_DONTUNMAP,
        };
        let at = self.arena.page_addr(page) as *mut libc::c_void;
        let target = self.arena.page_addr(to) as *mut libc::c_void;
        let (old_len, new_len) = (old * PAGE, new * PAGE);
        let result = self.injected(|_| {
            // SAFETY: both ranges lie in the arena.
            let moved = unsafe { libc::mremap(at, old_len, new_len, flags, target) };
            if moved == libc::MAP_FAILED {
                return Err(Errno::last());
            }
            Ok(())
        });
        self.say(result);
    }

    /// The file whose pages have stamps of their own.
    fn stamped(&mut self) -> &File {
        self.stamped.get_or_insert_with(|| {
            let file = memfd("stamped", FILE_PAGES * PAGE).expect("a memory file");
            for page in 0..FILE_PAGES {
                for (index, offset) in WORDS.into_iter().enumerate() {
                    let word = word(FILE_STAMP | page as u64, index).to_ne_bytes();
                    let written = file.write_all_at(&word, (page * PAGE + offset) as u64);
                    written.expect("a memory file can be written");
                }
            }
            file
        })
    }

    /// Writes to a file of procfs, sysfs or debugfs.
    pub fn put(&mut self, path: &str, text: &str) {
        let file = File::options().write(true).open(path);
        let result =
            file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
        let errno =
            |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        self.say(result.map_err(errno));
    }

    /// debugfs `split_huge_pages` over the whole arena, into folios of that order.
    pub fn split_arena(&mut self, order: u32) {
        let all = self.range(0, PAGES);
        let pid = std::process::id();
        let text = format!("{pid},{:#x},{:#x},{order}", all.start, all.end);
        self.put("/sys/kernel/debug/split_huge_pages", &text);
    }
}
