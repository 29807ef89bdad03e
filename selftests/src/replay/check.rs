// SPDX-License-Identifier: GPL-2.0-only
//! What must hold after a step, and at the end.

use super::{DIRTY, LAZY, PAGES, Process, READABLE, SLOT, WP, WP_ANY};
use crate::counters::{Expect, Snapshot};
use crate::guard::{self, Signal};
use crate::mapping::{PAGE, pages};
use crate::pagemap::scan::{self, Is};
use crate::{counters, pagemap};

/// Where the words of a stamp stand in a page.
pub(super) const WORDS: [usize; 4] = [0, 1368, 2736, 4088];

/// Word `index` of a page with that stamp.
pub(super) fn word(stamp: u64, index: usize) -> u64 {
    match stamp {
        0 => 0,
        stamp => stamp.wrapping_add(index as u64 * 0x0101_0101_0000_0000),
    }
}

/// Stamps of pages in a row that a device stored to in a step, if it did; else
/// the pages still have the old ones.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// The step.
    pub by: usize,
    /// How many pages.
    pub count: u64,
    /// The first stamp, and the difference of one to the next.
    pub new: (u64, u64),
    /// The same of those before.
    pub old: (u64, u64),
}

impl Process {
    /// Stores stamps to `count` pages.
    pub fn store(&mut self, page: usize, count: usize, stamp: u64, step: u64) {
        for (page, stamp) in row(page, count, stamp, step) {
            if self.write_words(page, stamp).is_err() && !self.doubts(page) {
                self.bad("store refused", page, stamp);
            }
        }
    }

    /// Loads from `count` pages, whose stamps must be these.
    pub fn check(&mut self, page: usize, count: usize, stamp: u64, step: u64, flags: u32) {
        for (page, stamp) in row(page, count, stamp, step) {
            if self.doubts(page) {
                continue;
            }
            match self.read_words(page) {
                Ok(found) => self.equal(page, &found, stamp, flags),
                Err(_) => self.bad("load refused", page, 0),
            }
        }
    }

    /// Accesses to the last of these pages, which was met last, and to the first must get that signal.
    pub fn refuses(&mut self, page: usize, count: usize, store: u32, signal: i32) {
        for page in [page + count - 1, page] {
            if self.doubts(page) {
                continue;
            }
            let access = match store {
                0 => self.read_words(page).map(drop),
                _ => self.write_words(page, u64::MAX),
            };
            let met = match access {
                Ok(()) => 0,
                Err(Signal::Segv) => libc::SIGSEGV,
                Err(Signal::Bus) => libc::SIGBUS,
            };
            if met != signal {
                self.bad("access allowed", page, signal as u64);
            }
        }
    }

    /// Looks without disturbing: the bits of all pages, the content of those
    /// that are present.
    pub fn look(&mut self, page: usize, count: usize, stamp: u64, step: u64, flags: u32) {
        let entries = pagemap::entries(&self.arena, page, count);
        for ((page, stamp), entry) in row(page, count, stamp, step).zip(entries) {
            if self.doubts(page) {
                continue;
            }
            if flags & DIRTY != 0 && !entry.present() && !entry.swapped() {
                self.bad("written page lost", page, entry.0);
            } else if flags & DIRTY != 0 && !entry.soft_dirty() {
                self.bad("soft-dirty lost", page, entry.0);
            }
            if flags & WP_ANY == 0 && entry.uffd_wp() != (flags & WP != 0) {
                self.bad("uffd-wp wrong", page, entry.0);
            }
            if flags & READABLE != 0 && entry.present() {
                self.check(page, 1, stamp, 0, flags);
            }
        }
    }

    /// Which slots one PMD entry maps.
    pub fn huge(&self) -> [bool; PAGES / SLOT] {
        std::array::from_fn(|slot| {
            let range = pages(slot * SLOT..(slot + 1) * SLOT);
            let runs = scan::runs(&self.arena, &range, Is::HUGE);
            runs.is_ok_and(|runs| runs.iter().any(|(run, _)| *run == range))
        })
    }

    /// A slot that was huge before the step still is, at its new place.
    pub fn kept(&self, before: [bool; PAGES / SLOT], slot: usize, place: usize) {
        let certain = (0..SLOT).all(|page| !self.doubts(place * SLOT + page));
        if !self.failed && before[slot] && certain && !self.huge()[place] {
            self.bad("huge page split", place * SLOT, 0);
        }
    }

    /// PMDs that were split so far, anywhere.
    pub fn split_pmds(&self) -> Option<i64> {
        Snapshot::take().get("thp_split_pmd")
    }

    /// Of what one PMD mapped before the step, `slots` (one bit each) were split, once each,
    /// and nothing else was.
    pub fn split(&self, before: [bool; PAGES / SLOT], splits: Option<i64>, slots: u32) {
        let (Some(first), Some(last)) = (splits, self.split_pmds()) else {
            return;
        };
        let huge = (0..PAGES / SLOT).filter(|slot| before[*slot]);
        let wanted = huge.filter(|slot| slots & 1 << slot != 0).count() as i64;
        if !self.failed && before.contains(&true) && last - first != wanted {
            let found = (last - first).cast_unsigned();
            self.bad("number of PMDs split wrong", 0, found);
        }
    }

    /// What has moved must be soft-dirty, for who tracks contents by address.
    pub fn has_moved(&self, page: usize, count: usize) {
        let entries = pagemap::entries(&self.arena, page, count);
        for (page, entry) in (page..).zip(entries).filter(|_| !self.failed) {
            let there = entry.present() || entry.swapped();
            if there && !entry.soft_dirty() && !self.doubts(page) {
                self.bad("moved page not soft-dirty", page, entry.0);
            }
        }
    }

    /// The same of a slot that one PMD mapped before.
    pub fn huge_has_moved(&self, before: [bool; PAGES / SLOT], slot: usize, place: usize) {
        if before[slot] {
            self.has_moved(place * SLOT, SLOT);
        }
    }

    /// The counters of the process agree with a walk of its page table;
    /// `locked` is in KiB, negative where it is not determined.
    pub fn counters(&self, with_swap: u32, locked: i64) {
        let kib = counters::status_kib;
        for (name, walk, wanted) in [("RssAnon", "Anonymous", 1), ("VmSwap", "Swap", with_swap)] {
            let counted = kib(name);
            if wanted != 0 && counted != rollup(walk) && counted == kib(name) {
                self.bad(&format!("{name} wrong"), 0, counted as u64);
            }
        }
        if locked >= 0 && kib("VmLck") != locked && !self.board.doubts_any(self.me) {
            self.bad("VmLck wrong", 0, kib("VmLck") as u64);
        }
    }

    /// The words of a page, in order.
    fn read_words(&self, page: usize) -> Result<[u64; 4], Signal> {
        let mut found = [0; 4];
        for (word, offset) in found.iter_mut().zip(WORDS) {
            let at = self.arena.page_addr(page) + offset;
            guard::read_words(at, std::slice::from_mut(word)).map_err(|fault| fault.signal)?;
        }
        Ok(found)
    }

    fn write_words(&self, page: usize, stamp: u64) -> Result<(), Signal> {
        for (index, offset) in WORDS.into_iter().enumerate() {
            let at = self.arena.page_addr(page) + offset;
            guard::write_words(at, &[word(stamp, index)]).map_err(|fault| fault.signal)?;
        }
        Ok(())
    }

    pub(super) fn doubts(&self, page: usize) -> bool {
        self.board.doubts(self.me, page)
    }

    /// Compares the words of a page with its stamp.
    pub(super) fn equal(&self, page: usize, found: &[u64; 4], stamp: u64, flags: u32) {
        let stamp = self.settled(stamp);
        let dropped = *found == [0; 4] && flags & LAZY != 0;
        let wrong = (0..4).find(|index| found[*index] != word(stamp, *index));
        if let Some(index) = wrong.filter(|_| !dropped) {
            self.bad("wrong content", page, found[index]);
        }
    }

    /// The stamp, or the one before it where a device's store did not happen.
    fn settled(&self, stamp: u64) -> u64 {
        let mut stamp = stamp;
        // Backwards: what a store left in place may be that of an earlier one.
        for stored in self.program.stored.iter().rev() {
            let nth = (0..stored.count).find(|n| stored.new.0 + n * stored.new.1 == stamp);
            if let Some(n) = nth.filter(|_| !self.board.has_stored(stored.by)) {
                stamp = stored.old.0.wrapping_add(n * stored.old.1);
            }
        }
        stamp
    }
}

/// Counters before a program, and that they must be the same after it.
pub(super) fn baseline() -> (Snapshot, Expect) {
    let before = Snapshot::all_sizes();
    let mut same = Expect::new().unchanged(&[
        "nr_anon_transparent_hugepages",
        "nr_mlock",
        "nr_isolated_anon",
    ]);
    for kib in counters::thp_sizes_kib() {
        for stat in ["nr_anon", "nr_anon_partially_mapped"] {
            same = same.delta(&format!("{kib}kB/{stat}"), 0);
        }
    }
    (before, same)
}

/// Pages in a row with their stamps.
fn row(page: usize, count: usize, stamp: u64, step: u64) -> impl Iterator<Item = (usize, u64)> {
    (0..count).map(move |n| (page + n, stamp.wrapping_add(step.wrapping_mul(n as u64))))
}

/// A field of `/proc/self/smaps_rollup`, in KiB.
fn rollup(name: &str) -> i64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    value.unwrap_or(-1)
}

/// Bytes of a page, for those who copy pages.
pub(super) const PAGE_WORDS: usize = PAGE / 8;
