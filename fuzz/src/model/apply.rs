// SPDX-License-Identifier: GPL-2.0-only
//! Steps applied to the model: as they happened, or as if they succeeded.

use super::page::Flags;
use super::{Effect, Facts, Model, OBJECTS, Touched, Unexpected, Wanted, moves};
use crate::program::{Advice, Clear, Op, PAGES, Pulse, Step};

impl Model {
    /// Whether the step does nothing: its process is dead, or what it needs is
    /// not there. The executor must not carry it out.
    pub fn skips(&self, step: &Step) -> bool {
        let who = step.process.index();
        if !self.alive(who) || self.would_wait(&step.op) {
            return true;
        }
        match step.op {
            Op::Mmap {
                backing: crate::program::Backing::Shared,
                ..
            } => usize::from(self.used_objects) == OBJECTS,
            Op::Fixed { .. } => self.buffer(who).is_empty(),
            Op::Madvise {
                at,
                advice: Advice::Hwpoison,
                ..
            } => self.spares(who, at),
            Op::Mmap {
                at, len, backing, ..
            } => backing.is_device() && Self::leaves_device(at, len),
            Op::Mremap {
                at,
                len,
                to,
                new,
                how,
            } => self.refuses_move(who, moves::Remap::new(at, len, to, new, how)),
            Op::Fork { child } => self.alive(child.index()),
            Op::Exit {} | Op::Exec {} => who == 0,
            Op::Kill { peer } if peer.index() == 0 => true,
            Op::Kill { peer }
            | Op::Inspect { peer, .. }
            | Op::Poke { peer, .. }
            | Op::Remote { peer, .. } => peer.index() == who || !self.alive(peer.index()),
            Op::UffdMove { at, len, to } => {
                self.processes[who].uffd == 0 || self.refuses_uffd_move(at, len, to)
            }
            Op::UffdMode { .. } => self.processes[who].uffd != 2,
            Op::UffdUnregister { .. }
            | Op::UffdProtect { .. }
            | Op::UffdUnprotect { .. }
            | Op::UffdFill { .. }
            | Op::UffdClose { .. } => self.processes[who].uffd == 0,
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
        let denied = self.is_limited() && matches!(got, libc::ENOMEM | libc::EAGAIN);
        if (injecting || denied)
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
            } if backing.is_device() => self.mmap_device(who, (at, len), prot, backing, got),
            Op::Splice { at, len } => self.splice(who, (at, len), got, facts),
            Op::Drain {} => self.drain(who),
            Op::Direct { at, len, access } => self.direct(who, at, len, access),
            Op::Inspect { .. } => (self.look(), Touched::default()),
            Op::Scan { at, len, .. } | Op::Idle { at, len } => {
                (self.look(), Touched::range(at.page(), len.pages()))
            }
            Op::Zap { at, len } => self.zap(at, len),
            Op::Mmap {
                at,
                len,
                prot,
                backing,
            } => self.mmap(who, at, len, prot, backing),
            Op::Munmap { at, len } => self.munmap(who, at, len),
            Op::Brk { at, len, how } => self.brk(who, (at, len), how, got),
            Op::Mprotect { at, len, prot } => self.mprotect(who, at, len, prot),
            Op::Mremap {
                at,
                len,
                to,
                new,
                how,
            } => {
                let remap = moves::Remap::new(at, len, to, new, how);
                let before = (injecting && got == 0).then(|| Box::new(*self.pages(who)));
                let applied = self.mremap(who, remap, got, facts);
                if let Some(before) = before {
                    self.settle_source(who, remap, &before[..], facts);
                }
                applied
            }
            Op::Madvise { at, len, advice } => self.madvise(who, at, len, advice, got),
            Op::Mlock { at, len } => self.mlock(who, at, len, true),
            Op::MlockOnfault { at, len } => self.mlock(who, at, len, false),
            Op::Munlock { at, len } => self.munlock(who, at, len),
            Op::Fork { child } => self.fork(who, child.index(), got),
            Op::Exit {} | Op::Exec {} => self.exit(who),
            Op::Kill { peer } => self.kill(peer.index()),
            Op::Spawn { .. } => self.spawn(),
            Op::Limit { room } => self.limit_memory(room),
            Op::ThpDisable { .. } | Op::Knob { .. } => self.knob(),
            Op::ClearRefs { what } => self.clear_refs(who, what),
            Op::UffdRegister { at, len, track } => self.uffd_register(who, at, len, track, got),
            Op::UffdUnregister { at, len } => self.uffd_unregister(who, at, len, got),
            Op::UffdProtect { at, len } => self.uffd_protect(who, at, len, true),
            Op::UffdUnprotect { at, len } => self.uffd_protect(who, at, len, false),
            Op::UffdWatch {
                at,
                len,
                track,
                kind,
            } => self.uffd_watch(who, at, len, (track, kind), got),
            Op::UffdFill { at, len, how } => self.uffd_fill(who, at, len, how, got, facts),
            Op::UffdMove { at, len, to } => self.uffd_move(who, (at, len, to), got, facts),
            Op::UffdMode { on } => self.uffd_mode(who, on, got),
            Op::UffdClose { at, len, on } => self.uffd_close(who, (at, len), on, got),
            Op::Device { what, at, len, .. } => self.device(who, at, len, what, got),
            Op::Pin { at, len } => self.pin(who, at, len, got),
            Op::Buffer { at, len } => self.register_buffer(who, at, len, got),
            Op::Fixed { .. } => self.fixed(who),
            Op::Unpin {} => self.unpin(who),
            Op::Place { at, len, .. } => self.place(at, len),
            Op::ScanProtect { at, len } => self.scan_protect(who, at, len, got),
            Op::Fail { .. } => {
                self.processes[who].injecting = true;
                (Wanted::Exactly(0), Touched::default())
            }
            Op::System { pulse: Pulse::Ksm } => self.merge(who),
            Op::System { .. } | Op::Verify {} => self.pulse(),
            Op::Poke { at, len, .. } => (self.poke(), Touched::range(at.page(), len.pages())),
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
        self.forget_moves(step.process.index());
        match step.op {
            Op::Write { at, len } => {
                self.assume_stores(step.process.index(), at.page(), len.pages())
            }
            Op::Direct {
                at,
                len,
                access: crate::program::Access::Store,
            } => {
                let len = len.pages().min(super::MAX_DIRECT);
                self.assume_direct(step.process.index(), at.page(), len);
            }
            Op::Fixed {
                access: crate::program::Access::Store,
            } => self.assume_fixed(step.process.index()),
            Op::Remote {
                peer,
                at,
                len,
                access: crate::program::Access::Store,
            } => {
                self.assume_stores(peer.index(), at.page(), len.pages());
            }
            Op::Poke {
                peer,
                at,
                len,
                access: crate::program::Access::Store,
                via,
            } => {
                let end = (at.page() + len.pages().min(super::MAX_POKED)).min(PAGES);
                for page in at.page()..end {
                    if self.poke_effect(peer.index(), page, true, via) == Effect::Done {
                        let value = self.next_stamp(step.process.index(), page);
                        self.stored(peer.index(), page, value);
                    }
                }
            }
            _ => {
                if let Op::UffdFill { at, len, .. } = step.op {
                    self.reserve_fill(step.process.index(), at, len);
                }
                let _ = self.apply(step, 0, &Assumed);
            }
        }
    }

    /// A direct read is carried out where every page allows it.
    fn assume_direct(&mut self, process: usize, at: usize, len: usize) {
        let pages = at..(at + len).min(PAGES);
        let allowed = |page| self.kernel_effect(process, page, true) == Effect::Done;
        if pages.clone().all(allowed) {
            for page in pages {
                let value = self.next_stamp(process, page);
                self.stored(process, page, value);
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
