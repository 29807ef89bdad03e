// SPDX-License-Identifier: GPL-2.0-only
//! Thinks the steps of a program through, one after another: what each does, and what
//! must hold after it. `listing` asks.

use std::ops::Range;

use super::call::Call;
use super::known;
use super::listing::{Entry, Stored};
use super::race::{Racer, RacingBlock};
use super::shows::Shows;
use super::{cut, range};
use crate::model::Model;
use crate::model::huge::Fate;
use crate::program::{Addr, Device, Len, Move, Op, PAGES, PROCESSES, Program, SLOTS, Step};

/// Pages that a device loads or stores at most, see the executor.
const MAX_ACCESSED: usize = 64;

/// What is known before the next step.
pub struct Thinker<'a> {
    /// The state.
    pub(super) model: Box<Model>,
    /// What devices have stored.
    pub(super) stored: Vec<Stored>,
    /// Which allocation of the next call of each process fails.
    pub(super) nth: [u8; PROCESSES],
    /// Whether allocations are made to fail.
    pub(super) injects: bool,
    /// Whether what is mapped may not be known.
    unsure: bool,
    /// Whether a device may hold pages, which are huge there unseen.
    devices: bool,
    shows: &'a Shows,
}

impl<'a> Thinker<'a> {
    /// Before the first step. `races`: some steps will.
    pub fn new(program: &Program, shows: &'a Shows, races: bool) -> Self {
        let any = |wanted: fn(&Op) -> bool| program.steps.iter().any(|step| wanted(&step.op));
        let injects = any(|op| matches!(op, Op::Fail { .. }));
        let mut model = Model::boxed();
        model.start();
        Self {
            model,
            stored: Vec::new(),
            nth: [0; PROCESSES],
            injects,
            unsure: injects || races,
            devices: any(|op| matches!(op, Op::Device { .. })),
            shows,
        }
    }

    /// The steps of a racing block. The model is brought to where they end one after
    /// another; of the pages that they change, nothing is known any more.
    pub fn block(&mut self, program: &Program, block: Range<usize>) -> (RacingBlock, Vec<Entry>) {
        let racer = Racer::new(program, &self.model, block.start, block.end);
        let mut told = racer.steps();
        let rests = racer.rests();
        let entries = block.clone().map(|index| {
            let mut entry = Entry::of(&program.steps[index]);
            let place = told.iter().position(|(number, _)| *number == index);
            match place {
                Some(place) => entry.racing = Some(told.swap_remove(place).1),
                None => entry.left_out = Some("does not race here"),
            }
            entry
        });
        let entries = entries.collect();
        let carried = block.clone().filter(|index| racer.carries(*index));
        let carried: Vec<Step> = carried.map(|index| program.steps[index]).collect();
        for step in &carried {
            self.model.assume(step);
        }
        for who in 0..PROCESSES {
            self.model.forget_locks(who);
        }
        let block = RacingBlock {
            first: block.start,
            end: block.end,
            rests,
        };
        (block, entries)
    }

    /// The next step; the model is brought past it.
    pub fn entry(&mut self, index: usize, step: &Step) -> Entry {
        let who = step.process.index();
        let mut entry = Entry::of(step);
        if self.model.skips(step) {
            entry.left_out = Some("what it needs is not there");
            return entry;
        }
        let nth = std::mem::take(&mut self.nth[who]);
        if Model::injectable(&step.op) {
            entry.nth = nth;
        }
        entry.kept = self.kept(who, step);
        entry.splits = self.splits(who, step);
        entry.checks = self.refusals(who, step);
        entry.left_out = self.left_out(who, step);
        entry.exclusive = self.exclusive(who, step);
        let late = self.accessed(index, step, &mut entry);
        entry.checks.extend(late);
        if self.unsure {
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
        if *self.shows == Shows::Moved {
            entry.checks.extend(self.moved(who, step, &entry.kept));
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

    /// The slots whose PMD the step must split, where the finding is about that and
    /// no other slot may be split, as the executor counts it.
    fn splits(&self, who: usize, step: &Step) -> Option<u32> {
        let elsewhere = matches!(step.op, Op::ClearRefs { .. } | Op::Remote { .. });
        if self.devices || elsewhere || !self.shows.counts_splits_of(&step.op) {
            return None;
        }
        let mut slots = 0;
        for slot in (0..SLOTS).filter(|slot| self.model.slot_in_use(who, *slot)) {
            match self.model.fate(step, slot) {
                Fate::Open => return None,
                Fate::Split => slots |= 1 << slot,
                Fate::Kept | Fate::MovedTo(_) | Fate::Gone => {}
            }
        }
        Some(slots)
    }

    /// Checks that what the step has moved is soft-dirty.
    fn moved(&mut self, who: usize, step: &Step, kept: &[(usize, usize)]) -> Vec<Call> {
        if !matches!(step.op, Op::Mremap { .. } | Op::UffdMove { .. }) {
            return Vec::new();
        }
        let moved = |page: &usize| self.model.take_moved(who, *page);
        let pages: Vec<usize> = (0..PAGES).filter(moved).collect();
        let small = known::runs(pages.into_iter().map(|page| (page, 0, 0)));
        let small = small
            .iter()
            .map(|run| Call::new("has_moved", [run.page as i64, run.count as i64]));
        let huge = kept.iter().filter(|(slot, place)| slot != place);
        let huge = huge.map(|(slot, place)| {
            let call = Call::named("huge_has_moved", &["before"]);
            call.and(*slot as i64).and(*place as i64)
        });
        huge.chain(small).collect()
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
            Device::Read | Device::ReadUnlocked | Device::Write | Device::Exclusive if long => {
                Some("the device gets at most 64 pages")
            }
            Device::Read | Device::ReadUnlocked if denied(false) => {
                Some("the device may not load there")
            }
            Device::Write if denied(true) => Some("the device may not store there"),
            Device::Release | Device::Close if !self.model.nothing_held() => {
                Some("the driver would wait for pages that are held")
            }
            Device::Read
            | Device::ReadUnlocked
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
