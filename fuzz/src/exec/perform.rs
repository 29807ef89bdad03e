// SPDX-License-Identifier: GPL-2.0-only
//! From an operation to the calls that carry it out.

use super::check;
use super::depart;
use super::hold;
use super::limit;
use super::process::Process;
use super::sys;
use super::system;
use super::track::Tracker;
use crate::program::{Addr, Advice, Backing, Len, Op, Proc, Prot, Step, Switch, Track};

impl Process<'_> {
    /// Carries out a step: 0 or an errno; or a load or store went wrong.
    pub(super) fn perform(&mut self, step: &Step) -> Result<i32, check::Broken> {
        Ok(match step.op {
            Op::Mmap {
                at,
                len,
                prot,
                backing,
            } => self.mmap(at, len, prot, backing),
            Op::Zap { at, len } => self.setup.pfn.zap(at, len),
            Op::Munmap { at, len } => sys::munmap(at, len),
            Op::Brk { at, len, how } => self
                .setup
                .heap
                .map_or(libc::EPERM, |heap| sys::brk(heap, at, len, how)),
            Op::Mprotect { at, len, prot } => sys::mprotect(at, len, prot),
            Op::Mremap {
                at,
                len,
                to,
                new,
                how,
            } => sys::mremap(at, len, to, new, how),
            Op::Madvise { at, len, advice } => {
                let result = sys::madvise(at, len, advice);
                return Ok(if advice == Advice::Collapse && result == libc::EFAULT {
                    libc::EINVAL
                } else {
                    result
                });
            }
            Op::Mlock { at, len } => sys::mlock(at, len, false),
            Op::MlockOnfault { at, len } => sys::mlock(at, len, true),
            Op::Munlock { at, len } => sys::munlock(at, len),
            Op::Read { at, len } => self.load_range(at, len)?,
            Op::Write { at, len } => self.store_range(at, len)?,
            Op::Fork { child } => self.fork(child),
            Op::Exit {} | Op::Exec {} => 0,
            Op::Kill { peer } => self.kill(peer),
            Op::Spawn { how } => self.spawn(how),
            Op::ThpDisable { on } => depart::disable_thp(on == Switch::On),
            Op::Limit { room } => limit::set(room),
            Op::Knob { knob } => system::turn(knob),
            Op::Poke {
                peer,
                at,
                len,
                access,
                via,
            } => self.poke(peer, (at, len), access, via)?,
            Op::ClearRefs { what } => self.clear_refs(what)?,
            Op::Verify {} => self.load_everything().map(|()| 0)?,
            Op::UffdRegister { at, len, track } => {
                self.track(track, |tracker| tracker.register(at, len))
            }
            Op::UffdUnregister { at, len } => self.tracked(|tracker| tracker.unregister(at, len)),
            Op::UffdProtect { at, len } => self.tracked(|tracker| tracker.protect(at, len, true)),
            Op::UffdUnprotect { at, len } => {
                self.tracked(|tracker| tracker.protect(at, len, false))
            }
            Op::UffdWatch {
                at,
                len,
                track,
                kind,
            } => self.track(track, |tracker| tracker.watch(at, len, kind)),
            Op::UffdFill { at, len, how } => self.fill(at, len, how),
            Op::UffdMove { at, len, to } => self.shift(at, len, to),
            Op::UffdMode { on } => self.tracked(|tracker| tracker.opens(on)),
            Op::UffdClose { at, len, on } => self.tracked(|tracker| tracker.close(at, len, on)),
            Op::Device {
                mirror,
                what,
                at,
                len,
            } => self.device(mirror, what, at, len)?,
            Op::Pin { at, len } => self.pin(at, len),
            Op::Buffer { at, len } => self.buffer(at, len),
            Op::Fixed { access } => self.fixed(access)?,
            Op::Splice { at, len } => self.splice(at, len)?,
            Op::Drain {} => self.drain()?,
            Op::Direct { at, len, access } => self.direct(at, len, access)?,
            Op::Inspect { peer, what } => self.inspect(peer, what)?,
            Op::Scan { at, len, what } => self.scan(at, len, what)?,
            Op::Idle { at, len } => self.idle(at, len)?,
            Op::Unpin {} => self.unpin(),
            Op::Place { at, len, node } => hold::place(at, len, node),
            Op::ScanProtect { at, len } => self.scan_protect(at, len),
            Op::Fail { nth } => {
                self.inject = Some(nth.0);
                0
            }
            Op::System { pulse } => self.pulse(pulse),
            Op::Remote {
                peer,
                at,
                len,
                access,
            } => self.remote(peer, at, len, access)?,
        })
    }

    fn fork(&mut self, child: Proc) -> i32 {
        match sys::fork_sibling() {
            0 => {
                self.me = child.index();
                // all processes share their descriptors, so those of the parent stay open
                std::mem::forget(self.pagemap.take());
                std::mem::forget(self.tracker.take());
                std::mem::forget(self.pin.take());
                std::mem::forget(self.pipe.take());
                self.mirrors.disown();
                self.board().set_pid(self.me, std::process::id() as i32);
                self.attach();
                self.turns();
                sys::exit(0)
            }
            pid if pid > 0 => {
                self.board().set_pid(child.index(), pid);
                0
            }
            error => -error,
        }
    }

    fn mmap(&self, at: Addr, len: Len, prot: Prot, backing: Backing) -> i32 {
        if !backing.is_device() {
            return sys::mmap(at, len, prot, backing, self.setup.file);
        }
        match self.setup.pfn.file(backing) {
            -1 => libc::ENODEV,
            file => sys::mmap(at, len, prot, backing, file),
        }
    }

    fn track(&mut self, track: Track, f: impl Fn(&Tracker) -> i32) -> i32 {
        if self.tracker.is_none() {
            match Tracker::open(track) {
                Ok(tracker) => self.tracker = Some(tracker),
                Err(errno) => return errno,
            }
        }
        self.tracked(f)
    }

    fn tracked(&self, f: impl Fn(&Tracker) -> i32) -> i32 {
        self.tracker.as_ref().map_or(libc::EINVAL, f)
    }
}
