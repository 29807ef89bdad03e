// SPDX-License-Identifier: GPL-2.0-only
//! Racing blocks: every order of their steps, by the exact model, must be among
//! what the plan of the block allows; and what no order gives must not be.

use proptest::prelude::*;

use super::apply::Assumed;
use super::content::Block;
use super::history::{History, race_stamp, thread};
use super::page::{Flags, word};
use super::race::{Possible, Race};
use super::*;
use crate::decode;
use crate::program::{Access, Op, Program, Schedule, Step, Target};
use crate::text;

/// What is compared; pins of a block end with it, and DIRTY is only claimed.
const COMPARED: Flags = Flags::READ
    .with(Flags::WRITE)
    .with(Flags::SHARED)
    .with(Flags::FILE)
    .with(Flags::LOCKED)
    .with(Flags::HUGEPAGE)
    .with(Flags::NOHUGEPAGE)
    .with(Flags::DONTFORK)
    .with(Flags::WIPEONFORK)
    .with(Flags::TRACKED)
    .with(Flags::GUARD);

/// A block with the state before it.
struct Case {
    before: Box<Model>,
    race: Box<Race>,
    program: Program,
    history: Box<History>,
}

impl Case {
    /// The last block of a program.
    fn new(program: Program) -> Self {
        let mut before = Model::boxed();
        before.start();
        let end = program.steps.len();
        let first = program.block(end - 1).map_or(end, |block| block.start);
        program.steps[..first]
            .iter()
            .for_each(|step| before.assume(step));
        let mut race = Race::boxed();
        race.plan(&before, &|i| program.steps.get(i).copied(), first, end);
        Self {
            before,
            race,
            program,
            history: History::boxed(),
        }
    }

    fn steps(&self) -> Vec<(usize, Step)> {
        let carried = (0..self.program.steps.len()).filter(|i| self.race.carried[*i]);
        carried.map(|i| (i, self.program.steps[i])).collect()
    }

    /// Runs the carried steps in the given order; the state afterwards.
    fn run(&self, order: &[usize]) -> Box<Model> {
        let program = &self.program;
        let mut model = Model::boxed();
        model.start();
        let first = usize::from(self.race.first);
        program.steps[..first]
            .iter()
            .for_each(|step| model.assume(step));
        self.history.begin(
            &self.race,
            &|i| program.steps.get(i).copied(),
            model.version,
        );
        order.iter().for_each(|index| self.step(&mut model, *index));
        model
    }

    fn step(&self, model: &mut Model, index: usize) {
        let step = self.program.steps[index];
        let begin = self.history.tick();
        let who = step.process.index();
        let got = match step.op {
            // its process is gone, or the one that it is for
            _ if model.skips(&step) => return,
            Op::Write { at, len } => self.stores(model, &step, (who, at.page()), len.pages()),
            Op::Remote {
                peer,
                at,
                len,
                access: Access::Store,
            } => self.stores(model, &step, (peer.index(), at.page()), len.pages()),
            _ => match model.apply(&step, 0, &Assumed) {
                Ok(_) => 0,
                Err(unexpected) => unexpected.wanted,
            },
        };
        let returns = self.race.returns(&step);
        assert!(
            returns.allows(got),
            "{got} of {} is not in {returns:?}",
            text::step(&step)
        );
        let calls = &self.history.calls[index];
        let set = |word: &std::sync::atomic::AtomicU32, value: u32| {
            word.store(value, std::sync::atomic::Ordering::SeqCst);
        };
        set(&calls.begin, begin);
        set(&calls.result, got as u32);
        set(&calls.end, self.history.now());
    }

    fn stores(&self, model: &mut Model, step: &Step, node: (usize, usize), len: usize) -> i32 {
        let (target, at) = node;
        let lane = step.race.map_or(0, |race| usize::from(race.lane));
        for page in at..(at + len).min(PAGES) {
            let effect = model.effect(target, page, true);
            let effects = self
                .race
                .effects(target, page, true, self.before.tracking(target));
            let allowed = match effect {
                Effect::Done => effects.done,
                Effect::Segv => effects.segv,
                Effect::Bus => effects.bus,
                Effect::DoneOrBus => effects.done || effects.bus,
            };
            assert!(allowed, "{effect:?} at {target} {page}: {effects:?}");
            if effect == Effect::Done {
                let time = self.history.tick();
                let who = step.process.index();
                model.stored(target, page, race_stamp(time, who, lane, page));
                self.history.stored(thread(step), target, page, time, 4);
            }
        }
        0
    }

    /// What is wrong with a state after the block, by the plan.
    fn complaint(&self, after: &Model) -> Option<String> {
        let steps = |i: usize| self.program.steps.get(i).copied();
        let block = Block {
            model: &self.before,
            race: &self.race,
            steps: &steps,
            history: &self.history,
        };
        for who in (0..PROCESSES).filter(|who| after.alive(*who)) {
            for number in 0..PAGES {
                let (page, possible) = (&after.pages(who)[number], &self.race.pages[who][number]);
                let wrong =
                    |what: &str| Some(format!("{what}: p{who} {number}: {page:?}, {possible:?}"));
                if !page.flags.has(Flags::MAPPED) {
                    if !possible.gone {
                        return wrong("gone");
                    }
                    continue;
                }
                let change = page.flags.0 ^ self.before.pages(who)[number].flags.0;
                if !possible.touched && change & !Flags::PINNED.with(Flags::MOVED).0 != 0 {
                    return wrong("not touched");
                }
                if !possible.allows(page.flags, COMPARED) {
                    return wrong("flags");
                }
                if page.flags.has(Flags::LAZY) && !possible.set.has(Flags::LAZY) {
                    return wrong("set");
                }
                let protected = page.flags.has(Flags::PROTECTED);
                let either = page.flags.has(Flags::PROTECTED_UNSURE);
                if !possible.allows_protection(protected)
                    || either && !possible.allows_protection(!protected)
                {
                    return wrong("protection");
                }
                let (stamp, or_zero) = after.content(who, number);
                let content = block.content((who, number));
                for index in [0, 3] {
                    let found = word(stamp, index);
                    let right = match &content {
                        Some(content) => content.allows(found, index),
                        None => block.could_contain((who, number), found, index),
                    };
                    if !right || or_zero && !block.could_contain((who, number), 0, index) {
                        return wrong("content");
                    }
                }
            }
        }
        None
    }
}

/// Every order of the steps in which each thread keeps its own.
fn orders(steps: &[(usize, Step)]) -> Vec<Vec<usize>> {
    if steps.is_empty() {
        return vec![vec![]];
    }
    let mut found = Vec::new();
    for (at, (index, step)) in steps.iter().enumerate() {
        let first = |other: &(usize, Step)| thread(&other.1) == thread(step);
        if steps.iter().position(first) != Some(at) {
            continue;
        }
        let rest: Vec<_> = [&steps[..at], &steps[at + 1..]].concat();
        found.extend(
            orders(&rest)
                .into_iter()
                .map(|order| [vec![*index], order].concat()),
        );
    }
    found
}

fn case(source: &str) -> Case {
    Case::new(text::parse(source).unwrap())
}

/// A program that ends with a block of up to five steps.
fn program(bytes: &[u8], lanes: &[u8]) -> Program {
    let mut program = decode::from_bytes(bytes, Target::Hmm);
    program.steps.retain(|step| step.race.is_none());
    let count = program.steps.len();
    let first = count.saturating_sub(lanes.len());
    for (step, lane) in program.steps[first..].iter_mut().zip(lanes) {
        step.race = Some(Schedule::of_lane(*lane));
        if let Some((at, _)) = step.op.span() {
            at.0 %= 1024;
        }
    }
    program
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_order_of_a_block_is_allowed(bytes in prop::collection::vec(any::<u8>(), 20..400),
                                         lanes in prop::collection::vec(0u8..3, 2..5)) {
        let program = program(&bytes, &lanes);
        prop_assume!(program.races());
        let case = Case::new(program);
        for order in orders(&case.steps()) {
            let after = case.run(&order);
            if let Some(complaint) = case.complaint(&after) {
                let text = text::print(&case.program);
                prop_assert!(false, "{complaint} in order {order:?} of\n{text}");
            }
        }
    }
}

const TWO_WRITERS: &str = "p0 mmap at=0.0 len=4 prot=rw backing=anon\np0 write at=0.0 len=4\n\
    p0 write at=0.0 len=2 lane=0\np0 write at=0.1 len=2 lane=1\n";

#[test]
fn a_lost_store_is_not_allowed() {
    let case = case(TWO_WRITERS);
    let mut after = case.run(&[2, 3]);
    assert_eq!(case.complaint(&after), None);
    // the last store to page 1 is lost: what the other lane stored before is there
    let first = case.run(&[2]).pages(0)[1].value;
    after = case.run(&[2, 3]);
    after.processes[0].pages[1].value = first;
    assert!(
        case.complaint(&after)
            .is_some_and(|what| what.starts_with("content"))
    );
    after.processes[0].pages[1].value = 0;
    assert!(case.complaint(&after).is_some());
}

#[test]
fn a_store_is_not_lost_on_a_way_there_and_back() {
    let case = case(
        "p0 mmap at=0.0 len=512 prot=rw backing=anon\np0 write at=0.0 len=512\n\
         p0 mremap at=0.0 len=512 to=2.0 new=512 how=fixed lane=0\n\
         p0 mremap at=2.0 len=512 to=0.0 new=512 how=fixed lane=0\np0 write at=0.7 len=1 lane=1\n",
    );
    for order in orders(&case.steps()) {
        let mut after = case.run(&order);
        assert_eq!(case.complaint(&after), None);
        if order[1] != 4 {
            after.processes[0].pages[7].value = case.before.pages(0)[7].value;
            assert!(case.complaint(&after).is_some(), "{order:?}");
        }
    }
}

#[test]
fn a_child_has_nothing_that_was_stored_later() {
    let case = case(
        "p0 mmap at=0.0 len=4 prot=rw backing=anon\np0 write at=0.0 len=4\n\
         p0 fork child=p1 lane=0\np0 write at=0.0 len=1 lane=1\n",
    );
    let mut after = case.run(&[2, 3]);
    assert_eq!(case.complaint(&after), None);
    after.processes[1].pages[0].value = after.pages(0)[0].value;
    assert!(case.complaint(&after).is_some());
    let mut after = case.run(&[3, 2]);
    assert_eq!(case.complaint(&after), None);
    after.processes[1].pages[0].value = case.before.pages(0)[0].value;
    assert!(case.complaint(&after).is_some());
}

#[test]
fn a_read_only_page_does_not_become_writable() {
    let case = case(
        "p0 mmap at=0.0 len=4 prot=r backing=anon\np0 madvise at=0.0 len=4 advice=dontneed lane=0\n\
         p0 mprotect at=0.0 len=2 prot=none lane=1\n",
    );
    let mut after = case.run(&[1, 2]);
    assert_eq!(case.complaint(&after), None);
    after.processes[0].pages[1]
        .flags
        .set(Flags::WRITE.with(Flags::READ));
    assert!(
        case.complaint(&after)
            .is_some_and(|what| what.starts_with("flags"))
    );
}

#[test]
fn a_page_that_nothing_unprotects_stays_protected() {
    let lost = |race: &str| {
        let case = case(&format!(
            "p0 mmap at=0.0 len=4 prot=rw backing=anon\np0 write at=0.0 len=4\n\
             p0 uffd-register at=0.0 len=4 track=async\np0 uffd-protect at=0.0 len=4\n{race}\n"
        ));
        let steps: Vec<usize> = case.steps().iter().map(|(index, _)| *index).collect();
        let mut after = case.run(&steps);
        assert_eq!(case.complaint(&after), None);
        let pages = &mut after.processes[0].pages;
        let page = pages.iter_mut().find(|page| page.flags.has(Flags::MAPPED));
        page.unwrap().flags.clear(Flags::PROTECTED);
        let found = case.complaint(&after);
        found.is_some_and(|what| what.starts_with("protection"))
    };
    let reads = "p0 uffd-protect at=0.0 len=1 lane=0\np0 mprotect at=0.0 len=4 prot=r lane=1";
    assert!(lost(reads));
    let moves = "p0 mremap at=0.0 len=4 to=2.0 new=4 how=fixed lane=0\np0 read at=0.0 len=1 lane=1";
    assert!(lost(moves));
    let write = "p0 write at=0.0 len=1 lane=0\np0 mprotect at=0.0 len=4 prot=r lane=1";
    assert!(!lost(write));
    let locks = "p0 mlock-onfault at=0.0 len=4 lane=0\np0 mprotect at=0.0 len=4 prot=rw lane=1";
    assert!(!lost(locks));
    let scan = "p0 madvise at=0.0 len=4 advice=free lane=0\np0 uffd-protect at=0.0 len=4 lane=1";
    assert!(!lost(scan));
}

#[test]
fn protection_that_may_go_without_a_step_is_not_missed() {
    let page = |flags: Flags| Possible {
        set: flags,
        clear: Flags(!flags.0),
        there: true,
        ..Possible::default()
    };
    assert!(!page(Flags::PROTECTED).allows_protection(false));
    for other in [Flags::LAZY, Flags::GUARD, Flags::MERGEABLE] {
        assert!(page(Flags::PROTECTED.with(other)).allows_protection(false));
        assert!(!page(other).allows_protection(true));
    }
}

#[test]
fn a_load_that_finds_what_was_overwritten_is_stale() {
    let case = case(TWO_WRITERS);
    let after = case.run(&[2, 3]);
    let steps = |i: usize| case.program.steps.get(i).copied();
    let block = Block {
        model: &case.before,
        race: &case.race,
        steps: &steps,
        history: &case.history,
    };
    let node = (0, 1);
    let storing = block.storing(node).unwrap();
    let last = block.last(node, storing);
    assert!(!block.is_stale(node, after.pages(0)[1].value, 0, &last));
    assert!(block.is_stale(node, case.before.pages(0)[1].value, 0, &last));
}
