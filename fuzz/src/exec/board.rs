// SPDX-License-Identifier: GPL-2.0-only
//! What the processes of a program share: the steps, the model, whose turn it
//! is, the first violation, and the coverage.
//!
//! Exactly one process works at a time: the one that has the turn. Everything
//! but the turn is touched by it alone, so no locks are needed.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::cover::Cover;
use super::phases::{Phase, Phases};
use super::violation::{Oracle, Violation};
use crate::model::Model;
use crate::program::{MAX_STEPS, Op, PROCESSES, Program, Pulse, Step, race};

/// The turn after which everybody stops.
pub const STOP: u32 = u32::MAX;
/// In a turn: the racing block that begins at that step runs.
const RUN: u32 = 1 << 30;
/// In a turn: a process looks at what that block has left.
const LOOK: u32 = 1 << 29;
const LOOKS: u32 = 16;

/// What a turn is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// One process carries out one step.
    Step(usize),
    /// The first process plans the racing block that begins there.
    Plan(usize),
    /// All threads of the block run.
    Run(usize),
    /// A process looks at what the block has left.
    Look(usize),
    /// A process is checked as a whole.
    Check(usize),
}
const HUGE: usize = crate::program::PAGE * crate::program::SLOT_PAGES;
const REPORT_BYTES: usize = 16 << 10;

/// What was counted while programs ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stats {
    /// Operations carried out.
    pub calls: u64,
    /// Those of them that returned success.
    pub succeeded: u64,
    /// Times that a KCOV area was full, so that coverage was lost.
    pub overflows: u64,
    /// Where the time went.
    pub phases: Phases,
}

#[repr(C)]
struct Shared {
    turn: AtomicU32,
    leaving: AtomicI32,
    doomed: AtomicI32,
    pids: [AtomicI32; PROCESSES],
    count: u32,
    bare: bool,
    steps: [Option<Step>; MAX_STEPS],
    results: [Option<i32>; MAX_STEPS],
    stats: Stats,
    report_bytes: u32,
    report: [u8; REPORT_BYTES],
    model: Model,
    cover: Cover,
}

/// A handle on the shared state; processes made by fork share it.
#[derive(Clone, Copy)]
pub struct Board(NonNull<Shared>);

// SAFETY: only the process that has the turn uses what is behind it; threads of
// a racing block use the turn and the pids, which are atomic, the steps, which
// do not change, and the coverage under the lock of the rally.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    /// Makes the shared state; it lasts as long as a process that has it.
    pub fn new() -> std::io::Result<Self> {
        let bytes = std::mem::size_of::<Shared>();
        // SAFETY: a new mapping; nobody else knows it.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        // Much of the coverage is touched by each new process; huge pages save it
        // the faults. A store may split their PMDs, so nothing else lies in them.
        let first = (base as usize + std::mem::offset_of!(Shared, cover)).next_multiple_of(HUGE);
        let rest = (base as usize + bytes).saturating_sub(first);
        // SAFETY: advice about the mapping just made; without effect where refused.
        unsafe { libc::madvise(first as *mut _, rest, libc::MADV_HUGEPAGE) };
        // Charged to us and not to the group of the programs, whose reclaim would swap it
        // out, which smaps then counts.
        // SAFETY: touches the mapping just made; without effect where refused.
        unsafe { libc::madvise(base, bytes, libc::MADV_POPULATE_WRITE) };
        // Zero pages are a valid Shared: numbers, and `None` is written below.
        let board =
            Self(NonNull::new(base.cast()).expect("mmap without MAP_FIXED does not return 0"));
        board.shared().steps = [None; MAX_STEPS];
        board.shared().results = [None; MAX_STEPS];
        Ok(board)
    }

    /// The state. Only for the process that has the turn, and never twice at
    /// a time; both hold because every caller below uses it for one expression.
    #[expect(clippy::mut_from_ref, reason = "the turn is the lock")]
    fn shared(&self) -> &mut Shared {
        // SAFETY: the mapping lives as long as the process, is as large as
        // Shared, and only the holder of the turn gets here.
        unsafe { &mut *self.0.as_ptr() }
    }

    /// The model; for the process that has the turn.
    pub fn model(&self) -> &mut Model {
        &mut self.shared().model
    }

    /// The coverage; for the process that has the turn.
    pub fn cover(&self) -> &mut Cover {
        &mut self.shared().cover
    }

    /// The counts; for the process that has the turn.
    pub fn stats(&self) -> &mut Stats {
        &mut self.shared().stats
    }

    /// Notes what went by since `start` under `phase`, and starts anew.
    pub fn spent(&self, phase: Phase, start: &mut Instant) {
        self.stats().phases.add(phase, start);
    }

    /// Puts a program in, and the model at its start.
    pub fn load(&self, program: &Program) {
        self.put(program, false);
    }

    /// Puts a program in of which every step runs, without the model.
    pub fn load_bare(&self, program: &Program) {
        self.put(program, true);
    }

    /// Whether the program runs without model, coverage and checks.
    pub fn is_bare(&self) -> bool {
        self.shared().bare
    }

    fn put(&self, program: &Program, bare: bool) {
        let shared = self.shared();
        shared.bare = bare;
        for (slot, step) in shared.steps.iter_mut().zip(&program.steps) {
            *slot = Some(*step);
        }
        shared.count = program.steps.len().min(MAX_STEPS) as u32;
        shared.report_bytes = 0;
        shared.results.fill(None);
        self.rewind();
    }

    /// Puts everything but the results to where a program starts.
    pub fn rewind(&self) {
        let shared = self.shared();
        shared.model.start();
        shared.leaving.store(-1, Ordering::Relaxed);
        shared.doomed.store(-1, Ordering::Relaxed);
        shared
            .pids
            .iter()
            .for_each(|pid| pid.store(0, Ordering::Relaxed));
        shared.turn.store(self.next(0), Ordering::SeqCst);
    }

    /// Number of steps.
    pub fn count(&self) -> usize {
        self.shared().count as usize
    }

    /// Step number `index`, if there is one.
    pub fn step(&self, index: usize) -> Option<Step> {
        if index < self.count() {
            self.shared().steps[index]
        } else {
            None
        }
    }

    /// Whether any step of the program is of that kind.
    fn any(&self, kind: impl Fn(&Op) -> bool) -> bool {
        (0..self.count()).any(|index| self.step(index).is_some_and(|step| kind(&step.op)))
    }

    /// Whether the program has operations of the mirror devices.
    pub fn uses_devices(&self) -> bool {
        self.any(|op| matches!(op, Op::Device { .. }))
    }

    /// Whether the program has memory of the executor's group reclaimed.
    pub fn reclaims(&self) -> bool {
        let pulse = Pulse::Reclaim;
        self.any(|op| *op == Op::System { pulse })
    }

    /// Whether the program limits the memory of its processes.
    pub fn limits(&self) -> bool {
        self.any(|op| matches!(op, Op::Limit { .. }))
    }

    /// Whether the program turns knobs.
    pub fn turns_knobs(&self) -> bool {
        self.any(|op| matches!(op, Op::Knob { .. }))
    }

    /// Whether the program maps device memory by page frame number.
    pub fn maps_device(&self) -> bool {
        self.any(|op| matches!(op, Op::Mmap { backing, .. } if backing.is_device()))
    }

    /// Records what a step returned: 0 or an errno.
    pub fn set_result(&self, index: usize, errno: i32) {
        self.shared().results[index] = Some(errno);
    }

    /// What a step returned, if it was carried out.
    pub fn result(&self, index: usize) -> Option<i32> {
        self.shared().results[index]
    }

    /// Where the program is: a step's index; `count() + p` while process `p`
    /// is checked as a whole; `STOP`.
    pub fn turn(&self) -> u32 {
        self.shared_turn().load(Ordering::SeqCst)
    }

    /// What a turn is for; not for `STOP`.
    pub fn duty(&self, turn: u32) -> Duty {
        let index = (turn & 0xffff) as usize;
        if turn & RUN != 0 {
            Duty::Run(index)
        } else if turn & LOOK != 0 {
            Duty::Look(index)
        } else {
            match self.step(index) {
                Some(step) if step.race.is_some() && !self.is_bare() => Duty::Plan(index),
                Some(_) => Duty::Step(index),
                None => Duty::Check(index.saturating_sub(self.count())),
            }
        }
    }

    /// The process that has turn `turn`; in a block that runs, the first.
    pub fn owner(&self, turn: u32) -> usize {
        match self.duty(turn) {
            Duty::Step(index) => self.step(index).map_or(0, |step| step.process.index()),
            Duty::Plan(_) | Duty::Run(_) => 0,
            Duty::Look(_) => (turn >> LOOKS & 0xf) as usize,
            Duty::Check(process) => process,
        }
    }

    /// Step behind the racing block that begins at `first`.
    pub fn block_end(&self, first: usize) -> usize {
        let block = race::block_at(&|index| self.step(index), first);
        block.map_or(first + 1, |block| block.end)
    }

    /// Lets the planned block that begins at `first` run.
    pub fn begin_run(&self, first: usize) {
        self.set_turn(RUN | first as u32);
    }

    /// The block that ran in this turn is over; the first process looks first.
    pub fn end_run(&self, turn: u32) {
        let word = self.shared_turn();
        let look = LOOK | turn & 0xffff;
        if word
            .compare_exchange(turn, look, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
        {
            wake(word);
        }
    }

    fn shared_turn(&self) -> &AtomicU32 {
        // SAFETY: the mapping lives as long as the process; the turn is atomic.
        unsafe { &(*self.0.as_ptr()).turn }
    }

    /// The first turn from `turn` on at which there is something to do.
    fn next(&self, mut turn: u32) -> u32 {
        let shared = self.shared();
        if shared.bare {
            return if turn < shared.count { turn } else { STOP };
        }
        while let Some(step) = self.step(turn as usize) {
            if step.race.is_some() || !shared.model.skips(&step) {
                return turn;
            }
            turn += 1;
        }
        let last = shared.count + PROCESSES as u32;
        while turn < last && !shared.model.alive((turn - shared.count) as usize) {
            turn += 1;
        }
        if turn < last { turn } else { STOP }
    }

    /// Passes the turn on from `turn`.
    pub fn pass(&self, turn: u32) {
        let next = match self.duty(turn) {
            Duty::Plan(first) | Duty::Run(first) => self.next(self.block_end(first) as u32),
            Duty::Look(first) => {
                let mut others = self.owner(turn) + 1..PROCESSES;
                match others.find(|process| self.shared().model.alive(*process)) {
                    Some(process) => LOOK | (process as u32) << LOOKS | first as u32,
                    None => self.next(self.block_end(first) as u32),
                }
            }
            Duty::Step(_) | Duty::Check(_) => self.next(turn + 1),
        };
        self.set_turn(next);
    }

    /// Ends the program for all.
    pub fn stop(&self) {
        self.set_turn(STOP);
    }

    fn set_turn(&self, turn: u32) {
        let word = &self.shared().turn;
        word.store(turn, Ordering::SeqCst);
        wake(word);
    }

    /// Waits while the turn is `turn`, for at most `limit`.
    pub fn wait_turn(&self, turn: u32, limit: Duration) {
        let word = &self.shared().turn;
        let time = libc::timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        // SAFETY: word and time live for the length of the call.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT,
                turn,
                &raw const time,
            )
        };
    }

    /// Says that a process is about to leave; whoever reaps it passes the turn.
    pub fn set_leaving(&self, process: i32) {
        self.shared().leaving.store(process, Ordering::SeqCst);
    }

    /// The process that is about to leave.
    pub fn leaving(&self) -> Option<usize> {
        usize::try_from(self.shared().leaving.load(Ordering::SeqCst)).ok()
    }

    /// Says that a process is about to be killed by another, which waits for its end.
    pub fn set_doomed(&self, process: usize) {
        self.shared().doomed.store(process as i32, Ordering::SeqCst);
    }

    /// Whether the process is to be killed; once.
    pub fn take_doomed(&self, process: usize) -> bool {
        let (doomed, nobody) = (process as i32, -1);
        let word = &self.shared().doomed;
        word.compare_exchange(doomed, nobody, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// The pid of a process, 0 if there is none.
    pub fn pid(&self, process: usize) -> i32 {
        self.shared().pids[process].load(Ordering::SeqCst)
    }

    /// Records the pid of a process.
    pub fn set_pid(&self, process: usize, pid: i32) {
        self.shared().pids[process].store(pid, Ordering::SeqCst);
    }

    /// Records a violation, unless there is one already, and stops the program.
    pub fn report(&self, violation: &Violation) {
        let shared = self.shared();
        if shared.report_bytes == 0 {
            let mut violation = violation.clone();
            if self.uses_devices() && violation.oracle != Oracle::Log {
                // the same symptom without a device would be another bug
                violation.title.push_str(", with device memory");
            }
            let text = violation.print();
            let bytes = &text.as_bytes()[..text.len().min(REPORT_BYTES)];
            shared.report[..bytes.len()].copy_from_slice(bytes);
            shared.report_bytes = bytes.len() as u32;
        }
        self.stop();
    }

    /// The violation, if there is one.
    pub fn violation(&self) -> Option<Violation> {
        let shared = self.shared();
        let bytes = &shared.report[..shared.report_bytes as usize];
        (!bytes.is_empty()).then(|| Violation::parse(&String::from_utf8_lossy(bytes)))
    }
}

/// Wakes all that wait for the turn.
fn wake(word: &AtomicU32) {
    // SAFETY: wakes waiters on a word that lives as long as the process.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}
