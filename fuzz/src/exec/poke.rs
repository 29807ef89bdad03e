// SPDX-License-Identifier: GPL-2.0-only
//! Accesses to another process as a debugger has them: through `/proc/PID/mem`, or
//! by ptrace. They do not ask for the permission of the mapping.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use super::access::{page_name, wrong_content};
use super::check::Broken;
use super::process::Process;
use super::sys;
use super::violation::Oracle;
use crate::model::page::{Flags, WORDS, word};
use crate::model::{Effect, MAX_POKED};
use crate::program::{Access, Addr, Len, PAGES, Proc, Via};

/// A way into another process.
enum Way {
    Mem(File),
    Trace(i32),
}

impl Way {
    fn open(pid: i32, via: Via) -> Result<Self, i32> {
        match via {
            Via::Mem => {
                let path = format!("/proc/{pid}/mem");
                let file = OpenOptions::new().read(true).write(true).open(path);
                file.map(Self::Mem)
                    .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
            }
            Via::Ptrace => {
                let (null, mut status) = (std::ptr::null_mut::<libc::c_void>(), 0);
                // SAFETY: stops a process of this program; it waits for its turn.
                unsafe {
                    if libc::ptrace(libc::PTRACE_SEIZE, pid, null, null) != 0
                        || libc::ptrace(libc::PTRACE_INTERRUPT, pid, null, null) != 0
                    {
                        return Err(sys::errno());
                    }
                    libc::waitpid(pid, &raw mut status, libc::__WALL);
                }
                Ok(Self::Trace(pid))
            }
        }
    }

    /// Loads or stores a word. Returns whether it could.
    fn reach(&self, address: usize, word: &mut u64, access: Access) -> bool {
        match self {
            Self::Mem(file) => {
                let mut bytes = word.to_ne_bytes();
                let done = match access {
                    Access::Load => file.read_at(&mut bytes, address as u64),
                    Access::Store => file.write_at(&bytes, address as u64),
                };
                *word = u64::from_ne_bytes(bytes);
                matches!(done, Ok(8))
            }
            Self::Trace(pid) => {
                let place = address as *mut libc::c_void;
                // SAFETY: the process is stopped and ours; the raw call stores a loaded
                // word where the last argument points, and takes one to store by value.
                let result = unsafe {
                    match access {
                        Access::Load => libc::syscall(
                            libc::SYS_ptrace,
                            libc::PTRACE_PEEKDATA,
                            *pid,
                            place,
                            std::ptr::from_mut(word),
                        ),
                        Access::Store => libc::syscall(
                            libc::SYS_ptrace,
                            libc::PTRACE_POKEDATA,
                            *pid,
                            place,
                            *word,
                        ),
                    }
                };
                result == 0
            }
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Self::Trace(pid) = self {
            let null = std::ptr::null_mut::<libc::c_void>();
            // SAFETY: lets the process that `open` stopped go on.
            unsafe { libc::ptrace(libc::PTRACE_DETACH, *pid, null, null) };
        }
    }
}

impl Process<'_> {
    /// Loads or stores pages of another process.
    pub(super) fn poke(
        &self,
        peer: Proc,
        (at, len): (Addr, Len),
        access: Access,
        via: Via,
    ) -> Result<i32, Broken> {
        let way = match Way::open(self.setup.board.pid(peer.index()), via) {
            Ok(way) => way,
            Err(errno) => return Ok(errno),
        };
        let end = (at.page() + len.pages().min(MAX_POKED)).min(PAGES);
        for page in at.page()..end {
            // the driver's own access method may or may not reach its memory
            if self.setup.board.model().pages(peer.index())[page]
                .flags
                .has(Flags::PFN)
            {
                continue;
            }
            self.poke_page((&way, via), peer.index(), page, access)?;
        }
        Ok(0)
    }

    fn poke_page(
        &self,
        (way, via): (&Way, Via),
        peer: usize,
        page: usize,
        access: Access,
    ) -> Result<(), Broken> {
        let model = self.setup.board.model();
        let store = access == Access::Store;
        let expected = model.poke_effect(peer, page, store, via);
        let stamp = model.next_stamp(self.me, page);
        let mut words: [u64; 4] = std::array::from_fn(|i| if store { word(stamp, i) } else { 0 });
        let done = WORDS
            .iter()
            .zip(&mut words)
            .filter_map(|(offset, word)| {
                way.reach(sys::address(page) + offset, word, access)
                    .then_some(())
            })
            .count();
        let allowed = match expected {
            Effect::Done => done == 4,
            Effect::DoneOrBus => done == 4 || done == 0,
            Effect::Segv | Effect::Bus => done == 0,
        };
        if !allowed {
            let detail = format!(
                "{} of p{peer}: expected {expected:?}, {done} of 4 words done",
                page_name(page)
            );
            return Err((Oracle::Permission, "debugger's access".into(), detail));
        }
        if done == 0 {
            return Ok(());
        }
        if store {
            model.stored(peer, page, stamp);
            return Ok(());
        }
        model.unsettle_closed(peer, page);
        let (content, or_zero) = model.content(peer, page);
        if (0..4).all(|i| words[i] == word(content, i)) || or_zero && words == [0; 4] {
            Ok(())
        } else {
            Err(wrong_content(page, content, &words))
        }
    }
}
