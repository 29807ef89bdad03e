// SPDX-License-Identifier: GPL-2.0-only
//! Mappings: mmap, munmap, mprotect, mremap, mlock (mm/vma.c, mm/mprotect.c,
//! mm/mremap.c, mm/mlock.c).

use super::page::{Flags, Page, file_stamp};
use super::{Effect, Facts, Model, Touched, Wanted};
use crate::program::{Addr, Backing, Len, Move, PAGES, Prot, SLOT_PAGES};

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

impl Prot {
    pub(super) fn flags(self) -> Flags {
        match self {
            Self::None => Flags(0),
            Self::Read => Flags::READ,
            Self::Write => Flags::READ.with(Flags::WRITE),
        }
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

    /// The pages of a range, cut at the end of the arena.
    pub(super) fn range(&mut self, who: usize, at: Addr, len: Len) -> &mut [Page] {
        let end = (at.page() + len.pages()).min(PAGES);
        &mut self.processes[who].pages[at.page()..end]
    }

    pub(super) fn mmap(
        &mut self,
        who: usize,
        at: Addr,
        len: Len,
        prot: Prot,
        backing: Backing,
    ) -> (Wanted, Touched) {
        let object = self.used_objects;
        let mut flags = Flags::MAPPED.with(prot.flags());
        match backing {
            Backing::Anon | Backing::Populated => {}
            Backing::Shared => flags.set(Flags::SHARED),
            Backing::File => flags.set(Flags::FILE),
            // see `mmap_device`
            Backing::PfnRemap | Backing::PfnPrivate | Backing::PfnPte | Backing::PfnPmd => {}
        }
        let pages = self.range(who, at, len);
        let count = pages.len();
        for (offset, page) in pages.iter_mut().enumerate() {
            let offset = offset as u16;
            let value = if backing == Backing::File {
                file_stamp(offset)
            } else {
                0
            };
            *page = Page {
                value,
                flags,
                offset,
                object,
            };
        }
        if backing == Backing::Shared {
            self.object_pages[usize::from(object)] = count as u16;
            self.used_objects += 1;
        }
        (Wanted::Exactly(0), Touched::range(at.page(), count))
    }

    pub(super) fn munmap(&mut self, who: usize, at: Addr, len: Len) -> (Wanted, Touched) {
        self.range(who, at, len).iter_mut().for_each(Page::unmap);
        (Wanted::Exactly(0), Touched::range(at.page(), len.pages()))
    }

    /// Works up to the first hole, then fails with ENOMEM.
    pub(super) fn mprotect(
        &mut self,
        who: usize,
        at: Addr,
        len: Len,
        prot: Prot,
    ) -> (Wanted, Touched) {
        let touched = Touched::range(at.page(), len.pages());
        for number in at.page()..(at.page() + len.pages()).min(PAGES) {
            let page = &mut self.processes[who].pages[number];
            if !page.flags.has(Flags::MAPPED) {
                return (Wanted::Exactly(libc::ENOMEM), touched);
            }
            let populates = page.is_populated_by(prot);
            page.flags.clear(Flags::READ.with(Flags::WRITE));
            page.flags.set(prot.flags());
            // an asynchronous userfaultfd lets the faults through
            if populates {
                page.unsettle_protection();
                self.opened(who, number);
            }
        }
        (Wanted::Exactly(0), touched)
    }

    /// Marks up to the first hole; then, unless there is one, populates, which
    /// fails where a page allows no access.
    pub(super) fn mlock(
        &mut self,
        who: usize,
        at: Addr,
        len: Len,
        populate: bool,
    ) -> (Wanted, Touched) {
        let touched = Touched::range(at.page(), len.pages());
        let end = (at.page() + len.pages()).min(PAGES);
        let accessible = (at.page()..end).all(|page| {
            let store = self.populates_by_store(who, page);
            let device = self.processes[who].pages[page].flags.has(Flags::PFN);
            device || self.effect(who, page, store) == Effect::Done
        });
        for page in self.range(who, at, len) {
            if !page.flags.has(Flags::MAPPED) {
                return (Wanted::Exactly(libc::ENOMEM), touched);
            }
            // VM_SPECIAL is passed over
            if !page.flags.has(Flags::PFN) {
                page.flags.set(Flags::LOCKED);
            }
        }
        if !populate {
            return (Wanted::Exactly(0), touched);
        }
        self.unsettle_protection(who, at, len);
        if accessible {
            return (Wanted::Exactly(0), touched);
        }
        (Wanted::OrAny(&[libc::ENOMEM, libc::EAGAIN]), touched)
    }

    /// Populating breaks COW of private writable memory, so it acts as a store.
    fn populates_by_store(&self, who: usize, page: usize) -> bool {
        let flags = self.processes[who].pages[page].flags;
        flags.has(Flags::WRITE) && !flags.has(Flags::SHARED)
    }

    /// Something may have acted like a store to any page of the range.
    pub(super) fn unsettle_protection(&mut self, who: usize, at: Addr, len: Len) {
        for page in at.page()..(at.page() + len.pages()).min(PAGES) {
            self.opened(who, page);
        }
        self.range(who, at, len)
            .iter_mut()
            .for_each(Page::unsettle_protection);
    }

    pub(super) fn munlock(&mut self, who: usize, at: Addr, len: Len) -> (Wanted, Touched) {
        let touched = Touched::range(at.page(), len.pages());
        for page in self.range(who, at, len) {
            if !page.flags.has(Flags::MAPPED) {
                return (Wanted::Exactly(libc::ENOMEM), touched);
            }
            page.flags.clear(Flags::LOCKED);
        }
        (Wanted::Exactly(0), touched)
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
