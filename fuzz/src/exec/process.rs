// SPDX-License-Identifier: GPL-2.0-only
//! One process of a program: waits for its turn, works, checks, passes on.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

use super::board::{Board, Duty, STOP};
use super::check;
use super::hold::{self, Pin};
use super::mirror::Mirrors;
use super::phases::Phase;
use super::rally::Rally;
use super::sys;
use super::track::Tracker;
use super::violation::{Oracle, Violation};
use crate::kcov::{Kcov, Trace};
use crate::model::{Facts, Model};
use crate::program::{Advice, Clear, Op, PAGES, Proc, Pulse, Step, Track};
use crate::text;

/// What every process of a program has.
pub struct Setup {
    /// The shared state.
    pub board: Board,
    /// The stamped file.
    pub file: i32,
    /// The shared state of racing blocks.
    pub rally: Rally,
    /// One for each process, if the kernel has KCOV.
    pub kcov: Vec<Kcov>,
    /// One for each thread of a racing block, if the kernel has KCOV.
    pub lane_kcov: Vec<Kcov>,
    /// Nobody else uses the machine, so its counters are ours.
    pub alone: bool,
    /// What the kernel can tell.
    pub features: check::Features,
}

/// A process of a program.
pub struct Process<'a> {
    pub(super) setup: &'a Setup,
    pub(super) me: usize,
    pub(super) pagemap: Option<std::fs::File>,
    pub(super) tracker: Option<Tracker>,
    pub(super) mirrors: Mirrors,
    pub(super) pin: Option<Pin>,
    trace: Option<Trace>,
    /// Coverage was collected in the middle of the step.
    pub(super) relieved: Cell<bool>,
    /// Which allocation of the next operation fails.
    pub(super) inject: Option<u8>,
    /// The areas after a racing block, where one thread alone changed them.
    pub(super) areas: Option<Box<Model>>,
}

/// Facts by asking the kernel.
#[derive(Default)]
struct Asked {
    locked: std::cell::OnceCell<Vec<bool>>,
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
            inject: None,
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
    fn attach(&mut self) {
        if self.board().is_bare() {
            return;
        }
        let kcov = self.setup.kcov.get(self.me);
        self.trace = kcov.and_then(|kcov| kcov.trace().ok());
    }

    fn turns(&mut self) {
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
        self.relieved.set(false);
        if let Some(trace) = &self.trace {
            trace.reset();
        }
        let armed = if Model::injectable(&step.op) {
            self.arm()
        } else {
            None
        };
        self.inject = None;
        let result = self.perform(step);
        hold::disarm(armed);
        let traced = self.trace.as_ref().map_or(0, Trace::length);
        self.board().spent(Phase::Call, &mut clock);
        let result = result.map_err(broken)?;
        let stats = self.board().stats();
        stats.calls += 1;
        stats.succeeded += u64::from(result == 0);
        self.board().set_result(index, result);
        if let Op::Exit {} = step.op {
            let _ = self.board().model().apply(step, 0, &Asked::default());
            self.leave();
        }
        let touched = self
            .board()
            .model()
            .apply(step, result, &Asked::default())
            .map_err(|unexpected| {
                let what = returned(unexpected.got, unexpected.wanted);
                violation(index, step, Oracle::Errno, &what, String::new())
            })?;
        self.board().spent(Phase::Model, &mut clock);
        if result == 0 {
            self.huge_after(&huge).map_err(broken)?;
        }
        self.board().spent(Phase::Huge, &mut clock);
        if let Some(trace) = &self.trace {
            trace.cut(traced);
        }
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

    /// Collects coverage in the middle of a long operation, if there is much.
    pub(super) fn relieve(&self) {
        if self.trace.as_ref().is_some_and(Trace::is_half_full) {
            self.collect();
            self.relieved.set(true);
        }
    }

    /// Carries out a step: 0 or an errno; or a load or store went wrong.
    pub(super) fn perform(&mut self, step: &Step) -> Result<i32, check::Broken> {
        Ok(match step.op {
            Op::Mmap {
                at,
                len,
                prot,
                backing,
            } => sys::mmap(at, len, prot, backing, self.setup.file),
            Op::Munmap { at, len } => sys::munmap(at, len),
            Op::Mprotect { at, len, prot } => sys::mprotect(at, len, prot),
            Op::Mremap {
                at,
                len,
                to,
                new,
                how,
            } => sys::mremap(at, len, to, new, how),
            Op::Madvise { at, len, advice } => {
                let result = sys::madvise(at, len, advice);
                return Ok(if advice == Advice::Collapse && result == libc::EFAULT {
                    libc::EINVAL
                } else {
                    result
                });
            }
            Op::Mlock { at, len } => sys::mlock(at, len, false),
            Op::MlockOnfault { at, len } => sys::mlock(at, len, true),
            Op::Munlock { at, len } => sys::munlock(at, len),
            Op::Read { at, len } => self.load_range(at, len)?,
            Op::Write { at, len } => self.store_range(at, len)?,
            Op::Fork { child } => self.fork(child),
            Op::Exit {} => 0,
            Op::ClearRefs { what } => write_to(
                "/proc/self/clear_refs",
                if what == Clear::SoftDirty { "4" } else { "1" },
            ),
            Op::Verify {} => self.load_everything().map(|()| 0)?,
            Op::UffdRegister { at, len, track } => {
                self.track(track, |tracker| tracker.register(at, len))
            }
            Op::UffdUnregister { at, len } => self.tracked(|tracker| tracker.unregister(at, len)),
            Op::UffdProtect { at, len } => self.tracked(|tracker| tracker.protect(at, len, true)),
            Op::UffdUnprotect { at, len } => {
                self.tracked(|tracker| tracker.protect(at, len, false))
            }
            Op::Device {
                mirror,
                what,
                at,
                len,
            } => self.device(mirror, what, at, len)?,
            Op::Pin { at, len } => self.pin(at, len),
            Op::Unpin {} => self.unpin(),
            Op::Place { at, len, node } => hold::place(at, len, node),
            Op::ScanProtect { at, len } => self.scan_protect(at, len),
            Op::Fail { nth } => {
                self.inject = Some(nth.0);
                0
            }
            Op::System { pulse } => self.pulse(pulse),
            Op::Remote {
                peer,
                at,
                len,
                access,
            } => self.remote(peer, at, len, access)?,
        })
    }

    fn fork(&mut self, child: Proc) -> i32 {
        match sys::fork_sibling() {
            0 => {
                self.me = child.index();
                // all processes share their descriptors, so those of the parent stay open
                std::mem::forget(self.pagemap.take());
                std::mem::forget(self.tracker.take());
                std::mem::forget(self.pin.take());
                self.mirrors.disown();
                self.board().set_pid(self.me, std::process::id() as i32);
                self.attach();
                self.turns();
                sys::exit(0)
            }
            pid if pid > 0 => {
                self.board().set_pid(child.index(), pid);
                0
            }
            error => -error,
        }
    }

    fn track(&mut self, track: Track, f: impl Fn(&Tracker) -> i32) -> i32 {
        if self.tracker.is_none() {
            match Tracker::open(track) {
                Ok(tracker) => self.tracker = Some(tracker),
                Err(errno) => return errno,
            }
        }
        self.tracked(f)
    }

    fn tracked(&self, f: impl Fn(&Tracker) -> i32) -> i32 {
        self.tracker.as_ref().map_or(libc::EINVAL, f)
    }

    fn pulse(&self, pulse: Pulse) -> i32 {
        match pulse {
            Pulse::Compact => write_to("/proc/sys/vm/compact_memory", "1"),
            Pulse::Shrink => write_to("/proc/sys/vm/drop_caches", "2"),
            Pulse::Split => {
                let (start, end) = (sys::address(0), sys::address(PAGES));
                let request = format!("{},{start:#x},{end:#x}", std::process::id());
                write_to("/sys/kernel/debug/split_huge_pages", &request)
            }
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

/// Writes to a file of procfs or debugfs. Returns 0 or an errno.
pub fn write_to(path: &str, text: &str) -> i32 {
    let result = OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    result.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0)
}

/// What an operation is called in titles.
pub fn name_of(op: &Op) -> String {
    match op {
        Op::Device { what, .. } => format!("device {}", what.name()),
        Op::Madvise { advice, .. } => format!("madvise {}", advice.name()),
        Op::Mremap { how, .. } => format!("mremap {}", how.name()),
        op => op.name().to_owned(),
    }
}
