// SPDX-License-Identifier: GPL-2.0-only
//! One process of a program: waits for its turn, works, checks, passes on.

use std::cell::Cell;
use std::time::{Duration, Instant};

use selftests::program_break::Start;

use super::board::{Board, Duty, STOP};
use super::check;
use super::entry::Features;
use super::hold::{self, Pin};
use super::mirror::Mirrors;
use super::pfn::PfnFiles;
use super::phases::Phase;
use super::pipe::{Disk, Pipe};
use super::rally::Rally;
use super::sys;
pub use super::system::write_to;
use super::track::Tracker;
use super::violation::{Oracle, Violation};
use super::watch::Known;
use crate::kcov::{Kcov, Trace};
use crate::model::{Facts, Model};
use crate::program::{Op, Step};
use crate::text;

/// What every process of a program has.
pub struct Setup {
    /// The shared state.
    pub board: Board,
    /// The stamped file.
    pub file: i32,
    /// See `sys::bell`.
    pub bell: i32,
    /// The shared state of racing blocks.
    pub rally: Rally,
    /// One for each process, if the kernel has KCOV.
    pub kcov: Vec<Kcov>,
    /// One for each thread of a racing block, if the kernel has KCOV.
    pub lane_kcov: Vec<Kcov>,
    /// Nobody else uses the machine, so its counters are ours.
    pub alone: bool,
    /// A block device, if the kernel can make one.
    pub disk: Option<Disk>,
    /// A file in memory, for fixed buffers.
    pub exchange: std::fs::File,
    /// Device memory, if there is any.
    pub pfn: PfnFiles,
    /// Where the break of each process starts, if the kernel says so.
    pub heap: Option<Start>,
    /// A program that does nothing, to be executed.
    pub nothing: i32,
    /// What the kernel can tell.
    pub features: Features,
}

/// A process of a program.
pub struct Process<'a> {
    pub(super) setup: &'a Setup,
    pub(super) me: usize,
    pub(super) pagemap: Option<std::fs::File>,
    pub(super) tracker: Option<Tracker>,
    pub(super) mirrors: Mirrors,
    pub(super) pin: Option<Pin>,
    pub(super) pipe: Option<Pipe>,
    trace: Option<Trace>,
    /// Coverage was collected in the middle of the step.
    pub(super) relieved: Cell<bool>,
    /// Coverage of the step is recorded.
    recording: Cell<bool>,
    /// Which allocation of the next operation fails.
    pub(super) inject: Option<u8>,
    /// The areas after a racing block, where one thread alone changed them.
    pub(super) areas: Option<Box<Model>>,
    /// What is known of the step beside what it returned.
    pub(super) known: Known,
}

/// Facts by asking the kernel.
#[derive(Default)]
struct Asked {
    locked: std::cell::OnceCell<Vec<bool>>,
    known: Known,
}

impl Facts for Asked {
    fn mapped(&self, page: usize) -> bool {
        sys::mapped(page)
    }

    fn locked(&self, page: usize) -> bool {
        let pages = self.locked.get_or_init(|| {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
            check::locked_pages(&smaps)
        });
        pages[page]
    }

    fn populated_before(&self, page: usize) -> Option<bool> {
        self.known.populated(page)
    }

    fn amount(&self) -> Option<usize> {
        self.known.amount
    }
}

/// Runs the first process of the program, forked at `forked`, to its end. Never returns.
pub fn run(setup: &Setup, mut forked: Instant) -> ! {
    let mut process = Process::new(setup, 0);
    process.attach();
    setup.board.spent(Phase::Start, &mut forked);
    process.turns();
    sys::exit(0)
}

impl Process<'_> {
    fn new(setup: &Setup, me: usize) -> Process<'_> {
        Process {
            setup,
            me,
            pagemap: None,
            tracker: None,
            mirrors: Mirrors::default(),
            pin: None,
            trace: None,
            relieved: Cell::new(false),
            recording: Cell::new(false),
            inject: None,
            pipe: None,
            known: Known::default(),
            areas: None,
        }
    }

    /// Runs a process that was forked by a thread of a racing block, of which it
    /// is a copy.
    pub(super) fn run_forked(setup: &Setup, me: usize) -> ! {
        let mut process = Process::new(setup, me);
        process.attach();
        process.turns();
        sys::exit(0)
    }

    pub(super) fn board(&self) -> &Board {
        &self.setup.board
    }

    /// Traces this process, if the kernel can. Where it cannot, coverage is
    /// poorer and nothing else changes.
    pub(super) fn attach(&mut self) {
        if self.board().is_bare() {
            return;
        }
        let kcov = self.setup.kcov.get(self.me);
        self.trace = kcov.and_then(|kcov| kcov.trace().ok());
        self.recording.set(true);
        self.record(false);
    }

    pub(super) fn turns(&mut self) {
        loop {
            let turn = self.board().turn();
            if turn == STOP {
                return;
            }
            let duty = self.board().duty(turn);
            if let Duty::Run(_) = duty {
                self.race(turn);
                continue;
            }
            if self.board().owner(turn) != self.me {
                self.board().wait_turn(turn, Duration::from_secs(60));
                continue;
            }
            let done = match duty {
                Duty::Step(index) => match self.board().step(index) {
                    Some(step) if self.board().is_bare() => {
                        self.bare(&step);
                        Ok(())
                    }
                    Some(step) => self.step(index, &step),
                    None => Ok(()),
                },
                Duty::Plan(first) => {
                    if self.plan(first) {
                        continue;
                    }
                    Ok(())
                }
                Duty::Run(_) => Ok(()),
                Duty::Look(_) => self.look(turn),
                Duty::Check(_) => self.last_check().and_then(|()| self.leave()),
            };
            match done {
                Ok(()) => self.board().pass(turn),
                Err(violation) => self.board().report(&violation),
            }
        }
    }

    /// Leaves the program; the worker passes the turn on when all memory is gone.
    pub(super) fn leave(&self) -> ! {
        self.board().set_leaving(self.me as i32);
        sys::exit(0)
    }

    fn step(&mut self, index: usize, step: &Step) -> Result<(), Box<Violation>> {
        let broken = |(oracle, what, detail)| violation(index, step, oracle, what, detail);
        let mut clock = Instant::now();
        let huge = self.huge_before(step);
        self.board().spent(Phase::Huge, &mut clock);
        self.known = self.known_before(step).map_err(broken)?;
        self.relieved.set(false);
        if let Some(trace) = &self.trace {
            trace.reset();
        }
        self.record(true);
        let armed = if Model::injectable(&step.op) {
            self.arm()
        } else {
            None
        };
        self.inject = None;
        let result = self.perform(step);
        hold::disarm(armed);
        self.record(false);
        self.board().spent(Phase::Call, &mut clock);
        let result = result.map_err(broken)?;
        let stats = self.board().stats();
        stats.calls += 1;
        stats.succeeded += u64::from(result == 0);
        self.board().set_result(index, result);
        if let Op::Exit {} | Op::Exec {} = step.op {
            let _ = self.board().model().apply(step, 0, &Asked::default());
            if step.op == (Op::Exec {}) {
                self.board().set_leaving(self.me as i32);
                self.replace();
            }
            self.leave();
        }
        let asked = Asked {
            known: std::mem::take(&mut self.known),
            ..Asked::default()
        };
        let touched = self
            .board()
            .model()
            .apply(step, result, &asked)
            .map_err(|unexpected| {
                let what = returned(unexpected.got, unexpected.wanted);
                violation(index, step, Oracle::Errno, &what, String::new())
            })?;
        self.board().spent(Phase::Model, &mut clock);
        if result == 0 {
            self.huge_after(&huge).map_err(broken)?;
        }
        self.board().spent(Phase::Huge, &mut clock);
        self.collect();
        self.board().spent(Phase::Cover, &mut clock);
        let checked = self.check(touched, step).map_err(broken);
        self.board().spent(Phase::Check, &mut clock);
        checked
    }

    fn last_check(&mut self) -> Result<(), Box<Violation>> {
        let mut clock = Instant::now();
        let checked = self.check_all().map_err(|(oracle, what, detail)| {
            Box::new(Violation {
                oracle,
                step: None,
                title: format!("{what} at the end"),
                detail,
            })
        });
        self.board().spent(Phase::End, &mut clock);
        checked
    }

    fn collect(&self) {
        if let Some(trace) = &self.trace
            && !trace.collect(self.board().cover())
        {
            self.board().stats().overflows += 1;
        }
    }

    /// Records coverage from here on, or not: only operations are recorded.
    pub(super) fn record(&self, wanted: bool) {
        if self.recording.replace(wanted) != wanted
            && let Some(trace) = &self.trace
        {
            if wanted {
                trace.resume();
            } else {
                trace.pause();
            }
        }
    }

    /// Collects coverage in the middle of a long operation, if there is much.
    pub(super) fn relieve(&self) {
        if self.trace.as_ref().is_some_and(Trace::is_half_full) {
            self.collect();
            self.relieved.set(true);
        }
    }
}

/// In words: what an operation returned, and what it had to.
pub fn returned(got: i32, wanted: i32) -> String {
    let name = |errno: i32| {
        if errno == 0 {
            "success".to_owned()
        } else {
            nix::errno::Errno::from_raw(errno).to_string()
        }
    };
    format!("returned {} instead of {}", name(got), name(wanted))
}

/// A violation of a step, with its title.
pub fn violation(
    index: usize,
    step: &Step,
    oracle: Oracle,
    what: impl AsRef<str>,
    detail: String,
) -> Box<Violation> {
    let name = name_of(&step.op);
    let title = format!("{} after {name}", what.as_ref());
    let detail = format!("step {index}: {}\n{detail}", text::step(step));
    Box::new(Violation {
        oracle,
        step: Some(index),
        title,
        detail,
    })
}

/// What an operation is called in titles.
pub fn name_of(op: &Op) -> String {
    match op {
        Op::Device { what, .. } => format!("device {}", what.name()),
        Op::Madvise { advice, .. } => format!("madvise {}", advice.name()),
        Op::System { pulse } => format!("system {}", pulse.name()),
        Op::Mremap { how, .. } => format!("mremap {}", how.name()),
        op => op.name().to_owned(),
    }
}
