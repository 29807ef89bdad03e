// SPDX-License-Identifier: GPL-2.0-only
//! What the threads of a racing block share: its plan, the state before it,
//! what was done and what is known of the pages, and who has finished.
//!
//! The turn of the board goes through a block in three phases: `plan`, by the
//! first process that takes part; `run`, all threads of all processes; then the
//! processes look one after another at what they find.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, Ordering};

use super::board::Board;
use crate::model::content::Block;
use crate::model::history::{History, THREADS, thread};
use crate::model::page::Flags;
use crate::model::race::{Race, Steps, controls};
use crate::model::{Effect, Model, OBJECTS};
use crate::program::race::LANES;
use crate::program::{MAX_STEPS, Op, PAGES, PROCESSES, Track};

/// Different results of a step that are kept.
const RESULTS: usize = 6;

/// Who may change areas of a process during a block.
pub mod control {
    /// Nobody.
    pub const NOBODY: u8 = 0;
    /// More than one thread.
    pub const MANY: u8 = 1;
    /// The thread of that number, counted from here.
    pub const FIRST: u8 = 2;
}

#[repr(C)]
struct Shared {
    before: Model,
    plan: Race,
    history: History,
    expected: AtomicU32,
    ready: AtomicU32,
    threads: [AtomicU32; PROCESSES],
    finished: [AtomicU32; PROCESSES],
    doomed: [AtomicBool; PROCESSES],
    dead: [AtomicBool; PROCESSES],
    control: [AtomicU8; PROCESSES],
    generation: [AtomicU32; PROCESSES],
    access: [[AtomicU8; PAGES]; PROCESSES],
    results: [[AtomicI32; RESULTS]; MAX_STEPS],
    counts: [[AtomicU32; 2]; MAX_STEPS],
    settled: [[AtomicBool; PAGES]; OBJECTS + 1],
    broken: AtomicBool,
    /// Which process collects coverage, from 1; 0: none.
    cover: AtomicU32,
    /// Threads that do more than loads and stores, and have not finished.
    working: AtomicU32,
}

/// A handle on the shared state; processes made by fork share it.
#[derive(Clone, Copy)]
pub struct Rally(NonNull<Shared>);

// SAFETY: what is behind it is atomic, or only written while one process plans
// the block and nobody else reads.
unsafe impl Send for Rally {}
// SAFETY: as above.
unsafe impl Sync for Rally {}

impl Rally {
    /// Makes the shared state.
    pub fn new() -> std::io::Result<Self> {
        // SAFETY: a new mapping; nobody else knows it.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Shared>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let found = NonNull::new(base.cast()).expect("mmap without MAP_FIXED does not return 0");
        Ok(Self(found))
    }

    fn shared(&self) -> &Shared {
        // SAFETY: the mapping lives as long as the process and is as large as
        // Shared, for which zeros are a valid value.
        unsafe { self.0.as_ref() }
    }

    /// The plan of the block.
    pub fn plan(&self) -> &Race {
        &self.shared().plan
    }

    /// What was done in the block.
    pub fn history(&self) -> &History {
        &self.shared().history
    }

    /// The state before the block.
    pub fn before(&self) -> &Model {
        &self.shared().before
    }

    /// All of it, with the steps of the program.
    pub fn block<'a>(&'a self, steps: Steps<'a>) -> Block<'a> {
        let shared = self.shared();
        Block {
            model: &shared.before,
            race: &shared.plan,
            steps,
            history: &shared.history,
        }
    }

    /// Plans the block `first..end`. False if nothing of it is carried out. Only
    /// for the process that has the turn.
    pub fn prepare(&self, board: &Board, first: usize, end: usize) -> bool {
        let steps = |index: usize| board.step(index);
        let model = board.model();
        {
            // SAFETY: nobody reads before `run` begins, which this process decides.
            let (before, plan) = unsafe {
                let shared = self.0.as_ptr();
                (&mut (*shared).before, &mut (*shared).plan)
            };
            before.copy_from(model);
            plan.plan(model, &steps, first, end);
        }
        let shared = self.shared();
        shared.history.begin(&shared.plan, &steps, model.version());
        for who in 0..PROCESSES {
            shared.finished[who].store(0, Ordering::SeqCst);
            shared.doomed[who].store(false, Ordering::SeqCst);
            shared.dead[who].store(false, Ordering::SeqCst);
            shared.generation[who].store(0, Ordering::SeqCst);
            let threads = self.threads_of(board, who).count() as u32;
            shared.threads[who].store(threads, Ordering::SeqCst);
            self.prepare_access(board, who);
        }
        for index in 0..MAX_STEPS {
            let results = &shared.results[index];
            results
                .iter()
                .for_each(|result| result.store(0, Ordering::Relaxed));
            let counts = &shared.counts[index];
            counts
                .iter()
                .for_each(|count| count.store(0, Ordering::Relaxed));
        }
        let settled = shared.settled.iter().flatten();
        settled.for_each(|settled| settled.store(false, Ordering::Relaxed));
        shared.broken.store(false, Ordering::SeqCst);
        shared.cover.store(0, Ordering::SeqCst);
        shared.ready.store(0, Ordering::SeqCst);
        shared.working.store(0, Ordering::SeqCst);
        let counts = shared.threads.iter();
        let expected: u32 = counts.map(|count| count.load(Ordering::SeqCst)).sum();
        shared.expected.store(expected, Ordering::SeqCst);
        expected > 0
    }

    /// Numbers of the threads of a process that have something to do.
    pub fn threads_of(&self, board: &Board, who: usize) -> impl Iterator<Item = usize> + use<> {
        let mut used = [false; THREADS];
        for step in self.plan().carried(&|index| board.step(index)) {
            used[thread(&step)] = true;
        }
        (who * LANES..(who + 1) * LANES).filter(move |thread| used[*thread])
    }

    /// What is known of accesses before the block, and who may change it.
    fn prepare_access(&self, board: &Board, who: usize) {
        let shared = self.shared();
        let mut found = control::NOBODY;
        for step in self.plan().carried(&|index| board.step(index)) {
            if step.process.index() == who && controls(&step.op) {
                let this = control::FIRST + thread(&step) as u8;
                found = match found {
                    control::NOBODY => this,
                    same if same == this => this,
                    _ => control::MANY,
                };
            }
            if step.process.index() == who && matches!(step.op, Op::Exit {}) {
                found = control::MANY;
            }
        }
        shared.control[who].store(found, Ordering::SeqCst);
        if found == control::MANY || !shared.before.alive(who) {
            let pages = &shared.access[who];
            pages
                .iter()
                .for_each(|access| access.store(0, Ordering::SeqCst));
        } else {
            self.know(&shared.before, who, 0..PAGES);
        }
    }

    /// Who may change areas of the process; see `control`.
    pub fn control(&self, who: usize) -> u8 {
        self.shared().control[who].load(Ordering::SeqCst)
    }

    /// What accesses to these pages do from now on, by the thread that alone
    /// may change that.
    pub fn know(&self, model: &Model, who: usize, pages: std::ops::Range<usize>) {
        for page in pages {
            let flags = model.pages(who)[page].flags;
            let load = code(model.effect(who, page, false));
            let tracked = flags.has(Flags::TRACKED) && model.tracking(who) != Some(Track::Async);
            let store = if tracked {
                3
            } else {
                code(model.effect(who, page, true))
            };
            self.shared().access[who][page].store(0x80 | load | store << 2, Ordering::Release);
        }
    }

    /// Odd while areas of the process change.
    pub fn generation(&self, who: usize) -> u32 {
        self.shared().generation[who].load(Ordering::SeqCst)
    }

    /// Areas of the process are about to change, or have changed.
    pub fn turn_generation(&self, who: usize) {
        self.shared().generation[who].fetch_add(1, Ordering::SeqCst);
    }

    /// What an access to the page does, if that is known.
    pub fn access(&self, who: usize, page: usize, store: bool) -> Option<Effect> {
        let byte = self.shared().access[who][page].load(Ordering::Acquire);
        let code = (byte >> if store { 2 } else { 0 }) & 3;
        match code {
            _ if byte & 0x80 == 0 => None,
            0 => Some(Effect::Done),
            1 => Some(Effect::Segv),
            2 => Some(Effect::Bus),
            _ => None,
        }
    }

    /// Says that a thread can begin, and waits for the others.
    pub fn arrive(&self, board: &Board, turn: u32) {
        let shared = self.shared();
        shared.ready.fetch_add(1, Ordering::SeqCst);
        while shared.ready.load(Ordering::SeqCst) < shared.expected.load(Ordering::SeqCst)
            && board.turn() == turn
        {
            std::thread::yield_now();
        }
    }

    /// A thread could not be made.
    pub fn give_up(&self, board: &Board, who: usize, turn: u32) {
        self.shared().ready.fetch_add(1, Ordering::SeqCst);
        self.finish(board, who, turn);
    }

    /// A thread has done its steps. The last one ends the phase.
    pub fn finish(&self, board: &Board, who: usize, turn: u32) {
        self.shared().finished[who].fetch_add(1, Ordering::SeqCst);
        self.end_if_over(board, turn);
    }

    /// A thread that does more than loads and stores begins, or has done its steps.
    pub fn works(&self, begins: bool) {
        let working = &self.shared().working;
        if begins {
            working.fetch_add(1, Ordering::SeqCst);
        } else {
            working.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Whether there are such threads.
    pub fn has_work(&self) -> bool {
        self.shared().working.load(Ordering::SeqCst) > 0
    }

    /// A process is about to end inside the block.
    pub fn set_doomed(&self, who: usize) {
        self.shared().doomed[who].store(true, Ordering::SeqCst);
    }

    /// Whether it is the block that has ended the process.
    pub fn is_doomed(&self, who: usize) -> bool {
        self.shared().doomed[who].load(Ordering::SeqCst)
    }

    /// A process that was doomed is gone, memory and all.
    pub fn bury(&self, board: &Board, who: usize, turn: u32) {
        self.shared().dead[who].store(true, Ordering::SeqCst);
        self.end_if_over(board, turn);
    }

    /// Whether the process ended inside the block.
    pub fn is_dead(&self, who: usize) -> bool {
        self.shared().dead[who].load(Ordering::SeqCst)
    }

    fn end_if_over(&self, board: &Board, turn: u32) {
        let shared = self.shared();
        let over = (0..PROCESSES).all(|who| {
            let finished = shared.finished[who].load(Ordering::SeqCst);
            finished >= shared.threads[who].load(Ordering::SeqCst) && !self.is_doomed(who)
                || self.is_dead(who)
        });
        if over {
            board.end_run(turn);
        }
    }

    /// Counts a call of a step, and keeps what it returned.
    pub fn returned(&self, index: usize, result: i32) {
        let shared = self.shared();
        shared.counts[index][usize::from(result != 0)].fetch_add(1, Ordering::Relaxed);
        if result == 0 {
            return;
        }
        for kept in &shared.results[index] {
            let found = kept.compare_exchange(0, result, Ordering::SeqCst, Ordering::SeqCst);
            if found.is_ok_and(|_| true) || found == Err(result) {
                return;
            }
        }
    }

    /// Calls of a step that succeeded and that failed.
    pub fn counts(&self, index: usize) -> [u32; 2] {
        let counts = &self.shared().counts[index];
        [0, 1].map(|i| counts[i].load(Ordering::SeqCst))
    }

    /// The different errnos that a step returned.
    pub fn results(&self, index: usize) -> impl Iterator<Item = i32> + '_ {
        let kept = self.shared().results[index].iter();
        let results = kept.map(|result| result.load(Ordering::SeqCst));
        results.filter(|result| *result != 0)
    }

    /// Whether this is the first look at a page of a shared object after the block.
    pub fn settles(&self, object: u16, offset: u16) -> bool {
        let settled = &self.shared().settled[usize::from(object)][usize::from(offset)];
        !settled.swap(true, Ordering::SeqCst)
    }

    /// Claims the right to report; only the first thread gets it.
    pub fn breaks(&self) -> bool {
        !self.shared().broken.swap(true, Ordering::SeqCst)
    }

    /// Whether a thread has found something wrong.
    pub fn is_broken(&self) -> bool {
        self.shared().broken.load(Ordering::SeqCst)
    }

    /// Takes the lock of the coverage for a process, if it is free. Who ended inside the
    /// block may have had it, and does not give it back.
    pub fn try_cover(&self, who: usize) -> bool {
        let lock = &self.shared().cover;
        let holder = lock.load(Ordering::SeqCst);
        let abandoned = (holder as usize)
            .checked_sub(1)
            .is_some_and(|who| self.is_dead(who));
        let wanted = who as u32 + 1;
        (holder == 0 || abandoned)
            && lock
                .compare_exchange(holder, wanted, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
    }

    /// Gives the lock of the coverage back.
    pub fn leave_cover(&self) {
        self.shared().cover.store(0, Ordering::SeqCst);
    }
}

fn code(effect: Effect) -> u8 {
    match effect {
        Effect::Done => 0,
        Effect::Segv => 1,
        Effect::Bus => 2,
        Effect::DoneOrBus => 3,
    }
}
