// SPDX-License-Identifier: GPL-2.0-only
//! What the threads of a racing block did, and when. One clock numbers all
//! stores and calls of a block; a number that is drawn later is larger, on every CPU.

use std::sync::atomic::{AtomicU32, Ordering};

use super::page::stamp;
use super::race::{Race, Steps};
use crate::program::race::LANES;
use crate::program::{Access, MAX_STEPS, Op, PAGES, PROCESSES, Step};

/// Threads of a block.
pub const THREADS: usize = PROCESSES * LANES;

/// The last stores of one thread to one page: times when each began and ended.
#[repr(C)]
#[derive(Default)]
pub struct Stores {
    pub(super) full: AtomicU32,
    pub(super) full_end: AtomicU32,
    pub(super) part: AtomicU32,
    pub(super) part_end: AtomicU32,
    pub(super) part_words: AtomicU32,
}

/// What one step of a block did.
#[repr(C)]
#[derive(Default)]
pub struct Calls {
    /// When the last call began.
    pub begin: AtomicU32,
    /// When it ended; 0 if none has.
    pub end: AtomicU32,
    /// What it returned.
    pub result: AtomicU32,
    /// Whether any call returned an errno other than EFAULT.
    pub failed: AtomicU32,
}

/// What the threads of a block did. All zeros is valid.
#[repr(C)]
pub struct History {
    clock: AtomicU32,
    start: AtomicU32,
    pub(super) stores: [[[Stores; PAGES]; PROCESSES]; THREADS],
    /// By step of the program.
    pub calls: [Calls; MAX_STEPS],
}

/// Who stored, as stamps of racing stores have it.
fn storer(process: usize, lane: usize) -> usize {
    process | lane << 2
}

/// The stamp of a racing store that began at `time`.
pub fn race_stamp(time: u32, process: usize, lane: usize, page: usize) -> u64 {
    stamp(time, storer(process, lane), page)
}

/// A stamp of a block, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub time: u32,
    pub process: usize,
    pub lane: usize,
    pub page: usize,
}

impl Stamp {
    pub fn thread(self) -> usize {
        self.process * LANES + self.lane
    }
}

impl History {
    /// An empty one on the heap.
    pub fn boxed() -> Box<Self> {
        // SAFETY: integers and arrays of them: all zeros is valid.
        unsafe { Box::<Self>::new_zeroed().assume_init() }
    }

    /// Forgets what the stores of the coming block would overwrite; its times
    /// come after `version`.
    pub fn begin(&self, race: &Race, steps: Steps<'_>, version: u32) {
        self.clock.store(version + 1, Ordering::SeqCst);
        self.start.store(version + 1, Ordering::SeqCst);
        for calls in &self.calls {
            for word in [&calls.begin, &calls.end, &calls.result, &calls.failed] {
                word.store(0, Ordering::Relaxed);
            }
        }
        for step in race.carried(steps) {
            let Some((target, pages)) = stored_pages(&step) else {
                continue;
            };
            let thread = thread(&step);
            for stores in &self.stores[thread][target][pages] {
                for word in [
                    &stores.full,
                    &stores.full_end,
                    &stores.part,
                    &stores.part_end,
                    &stores.part_words,
                ] {
                    word.store(0, Ordering::Relaxed);
                }
            }
        }
    }

    /// The next number: the beginning of a store or call.
    pub fn tick(&self) -> u32 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// The end of a store or call that is over now.
    pub fn now(&self) -> u32 {
        self.clock.load(Ordering::SeqCst)
    }

    /// Records a store of `words` words that began at `time` and is over.
    pub fn stored(&self, thread: usize, process: usize, page: usize, time: u32, words: usize) {
        let stores = &self.stores[thread][process][page];
        if words == 4 {
            stores.full_end.store(self.now(), Ordering::Release);
            stores.full.store(time, Ordering::Release);
        } else if words > 0 {
            stores.part_words.store(words as u32, Ordering::Release);
            stores.part_end.store(self.now(), Ordering::Release);
            stores.part.store(time, Ordering::Release);
        }
    }

    /// Whether the stamp is of a store of this block.
    pub fn is_new(&self, stamp: u64) -> bool {
        self.decode(stamp, 0).is_some()
    }

    /// Number of the last complete store of a thread to a page, 0 for none.
    pub fn last(&self, thread: usize, process: usize, page: usize) -> u32 {
        self.stores[thread][process][page]
            .full
            .load(Ordering::Acquire)
    }

    pub(super) fn decode(&self, word: u64, index: usize) -> Option<Stamp> {
        let value = word.wrapping_sub(super::page::word(1, index) - 1);
        let time = u32::try_from(value >> 20).ok()?;
        let started = self.start.load(Ordering::Relaxed);
        let ours = value & 1 << 15 != 0 && (started..self.now()).contains(&time);
        let page = (value & 0x7fff) as usize;
        (ours && page < PAGES).then_some(Stamp {
            time,
            process: (value >> 16 & 3) as usize,
            lane: (value >> 18 & 3) as usize,
            page,
        })
    }
}

/// Thread number of a step.
pub fn thread(step: &Step) -> usize {
    let lane = step.race.map_or(0, |race| usize::from(race.lane));
    step.process.index() * LANES + lane
}

/// The process and pages that a step stores to.
pub(super) fn stored_pages(step: &Step) -> Option<(usize, std::ops::Range<usize>)> {
    let (target, at, len) = match step.op {
        Op::Write { at, len } => (step.process.index(), at, len),
        Op::Remote {
            peer,
            at,
            len,
            access: Access::Store,
        } => (peer.index(), at, len),
        _ => return None,
    };
    Some((target, at.page()..(at.page() + len.pages()).min(PAGES)))
}
