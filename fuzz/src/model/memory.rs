// SPDX-License-Identifier: GPL-2.0-only
//! Mappings: mmap, munmap, mprotect, mlock (mm/vma.c, mm/mprotect.c, mm/mlock.c).

use super::page::{Flags, Page, file_stamp};
use super::{Effect, Model, Touched, Wanted};
use crate::program::{Addr, Backing, Break, Len, PAGES, Prot};

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

    /// `brk` (mm/mmap.c). Growth maps private memory where nothing is, and needs one free page
    /// behind it (`stack_guard_gap` counts for stacks only); shrinking unmaps all that
    /// lies there, and is refused where nothing does. EPERM: the break cannot be put here.
    pub(super) fn brk(
        &mut self,
        who: usize,
        (at, len): (Addr, Len),
        how: Break,
        got: i32,
    ) -> (Wanted, Touched) {
        let touched = Touched::range(at.page(), len.pages());
        let count = self.range(who, at, len).len();
        let last = (at.page() + count).min(PAGES - 1);
        let mapped = |page: &Page| page.flags.has(Flags::MAPPED);
        let pages = &self.processes[who].pages;
        let refused = match how {
            Break::Grow => pages[at.page()..=last].iter().any(mapped),
            Break::Shrink => !pages[at.page()..at.page() + count].iter().any(mapped),
        };
        if got == libc::EPERM {
            return (Wanted::OrAny(&[libc::EPERM]), touched);
        }
        if refused {
            return (Wanted::Exactly(libc::ENOMEM), touched);
        }
        match how {
            Break::Grow => self.mmap(who, at, len, Prot::Write, Backing::Anon),
            Break::Shrink => self.munmap(who, at, len),
        }
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
}
