// SPDX-License-Identifier: GPL-2.0-only
//! Pages that lie in a pipe (vmsplice), direct reads and writes, and looks at
//! page tables from outside.

use libc::{EACCES, EAGAIN, EFAULT, EINVAL, EIO, ENODEV, ENOENT, ENOMEM, EPERM, ESRCH};

use super::page::{Flags, word};
use super::{Effect, Facts, MAX_SPLICED, Model, Touched, Wanted};
use crate::program::{Access, Addr, Len, PAGES};

/// What lies in the pipe of a process, in order.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Spliced {
    stamps: [u64; MAX_SPLICED],
    may_be_zero: [bool; MAX_SPLICED],
    count: u8,
    version: u32,
}

impl Model {
    /// Pages that one vmsplice takes at most.
    pub fn spliced_pages(at: Addr, len: Len) -> usize {
        len.pages().min(MAX_SPLICED).min(PAGES - at.page())
    }

    /// Up to the first page that allows no load, whole pages go into the pipe.
    pub(super) fn splice(
        &mut self,
        who: usize,
        (at, len): (Addr, Len),
        got: i32,
        facts: &dyn Facts,
    ) -> (Wanted, Touched) {
        let touched = Touched::range(at.page(), len.pages());
        let count = Self::spliced_pages(at, len);
        let effects =
            (at.page()..at.page() + count).map(|page| self.kernel_effect(who, page, false));
        let readable = effects.clone().take_while(|e| *e == Effect::Done).count();
        let reachable = effects
            .take_while(|e| matches!(e, Effect::Done | Effect::DoneOrBus))
            .count();
        let done = facts.amount().unwrap_or(if got == 0 { count } else { 0 });
        let mut spliced = Spliced {
            count: done.min(count) as u8,
            version: self.version,
            ..Spliced::default()
        };
        for i in 0..done.min(count) {
            (spliced.stamps[i], spliced.may_be_zero[i]) = self.content(who, at.page() + i);
            self.unsettle_closed(who, at.page() + i);
        }
        self.processes[who].spliced = spliced;
        if done > reachable {
            return (Wanted::Exactly(EFAULT), touched);
        }
        if readable == count {
            return (Wanted::Exactly(0), touched);
        }
        (Wanted::OrAny(&[EFAULT, EAGAIN, ENOMEM]), touched)
    }

    /// The pipe is empty again.
    pub(super) fn drain(&mut self, who: usize) -> (Wanted, Touched) {
        self.processes[who].spliced = Spliced::default();
        (Wanted::OrAny(&[EINVAL]), Touched::default())
    }

    /// Pages in the pipe of the process.
    pub fn spliced(&self, process: usize) -> usize {
        usize::from(self.processes[process].spliced.count)
    }

    /// Whether page `index` of the pipe may contain these words: what was there when it
    /// went in, or what was stored to it later by those who still have it.
    pub fn spliced_right(&self, process: usize, index: usize, words: &[u64]) -> bool {
        let spliced = &self.processes[process].spliced;
        let stamp = words[0];
        let whole = words
            .iter()
            .enumerate()
            .all(|(i, found)| *found == word(stamp, i));
        let later = stamp >> 52 == 0 && stamp >> 20 > u64::from(spliced.version);
        whole
            && (stamp == spliced.stamps[index] || later || stamp == 0 && spliced.may_be_zero[index])
    }

    /// EAGAIN: the executor left it out; ENODEV: there is no block device.
    pub(super) fn direct(
        &mut self,
        who: usize,
        at: Addr,
        len: Len,
        access: Access,
    ) -> (Wanted, Touched) {
        let touched = Touched::range(at.page(), len.pages());
        if access == Access::Load {
            for page in at.page()..(at.page() + len.pages()).min(PAGES) {
                self.unsettle_closed(who, page);
            }
        }
        (Wanted::OrAny(&[EAGAIN, ENODEV]), touched)
    }

    /// Looks change nothing; a process that has gone has nothing to look at.
    pub(super) fn look(&self) -> Wanted {
        Wanted::OrAny(&[
            EAGAIN, ENOENT, ESRCH, EACCES, EPERM, EIO, EINVAL, ENOMEM, ENODEV,
        ])
    }

    /// Whether the process may have the page in memory that is locked.
    pub fn lock_known(&self, process: usize) -> bool {
        !self.processes[process].lock_unsure
    }

    /// Whether the page is mapped, and what an access to it is allowed to do: what
    /// `/proc/PID/maps` must show of it.
    pub fn mapping(&self, process: usize, page: usize) -> Option<(bool, bool, bool)> {
        let found = &self.processes[process].pages[page];
        let shared = found.flags.has(Flags::SHARED);
        let rights = (
            found.flags.has(Flags::READ),
            found.flags.has(Flags::WRITE),
            shared,
        );
        found.flags.has(Flags::MAPPED).then_some(rights)
    }
}
