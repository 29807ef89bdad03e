// SPDX-License-Identifier: GPL-2.0-only
//! mremap (mm/mremap.c): where mappings go, and how far a failed move came.

use super::page::{Flags, Page};
use super::{Facts, Model, Touched, Wanted};
use crate::program::{Addr, Len, Move, PAGES, SLOT_PAGES};

/// The arguments of an mremap.
#[derive(Clone, Copy)]
pub(super) struct Remap {
    at: usize,
    len: usize,
    to: usize,
    new: usize,
    how: Move,
}

impl Remap {
    pub(super) fn new(at: Addr, len: Len, to: Addr, new: Len, how: Move) -> Self {
        Self {
            at: at.page(),
            len: len.pages(),
            to: to.page(),
            new: new.pages(),
            how,
        }
    }

    /// Source and destination.
    fn touched(self) -> Touched {
        let source = Touched::range(self.at, self.len.max(self.new));
        if self.how == Move::Inplace {
            source
        } else {
            source.and(Touched::range(self.to, self.new))
        }
    }

    fn overlaps(self) -> bool {
        self.at < self.to + self.new && self.to < self.at + self.len
    }
}

impl Model {
    /// Moves that are not tried: those that leave the arena, and those with
    /// DONTUNMAP of unlike mappings, which may fail half-way without a trace
    /// from which one could tell how far they came.
    pub(super) fn refuses_move(&self, who: usize, remap: Remap) -> bool {
        let Remap {
            at,
            len,
            to,
            new,
            how,
        } = remap;
        let end = if how == Move::Inplace {
            at + new
        } else {
            to + new
        };
        if at + len > PAGES || end > PAGES {
            return true;
        }
        let kind = Flags::WATCHED
            .with(Flags::SHARED)
            .with(Flags::FILE)
            .with(Flags::PFN);
        let source = &self.processes[who].pages[at..at + len];
        let mut kinds = source
            .iter()
            .filter(|page| page.flags.has(Flags::MAPPED))
            .map(|page| page.flags.0 & kind.0);
        let first = kinds.next();
        how == Move::Dontunmap && !kinds.all(|kind| Some(kind) == first)
    }

    pub(super) fn mremap(
        &mut self,
        who: usize,
        remap: Remap,
        got: i32,
        facts: &dyn Facts,
    ) -> (Wanted, Touched) {
        const FAILURES: &[i32] = &[libc::EFAULT, libc::ENOMEM, libc::EINVAL, libc::EAGAIN];
        self.forget_moves(who);
        let touched = remap.touched();
        if remap.how == Move::Dontunmap && remap.len != remap.new
            || remap.how != Move::Inplace && remap.overlaps()
        {
            return (Wanted::Exactly(libc::EINVAL), touched);
        }
        if !self.processes[who].pages[remap.at].flags.has(Flags::MAPPED) {
            return (Wanted::Exactly(libc::EFAULT), touched);
        }
        if got != 0 {
            self.settle_failed_move(who, remap, facts);
            return (Wanted::OrAny(FAILURES), touched);
        }
        let last = self.processes[who].pages[remap.at + remap.len - 1].flags;
        if remap.new > remap.len && last.has(Flags::PFN) {
            return (Wanted::Exactly(libc::EFAULT), touched);
        }
        if remap.how == Move::Dontunmap && last.has(Flags::PFN) {
            return (Wanted::Exactly(libc::EINVAL), touched);
        }
        match remap.how {
            Move::Inplace => return (self.resize(who, remap), touched),
            Move::Fixed => self.relocate(who, remap),
            Move::Dontunmap => {
                self.relocate(who, remap);
                self.settle_locks(who, facts);
            }
        }
        (Wanted::OrAny(FAILURES), touched)
    }

    /// Grows or shrinks in place. Where the kernel has its area boundaries is not
    /// modelled, so growth may be refused; but it must not go over a mapped page.
    fn resize(&mut self, who: usize, remap: Remap) -> Wanted {
        let Remap { at, len, new, .. } = remap;
        let pages = &mut self.processes[who].pages;
        if new <= len {
            pages[at + new..at + len].iter_mut().for_each(Page::unmap);
            return Wanted::Exactly(0);
        }
        if pages[at + len..at + new]
            .iter()
            .any(|page| page.flags.has(Flags::MAPPED))
        {
            return Wanted::Exactly(libc::ENOMEM);
        }
        self.extend(who, at + len - 1, at + len, new - len);
        Wanted::Exactly(0)
    }

    /// Makes `count` pages from `first` on that continue the mapping of `like`.
    fn extend(&mut self, who: usize, like: usize, first: usize, count: usize) {
        let pages = &mut self.processes[who].pages;
        let mut model = pages[like];
        model.flags.clear(Flags::OF_PAGE);
        for page in &mut pages[first..first + count] {
            model.offset += 1;
            *page = model;
            page.discard();
        }
    }

    /// Moves every mapped page of the source; what is at the destination of a
    /// hole stays. A shorter new length cuts the source first, a longer one
    /// extends the destination.
    fn relocate(&mut self, who: usize, remap: Remap) {
        let Remap {
            at,
            len,
            to,
            new,
            how,
        } = remap;
        let moved = len.min(new);
        for page in &mut self.processes[who].pages[at + moved..at + len] {
            page.unmap();
        }
        if len != new {
            self.processes[who].pages[to..to + new]
                .iter_mut()
                .for_each(Page::unmap);
        }
        for i in 0..moved {
            if self.processes[who].pages[at + i].flags.has(Flags::MAPPED) {
                self.move_page(who, at + i, to + i, how);
            }
        }
        if new > len {
            self.extend(who, to + len - 1, to + len, new - len);
        }
    }

    fn move_page(&mut self, who: usize, from: usize, to: usize, how: Move) {
        let process = &mut self.processes[who];
        process.pages[to] = process.pages[from];
        process.pages[to]
            .flags
            .clear(Flags::PINNED.with(Flags::MOVED));
        // where both are alike inside their tables, the kernel may move a table
        if from % SLOT_PAGES != to % SLOT_PAGES {
            process.pages[to].flags.set(Flags::MOVED);
        }
        let source = &mut process.pages[from];
        if how == Move::Dontunmap {
            if source.flags.has(Flags::LOCKED) {
                // what is counted as locked afterwards is not documented
                process.lock_unsure = true;
                source.flags.clear(Flags::LOCKED);
            }
            source.flags.clear(Flags::GUARD);
            source.discard();
        } else {
            source.unmap();
        }
    }

    /// DONTUNMAP unlocks the whole area of the source, whose edges are not modelled.
    fn settle_locks(&mut self, who: usize, facts: &dyn Facts) {
        let process = &mut self.processes[who];
        if process.lock_unsure {
            for (number, page) in process.pages.iter_mut().enumerate() {
                if page.flags.has(Flags::LOCKED) && !facts.locked(number) {
                    page.flags.clear(Flags::LOCKED);
                }
            }
        }
    }

    /// Where the kernel could not split an area to unmap the source of a move that
    /// succeeded, the source stays mapped, and empty (unmap_source_vma()).
    pub(super) fn settle_source(
        &mut self,
        who: usize,
        remap: Remap,
        before: &[Page],
        facts: &dyn Facts,
    ) {
        let process = &mut self.processes[who];
        let pages = process.pages.iter_mut().zip(before).enumerate();
        for (number, (page, before)) in pages.skip(remap.at).take(remap.len) {
            if before.flags.has(Flags::MAPPED)
                && !page.flags.has(Flags::MAPPED)
                && facts.mapped(number)
            {
                *page = *before;
                page.flags.clear(Flags::GUARD);
                page.discard();
                process.lock_unsure |= page.flags.has(Flags::LOCKED);
                page.flags.clear(Flags::LOCKED);
            }
        }
    }

    /// A failed move may have unmapped the destination, and moved some areas
    /// before it met one that it could not move.
    fn settle_failed_move(&mut self, who: usize, remap: Remap, facts: &dyn Facts) {
        let Remap {
            at,
            len,
            to,
            new,
            how,
        } = remap;
        if how == Move::Inplace {
            return;
        }
        for i in 0..len.max(new) {
            let from_mapped = i < len && self.processes[who].pages[at + i].flags.has(Flags::MAPPED);
            let gone = from_mapped && !facts.mapped(at + i);
            if i < new && gone && facts.mapped(to + i) {
                self.move_page(who, at + i, to + i, Move::Fixed);
            } else if gone {
                self.processes[who].pages[at + i].unmap();
            } else if i < new && !facts.mapped(to + i) {
                self.processes[who].pages[to + i].unmap();
            }
        }
    }
}
