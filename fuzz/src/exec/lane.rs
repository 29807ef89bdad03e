// SPDX-License-Identifier: GPL-2.0-only
//! One thread of a racing block: carries out its steps in rounds, and checks
//! what can be checked while others run.
//!
//! Between its start and its end a thread allocates nothing: another one may
//! fork, and a lock of the allocator that is held then stays so in the child.

mod perform;

use std::fs::File;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::hold::Scratch;
use super::lane_access::Wrong;
use super::process::{self, Setup};
use super::rally::control;
use super::sys;
use super::track::Tracker;
use crate::kcov::Trace;
use crate::model::content::Threads;
use crate::model::race::controls;
use crate::model::{Facts, Model};
use crate::program::race::LANES;
use crate::program::{Addr, Len, Op, PAGES, Schedule, Step};

/// A block that takes longer is not repeated any more; each step is carried
/// out once all the same.
const BLOCK_LIMIT: Duration = Duration::from_millis(400);
/// Rounds whose coverage counts; later ones mostly repeat it.
const TRACED_ROUNDS: usize = 4;

/// What the threads of a process have in common.
pub struct Ground<'a> {
    /// What every process of the program has.
    pub setup: &'a Setup,
    /// The process.
    pub me: usize,
    /// The turn of the block.
    pub turn: u32,
    /// Its userfaultfd.
    pub tracker: Option<&'a Tracker>,
    /// Its files of the mirror devices.
    pub mirrors: [Option<&'a File>; 3],
}

/// A thread.
pub struct Lane<'a> {
    pub(super) ground: &'a Ground<'a>,
    pub(super) thread: usize,
    steps: Vec<(usize, Step)>,
    /// For each page of each load: who stores to it, if a stale load can be told.
    storing: Vec<Vec<Option<Threads>>>,
    /// The state of the areas, if this thread alone changes it.
    model: Option<Box<Model>>,
    scratch: Scratch,
    buffer: Vec<u8>,
    pagemap: Option<File>,
    pin: Option<File>,
    trace: Option<Trace>,
}

/// Facts from the kernel, without allocating.
struct Asked;

impl Facts for Asked {
    fn mapped(&self, page: usize) -> bool {
        sys::mapped(page)
    }

    fn locked(&self, _: usize) -> bool {
        true
    }
}

impl<'a> Lane<'a> {
    /// Gets everything ready that the thread of that number needs.
    pub fn new(ground: &'a Ground<'a>, thread: usize) -> Self {
        let (board, rally) = (&ground.setup.board, &ground.setup.rally);
        let range = usize::from(rally.plan().first)..usize::from(rally.plan().end);
        let carried = range.filter(|index| rally.plan().carried[*index]);
        let steps: Vec<(usize, Step)> = carried
            .filter_map(|index| Some((index, board.step(index)?)))
            .filter(|(_, step)| crate::model::history::thread(step) == thread)
            .collect();
        let alone = rally.control(ground.me) == control::FIRST + thread as u8;
        let model = alone.then(|| {
            let mut model = Model::boxed();
            model.copy_from(rally.before());
            model
        });
        let storing = steps.iter().map(|(_, step)| ground.storing(step)).collect();
        let needs = |wanted: fn(&Op) -> bool| steps.iter().any(|(_, step)| wanted(&step.op));
        let places = needs(|op| matches!(op, Op::Place { .. }));
        let scans = needs(|op| matches!(op, Op::ScanProtect { .. }));
        let moves = needs(|op| matches!(op, Op::Device { .. }));
        Self {
            thread,
            storing,
            model,
            scratch: Scratch::new(if places { PAGES } else { 0 }),
            buffer: vec![
                0;
                if moves {
                    PAGES * crate::program::PAGE
                } else {
                    0
                }
            ],
            pagemap: scans
                .then(|| File::open("/proc/self/pagemap").ok())
                .flatten(),
            pin: None,
            trace: None,
            steps,
            ground,
        }
    }

    /// Runs the thread to the end of the block. Returns the state of the areas,
    /// if this thread alone changed it.
    pub fn run(mut self) -> Option<Box<Model>> {
        let ground = self.ground;
        let (board, rally, turn) = (&ground.setup.board, &ground.setup.rally, ground.turn);
        stay_on((self.thread % LANES).is_multiple_of(2));
        let kcov = ground.setup.lane_kcov.get(self.thread);
        self.trace = kcov.and_then(|kcov| kcov.trace().ok());
        let works = !self.only_accesses();
        if works {
            rally.works(true);
        }
        rally.arrive(board, turn);
        self.rounds();
        if works {
            rally.works(false);
        }
        self.unpin();
        rally.finish(board, ground.me, turn);
        while board.turn() == turn {
            board.wait_turn(turn, Duration::from_secs(1));
        }
        self.collect_at_the_end();
        self.model
    }

    fn rounds(&mut self) {
        let start = Instant::now();
        let count = |(_, step): &(usize, Step)| schedule(step).times;
        let rounds = usize::from(self.steps.iter().map(count).max().unwrap_or(0));
        for round in 0..rounds {
            if !self.round(round, |times| round < times) || start.elapsed() > BLOCK_LIMIT {
                return;
            }
        }
        // what races with the others goes on as long as they do
        let mut round = rounds;
        while rounds > 1
            && self.only_accesses()
            && self.ground.setup.rally.has_work()
            && start.elapsed() < BLOCK_LIMIT
            && self.round(round, |times| times > 1)
        {
            round += 1;
        }
    }

    /// Whether the thread only loads and stores.
    fn only_accesses(&self) -> bool {
        let access = |op: &Op| matches!(op, Op::Read { .. } | Op::Write { .. });
        self.steps.iter().all(|(_, step)| access(&step.op))
    }

    /// One round, of the steps that take part by how often they do. False if the block ends.
    fn round(&mut self, round: usize, takes_part: impl Fn(usize) -> bool) -> bool {
        for at in 0..self.steps.len() {
            let (index, step) = self.steps[at];
            let schedule = schedule(&step);
            if !takes_part(usize::from(schedule.times)) {
                continue;
            }
            if self.ground.setup.board.turn() != self.ground.turn
                || self.ground.setup.rally.is_broken()
            {
                return false;
            }
            pause(schedule.wait);
            let last = round + 1 == usize::from(schedule.times);
            if let Err(broken) = self.step(at, index, &step, last) {
                self.report(index, &step, broken);
                return false;
            }
            self.keep_coverage(round);
        }
        true
    }

    /// Carries out one step. `last`: it is not carried out again.
    fn step(&mut self, at: usize, index: usize, step: &Step, last: bool) -> Result<(), Wrong> {
        let rally = &self.ground.setup.rally;
        let alone = self.model.is_some() && controls(&step.op);
        let begin = rally.history().tick();
        if alone {
            rally.turn_generation(self.ground.me);
        }
        let result = self.perform(at, step, last)?;
        let calls = &rally.history().calls[index];
        calls.begin.store(begin, Ordering::SeqCst);
        calls.result.store(result as u32, Ordering::SeqCst);
        calls.end.store(rally.history().now(), Ordering::SeqCst);
        if result != 0 && result != libc::EFAULT {
            calls.failed.store(1, Ordering::SeqCst);
        }
        rally.returned(index, result);
        if alone {
            self.learn(step, result)?;
            rally.turn_generation(self.ground.me);
        }
        Ok(())
    }

    /// Brings what is known of the areas past a step of the thread that alone
    /// changes them.
    fn learn(&mut self, step: &Step, result: i32) -> Result<(), Wrong> {
        let Some(model) = &mut self.model else {
            return Ok(());
        };
        let applied = model.apply(step, result, &Asked);
        let mut op = step.op;
        let know = |at: Addr, len: Len| {
            let end = (at.page() + len.pages()).min(PAGES);
            self.ground
                .setup
                .rally
                .know(model, self.ground.me, at.page()..end);
        };
        if let Some((at, len)) = op.span() {
            know(*at, *len);
        }
        if let Op::Mremap { to, new, .. } = step.op {
            know(to, new);
        }
        // what locking populates depends on bits that others change
        match applied {
            Err(unexpected) if !matches!(step.op, Op::Mlock { .. }) => {
                Err(Wrong::Errno(unexpected.wanted, unexpected.got))
            }
            _ => Ok(()),
        }
    }

    fn keep_coverage(&self, round: usize) {
        let Some(trace) = &self.trace else { return };
        if round >= TRACED_ROUNDS && !round.is_multiple_of(8) {
            trace.reset();
        } else if trace.is_half_full() && self.ground.setup.rally.try_cover(self.ground.me) {
            self.collect(trace);
            self.ground.setup.rally.leave_cover();
        }
    }

    fn collect(&self, trace: &Trace) {
        let board = &self.ground.setup.board;
        if !trace.collect(board.cover()) {
            board.stats().overflows += 1;
        }
    }

    fn collect_at_the_end(&self) {
        let Some(trace) = &self.trace else { return };
        while !self.ground.setup.rally.try_cover(self.ground.me) {
            std::thread::yield_now();
        }
        self.collect(trace);
        self.ground.setup.rally.leave_cover();
        trace.unmap();
    }

    /// Reports what the first thread found; the block ends.
    fn report(&self, index: usize, step: &Step, wrong: Wrong) {
        let setup = self.ground.setup;
        if setup.rally.breaks() {
            let board = setup.board;
            let steps = |index: usize| board.step(index);
            let broken = wrong.describe(&setup.rally.block(&steps));
            let (oracle, what, detail) = broken;
            let violation =
                process::violation(index, step, oracle, format!("{what}, racing"), detail);
            board.report(&violation);
        }
    }
}

fn schedule(step: &Step) -> Schedule {
    step.race.unwrap_or(Schedule::of_lane(0))
}

/// Waits as a schedule says.
fn pause(wait: u16) {
    match wait {
        0 => {}
        1 => std::thread::yield_now(),
        _ => (0..u32::from(wait) * 8).for_each(|_| std::hint::spin_loop()),
    }
}

/// Keeps the thread on the CPU of the program, or on the first one.
fn stay_on(program: bool) {
    if program {
        return;
    }
    // SAFETY: a local set, read by the call.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}
