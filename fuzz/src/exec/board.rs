// SPDX-License-Identifier: GPL-2.0-only
//! What the processes of a program share: the steps, the model, whose turn it
//! is, the first violation, and the coverage.
//!
//! Exactly one process works at a time: the one that has the turn. Everything
//! but the turn is touched by it alone, so no locks are needed.

mod turn;

use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::Instant;

use super::cover::Cover;
use super::phases::{Phase, Phases};
use super::violation::{Oracle, Violation};
use crate::model::Model;
use crate::program::{MAX_STEPS, Op, PROCESSES, Program, Pulse, Step};

pub use turn::{Duty, STOP};

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

    /// Whether the program pins pages. When the last pin of a folio ends is not known to it: io_uring gives buffers up
    /// behind its back.
    pub fn pins(&self) -> bool {
        self.any(|op| matches!(op, Op::Pin { .. } | Op::Buffer { .. }))
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

    fn shared_turn(&self) -> &AtomicU32 {
        // SAFETY: the mapping lives as long as the process; the turn is atomic.
        unsafe { &(*self.0.as_ptr()).turn }
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
