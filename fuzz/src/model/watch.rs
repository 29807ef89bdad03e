// SPDX-License-Identifier: GPL-2.0-only
//! userfaultfd beyond write protection (mm/userfaultfd.c): faults of pages that
//! are not there, UFFDIO_COPY and its kind, UFFDIO_MOVE, UFFDIO_RWPROTECT.
//!
//! A userfaultfd of the kind `sigbus` answers each fault that it is told of with a
//! SIGBUS. That of the kind `async` has a thread that answers with a page of zeros
//! or with the page that is there, so that a program sees what it would without.

use libc::{EAGAIN, EBUSY, EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, EPERM};

use super::page::{Flags, Page, stamp};
use super::{Effect, Facts, MAX_FILLED, Model, Touched, Wanted};
use crate::program::{Addr, Fill, Len, PAGES, SLOT_PAGES, Switch, Track, Watch};

impl Watch {
    fn flags(self) -> Flags {
        match self {
            Self::Missing => Flags::MISSING,
            Self::MissingWp => Flags::MISSING.with(Flags::TRACKED),
            Self::Minor => Flags::MINOR,
            Self::Rwp => Flags::RWP,
            Self::MissingRwp => Flags::MISSING.with(Flags::RWP),
        }
    }
}

impl Model {
    pub(super) fn uffd_watch(
        &mut self,
        who: usize,
        at: Addr,
        len: Len,
        (track, kind): (Track, Watch),
        got: i32,
    ) -> (Wanted, Touched) {
        self.register(who, at, len, track, kind.flags(), got)
    }

    /// UFFDIO_REGISTER. An area that has all of the modes already keeps what it has;
    /// others get exactly these. Dropping WP or RWP is refused since 7.3.
    pub(super) fn register(
        &mut self,
        who: usize,
        at: Addr,
        len: Len,
        track: Track,
        modes: Flags,
        got: i32,
    ) -> (Wanted, Touched) {
        let touched = Touched::range(at.page(), len.pages());
        if self.processes[who].uffd == 0 {
            self.processes[who].uffd = if track == Track::Async { 1 } else { 2 };
        }
        let mut mapped = self
            .range(who, at, len)
            .iter_mut()
            .filter(|page| page.flags.has(Flags::MAPPED))
            .peekable();
        if mapped.peek().is_none() {
            return (Wanted::Exactly(EINVAL), touched);
        }
        if got == 0 && self.has_device(who, at, len) {
            return (Wanted::Exactly(EINVAL), touched);
        }
        let mapped = self.range(who, at, len).iter_mut();
        let mapped = mapped.filter(|page| page.flags.has(Flags::MAPPED));
        if got == 0 {
            for page in mapped.filter(|page| !page.flags.has(modes)) {
                page.flags.clear(Flags::WATCHED);
                page.flags.set(modes);
                page.unsettle_protection();
            }
        }
        (Wanted::OrAny(&[EINVAL, EPERM, EBUSY, ENOMEM]), touched)
    }

    /// Sets apart stamps for the pages of a fill, to be taken by `uffd_fill`.
    pub fn reserve_fill(&mut self, process: usize, at: Addr, len: Len) -> Vec<u64> {
        let pages = filled(at, len);
        (0..pages)
            .map(|i| self.next_stamp(process, at.page() + i))
            .collect()
    }

    /// Fills up to the first page that is there, and tells how many.
    pub(super) fn uffd_fill(
        &mut self,
        who: usize,
        at: Addr,
        len: Len,
        how: Fill,
        got: i32,
        facts: &dyn Facts,
    ) -> (Wanted, Touched) {
        const FAILURES: &[i32] = &[EEXIST, ENOENT, EINVAL, EAGAIN, ENOMEM, EFAULT];
        let touched = Touched::range(at.page(), len.pages());
        let count = filled(at, len);
        let first = self.processes[who].pages[at.page()];
        if !first.flags.has(Flags::MAPPED) || !first.flags.any(Flags::WATCHED) {
            return (Wanted::Exactly(ENOENT), touched);
        }
        let done = facts.amount().unwrap_or(if got == 0 { count } else { 0 });
        for i in 0..done.min(count) {
            let number = at.page() + i;
            if facts.populated_before(number) == Some(true) || self.cached(who, number, how) {
                return (Wanted::Exactly(EEXIST), touched);
            }
            let version = self.version - (count - 1 - i) as u32;
            self.fill_page(who, number, how, stamp(version, who, number));
        }
        let empty = len.pages() == 1 && facts.populated_before(at.page()) == Some(false);
        if empty && first.private_anon() {
            match how {
                Fill::Copy | Fill::Zero => return (Wanted::Exactly(0), touched),
                // kernels before 6.6 do not know it
                Fill::Poison => return (Wanted::OrAny(&[EINVAL]), touched),
                Fill::CopyProtected | Fill::Continue => {}
            }
        }
        (Wanted::OrAny(FAILURES), touched)
    }

    /// Whether the object has a page of its own there, which a fill must not replace.
    fn cached(&self, who: usize, number: usize, how: Fill) -> bool {
        let page = &self.processes[who].pages[number];
        !matches!(how, Fill::Continue | Fill::Poison)
            && page.flags.has(Flags::SHARED)
            && self.objects[usize::from(page.object)][usize::from(page.offset)] != 0
    }

    fn fill_page(&mut self, who: usize, number: usize, how: Fill, stamp: u64) {
        let flags = &mut self.processes[who].pages[number].flags;
        flags.clear(Flags::ALL_POISON);
        let value = match how {
            Fill::Copy | Fill::CopyProtected => stamp,
            Fill::Zero => 0,
            Fill::Continue => return,
            Fill::Poison => return self.poison(who, number),
        };
        let page = &mut self.processes[who].pages[number];
        page.flags.clear(
            Flags::PROTECTED
                .with(Flags::PROTECTED_UNSURE)
                .with(Flags::LAZY)
                .with(Flags::DIRTY),
        );
        if how == Fill::CopyProtected {
            page.flags.set(Flags::PROTECTED);
        }
        if page.flags.has(Flags::SHARED) {
            self.objects[usize::from(page.object)][usize::from(page.offset)] = value;
            return;
        }
        page.value = value;
        if how != Fill::Zero {
            page.flags.set(Flags::DIRTY);
        }
    }

    /// A page that was not there has a poison marker now. Page tables of files are thrown away
    /// now and then, and the marker with them (retract_page_tables() in mm/khugepaged.c).
    fn poison(&mut self, who: usize, number: usize) {
        let page = &mut self.processes[who].pages[number];
        page.discard();
        page.flags
            .clear(Flags::PROTECTED.with(Flags::PROTECTED_UNSURE));
        page.flags.set(Flags::POISON);
        if !page.private_anon() {
            page.flags.set(Flags::POISON_UNSURE);
        }
    }

    /// Whether a UFFDIO_MOVE is not tried: one that leaves the arena, or overlaps.
    pub(super) fn refuses_uffd_move(&self, at: Addr, len: Len, to: Addr) -> bool {
        let (from, to, len) = (at.page(), to.page(), len.pages());
        from + len > PAGES || to + len > PAGES || from < to + len && to < from + len
    }

    /// Moves pages, not mappings, up to the first that it cannot move, and tells how many.
    pub(super) fn uffd_move(
        &mut self,
        who: usize,
        (at, len, to): (Addr, Len, Addr),
        got: i32,
        facts: &dyn Facts,
    ) -> (Wanted, Touched) {
        const FAILURES: &[i32] = &[EEXIST, ENOENT, EINVAL, EAGAIN, ENOMEM, EFAULT, EBUSY];
        let (from, to, count) = (at.page(), to.page(), len.pages());
        self.forget_moves(who);
        let touched = Touched::range(from, count).and(Touched::range(to, count));
        let pages = &mut self.processes[who].pages;
        if let Some(errno) = cannot_move(&pages[from], &pages[to]) {
            return (Wanted::Exactly(errno), touched);
        }
        let done = facts.amount().unwrap_or(if got == 0 { count } else { 0 });
        for i in 0..done.min(count) {
            if facts.populated_before(to + i) == Some(true) {
                return (Wanted::Exactly(EEXIST), touched);
            }
            if pages[from + i].flags.has(Flags::PINNED) {
                return (Wanted::Exactly(EBUSY), touched);
            }
            let poison = pages[from + i].flags;
            let poison = poison.has(Flags::POISON) && !poison.has(Flags::POISON_UNSURE);
            if pages[from + i].flags.has(Flags::GUARD) || poison {
                return (Wanted::Exactly(EFAULT), touched);
            }
            let hole = facts.populated_before(from + i) == Some(false);
            let source = pages[from + i];
            pages[from + i].discard();
            arrive(&mut pages[to + i], &source, hole);
        }
        (Wanted::OrAny(FAILURES), touched)
    }

    /// UFFDIO_RWPROTECT: all areas of the range are registered for it, or nothing happens.
    /// Kernels before 7.3 do not know it, and register nothing for it.
    pub(super) fn uffd_close(
        &mut self,
        who: usize,
        (at, len): (Addr, Len),
        on: Switch,
        got: i32,
    ) -> (Wanted, Touched) {
        let touched = Touched::range(at.page(), len.pages());
        let mut all = self.processes.iter().flat_map(|process| &process.pages);
        if got == EINVAL && !all.any(|page| page.flags.has(Flags::RWP)) {
            return (Wanted::Exactly(EINVAL), touched);
        }
        let mapped = |page: &&mut Page| page.flags.has(Flags::MAPPED);
        let mut pages = self
            .range(who, at, len)
            .iter_mut()
            .filter(mapped)
            .peekable();
        if pages.peek().is_none() || pages.any(|page| !page.flags.has(Flags::RWP)) {
            return (Wanted::Exactly(ENOENT), touched);
        }
        let there = |page: &&mut Page| mapped(page) && !page.is_marker();
        for page in self.range(who, at, len).iter_mut().filter(there) {
            page.flags
                .clear(Flags::PROTECTED.with(Flags::PROTECTED_UNSURE));
            if on == Switch::On {
                page.flags.set(Flags::PROTECTED);
                if !page.flags.has(Flags::DIRTY) {
                    page.flags.set(Flags::PROTECTED_UNSURE);
                }
            }
        }
        (Wanted::Exactly(0), touched)
    }

    /// A load from the page completed: that opens a page that was closed.
    pub fn loaded(&mut self, process: usize, page: usize) {
        self.opened(process, page);
        let flags = &mut self.processes[process].pages[page].flags;
        flags.clear(Flags::EXCLUSIVE.with(Flags::ALL_POISON));
        if flags.has(Flags::RWP) {
            flags.clear(Flags::PROTECTED.with(Flags::PROTECTED_UNSURE));
        }
        // the thread that answers may have filled the page without its mark
        if flags.has(Flags::MISSING.with(Flags::SHARED)) && flags.has(Flags::PROTECTED) {
            flags.set(Flags::PROTECTED_UNSURE);
        }
    }

    /// The kernel itself loaded from the page, which may have opened it.
    pub fn unsettle_closed(&mut self, process: usize, page: usize) {
        self.opened(process, page);
    }

    /// An access to a closed page opens all that one PMD maps with it.
    pub(super) fn opened(&mut self, process: usize, page: usize) {
        let pages = &mut self.processes[process].pages;
        if !pages[page].flags.has(Flags::RWP.with(Flags::PROTECTED)) {
            return;
        }
        let first = page / SLOT_PAGES * SLOT_PAGES;
        for page in &mut pages[first..first + SLOT_PAGES] {
            if page.flags.has(Flags::RWP) {
                page.unsettle_protection();
            }
        }
    }

    /// Whether a load would change something that only a step may change.
    pub fn is_closed(&self, process: usize, page: usize) -> bool {
        self.processes[process].pages[page]
            .flags
            .has(Flags::RWP.with(Flags::PROTECTED))
    }

    /// Whether any process has memory of which `race` does not know what may become:
    /// device memory, poison, or a registration other than for write protection.
    pub fn beyond_races(&self) -> bool {
        let other = Flags::MISSING
            .with(Flags::MINOR)
            .with(Flags::RWP)
            .with(Flags::POISON)
            .with(Flags::PFN);
        self.processes
            .iter()
            .filter(|process| process.alive)
            .any(|process| process.pages.iter().any(|page| page.flags.any(other)))
    }

    /// Whether an access depends on whether something is there: `effect` then says
    /// `DoneOrBus`, and `effect_seen` knows more.
    pub(super) fn depends_on_presence(&self, who: usize, page: &Page) -> bool {
        self.processes[who].uffd == 2
            && (page.flags.any(Flags::MISSING.with(Flags::MINOR))
                || page.flags.has(Flags::RWP) && !page.private_anon() && !self.processes[who].opens)
    }

    /// What a load or store to the page must do, when its entry of the page map is
    /// known: whether it shows a page, and whether its uffd-wp bit is set.
    pub fn effect_seen(
        &self,
        process: usize,
        number: usize,
        store: bool,
        (populated, protected): (bool, bool),
    ) -> Effect {
        let page = &self.processes[process].pages[number];
        let unsure = page.flags.has(Flags::POISON_UNSURE);
        if unsure && (!populated || page.flags.has(Flags::FAILED)) {
            return self.effect(process, number, store);
        }
        let effect = if unsure {
            self.effect_unpoisoned(process, number, store)
        } else {
            self.effect(process, number, store)
        };
        let settled = effect != Effect::DoneOrBus || !self.depends_on_presence(process, page);
        if settled || self.is_limited() {
            return effect;
        }
        let opens = self.processes[process].opens;
        let closed =
            page.flags.has(Flags::RWP) && !opens || store && page.flags.has(Flags::TRACKED);
        let known = page.flags.has(Flags::FILE) || self.content(process, number).0 != 0;
        match (populated, page.private_anon()) {
            (true, _) if closed && protected => Effect::Bus,
            // a read-only huge page of a file is unmapped first (wp_huge_pmd())
            (true, false) if store && page.flags.has(Flags::MINOR) => Effect::DoneOrBus,
            (true, _) => Effect::Done,
            (false, true) => Effect::Bus,
            (false, false) if known && page.flags.has(Flags::MINOR) => Effect::Bus,
            (false, false) if known && !(closed && protected) => Effect::Done,
            (false, false) => Effect::DoneOrBus,
        }
    }
}

/// Pages that one fill fills at most.
fn filled(at: Addr, len: Len) -> usize {
    len.pages().min(MAX_FILLED).min(PAGES - at.page())
}

/// Why pages cannot go from one mapping to another, if they cannot.
fn cannot_move(from: &Page, to: &Page) -> Option<i32> {
    let (a, b) = (from.flags, to.flags);
    if !a.has(Flags::MAPPED) || !b.has(Flags::MAPPED) {
        return Some(ENOENT);
    }
    let same = Flags::READ.with(Flags::WRITE).with(Flags::LOCKED);
    let movable = a.0 & same.0 == b.0 & same.0
        && a.has(Flags::WRITE)
        && b.any(Flags::WATCHED)
        && from.private_anon()
        && to.private_anon();
    (!movable).then_some(EINVAL)
}

/// What the destination is after the move of a page.
fn arrive(page: &mut Page, source: &Page, hole: bool) {
    page.discard();
    if hole {
        return;
    }
    page.value = source.value;
    // zeros may be the zero page, which does not become soft-dirty
    if source.value != 0 && !source.flags.has(Flags::LAZY) {
        page.flags.set(Flags::MOVED);
    }
    if source.flags.has(Flags::LAZY) {
        page.flags.set(Flags::LAZY);
    } else if source.flags.has(Flags::DIRTY) {
        page.flags.set(Flags::DIRTY);
    }
    if page.flags.has(Flags::RWP) {
        page.flags.set(Flags::PROTECTED);
        if !page.flags.has(Flags::DIRTY) {
            page.flags.set(Flags::PROTECTED_UNSURE);
        }
    }
}
