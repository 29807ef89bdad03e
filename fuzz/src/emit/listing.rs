// SPDX-License-Identifier: GPL-2.0-only
//! A program thought through: what each step does and what must hold after it,
//! in no language yet. Every step is taken to succeed.
//!
//! Two things are only known when the program runs. Whether a device loads and
//! stores depends on where pages are: what it stores is in the table of
//! [`Stored`], and counts only if it did. An allocation that is made to fail may
//! or may not matter: where a call failed nothing is checked any more
//! (`settle`).

use std::ops::Range;

use super::call::Call;
use super::known::{self, Run, content, runs};
use super::{cut, range};
use crate::model::huge::Fate;
use crate::model::{Effect, MAX_DIRECT, MAX_FILLED, MAX_POKED, Model};
use crate::program::{
    Access, Addr, Device, Len, Move, Op, PAGES, PROCESSES, Program, SLOTS, Step, Via,
};
use crate::text;

/// Pages that a device loads or stores at most, see the executor.
const MAX_ACCESSED: usize = 64;

/// A step.
pub struct Entry {
    /// Its text.
    pub name: String,
    /// The step.
    pub step: Step,
    /// Nothing is done, and why.
    pub left_out: Option<&'static str>,
    /// Which allocation of it fails; 0 for none.
    pub nth: u8,
    /// The pages that it stores to or loads from, with their stamps.
    pub runs: Vec<Run>,
    /// Huge pages that must survive: slot before, slot after.
    pub kept: Vec<(usize, usize)>,
    /// Whether the device still may have exclusive access to the range.
    pub exclusive: bool,
    /// What is checked afterwards.
    pub checks: Vec<Call>,
}

/// Pages in a row that a device stores to in a step, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The step.
    pub by: usize,
    /// How many pages.
    pub count: usize,
    /// The first stamp, and the distance of one to the next.
    pub new: (u64, u64),
    /// The same of those before.
    pub old: (u64, u64),
}

/// A program.
pub struct Listing {
    /// Its steps.
    pub entries: Vec<Entry>,
    /// What each process that is left checks at the end.
    pub last: Vec<(usize, Vec<Call>)>,
    /// What devices store.
    pub stored: Vec<Stored>,
    /// Whether allocations are made to fail.
    pub injects: bool,
}

impl Listing {
    /// Thinks a program through.
    pub fn of(program: &Program) -> Self {
        let injects = |step: &Step| matches!(step.op, Op::Fail { .. });
        let mut thinker = Thinker {
            model: Model::boxed(),
            stored: Vec::new(),
            nth: [0; PROCESSES],
            injects: program.steps.iter().any(injects),
        };
        thinker.model.start();
        let steps = program.steps.iter().enumerate();
        let entries = steps
            .map(|(index, step)| thinker.entry(index, step))
            .collect();
        let left = (0..PROCESSES).filter(|process| thinker.model.alive(*process));
        Self {
            entries,
            last: left
                .map(|process| (process, known::last_checks(&thinker.model, process)))
                .collect(),
            stored: thinker.stored,
            injects: thinker.injects,
        }
    }
}

struct Thinker {
    model: Box<Model>,
    stored: Vec<Stored>,
    /// Which allocation of the next call of each process fails.
    nth: [u8; PROCESSES],
    injects: bool,
}

impl Thinker {
    fn entry(&mut self, index: usize, step: &Step) -> Entry {
        let who = step.process.index();
        let mut entry = Entry {
            name: text::step(step),
            step: *step,
            left_out: None,
            nth: 0,
            runs: Vec::new(),
            kept: Vec::new(),
            exclusive: false,
            checks: Vec::new(),
        };
        if self.model.skips(step) {
            entry.left_out = Some("what it needs is not there");
            return entry;
        }
        let nth = std::mem::take(&mut self.nth[who]);
        if Model::injectable(&step.op) {
            entry.nth = nth;
        }
        entry.kept = self.kept(who, step);
        entry.checks = self.refusals(who, step);
        entry.left_out = self.left_out(who, step);
        entry.exclusive = self.exclusive(who, step);
        let late = self.accessed(index, step, &mut entry);
        entry.checks.extend(late);
        if self.injects {
            entry.checks.splice(..0, settled(step));
        }
        if let Op::Mremap { at, len, .. } | Op::Munmap { at, len } | Op::Mprotect { at, len, .. } =
            step.op
        {
            // first of all: each other access makes a CPU forget translations
            for store in [false, true] {
                let pages = range(at, len);
                let refused = known::refused(&self.model, who, store, pages);
                entry.checks.extend(refused);
            }
        }
        if !matches!(step.op, Op::Exit {} | Op::Exec {}) {
            entry.checks.extend(known::looks(&self.model, who));
        }
        entry
    }

    fn kept(&self, who: usize, step: &Step) -> Vec<(usize, usize)> {
        let used = (0..SLOTS).filter(|slot| self.model.slot_in_use(who, *slot));
        let kept = used.filter_map(|slot| match self.model.fate(step, slot) {
            Fate::Kept => Some((slot, slot)),
            Fate::MovedTo(place) => Some((slot, place)),
            _ => None,
        });
        kept.collect()
    }

    /// Accesses of a read or write step that must get a signal.
    fn refusals(&self, who: usize, step: &Step) -> Vec<Call> {
        let (store, pages) = match step.op {
            Op::Write { at, len } => (true, range(at, len)),
            Op::Read { at, len } => (false, range(at, len)),
            _ => return Vec::new(),
        };
        known::refused(&self.model, who, store, pages)
    }

    /// Why a command of a device is not given, as the executor decides it.
    fn left_out(&self, who: usize, step: &Step) -> Option<&'static str> {
        let Op::Device { what, at, len, .. } = step.op else {
            return None;
        };
        let long = cut(at, len) > MAX_ACCESSED;
        let denied = |store| !self.model.all_done(who, at, len, store);
        match what {
            Device::Read | Device::Write | Device::Exclusive if long => {
                Some("the device gets at most 64 pages")
            }
            Device::Read if denied(false) => Some("the device may not load there"),
            Device::Write if denied(true) => Some("the device may not store there"),
            Device::Release | Device::Close if !self.model.nothing_held() => {
                Some("the driver would wait for pages that are held")
            }
            Device::Read
            | Device::Write
            | Device::Exclusive
            | Device::Release
            | Device::Close
            | Device::ToDev
            | Device::ToDevFail
            | Device::ToSys
            | Device::ToSysFail
            | Device::Snapshot
            | Device::CheckExclusive => None,
        }
    }

    fn exclusive(&self, who: usize, step: &Step) -> bool {
        let Op::Device { at, len, .. } = step.op else {
            return false;
        };
        let taken = |page: usize| {
            let flags = self.model.pages(who)[page].flags;
            flags.has(crate::model::page::Flags::EXCLUSIVE)
        };
        range(at, len).any(taken)
    }

    /// Brings the model past the step, and finds the pages that the step itself
    /// loads or stores. Returns what is to be checked right after it.
    fn accessed(&mut self, index: usize, step: &Step, entry: &mut Entry) -> Vec<Call> {
        let who = step.process.index();
        match step.op {
            Op::Write { at, len } => entry.runs = self.plain(who, who, true, range(at, len)),
            Op::Read { at, len } => entry.runs = self.plain(who, who, false, range(at, len)),
            Op::Verify {} => entry.runs = self.plain(who, who, false, 0..PAGES),
            Op::Remote {
                peer,
                at,
                len,
                access,
            } => {
                let store = access == Access::Store;
                entry.runs = self.by_kernel(who, peer.index(), store, range(at, len));
            }
            Op::Direct { at, len, access } => {
                let pages = range(at, Len(len.0.min(MAX_DIRECT as u16)));
                entry.runs = self.transferred(step, pages, access == Access::Store);
            }
            Op::Poke {
                peer,
                at,
                len,
                access,
                via,
            } => {
                let pages = range(at, Len(len.0.min(MAX_POKED as u16)));
                let store = access == Access::Store;
                entry.runs = self.poked(who, peer.index(), store, via, pages);
            }
            Op::UffdFill { at, len, .. } => {
                self.model.assume(step);
                let pages = range(at, Len(len.0.min(MAX_FILLED as u16)));
                let filled = pages.map(|page| (page, self.model.content(who, page).0, 0));
                entry.runs = runs(filled);
            }
            Op::Device { what, at, len, .. } => {
                return self.device(index, step, entry, what, (at, len));
            }
            Op::Fail { nth } => {
                self.nth[who] = nth.0;
                self.model.assume(step);
            }
            _ => self.model.assume(step),
        }
        Vec::new()
    }

    /// Loads and stores of a process, its own.
    fn plain(&mut self, who: usize, owner: usize, store: bool, pages: Range<usize>) -> Vec<Run> {
        let done = |page: &usize| self.model.effect(owner, *page, store) == Effect::Done;
        let allowed: Vec<usize> = pages.filter(done).collect();
        self.done(who, owner, store, allowed)
    }

    /// The kernel's, on behalf of a process.
    fn by_kernel(
        &mut self,
        who: usize,
        owner: usize,
        store: bool,
        pages: Range<usize>,
    ) -> Vec<Run> {
        let done = |page: &usize| self.model.kernel_effect(owner, *page, store) == Effect::Done;
        let allowed: Vec<usize> = pages.filter(done).collect();
        self.done(who, owner, store, allowed)
    }

    /// A debugger's.
    fn poked(
        &mut self,
        who: usize,
        owner: usize,
        store: bool,
        via: Via,
        pages: Range<usize>,
    ) -> Vec<Run> {
        let done = |page: &usize| self.model.poke_effect(owner, *page, store, via) == Effect::Done;
        let allowed: Vec<usize> = pages.filter(done).collect();
        self.done(who, owner, store, allowed)
    }

    fn done(&mut self, who: usize, owner: usize, store: bool, pages: Vec<usize>) -> Vec<Run> {
        runs(pages.into_iter().map(|page| {
            if !store {
                let found = content(&self.model, owner, page);
                if who == owner {
                    self.model.loaded(owner, page);
                } else {
                    self.model.unsettle_closed(owner, page);
                }
                return found;
            }
            let stamp = self.model.next_stamp(who, page);
            self.model.stored(owner, page, stamp);
            (page, stamp, 0)
        }))
    }

    /// The pages that a direct read or write transfers: all or none.
    fn transferred(&mut self, step: &Step, pages: Range<usize>, store: bool) -> Vec<Run> {
        let who = step.process.index();
        let allowed = |page| self.model.kernel_effect(who, page, store) == Effect::Done;
        if !pages.clone().all(allowed) {
            return Vec::new();
        }
        self.model.assume(step);
        runs(pages.map(|page| content(&self.model, who, page)))
    }

    /// A command of a device; what it returns is checked where it returns pages.
    fn device(
        &mut self,
        index: usize,
        step: &Step,
        entry: &mut Entry,
        what: Device,
        (at, len): (Addr, Len),
    ) -> Vec<Call> {
        let who = step.process.index();
        let seen = |run: &Run| Call::of_run("seen", &[run.page - at.page()], run);
        match what {
            Device::ToDev | Device::ToDevFail | Device::Read => {
                let readable = |page: &usize| self.model.effect(who, *page, false) == Effect::Done;
                let pages: Vec<usize> = range(at, len).filter(readable).collect();
                let returned = runs(
                    pages
                        .into_iter()
                        .map(|page| content(&self.model, who, page)),
                );
                self.model.assume(step);
                let left_out = entry.left_out.is_some();
                returned.iter().filter(|_| !left_out).map(seen).collect()
            }
            Device::Write if entry.left_out.is_none() => {
                self.model.assume(step);
                entry.runs = self.stored_by_device(index, who, range(at, len));
                Vec::new()
            }
            Device::Write
            | Device::ToSys
            | Device::ToSysFail
            | Device::Snapshot
            | Device::Exclusive
            | Device::CheckExclusive
            | Device::Release
            | Device::Close => {
                self.model.assume(step);
                Vec::new()
            }
        }
    }

    fn stored_by_device(&mut self, by: usize, who: usize, pages: Range<usize>) -> Vec<Run> {
        let mut stamps = Vec::new();
        for page in pages {
            let old = self.model.content(who, page).0;
            let new = self.model.next_stamp(who, page);
            self.model.perhaps_stored_by_device(who, page, new);
            stamps.push((page, new, old));
        }
        // Runs of the new stamps, cut where the old ones do not follow.
        let old = runs(stamps.iter().map(|(page, _, old)| (*page, *old, 0)));
        let numbered = |page: usize| old.iter().position(|run| page < run.page + run.count);
        let new = runs(stamps.iter().map(|(page, new, _)| {
            let group = numbered(*page).unwrap_or(0);
            (*page, *new, group as u32)
        }));
        for run in &new {
            let before = &old[run.flags as usize];
            let ahead = (run.page - before.page) as u64;
            let first = before.stamp.wrapping_add(ahead.wrapping_mul(before.step));
            self.stored.push(Stored {
                by,
                count: run.count,
                new: (run.stamp, run.step),
                old: (first, before.step),
            });
        }
        new
    }
}

/// After a step whose call may have failed, in a program that makes calls fail.
fn settled(step: &Step) -> Vec<Call> {
    let mut op = step.op;
    let pages = |at: Addr, len: Len| [at.page() as i64, cut(at, len) as i64];
    match step.op {
        Op::Mremap {
            at,
            len,
            to,
            new,
            how,
        } => {
            let target = if how == Move::Inplace { at } else { to };
            let ([page, old], [to, new]) = (pages(at, len), pages(target, new));
            vec![Call::new("settle_move", [page, old, to, new])]
        }
        Op::Read { .. } | Op::Write { .. } | Op::Remote { .. } => Vec::new(),
        Op::Mmap { at, len, .. } | Op::Brk { at, len, .. } | Op::Munmap { at, len } => {
            let [page, count] = pages(at, len);
            vec![Call::new("settle", [page, count, 1])]
        }
        _ => match op.span() {
            Some((at, len)) => {
                let [page, count] = pages(*at, *len);
                vec![Call::new("settle", [page, count, 0])]
            }
            None => Vec::new(),
        },
    }
}
