// SPDX-License-Identifier: GPL-2.0-only
//! The shadow model: what every page of every process must contain and permit.
//!
//! Pure: no system calls. The executor tells it what an operation returned, and
//! learns whether that was right and which pages to look at. All state is plain
//! data without pointers, so that the processes of a program share one model
//! in shared memory; whoever has the turn updates it.

mod advice;
mod apply;
pub mod content;
mod depart;
mod device;
mod failure;
mod fixed;
pub mod history;
mod hold;
pub mod huge;
mod memory;
mod moves;
pub mod outcome;
pub mod page;
mod pfn;
mod pipe;
mod process;
pub mod race;
mod settle;
mod track;
mod watch;

#[cfg(test)]
mod alphabet_tests;
#[cfg(test)]
mod more_tests;
#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod tests;

pub use fixed::MAX_BUFFERED;
use page::{Flags, Page, stamp};

use crate::program::{PAGES, PROCESSES, SLOT_PAGES, SLOTS};

/// Shared objects that one program can make.
pub const OBJECTS: usize = 16;
/// The object that stands for device memory; it is there without being made.
const DEVICE: usize = OBJECTS;
/// Pages of the stamped file; an access behind its end is a SIGBUS.
pub const FILE_PAGES: usize = 1024;

/// Pages that one pin holds at most.
pub const MAX_PINNED: usize = 64;
/// Pages that one UFFDIO_COPY or its like fills at most.
pub const MAX_FILLED: usize = 32;
/// Pages that a debugger's access reaches at most.
pub const MAX_POKED: usize = 16;
/// Pages that one vmsplice takes at most; a pipe has room for so many.
pub const MAX_SPLICED: usize = 16;
/// Pages of one direct read or write at most.
pub const MAX_DIRECT: usize = 32;

/// What a load or store must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It completes.
    Done,
    /// SIGSEGV.
    Segv,
    /// SIGBUS.
    Bus,
    /// It completes or gives SIGBUS.
    DoneOrBus,
}

/// An operation that returned what it must not return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unexpected {
    /// What it had to return: 0 or an errno.
    pub wanted: i32,
    /// What it returned.
    pub got: i32,
}

/// What the executor can find out for the model after an operation failed.
pub trait Facts {
    /// Whether anything is mapped at the page, in the process that acts.
    fn mapped(&self, page: usize) -> bool;
    /// Whether the mapping of the page is locked.
    fn locked(&self, page: usize) -> bool;
    /// Whether the page was there (in memory, swapped out, or a marker) before the
    /// step, if that was looked at.
    fn populated_before(&self, _page: usize) -> Option<bool> {
        None
    }
    /// How many pages the operation says it has done, if it says so.
    fn amount(&self) -> Option<usize> {
        None
    }
}

/// Slots of the acting process whose pages may have changed: bit i for slot i.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched(pub u8);

impl Touched {
    /// Every slot.
    pub const ALL: Self = Self((1 << SLOTS) - 1);

    /// The slots of a range of pages.
    pub fn range(at: usize, len: usize) -> Self {
        let last = (at + len.max(1) - 1).min(PAGES - 1) / SLOT_PAGES;
        Self((at / SLOT_PAGES..=last).fold(0, |set, slot| set | 1 << slot))
    }

    /// Both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the slot is one of them.
    pub fn has(self, slot: usize) -> bool {
        self.0 & 1 << slot != 0
    }
}

/// One process.
#[repr(C)]
pub struct Process {
    /// Every page of the arena.
    pub pages: [Page; PAGES],
    alive: bool,
    /// 0 without userfaultfd, 1 asynchronous, 2 SIGBUS.
    uffd: u8,
    /// The kernel opens closed pages by itself, whatever the kind.
    opens: bool,
    /// How much is locked is not determined.
    lock_unsure: bool,
    /// It holds a pin, on whatever it had mapped then.
    pinning: bool,
    /// An allocation of the next operation is made to fail, if it has that many.
    injecting: bool,
    /// First page and number of pages of its fixed buffer.
    buffer: (u16, u16),
    /// What lies in its pipe.
    spliced: pipe::Spliced,
}

/// The model. All zeros is a valid value: no process lives.
#[repr(C)]
pub struct Model {
    processes: [Process; PROCESSES],
    objects: [[u64; PAGES]; OBJECTS + 1],
    object_pages: [u16; OBJECTS],
    used_objects: u16,
    version: u32,
    /// A process has a limit of memory: any page may be reclaimed at any time.
    limited: bool,
    /// That limit makes processes wait, instead of failing.
    throttled: bool,
}

/// What an operation has to return.
enum Wanted {
    /// Exactly 0, or exactly this errno.
    Exactly(i32),
    /// 0 or any of these.
    OrAny(&'static [i32]),
}

impl Model {
    /// An empty model on the heap.
    pub fn boxed() -> Box<Self> {
        // SAFETY: Model is plain data (integers, bools, arrays of them); all
        // zeros is a valid value of each.
        unsafe { Box::<Self>::new_zeroed().assume_init() }
    }

    /// Forgets everything; then only the first process lives, and maps nothing.
    pub fn start(&mut self) {
        for process in &mut self.processes {
            if process.alive {
                process.clear();
            }
        }
        for object in &mut self.objects[..usize::from(self.used_objects)] {
            object.fill(0);
        }
        self.objects[DEVICE].fill(0);
        self.used_objects = 0;
        self.version = 0;
        (self.limited, self.throttled) = (false, false);
        self.processes[0].alive = true;
    }

    /// Whether the process lives.
    pub fn alive(&self, process: usize) -> bool {
        self.processes[process].alive
    }

    /// Whether any process has memory that KSM may merge.
    pub fn may_merge(&self) -> bool {
        let may = |page: &Page| page.flags.has(Flags::MAPPED.with(Flags::MERGEABLE));
        let mut alive = self.processes.iter().filter(|process| process.alive);
        alive.any(|process| process.pages.iter().any(may))
    }

    /// Whether the process holds a pin.
    pub fn has_pin(&self, process: usize) -> bool {
        self.processes[process].pinning
    }

    /// The pages of a process.
    pub fn pages(&self, process: usize) -> &[Page; PAGES] {
        &self.processes[process].pages
    }

    /// Whether anything is mapped in the process.
    pub fn in_use(&self, process: usize) -> bool {
        (0..SLOTS).any(|slot| self.slot_in_use(process, slot))
    }

    /// Whether anything is mapped in the slot.
    pub fn slot_in_use(&self, process: usize, slot: usize) -> bool {
        let pages = &self.processes[process].pages[slot * SLOT_PAGES..][..SLOT_PAGES];
        pages.iter().any(|page| page.flags.has(Flags::MAPPED))
    }

    /// Number of mapped pages from `at` on, without a hole.
    pub fn run(&self, process: usize, at: usize) -> usize {
        let pages = &self.processes[process].pages[at..];
        pages
            .iter()
            .take_while(|page| page.flags.has(Flags::MAPPED))
            .count()
    }

    /// Pages that count as locked, unless that is not determined.
    pub fn locked(&self, process: usize) -> Option<usize> {
        let process = &self.processes[process];
        let count = process
            .pages
            .iter()
            .filter(|page| page.flags.has(Flags::LOCKED))
            .count();
        (!process.lock_unsure).then_some(count)
    }

    /// The stamp that a load from the page must find, and whether zero is right too.
    pub fn content(&self, process: usize, page: usize) -> (u64, bool) {
        let page = &self.processes[process].pages[page];
        if page.flags.has(Flags::SHARED) || page.shows_device() {
            let object = usize::from(page.object);
            return (self.objects[object][usize::from(page.offset)], false);
        }
        (page.value, page.flags.has(Flags::LAZY))
    }

    /// What a load or store to the page must do. Poison comes behind the permission of the
    /// mapping and before all else (`handle_pte_marker()`).
    pub fn effect(&self, process: usize, page: usize, store: bool) -> Effect {
        let flags = self.processes[process].pages[page].flags;
        match self.effect_unpoisoned(process, page, store) {
            Effect::Segv => Effect::Segv,
            effect if !flags.has(Flags::POISON) || effect == Effect::Bus => effect,
            _ if flags.has(Flags::POISON_UNSURE) => Effect::DoneOrBus,
            _ => Effect::Bus,
        }
    }

    /// The same where there is no poison.
    fn effect_unpoisoned(&self, process: usize, page: usize, store: bool) -> Effect {
        let owner = &self.processes[process];
        let page = &owner.pages[page];
        let needed = if store { Flags::WRITE } else { Flags::READ };
        if !page.flags.has(Flags::MAPPED.with(needed)) || page.flags.has(Flags::GUARD) {
            return Effect::Segv;
        }
        if page.flags.has(Flags::ZAPPED) {
            return Effect::Bus;
        }
        let (offset, limit) = (usize::from(page.offset), self.limit(page));
        if offset >= limit {
            // a huge page of shmem may be mapped over the end of its object
            let over = page.flags.has(Flags::SHARED) && offset < limit.next_multiple_of(SLOT_PAGES);
            return if over { Effect::DoneOrBus } else { Effect::Bus };
        }
        let closed =
            page.flags.has(Flags::RWP) && !owner.opens || store && page.flags.has(Flags::TRACKED);
        if owner.uffd == 2 && closed && (page.private_anon() || !page.flags.has(Flags::RWP)) {
            if page.flags.has(Flags::PROTECTED_UNSURE) {
                return Effect::DoneOrBus;
            }
            if page.flags.has(Flags::PROTECTED) {
                return Effect::Bus;
            }
        }
        if self.depends_on_presence(process, page) {
            return Effect::DoneOrBus;
        }
        Effect::Done
    }

    /// Pages of the file or object behind the page.
    fn limit(&self, page: &Page) -> usize {
        if page.flags.has(Flags::PFN) {
            usize::MAX
        } else if page.flags.has(Flags::SHARED) {
            usize::from(self.object_pages[usize::from(page.object)])
        } else if page.flags.has(Flags::FILE) {
            FILE_PAGES
        } else {
            usize::MAX
        }
    }

    /// The stamp for the next store; each is used once.
    pub fn next_stamp(&mut self, process: usize, page: usize) -> u64 {
        self.version += 1;
        stamp(self.version, process, page)
    }

    /// A store of the stamp completed.
    pub fn stored(&mut self, process: usize, page: usize, value: u64) {
        self.opened(process, page);
        let page = &mut self.processes[process].pages[page];
        page.flags.clear(
            Flags::PROTECTED
                .with(Flags::PROTECTED_UNSURE)
                .with(Flags::EXCLUSIVE)
                .with(Flags::ALL_POISON)
                .with(Flags::LAZY),
        );
        if page.flags.has(Flags::SHARED) {
            self.objects[usize::from(page.object)][usize::from(page.offset)] = value;
        } else {
            page.value = value;
            page.flags.set(Flags::DIRTY);
            if page.flags.has(Flags::PFN) {
                page.flags.set(Flags::OWN);
            }
        }
    }

    /// A page that may have been dropped was seen to be zero: it was dropped.
    pub fn dropped(&mut self, process: usize, page: usize) {
        let page = &mut self.processes[process].pages[page];
        page.value = 0;
        page.flags.clear(Flags::LAZY.with(Flags::DIRTY));
        page.unsettle_protection();
    }

    /// Whether the step has moved the page; only the first who asks is told.
    pub fn take_moved(&mut self, process: usize, page: usize) -> bool {
        let flags = &mut self.processes[process].pages[page].flags;
        let moved = flags.has(Flags::MOVED);
        flags.clear(Flags::MOVED);
        moved
    }

    /// A step that moves pages begins: what others have moved, it has not.
    fn forget_moves(&mut self, process: usize) {
        for page in &mut self.processes[process].pages {
            page.flags.clear(Flags::MOVED);
        }
    }

    /// The uffd-wp bit was seen where it was not determined.
    pub fn settle_protection(&mut self, process: usize, page: usize, set: bool) {
        let page = &mut self.processes[process].pages[page];
        page.flags
            .clear(Flags::PROTECTED_UNSURE.with(Flags::PROTECTED));
        if set {
            page.protect();
        }
    }
}
