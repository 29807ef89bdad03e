// SPDX-License-Identifier: GPL-2.0-only
//! What a racing block may leave behind, computed before it runs.
//!
//! For each page: which attributes it may have afterwards, whether it may be
//! mapped or not, and whether it may have been emptied. Operations are applied
//! to that in any order until nothing new comes out, so every interleaving is
//! in it, also of operations that are not atomic over their range. What a page
//! may contain depends on when stores were done; see `history`.

mod admit;
mod possible;

use admit::changes;
pub use admit::{controls, refuses};
pub use possible::Possible;

use super::page::{Flags, Page};
use super::{Model, OBJECTS};
use crate::program::{
    Access, Addr, Advice, Backing, Len, MAX_STEPS, Move, Op, PAGES, PROCESSES, Prot, Step,
};

const WP: Flags = Flags::PROTECTED.with(Flags::PROTECTED_UNSURE);
const ACCESS: Flags = Flags::READ.with(Flags::WRITE);

/// What a block may leave. Plain data; all zeros is a valid value.
#[repr(C)]
pub struct Race {
    /// First step.
    pub first: u16,
    /// Step behind the last.
    pub end: u16,
    /// Steps of the block that are carried out, by index in the program.
    pub carried: [bool; MAX_STEPS],
    /// What each page may be, by process.
    pub pages: [[Possible; PAGES]; PROCESSES],
}

/// The steps of a program, by index.
pub type Steps<'a> = &'a dyn Fn(usize) -> Option<Step>;

impl Race {
    /// An empty one on the heap.
    pub fn boxed() -> Box<Self> {
        // SAFETY: integers, bools and arrays of them: all zeros is valid.
        unsafe { Box::<Self>::new_zeroed().assume_init() }
    }

    /// Computes what the block `first..end` may leave in the state `model`.
    pub fn plan(&mut self, model: &Model, steps: Steps<'_>, first: usize, end: usize) {
        (self.first, self.end) = (first as u16, end as u16);
        self.carried.fill(false);
        let mut children = [false; PROCESSES];
        for index in first..end {
            let Some(step) = steps(index) else { continue };
            self.carried[index] = !model.skips(&step) && !refuses(model, &step);
            if let Op::Fork { child } = step.op
                && self.carried[index]
            {
                self.carried[index] = !std::mem::replace(&mut children[child.index()], true);
            }
        }
        for (who, pages) in self.pages.iter_mut().enumerate() {
            for (to, from) in pages.iter_mut().zip(model.pages(who)) {
                *to = if model.alive(who) {
                    Possible::of(from)
                } else {
                    Possible::default()
                };
            }
        }
        while self.carried(steps).any(|step| self.spread(model, &step)) {}
        self.touch_shared(model);
    }

    /// What is stored to a shared page shows wherever it is mapped.
    fn touch_shared(&mut self, model: &Model) {
        let mut objects = [[false; PAGES]; OBJECTS + 1];
        for (who, pages) in self.pages.iter().enumerate() {
            for (possible, page) in pages.iter().zip(model.pages(who)) {
                if possible.touched && page.flags.has(Flags::SHARED) {
                    objects[usize::from(page.object)][usize::from(page.offset)] = true;
                }
            }
        }
        for (who, pages) in self.pages.iter_mut().enumerate() {
            for (possible, page) in pages.iter_mut().zip(model.pages(who)) {
                possible.touched |= page.flags.has(Flags::SHARED)
                    && objects[usize::from(page.object)][usize::from(page.offset)];
            }
        }
    }

    /// The steps that are carried out.
    pub fn carried<'a>(&self, steps: Steps<'a>) -> impl Iterator<Item = Step> + use<'a> {
        let carried = self.carried;
        let range = usize::from(self.first)..usize::from(self.end);
        range.filter_map(move |index| carried[index].then(|| steps(index)).flatten())
    }

    /// Applies a step to everything that may be; whether something new came out.
    fn spread(&mut self, model: &Model, step: &Step) -> bool {
        let who = step.process.index();
        let mut op = step.op;
        match step.op {
            Op::Mremap {
                at,
                len,
                to,
                new: _,
                how,
            } => self.spread_move(who, at.page(), to.page(), len.pages(), how),
            Op::Fork { child } => self.spread_fork(who, child.index()),
            Op::Remote {
                peer,
                at,
                len,
                access: Access::Store,
            } => self.each(peer.index(), at, len, |page| {
                page.may_clear(WP.with(Flags::LAZY));
            }),
            Op::ClearRefs { .. } => {
                let all = (Addr(0), Len(PAGES as u16));
                self.each(who, all.0, all.1, |page| page.may_clear(Flags::DIRTY))
            }
            Op::Madvise {
                at,
                len,
                advice: Advice::Remove,
            } => self.spread_remove(model, who, at, len),
            _ => match op.span() {
                Some((at, len)) if changes(&step.op) => {
                    let (at, len) = (*at, *len);
                    self.each(who, at, len, |page| apply(page, &step.op))
                }
                _ => false,
            },
        }
    }

    /// Changes the pages of a range that may be mapped, or that it maps.
    fn each(&mut self, who: usize, at: Addr, len: Len, change: impl Fn(&mut Possible)) -> bool {
        let end = (at.page() + len.pages()).min(PAGES);
        let mut fresh = false;
        for page in &mut self.pages[who][at.page()..end] {
            let before = *page;
            page.touched = true;
            change(page);
            fresh |= *page != before;
        }
        fresh
    }

    fn spread_move(&mut self, who: usize, from: usize, to: usize, len: usize, how: Move) -> bool {
        let pages = &mut self.pages[who];
        let mut fresh = false;
        for i in 0..len {
            let before = (pages[from + i], pages[to + i]);
            let source = &mut pages[from + i];
            source.touched = true;
            if source.there {
                match how {
                    Move::Dontunmap => {
                        source.empty();
                        source.may_clear(Flags::LOCKED.with(Flags::GUARD));
                    }
                    _ => source.gone = true,
                }
            }
            let target = &mut pages[to + i];
            target.touched = true;
            // a move that fails may have unmapped its target
            target.gone = true;
            if before.0.there {
                target.there = true;
                target.emptied |= before.0.emptied;
                target.may_set(before.0.set);
                target.may_clear(before.0.clear.with(Flags::PINNED));
            }
            fresh |= before != (pages[from + i], pages[to + i]);
        }
        if how == Move::Dontunmap {
            // unlocks the whole area of the source, whose edges are not modelled
            for page in pages.iter_mut().filter(|page| page.set.has(Flags::LOCKED)) {
                fresh |= !page.clear.has(Flags::LOCKED) || !page.touched;
                page.may_clear(Flags::LOCKED);
                page.touched = true;
            }
        }
        fresh
    }

    fn spread_fork(&mut self, who: usize, child: usize) -> bool {
        const LOST: Flags = Flags::LOCKED
            .with(Flags::PINNED)
            .with(Flags::TRACKED)
            .with(WP);
        let Ok([parent, child]) = self.pages.get_disjoint_mut([who, child]) else {
            return false;
        };
        let mut fresh = false;
        for (from, to) in parent.iter().zip(child) {
            let before = *to;
            to.touched = true;
            to.gone |= from.gone || from.set.has(Flags::DONTFORK);
            if from.there && from.clear.has(Flags::DONTFORK) {
                to.there = true;
                to.emptied |= from.emptied;
                let mut set = from.set;
                set.clear(LOST);
                to.may_set(set);
                to.may_clear(from.clear.with(LOST));
                if from.set.has(Flags::WIPEONFORK) {
                    to.may_clear(Flags::GUARD);
                    to.empty();
                }
            }
            fresh |= *to != before;
        }
        fresh
    }

    /// A hole in a shared object is seen by every mapping of it.
    fn spread_remove(&mut self, model: &Model, who: usize, at: Addr, len: Len) -> bool {
        let mut fresh = false;
        let end = (at.page() + len.pages()).min(PAGES);
        for number in at.page()..end {
            let page = model.pages(who)[number];
            if !page.flags.has(Flags::SHARED) {
                continue;
            }
            for other in (0..PROCESSES).filter(|other| model.alive(*other)) {
                let theirs = model.pages(other).iter();
                for (possible, theirs) in self.pages[other].iter_mut().zip(theirs) {
                    if same_shared(&page, theirs) {
                        fresh |= !possible.emptied || !possible.touched;
                        possible.touched = true;
                        possible.empty();
                    }
                }
            }
        }
        fresh
    }
}

/// Whether two pages show the same page of an object.
pub fn same_shared(a: &Page, b: &Page) -> bool {
    a.flags.has(Flags::SHARED)
        && b.flags.has(Flags::SHARED)
        && (a.object, a.offset) == (b.object, b.offset)
}

fn prot_flags(prot: Prot) -> Flags {
    match prot {
        Prot::None => Flags(0),
        Prot::Read => Flags::READ,
        Prot::Write => ACCESS,
    }
}

/// Applies an operation to a page of its range.
fn apply(page: &mut Possible, op: &Op) {
    if let Op::Mmap { prot, backing, .. } = op {
        let mut flags = Flags::MAPPED.with(prot_flags(*prot));
        if *backing == Backing::File {
            flags.set(Flags::FILE);
        }
        // an area that goes away first is not seen, a failed call may leave that
        page.there = true;
        page.emptied = true;
        page.may_set(flags);
        page.may_clear(Flags(!flags.0));
        return;
    }
    if !page.there {
        return;
    }
    match *op {
        Op::Munmap { .. } => page.gone = true,
        Op::Mprotect { prot, .. } => {
            let flags = prot_flags(prot);
            page.may_set(flags);
            page.may_clear(Flags(ACCESS.0 & !flags.0));
            // locked memory is populated, which acts as a store
            if prot == Prot::Write && page.set.has(Flags::LOCKED) {
                page.may_clear(WP);
            }
        }
        Op::Madvise { advice, .. } => advise(page, advice),
        Op::Mlock { .. } => {
            page.may_set(Flags::LOCKED);
            page.may_clear(WP);
        }
        Op::MlockOnfault { .. } => page.may_set(Flags::LOCKED),
        Op::Munlock { .. } => page.may_clear(Flags::LOCKED),
        Op::Write { .. } => page.may_clear(WP.with(Flags::LAZY)),
        Op::Pin { .. } | Op::UffdUnprotect { .. } => page.may_clear(WP),
        Op::UffdRegister { .. } => page.may_set(Flags::TRACKED),
        Op::UffdUnregister { .. } => page.may_clear(WP.with(Flags::TRACKED)),
        Op::UffdProtect { .. } if page.set.has(Flags::TRACKED) => page.may_set(Flags::PROTECTED),
        Op::ScanProtect { .. } if page.set.has(Flags::TRACKED) => page.may_set(WP),
        _ => {}
    }
}

fn advise(page: &mut Possible, advice: Advice) {
    match advice {
        Advice::Hugepage => {
            page.may_set(Flags::HUGEPAGE);
            page.may_clear(Flags::NOHUGEPAGE);
        }
        Advice::Nohugepage => {
            page.may_set(Flags::NOHUGEPAGE);
            page.may_clear(Flags::HUGEPAGE);
        }
        Advice::Dontneed | Advice::DontneedLocked => page.empty(),
        Advice::Free => {
            page.may_set(Flags::LAZY);
            page.may_clear(WP.with(Flags::DIRTY));
        }
        Advice::GuardInstall => {
            page.empty();
            page.may_set(Flags::GUARD);
        }
        Advice::GuardRemove => page.may_clear(Flags::GUARD.with(WP)),
        Advice::PopulateWrite => page.may_clear(WP),
        Advice::Wipeonfork => page.may_set(Flags::WIPEONFORK),
        Advice::Keeponfork => page.may_clear(Flags::WIPEONFORK),
        Advice::Dontfork => page.may_set(Flags::DONTFORK),
        Advice::Dofork => page.may_clear(Flags::DONTFORK),
        _ => {}
    }
}
