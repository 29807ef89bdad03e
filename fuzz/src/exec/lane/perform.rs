// SPDX-License-Identifier: GPL-2.0-only
//! From an operation of a racing block to the calls that carry it out. Nothing here allocates.

use std::fs::OpenOptions;
use std::io::Write;

use super::super::hold;
use super::super::lane_access::Wrong;
use super::super::mirror;
use super::super::process::{self, Process};
use super::super::sys;
use super::super::track::Tracker;
use super::Lane;
use crate::program::{Addr, Advice, Device, Len, Mirror, Op, PAGES, Proc, Pulse, Step};

impl Lane<'_> {
    pub(super) fn perform(&mut self, at: usize, step: &Step, last: bool) -> Result<i32, Wrong> {
        let me = self.ground.me;
        let file = self.ground.setup.file;
        Ok(match step.op {
            Op::Mmap {
                at,
                len,
                prot,
                backing,
            } => sys::mmap(at, len, prot, backing, file),
            Op::Munmap { at, len } => sys::munmap(at, len),
            Op::Mprotect { at, len, prot } => sys::mprotect(at, len, prot),
            Op::Mremap {
                at,
                len,
                to,
                new,
                how,
            } => sys::mremap(at, len, to, new, how),
            Op::Madvise { at, len, advice } => match sys::madvise(at, len, advice) {
                libc::EFAULT if advice == Advice::Collapse => libc::EINVAL,
                result => result,
            },
            Op::Mlock { at, len } => sys::mlock(at, len, false),
            Op::MlockOnfault { at, len } => sys::mlock(at, len, true),
            Op::Munlock { at, len } => sys::munlock(at, len),
            Op::Read { at: first, len } => {
                for page in first.page()..(first.page() + len.pages()).min(PAGES) {
                    self.load(page, self.storing[at][page - first.page()])?;
                }
                0
            }
            Op::Write { at, len } => {
                for page in at.page()..(at.page() + len.pages()).min(PAGES) {
                    self.store(page)?;
                }
                0
            }
            Op::Remote {
                peer,
                at: first,
                len,
                access,
            } => {
                for page in first.page()..(first.page() + len.pages()).min(PAGES) {
                    let storing = self.storing[at][page - first.page()];
                    self.remote(peer.index(), page, access, storing)?;
                }
                0
            }
            Op::Fork { child } => self.fork(child, last),
            Op::Exit {} => {
                self.ground.setup.rally.set_doomed(me);
                sys::exit(0)
            }
            Op::ClearRefs { what } => process::write_to("/proc/self/clear_refs", what.number()),
            Op::UffdRegister { at, len, .. } => self.tracked(|t| t.register(at, len)),
            Op::UffdUnregister { at, len } => self.tracked(|t| t.unregister(at, len)),
            Op::UffdProtect { at, len } => self.tracked(|t| t.protect(at, len, true)),
            Op::UffdUnprotect { at, len } => self.tracked(|t| t.protect(at, len, false)),
            Op::Device {
                mirror,
                what,
                at,
                len,
            } => self.device(mirror, what, at, len),
            Op::Pin { at, len } => self.pin(at, len),
            Op::Unpin {} => self.unpin(),
            Op::Place { at, len, node } => hold::place_with(at, len, node, &mut self.scratch),
            Op::ScanProtect { at, len } => match &self.pagemap {
                Some(file) => hold::scan_protect(file, at, len),
                None => libc::EINVAL,
            },
            Op::System { pulse } => pulsate(pulse),
            // what does not race is not carried out
            _ => 0,
        })
    }

    /// Forks. All but the last child end at once; that one goes on with the program.
    fn fork(&mut self, child: Proc, last: bool) -> i32 {
        let setup = self.ground.setup;
        if !last {
            return sys::fork_and_reap();
        }
        match sys::fork_sibling() {
            0 => {
                setup
                    .board
                    .set_pid(child.index(), std::process::id() as i32);
                Process::run_forked(setup, child.index())
            }
            pid if pid > 0 => {
                setup.board.set_pid(child.index(), pid);
                0
            }
            error => -error,
        }
    }

    fn tracked(&self, f: impl Fn(&Tracker) -> i32) -> i32 {
        self.ground.tracker.map_or(libc::EINVAL, f)
    }

    fn device(&mut self, mirror: Mirror, what: Device, at: Addr, len: Len) -> i32 {
        let pages = len.pages().min(PAGES - at.page());
        match self.ground.mirrors[mirror::index(mirror)] {
            Some(file) => mirror::race(file, what, at, pages, &mut self.buffer),
            None => libc::ENODEV,
        }
    }

    /// A pin of this thread, given up at the end of the block.
    fn pin(&mut self, at: Addr, len: Len) -> i32 {
        self.unpin();
        match hold::start_pin(at, len) {
            Ok((file, _)) => {
                self.pin = Some(file);
                0
            }
            Err(errno) => errno,
        }
    }

    pub(super) fn unpin(&mut self) -> i32 {
        self.pin
            .take()
            .map_or(libc::EINVAL, |file| hold::stop_pin(&file))
    }
}

fn pulsate(pulse: Pulse) -> i32 {
    match pulse {
        Pulse::Compact => sys::compact(),
        Pulse::Shrink => process::write_to("/proc/sys/vm/drop_caches", "2"),
        Pulse::Split => {
            let (start, end) = (sys::address(0), sys::address(PAGES));
            let mut text = [0u8; 96];
            let mut rest = &mut text[..];
            let written = write!(rest, "{},{start:#x},{end:#x}", std::process::id());
            let left = rest.len();
            if written.is_err() {
                return libc::EINVAL;
            }
            let file = OpenOptions::new()
                .write(true)
                .open("/sys/kernel/debug/split_huge_pages");
            let count = text.len() - left;
            let result = file.and_then(|mut file| file.write_all(&text[..count]));
            result.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0)
        }
        // not in racing blocks (`model::race::refuses`)
        _ => libc::EINVAL,
    }
}
