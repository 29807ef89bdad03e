// SPDX-License-Identifier: GPL-2.0-only
//! A racing block thought through: what its threads do, and what any order of
//! their steps may leave in each page. See `model::race`, which knows that, and
//! `race.c.in`, which checks it.

use super::call::Call;
use super::known::{Run, runs};
use crate::model::content::Block;
use crate::model::history::{History, thread};
use crate::model::page::{Flags, Page};
use crate::model::race::{Race, controls};
use crate::model::{Effect, Model};
use crate::program::race::LANES;
use crate::program::{Op, PAGES, PROCESSES, Program, Step, Track};

/// May read as zero; as in `known`.
const LAZY: u32 = 1;
const DIRTY: u32 = 2;
const WP_ANY: u32 = 8;
/// Everything that was stored to it went to this page or to the other one.
const KEPT: u32 = 1 << 5;
/// Its content may come from another page.
const ELSEWHERE: u32 = 1 << 6;
/// Soft-dirty if it was stored to in the race.
const TRACKED: u32 = 1 << 7;
/// May be what the file has.
const FILES: u32 = 1 << 8;
/// A copy, in which nothing is that was stored after the fork.
const COPIED: u32 = 1 << 9;

/// A racing block.
pub struct RacingBlock {
    /// Its first step.
    pub first: usize,
    /// The step behind its last.
    pub end: usize,
    /// What may be left.
    pub rests: Vec<Rest>,
}

/// Pages in a row, and what a race may leave of them.
pub struct Rest {
    /// The process.
    pub process: usize,
    /// The pages, with their stamps before, and flags.
    pub run: Run,
    /// What accesses come to, as long as no step changes that.
    pub can: u8,
    /// What they may come to during the race.
    pub may: u8,
    /// How far the other place is between which the page may move; 0: none.
    pub other: i64,
}

/// A step of a racing block.
pub struct Racing {
    /// Its thread alone changes areas of the process, and this step does.
    pub controls: bool,
    /// What accesses come to after it.
    pub knows: Vec<Call>,
}

/// What is known of one page.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    flags: u32,
    can: u8,
    may: u8,
    other: i64,
}

/// Thinks about one block.
pub struct Racer<'a> {
    model: &'a Model,
    program: &'a Program,
    plan: Box<Race>,
    history: Box<History>,
    /// The thread that alone changes areas of a process; `Some(None)`: nobody does.
    control: [Option<Option<usize>>; PROCESSES],
    devices: bool,
}

impl<'a> Racer<'a> {
    /// Plans the block in the state before it.
    pub fn new(program: &'a Program, model: &'a Model, first: usize, end: usize) -> Self {
        let steps = |index: usize| program.steps.get(index).copied();
        let mut plan = Race::boxed();
        plan.plan(model, &steps, first, end);
        let control = std::array::from_fn(|who| control(&plan, program, who));
        let device = |step: &Step| matches!(step.op, Op::Device { .. });
        Self {
            model,
            program,
            plan,
            history: History::boxed(),
            control,
            devices: program.steps.iter().any(device),
        }
    }

    /// Whether the step is carried out.
    pub fn carries(&self, index: usize) -> bool {
        self.plan.carried[index]
    }

    fn carried(&self) -> Vec<(usize, Step)> {
        let range = usize::from(self.plan.first)..usize::from(self.plan.end);
        let carried = range.filter(|index| self.plan.carried[*index]);
        carried
            .map(|index| (index, self.program.steps[index]))
            .collect()
    }

    /// What each step that is carried out is told beside its operation.
    pub fn steps(&self) -> Vec<(usize, Racing)> {
        let mut steps: Vec<(usize, Racing)> = Vec::new();
        for (index, step) in self.carried() {
            let alone = self.control[step.process.index()] == Some(Some(thread(&step)));
            let racing = Racing {
                controls: alone && controls(&step.op),
                knows: Vec::new(),
            };
            steps.push((index, racing));
        }
        for lane in self.control.into_iter().flatten().flatten() {
            self.learn(lane, &mut steps);
        }
        steps
    }

    /// What accesses come to after each step of the thread that alone changes that,
    /// if it is the same in each round.
    fn learn(&self, lane: usize, steps: &mut [(usize, Racing)]) {
        let mut model = Model::boxed();
        model.copy_from(self.model);
        let mine: Vec<(usize, Step)> = self
            .carried()
            .into_iter()
            .filter(|(_, step)| thread(step) == lane && controls(&step.op))
            .collect();
        let times = |step: &Step| step.race.map_or(1, |race| usize::from(race.times));
        let rounds = mine.iter().map(|(_, step)| times(step)).max().unwrap_or(0);
        for round in 0..rounds {
            for (index, step) in mine.iter().filter(|(_, step)| times(step) > round) {
                model.assume(step);
                let Some((_, racing)) = steps.iter_mut().find(|(number, _)| number == index) else {
                    continue;
                };
                let now = know(&model, step, true);
                if round > 0 && racing.knows != now {
                    racing.knows = know(&model, step, false);
                } else {
                    racing.knows = now;
                }
            }
        }
    }

    /// What the block may leave.
    pub fn rests(&self) -> Vec<Rest> {
        let mut rests = Vec::new();
        for process in (0..PROCESSES).filter(|who| self.model.alive(*who) || self.forks(*who)) {
            let mut kinds: Vec<Kind> = Vec::new();
            let kinds_of = (0..PAGES).filter_map(|page| {
                let (stamp, kind) = self.kind(process, page)?;
                let index = kinds.iter().position(|known| *known == kind);
                let index = index.unwrap_or_else(|| {
                    kinds.push(kind);
                    kinds.len() - 1
                });
                Some((page, stamp, index as u32))
            });
            let found = runs(kinds_of);
            rests.extend(found.into_iter().map(|run| {
                let kind = kinds[run.flags as usize];
                Rest {
                    process,
                    run: Run {
                        flags: kind.flags,
                        ..run
                    },
                    can: kind.can,
                    may: kind.may,
                    other: kind.other,
                }
            }));
        }
        rests
    }

    fn forks(&self, who: usize) -> bool {
        let born = |step: &Step| matches!(step.op, Op::Fork { child } if child.index() == who);
        self.carried().iter().any(|(_, step)| born(step))
    }

    /// Whether a step of the block loads or stores there.
    fn accesses(&self, who: usize, page: usize) -> bool {
        self.carried().iter().any(|(_, step)| match step.op {
            Op::Read { at, len } | Op::Write { at, len } => {
                step.process.index() == who && super::range(at, len).contains(&page)
            }
            Op::Remote { peer, at, len, .. } => {
                peer.index() == who && super::range(at, len).contains(&page)
            }
            _ => false,
        })
    }

    /// What is known of a page that the block has to do with, and its stamp before.
    fn kind(&self, who: usize, page: usize) -> Option<(u64, Kind)> {
        let possible = &self.plan.pages[who][page];
        if !possible.touched && !self.accesses(who, page) {
            return None;
        }
        let alive = self.model.alive(who);
        let old = self.model.pages(who)[page];
        let (mut stamp, or_zero) = if alive {
            self.model.content(who, page)
        } else {
            (0, false)
        };
        let shared = possible.set.has(Flags::SHARED);
        let lazy = or_zero || possible.emptied || possible.set.has(Flags::LAZY);
        let steps = |index: usize| self.program.steps.get(index).copied();
        let block = Block {
            model: self.model,
            race: &self.plan,
            steps: &steps,
            history: &self.history,
        };
        let mut other = 0;
        let mut kept = false;
        if alive && !shared && !lazy
            && let Some(places) = block.places((who, page))
            // with several threads a move that failed is not noticed
            && (places.len() == 1 || places.len() == 2 && self.control[who].is_some())
            && let Some(origin) = places.iter().find(|node| self.maps(**node))
        {
            kept = true;
            stamp = self.model.content(origin.0, origin.1).0;
            let distance = places.iter().map(|node| node.1 as i64 - page as i64);
            other = distance.filter(|distance| *distance != 0).sum();
        }
        let elsewhere = shared || !alive || block.comes_from_elsewhere((who, page));
        let tracked = !self.clears() && !self.devices && !possible.set.any(UNTRACKED);
        let protected = possible
            .set
            .any(Flags::PROTECTED.with(Flags::PROTECTED_UNSURE));
        let parts = [
            (lazy, LAZY),
            (self.stays_dirty(&old, who, page), DIRTY),
            (protected, WP_ANY),
            (kept, KEPT),
            (elsewhere, ELSEWHERE),
            (tracked, TRACKED),
            (possible.set.has(Flags::FILE), FILES),
            (!alive && !shared, COPIED),
        ];
        let set = parts.iter().filter(|(is, _)| *is);
        let kind = Kind {
            flags: set.fold(0, |sum, (_, bit)| sum | bit),
            can: match self.control[who] {
                Some(_) if alive => can(self.model, who, page),
                _ => 0,
            },
            may: self.may(who, page),
            other,
        };
        Some((stamp, kind))
    }

    fn maps(&self, (who, page): (usize, usize)) -> bool {
        self.model.pages(who)[page].flags.has(Flags::MAPPED)
    }

    /// Whether soft-dirty bits are cleared in the block.
    fn clears(&self) -> bool {
        let clears = |step: &Step| matches!(step.op, Op::ClearRefs { .. });
        self.carried().iter().any(|(_, step)| clears(step))
    }

    /// Whether a page that is soft-dirty stays so.
    fn stays_dirty(&self, old: &Page, who: usize, page: usize) -> bool {
        let possible = &self.plan.pages[who][page];
        old.flags.has(Flags::DIRTY)
            && self.model.alive(who)
            && !self.devices
            && !possible.gone
            && !possible.clear.has(Flags::DIRTY)
            && !possible.set.any(UNTRACKED)
    }

    fn may(&self, who: usize, page: usize) -> u8 {
        let track = self.model.tracking(who);
        let of = |store| {
            let effects = self.plan.effects(who, page, store, track);
            u8::from(effects.done) | u8::from(effects.segv) << 1 | u8::from(effects.bus) << 2
        };
        of(false) | of(true) << 4
    }
}

/// Pages whose soft-dirty bit tells nothing.
const UNTRACKED: Flags = Flags::LAZY.with(Flags::MERGEABLE);

/// Who alone changes areas of a process in the block, as the executor finds it.
fn control(plan: &Race, program: &Program, who: usize) -> Option<Option<usize>> {
    let mut found = None;
    let steps = |index: usize| program.steps.get(index).copied();
    for step in plan
        .carried(&steps)
        .filter(|step| step.process.index() == who)
    {
        if matches!(step.op, Op::Exit {}) {
            return None;
        }
        if controls(&step.op) {
            let this = who * LANES + thread(&step) % LANES;
            if found.is_some_and(|other| other != this) {
                return None;
            }
            found = Some(this);
        }
    }
    Some(found)
}

/// What accesses come to: loads in the low half, stores in the high; 0 where that is not known.
fn can(model: &Model, who: usize, page: usize) -> u8 {
    let code = |effect| match effect {
        Effect::Done => 1,
        Effect::Segv => 2,
        Effect::Bus => 4,
        Effect::DoneOrBus => 0,
    };
    let tracked = model.pages(who)[page].flags.has(Flags::TRACKED);
    let store = if tracked && model.tracking(who) != Some(Track::Async) {
        0
    } else {
        code(model.effect(who, page, true))
    };
    code(model.effect(who, page, false)) | store << 4
}

/// Calls that say what accesses come to in the ranges of a step, or that it is not known.
fn know(model: &Model, step: &Step, known: bool) -> Vec<Call> {
    let who = step.process.index();
    let mut op = step.op;
    let mut ranges = Vec::new();
    if let Some((at, len)) = op.span() {
        ranges.push(super::range(*at, *len));
    }
    if let Op::Mremap { to, new, .. } = step.op {
        ranges.push(super::range(to, new));
    }
    let pages = ranges.into_iter().flatten();
    let known = pages.map(|page| {
        let can = if known { can(model, who, page) } else { 0 };
        (page, 0, u32::from(can))
    });
    let call = |run: &Run| {
        let (page, count) = (run.page as i64, run.count as i64);
        Call::new("know", [page, count]).and_bits(run.flags)
    };
    runs(known).iter().map(call).collect()
}
