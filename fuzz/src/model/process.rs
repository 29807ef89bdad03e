// SPDX-License-Identifier: GPL-2.0-only
//! fork and exit (kernel/fork.c, mm/memory.c copy_page_range).

use super::page::{Flags, Page};
use super::{Model, Process, Touched, Wanted};
use crate::program::PROCESSES;

impl Process {
    pub(super) fn clear(&mut self) {
        self.pages.fill(Page::default());
        self.alive = false;
        self.uffd = 0;
        self.opens = false;
        self.lock_unsure = false;
        self.pinning = false;
        self.buffer = (0, 0);
        self.injecting = false;
        self.spliced = Default::default();
    }
}

impl Model {
    /// The child sees what the parent saw. Locks and userfaultfd registrations
    /// are not inherited, and with the latter goes the uffd-wp bit.
    pub(super) fn fork(&mut self, who: usize, child: usize, got: i32) -> (Wanted, Touched) {
        if got == 0 {
            let [parent, child] = self.pair(who, child);
            child.alive = true;
            child.uffd = 0;
            child.opens = false;
            child.lock_unsure = false;
            child.pinning = false;
            child.buffer = (0, 0);
            child.spliced = Default::default();
            for (from, to) in parent.pages.iter().zip(child.pages.iter_mut()) {
                *to = inherited(from);
            }
        }
        (Wanted::OrAny(&[libc::EAGAIN, libc::ENOMEM]), Touched::ALL)
    }

    fn pair(&mut self, a: usize, b: usize) -> [&mut Process; 2] {
        assert!(a < PROCESSES && b < PROCESSES);
        self.processes
            .get_disjoint_mut([a, b])
            .expect("a process does not fork itself")
    }

    pub(super) fn exit(&mut self, who: usize) -> (Wanted, Touched) {
        self.processes[who].clear();
        (Wanted::Exactly(0), Touched::default())
    }
}

/// A page of the child.
fn inherited(parent: &Page) -> Page {
    let mut page = *parent;
    if page.flags.has(Flags::DONTFORK) {
        return Page::default();
    }
    page.flags.clear(
        Flags::LOCKED
            .with(Flags::PINNED)
            .with(Flags::WATCHED)
            .with(Flags::PROTECTED)
            .with(Flags::PROTECTED_UNSURE),
    );
    // copied with the page tables, which a mapping without anonymous memory keeps for itself
    // (vma_needs_copy())
    page.unsettle_poison();
    if page.flags.has(Flags::WIPEONFORK) {
        page.flags.clear(Flags::GUARD);
        page.discard();
    }
    page
}
