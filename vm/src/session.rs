// SPDX-License-Identifier: GPL-2.0-only
//! Runs a plan in as many machines as it takes: exactly one verdict for each
//! planned test, whatever happens to the machines.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::event::{Event, Fate, Splat, Stamped, TestId, Verdict};
use crate::guest::known_bug;
use crate::machine::{Machine, MachineConfig, Next, StartError};
use crate::plan::{Job, Plan, PlannedTest};

/// How a run is to be done.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// What to boot.
    pub machine: MachineConfig,
    /// Where plans and logs go; see [`Machine::start`].
    pub folder: PathBuf,
    /// Time limit of the whole run.
    pub limit: Option<Duration>,
    /// Whether the run is over with the first failure; the tests that have not
    /// begun by then are skipped.
    pub fail_fast: bool,
    /// How many tests may crash the kernel or not end before the run is over:
    /// each costs a boot or its whole time limit, and says little that is new.
    pub patience: Option<u32>,
    /// Set by a signal handler when the user interrupts; the run then ends
    /// within a fraction of a second.
    pub interrupted: Arc<AtomicBool>,
}

/// What remains to be said after the events of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How the last machine ended.
    pub fate: Fate,
    /// Exit code of the command of a [`Job::Exec`], if it ended.
    pub command: Option<i32>,
    /// How many machines were started.
    pub machines: u32,
}

/// Machines in a row that may end without giving a verdict.
const FRUITLESS: u32 = 2;

/// Runs `plan` and passes all events, from [`Event::RunBegins`] to
/// [`Event::RunEnds`], to `sink`. Heartbeats are not passed on.
///
/// Must be called on a thread that lives as long as the run.
///
/// # Errors
/// When not even the first machine can be started; `sink` has then seen a
/// complete run in which every test was skipped.
pub fn run(
    plan: &Plan,
    config: &SessionConfig,
    sink: impl FnMut(Stamped),
) -> Result<Summary, StartError> {
    let tests = match &plan.job {
        Job::Tests(tests) => tests.clone(),
        _ => Vec::new(),
    };
    let mut session = Session {
        plan,
        config,
        sink,
        began: Instant::now(),
        pending: tests,
        running: None,
        known_bug: None,
        command: None,
        machines: 0,
        progress: false,
        lost: 0,
        over: None,
    };
    session.run()
}

struct Session<'a, S> {
    plan: &'a Plan,
    config: &'a SessionConfig,
    sink: S,
    began: Instant,
    pending: Vec<PlannedTest>,
    running: Option<(TestId, Instant)>,
    /// The known bug that the running test says it is about to run into.
    known_bug: Option<String>,
    command: Option<i32>,
    machines: u32,
    /// Whether the present machine has given a verdict.
    progress: bool,
    /// Tests that crashed the kernel or did not end.
    lost: u32,
    /// Why the run ends before its time, when it must.
    over: Option<String>,
}

impl<S: FnMut(Stamped)> Session<'_, S> {
    fn run(&mut self) -> Result<Summary, StartError> {
        let tests = self.pending.iter().map(|test| test.id.clone()).collect();
        self.emit(Event::RunBegins {
            version: env!("CARGO_PKG_VERSION").into(),
            tests,
        });
        let result = self.run_machines();
        let (fate, why) = match &result {
            Ok(fate) => (fate.clone(), self.why_not_run(fate)),
            Err(error) => {
                let detail = describe(error);
                let why = format!("not run: {detail}");
                (Fate::Infrastructure { detail }, why)
            }
        };
        for test in std::mem::take(&mut self.pending) {
            self.emit(Event::TestEnds {
                test: test.id,
                verdict: Verdict::Skip,
                reason: why.clone(),
                duration_ms: 0,
                splats: Vec::new(),
            });
        }
        self.emit(Event::RunEnds {
            interrupted: fate == Fate::Interrupted,
        });
        result.map(|_| Summary {
            fate,
            command: self.command,
            machines: self.machines,
        })
    }

    /// Boots machines until nothing is left to do or it makes no sense to go
    /// on; returns the fate of the last one.
    fn run_machines(&mut self) -> Result<Fate, StartError> {
        let mut fruitless = 0;
        loop {
            self.progress = false;
            let fate = self.run_machine()?;
            fruitless = if self.progress { 0 } else { fruitless + 1 };
            let over = self.over.is_some() || matches!(fate, Fate::TimedOut | Fate::Interrupted);
            let no_boot = matches!(fate, Fate::Infrastructure { .. });
            if over || no_boot || self.pending.is_empty() || fruitless >= FRUITLESS {
                return Ok(fate);
            }
        }
    }

    /// Boots one machine for what is pending and follows it to its end.
    fn run_machine(&mut self) -> Result<Fate, StartError> {
        let plan = Plan {
            setup: self.plan.setup.clone(),
            job: match &self.plan.job {
                Job::Tests(_) => Job::Tests(self.pending.clone()),
                job => job.clone(),
            },
        };
        self.machines += 1;
        let number = self.machines;
        let config = &self.config.machine;
        self.emit(Event::VmBoots {
            number,
            accel: config.accel.name().into(),
        });
        let mut splats = Vec::new();
        let fate = match Machine::start(config, &plan, &self.config.folder, number) {
            Ok(mut machine) => {
                let fate = self.follow(&mut machine);
                machine.kill();
                splats = machine.console_splats();
                Ok(fate)
            }
            Err(error) => Err(error),
        };
        let told = fate.as_ref().map_or_else(
            |error| Fate::Infrastructure {
                detail: describe(error),
            },
            Fate::clone,
        );
        self.end_running(&told, splats);
        self.emit(Event::VmEnds { number, fate: told });
        fate
    }

    /// Passes on the events of `machine` until it has ended or must end.
    fn follow(&mut self, machine: &mut Machine) -> Fate {
        loop {
            if self.config.interrupted.load(Ordering::Relaxed) {
                return Fate::Interrupted;
            }
            if self.config.limit.is_some_and(|l| self.began.elapsed() > l) {
                return Fate::TimedOut;
            }
            match machine.next(Duration::from_millis(100)) {
                Next::Nothing | Next::Event(Event::Heartbeat) => {}
                Next::Ended(fate) => return fate,
                Next::Event(event) => {
                    if let Some(fate) = self.take(event) {
                        return fate;
                    }
                }
            }
        }
    }

    /// Keeps the books and passes `event` on; the fate of the machine if the
    /// event says that it has done what it can do.
    fn take(&mut self, event: Event) -> Option<Fate> {
        let fate = match &event {
            Event::TestBegins { test } => {
                self.running = Some((test.clone(), Instant::now()));
                self.known_bug = None;
                None
            }
            Event::TestOutput { line, .. } => {
                if let Some(bug) = known_bug(line) {
                    self.known_bug = Some(bug.to_owned());
                }
                None
            }
            Event::TestEnds { test, verdict, .. } => {
                self.finished(test, *verdict);
                // Nothing is wrong with the machine: it has done what it shall.
                self.over.is_some().then_some(Fate::Clean)
            }
            Event::CommandEnds { code } => {
                self.command = Some(*code);
                self.progress = true;
                None
            }
            Event::GuestDone => Some(Fate::Clean),
            Event::NeedsNewMachine { reason } => Some(Fate::Replaced {
                detail: reason.clone(),
            }),
            Event::GuestFails { reason } => Some(Fate::Infrastructure {
                detail: reason.clone(),
            }),
            _ => None,
        };
        self.emit(event);
        fate
    }

    fn finished(&mut self, test: &TestId, verdict: Verdict) {
        self.progress = true;
        self.running = None;
        self.pending.retain(|pending| pending.id != *test);
        self.lost += u32::from(matches!(verdict, Verdict::Crashed | Verdict::Timeout));
        if self.config.fail_fast && verdict.is_failure() {
            self.over = Some(format!("{}.{} failed first", test.target, test.name));
        } else if self.config.patience.is_some_and(|limit| self.lost >= limit) {
            self.over = Some(format!(
                "{} tests before it crashed the kernel or did not end",
                self.lost
            ));
        }
    }

    /// Why the tests that never began did not.
    fn why_not_run(&self, fate: &Fate) -> String {
        match &self.over {
            Some(why) => format!("not run: {why}"),
            None => not_run(fate),
        }
    }

    /// Gives the test that ran when its machine ended its verdict.
    fn end_running(&mut self, fate: &Fate, splats: Vec<Splat>) {
        let Some((test, began)) = self.running.take() else {
            return;
        };
        let (verdict, reason) = match fate {
            Fate::Panic { title } => (Verdict::Crashed, title.clone()),
            Fate::Hang { detail } => (Verdict::Crashed, format!("the guest hung: {detail}")),
            Fate::Lost { detail } => (Verdict::Crashed, format!("the machine was lost: {detail}")),
            Fate::TimedOut => (
                Verdict::Timeout,
                "the time limit of the run was reached".into(),
            ),
            Fate::Interrupted => (Verdict::Skip, "interrupted".into()),
            Fate::Clean | Fate::Replaced { .. } | Fate::Infrastructure { .. } => {
                (Verdict::Crashed, "the guest ended without a verdict".into())
            }
        };
        let (verdict, reason) = match self.known_bug.take() {
            Some(bug) if verdict.is_failure() => (Verdict::Xfail, format!("{bug}: {reason}")),
            _ => (verdict, reason),
        };
        self.finished(&test, verdict);
        self.emit(Event::TestEnds {
            test,
            verdict,
            reason,
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            splats,
        });
    }

    fn emit(&mut self, event: Event) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        (self.sink)(Stamped { ms, event });
    }
}

/// Why the tests that never began did not, by the fate of the last machine.
fn not_run(fate: &Fate) -> String {
    match fate {
        Fate::Interrupted => "not run: interrupted".into(),
        Fate::TimedOut => "not run: the time limit of the run was reached".into(),
        // The console's last lines are in the fate; a reason is one line.
        Fate::Infrastructure { detail } => {
            format!("not run: {}", detail.lines().next().unwrap_or_default())
        }
        _ => format!("not run: {FRUITLESS} machines in a row ended without a verdict"),
    }
}

/// An error with its causes, on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
