// SPDX-License-Identifier: GPL-2.0-only
//! Steps applied to the model: as they happened, or as if they succeeded.

use super::page::Flags;
use super::{Effect, Facts, Model, OBJECTS, Touched, Unexpected, Wanted, memory};
use crate::program::{Clear, Op, PAGES, Step};

impl Model {
    /// Whether the step does nothing: its process is dead, or what it needs is
    /// not there. The executor must not carry it out.
    pub fn skips(&self, step: &Step) -> bool {
        let who = step.process.index();
        if !self.alive(who) {
            return true;
        }
        match step.op {
            Op::Mmap {
                backing: crate::program::Backing::Shared,
                ..
            } => usize::from(self.used_objects) == OBJECTS,
            Op::Mremap {
                at,
                len,
                to,
                new,
                how,
            } => self.refuses_move(who, memory::Remap::new(at, len, to, new, how)),
            Op::Fork { child } => self.alive(child.index()),
            Op::Exit {} => who == 0,
            Op::Remote { peer, .. } => peer.index() == who || !self.alive(peer.index()),
            Op::UffdUnregister { .. } | Op::UffdProtect { .. } | Op::UffdUnprotect { .. } => {
                self.processes[who].uffd == 0
            }
            _ => false,
        }
    }

    /// Applies a step that is not a load or store and that returned `got`
    /// (0 or an errno). Says which slots to look at, or that `got` is wrong.
    pub fn apply(
        &mut self,
        step: &Step,
        got: i32,
        facts: &dyn Facts,
    ) -> Result<Touched, Unexpected> {
        let who = step.process.index();
        let (wanted, touched) = self.change(who, &step.op, got, facts);
        match wanted {
            Wanted::Exactly(wanted) if wanted != got => Err(Unexpected { wanted, got }),
            Wanted::OrAny(list) if got != 0 && !list.contains(&got) => {
                Err(Unexpected { wanted: 0, got })
            }
            _ => Ok(touched),
        }
    }

    fn change(&mut self, who: usize, op: &Op, got: i32, facts: &dyn Facts) -> (Wanted, Touched) {
        let injecting = std::mem::take(&mut self.processes[who].injecting);
        if injecting
            && got != 0
            && let Some(touched) = self.settle_injected(who, op, facts)
        {
            return (Wanted::OrAny(&[libc::ENOMEM, libc::EAGAIN]), touched);
        }
        match *op {
            Op::Mmap {
                at,
                len,
                prot,
                backing,
            } => self.mmap(who, at, len, prot, backing),
            Op::Munmap { at, len } => self.munmap(who, at, len),
            Op::Mprotect { at, len, prot } => self.mprotect(who, at, len, prot),
            Op::Mremap {
                at,
                len,
                to,
                new,
                how,
            } => self.mremap(who, memory::Remap::new(at, len, to, new, how), got, facts),
            Op::Madvise { at, len, advice } => self.madvise(who, at, len, advice, got),
            Op::Mlock { at, len } => self.mlock(who, at, len, true),
            Op::MlockOnfault { at, len } => self.mlock(who, at, len, false),
            Op::Munlock { at, len } => self.munlock(who, at, len),
            Op::Fork { child } => self.fork(who, child.index(), got),
            Op::Exit {} => self.exit(who),
            Op::ClearRefs { what } => self.clear_refs(who, what),
            Op::UffdRegister { at, len, track } => self.uffd_register(who, at, len, track, got),
            Op::UffdUnregister { at, len } => self.uffd_unregister(who, at, len, got),
            Op::UffdProtect { at, len } => self.uffd_protect(who, at, len, true),
            Op::UffdUnprotect { at, len } => self.uffd_protect(who, at, len, false),
            Op::Device { what, at, len, .. } => self.device(who, at, len, what),
            Op::Pin { at, len } => self.pin(who, at, len, got),
            Op::Unpin {} => self.unpin(who),
            Op::Place { at, len, .. } => self.place(at, len),
            Op::ScanProtect { at, len } => self.scan_protect(who, at, len, got),
            Op::Fail { .. } => {
                self.processes[who].injecting = true;
                (Wanted::Exactly(0), Touched::default())
            }
            Op::System { .. } | Op::Verify {} => (
                Wanted::OrAny(&[libc::EAGAIN, libc::EINVAL, libc::ENOENT]),
                Touched::ALL,
            ),
            Op::Read { at, len } | Op::Write { at, len } | Op::Remote { at, len, .. } => {
                (Wanted::Exactly(0), Touched::range(at.page(), len.pages()))
            }
        }
    }

    fn clear_refs(&mut self, who: usize, what: Clear) -> (Wanted, Touched) {
        if what == Clear::SoftDirty {
            for page in &mut self.processes[who].pages {
                page.flags.clear(Flags::DIRTY);
            }
        }
        (Wanted::Exactly(0), Touched::ALL)
    }
}

/// For programs that are only thought through: everything that is mapped stays so.
pub(super) struct Assumed;

impl Facts for Assumed {
    fn mapped(&self, _: usize) -> bool {
        true
    }

    fn locked(&self, _: usize) -> bool {
        true
    }
}

impl Model {
    /// Applies a step as if it succeeded, loads and stores included. For
    /// generators, which want to know what would be there.
    pub fn assume(&mut self, step: &Step) {
        if self.skips(step) {
            return;
        }
        match step.op {
            Op::Write { at, len } => {
                self.assume_stores(step.process.index(), at.page(), len.pages())
            }
            Op::Remote {
                peer,
                at,
                len,
                access: crate::program::Access::Store,
            } => {
                self.assume_stores(peer.index(), at.page(), len.pages());
            }
            _ => {
                let _ = self.apply(step, 0, &Assumed);
            }
        }
    }

    fn assume_stores(&mut self, process: usize, at: usize, len: usize) {
        for page in at..(at + len).min(PAGES) {
            if self.effect(process, page, true) == Effect::Done {
                let value = self.next_stamp(process, page);
                self.stored(process, page, value);
            }
        }
    }
}
