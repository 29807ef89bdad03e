// SPDX-License-Identifier: GPL-2.0-only
//! Ends of processes from outside, accesses that do not ask for permission, and
//! what only the whole system notices.

use libc::{EAGAIN, EBUSY, ECHILD, EINVAL, ENODEV, ENOENT, ENOMEM, EPERM, ESRCH};

use super::page::{Flags, Page};
use super::{Effect, Model, Touched, Wanted};
use crate::program::{Op, Room, Via};

impl Model {
    /// Another process is gone, and all that it had.
    pub(super) fn kill(&mut self, peer: usize) -> (Wanted, Touched) {
        self.processes[peer].clear();
        (Wanted::Exactly(0), Touched::ALL)
    }

    /// A child came and went.
    pub(super) fn spawn(&self) -> (Wanted, Touched) {
        (Wanted::OrAny(&[EAGAIN, ENOMEM, ECHILD]), Touched::ALL)
    }

    /// khugepaged, reclaim, swapoff, compaction, splits: nothing that a program sees.
    pub(super) fn pulse(&self) -> (Wanted, Touched) {
        const REFUSALS: &[i32] = &[EAGAIN, EINVAL, ENOENT, ENOMEM, ENODEV, EBUSY, EPERM];
        (Wanted::OrAny(REFUSALS), Touched::ALL)
    }

    /// Passes of KSM. The entry of a merged page has no uffd-wp bit (`replace_page()` in mm/ksm.c, a
    /// bug); whoever asked for the passes shows it, of others it is not reported once more.
    pub(super) fn merge(&mut self, who: usize) -> (Wanted, Touched) {
        for (other, process) in self.processes.iter_mut().enumerate() {
            let merged = |page: &&mut Page| other != who && page.flags.has(Flags::MERGEABLE);
            let pages = process.pages.iter_mut();
            pages.filter(merged).for_each(Page::unsettle_protection);
        }
        self.pulse()
    }

    /// Sizes of huge pages and what they are made of: from now on.
    pub(super) fn knob(&self) -> (Wanted, Touched) {
        (Wanted::OrAny(&[EINVAL, ENOENT]), Touched::default())
    }

    /// A limit of memory, for the process and what it forks. ENOENT: there are no such groups.
    pub(super) fn limit_memory(&mut self, room: Room) -> (Wanted, Touched) {
        self.limited = true;
        self.throttled |= room == Room::High4M;
        (Wanted::OrAny(&[ENOENT, EBUSY]), Touched::default())
    }

    /// Whether any page may be reclaimed at any time, so that nothing that was seen of one still
    /// holds a moment later, but its content.
    pub fn is_limited(&self) -> bool {
        self.limited
    }

    /// A group that is above `memory.high` and locks what it has waits two seconds for each 64
    /// pages more: that is not tried.
    pub(super) fn would_wait(&self, op: &Op) -> bool {
        let locked = |page: &Page| page.flags.has(Flags::LOCKED);
        match op {
            Op::Mlock { .. } | Op::MlockOnfault { .. } => self.throttled,
            Op::Limit { room: Room::High4M } => {
                let mut all = self.processes.iter().flat_map(|process| &process.pages);
                all.any(locked)
            }
            _ => false,
        }
    }

    /// What a load or store by a debugger must do (FOLL_FORCE, check_vma_flags()): it
    /// may load what is mapped, and store to what is private or writable.
    pub fn forced_effect(&self, process: usize, page: usize, store: bool) -> Effect {
        let found = &self.processes[process].pages[page];
        let flags = found.flags;
        if !flags.has(Flags::MAPPED) || flags.has(Flags::GUARD) {
            return Effect::Segv;
        }
        if flags.has(Flags::PFN) {
            return Effect::Segv;
        }
        if store && !flags.has(Flags::WRITE) && flags.has(Flags::SHARED) {
            return Effect::Segv;
        }
        let poison = flags.has(Flags::POISON);
        if usize::from(found.offset) >= self.limit(found)
            || poison && !flags.has(Flags::POISON_UNSURE)
        {
            return Effect::Bus;
        }
        if poison || self.processes[process].uffd == 2 && flags.any(Flags::WATCHED) {
            return Effect::DoneOrBus;
        }
        Effect::Done
    }

    /// What a load or store by a debugger must do. `/proc/PID/mem` asks for the permission,
    /// unless the kernel is told to let it not (CONFIG_PROC_MEM_ALWAYS_FORCE).
    pub fn poke_effect(&self, process: usize, page: usize, store: bool, via: Via) -> Effect {
        let forced = self.forced_effect(process, page, store);
        if via == Via::Ptrace
            || forced != Effect::Done
            || self.kernel_effect(process, page, store) == Effect::Done
        {
            return forced;
        }
        Effect::DoneOrBus
    }

    /// A process that is not there cannot be reached.
    pub(super) fn poke(&self) -> Wanted {
        Wanted::OrAny(&[ESRCH, EPERM])
    }
}
