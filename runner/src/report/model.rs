// SPDX-License-Identifier: GPL-2.0-only
//! What a run amounts to, folded from its events: the input of each reporter.

use std::collections::HashMap;

use hugeprobe_vm::event::{Event, Fate, Splat, Stamped, Stream, TestId, Verdict};
use serde::{Deserialize, Serialize};

use crate::exit::Exit;

/// A whole run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Version of hugeprobe that ran it.
    pub version: String,
    /// `uname -r` of the guest; empty if none came up.
    pub release: String,
    /// `uname -v` of the guest; empty if none came up.
    pub build: String,
    /// Each planned test once, in the order of the plan.
    pub tests: Vec<TestReport>,
    /// Kernel reports that fell into no test and are not on the allow-list.
    pub stray: Vec<Splat>,
    /// The virtual machines it took.
    pub machines: Vec<Machine>,
    /// Whether the user interrupted it.
    pub interrupted: bool,
    /// Milliseconds from its first to its last event.
    pub duration_ms: u64,
    /// How it was run, where that is known.
    pub run: Option<RunInfo>,
}

/// How a run was run; kept in `run.json` beside its events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Arguments of `hugeprobe` that choose the same kernel and guest again.
    pub arguments: Vec<String>,
    /// What is known about the kernel, in the order to be shown: name, value.
    pub kernel: Vec<(String, String)>,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TestReport {
    /// Which.
    pub id: TestId,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, for everything but a pass.
    pub reason: String,
    /// Wall time in milliseconds.
    pub duration_ms: u64,
    /// What it wrote, in order.
    pub output: Vec<OutputLine>,
    /// What the kernel logged meanwhile.
    pub kernel: Vec<String>,
    /// The reports of faults among that.
    pub splats: Vec<Splat>,
}

/// A line that a test wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutputLine {
    /// Where to.
    pub stream: Stream,
    /// The line.
    pub line: String,
}

/// How a test ended, if it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It ran and every check held.
    Pass,
    /// A check did not hold, or the kernel reported a fault.
    Fail,
    /// It could not run here.
    Skip,
    /// It failed in a known way.
    Xfail,
    /// It did not end in time.
    Timeout,
    /// The kernel died of it.
    Crashed,
    /// The run ended before its turn.
    NotRun,
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self::Pass,
            Verdict::Fail => Self::Fail,
            Verdict::Skip => Self::Skip,
            Verdict::Xfail => Self::Xfail,
            Verdict::Timeout => Self::Timeout,
            Verdict::Crashed => Self::Crashed,
        }
    }
}

impl Outcome {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 7] = [
        Self::Pass,
        Self::Fail,
        Self::Timeout,
        Self::Crashed,
        Self::Xfail,
        Self::Skip,
        Self::NotRun,
    ];

    /// Whether it is held against the kernel.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Fail | Self::Timeout | Self::Crashed)
    }

    /// In words, for a person.
    pub fn words(self) -> &'static str {
        match self {
            Self::Pass => "passed",
            Self::Fail => "failed",
            Self::Skip => "skipped",
            Self::Xfail => "failed as expected",
            Self::Timeout => "timed out",
            Self::Crashed => "crashed the kernel",
            Self::NotRun => "not run",
        }
    }
}

/// One virtual machine of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Counts from 1.
    pub number: u32,
    /// `kvm` or `tcg`.
    pub accel: String,
    /// How it ended; none if the run was cut off.
    pub fate: Option<Fate>,
    /// Whether a test was given a verdict for its end.
    pub blamed: bool,
}

impl Report {
    /// Folds a recorded run.
    pub fn from_events(events: &[Stamped]) -> Self {
        let mut fold = Fold::default();
        let mut ended = HashMap::new();
        for event in events {
            if let Some(test) = fold.feed(event) {
                ended.insert(test.id.clone(), test);
            }
        }
        fold.finish(ended)
    }

    /// How many tests ended in this way.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.tests
            .iter()
            .filter(|test| test.outcome == outcome)
            .count()
    }

    /// `12 passed, 1 failed, 2 skipped`: every outcome that occurs.
    pub fn tally(&self) -> String {
        tally(&self.tests.iter().collect::<Vec<_>>())
    }

    /// Machines that ended in a way no test was blamed for.
    pub fn unexplained(&self) -> impl Iterator<Item = (&Machine, &Fate)> {
        let ends = self
            .machines
            .iter()
            .filter_map(|machine| Some((machine, machine.fate.as_ref()?)));
        ends.filter(|(machine, fate)| {
            let expected = matches!(
                fate,
                Fate::Clean | Fate::Replaced { .. } | Fate::Interrupted
            );
            !machine.blamed && !expected
        })
    }

    /// The exit code that this run means.
    pub fn exit(&self) -> Exit {
        let kernel_died = self
            .unexplained()
            .any(|(_, fate)| matches!(fate, Fate::Panic { .. } | Fate::Hang { .. }));
        let ran = |outcome| matches!(outcome, Outcome::Pass | Outcome::Xfail);
        if self.interrupted {
            Exit::Interrupted
        } else if self.tests.iter().any(|test| test.outcome.is_failure())
            || !self.stray.is_empty()
            || kernel_died
        {
            Exit::Failed
        } else if self
            .tests
            .iter()
            .any(|test| test.outcome == Outcome::NotRun)
        {
            Exit::Infrastructure
        } else if self.tests.iter().any(|test| ran(test.outcome)) {
            Exit::Passed
        } else {
            Exit::NothingRan
        }
    }

    /// The targets in order, each with its tests.
    pub fn targets(&self) -> Vec<(&str, Vec<&TestReport>)> {
        let mut targets: Vec<(&str, Vec<&TestReport>)> = Vec::new();
        for test in &self.tests {
            match targets.iter_mut().find(|(name, _)| *name == test.id.target) {
                Some((_, tests)) => tests.push(test),
                None => targets.push((&test.id.target, vec![test])),
            }
        }
        targets
    }
}

/// How many of these tests ended how, in words.
pub fn tally(tests: &[&TestReport]) -> String {
    let count = |outcome| tests.iter().filter(|test| test.outcome == outcome).count();
    let counts = Outcome::ALL
        .iter()
        .filter_map(|&outcome| match count(outcome) {
            0 => None,
            count => Some(format!("{count} {}", outcome.words())),
        });
    let tally = counts.collect::<Vec<_>>().join(", ");
    if tally.is_empty() {
        "no tests".into()
    } else {
        tally
    }
}

/// Folds events one at a time; what is live uses it directly.
#[derive(Default)]
pub struct Fold {
    report: Report,
    plan: Vec<TestId>,
    running: Option<TestReport>,
    /// Whether the last event is the verdict on a test that may fail: if the
    /// machine ends with it, the test has ended the machine.
    excused: bool,
}

impl Fold {
    /// The planned tests; empty before [`Event::RunBegins`].
    pub fn plan(&self) -> &[TestId] {
        &self.plan
    }

    /// Takes one event; gives a test when it has its verdict.
    pub fn feed(&mut self, stamped: &Stamped) -> Option<TestReport> {
        self.report.duration_ms = self.report.duration_ms.max(stamped.ms);
        let excused = std::mem::take(&mut self.excused);
        match &stamped.event {
            Event::RunBegins { version, tests } => {
                self.report.version.clone_from(version);
                self.plan.clone_from(tests);
            }
            Event::VmBoots { number, accel } => self.report.machines.push(Machine {
                number: *number,
                accel: accel.clone(),
                fate: None,
                blamed: false,
            }),
            Event::GuestReady { release, version } => {
                self.report.release.clone_from(release);
                self.report.build.clone_from(version);
            }
            Event::TestBegins { test } => self.running = Some(TestReport::not_run(test.clone())),
            Event::TestOutput { stream, line } => {
                if let Some(test) = &mut self.running {
                    test.output.push(OutputLine {
                        stream: *stream,
                        line: line.clone(),
                    });
                }
            }
            Event::KernelLine { line } => {
                if let Some(test) = &mut self.running {
                    test.kernel.push(line.clone());
                }
            }
            Event::TestEnds {
                test,
                verdict,
                reason,
                duration_ms,
                splats,
            } => {
                let running = self.running.take_if(|running| running.id == *test);
                // The host gives a skip without a beginning to tests that no
                // machine reached.
                let reached = running.is_some() || *verdict != Verdict::Skip;
                let mut ended = running.unwrap_or_else(|| TestReport::not_run(test.clone()));
                if reached {
                    ended.outcome = (*verdict).into();
                }
                ended.reason = reason
                    .strip_prefix("not run: ")
                    .unwrap_or(reason)
                    .to_owned();
                ended.duration_ms = *duration_ms;
                ended.splats.clone_from(splats);
                self.excused = *verdict == Verdict::Xfail;
                if let Some(machine) = self.report.machines.last_mut() {
                    machine.blamed |= *verdict == Verdict::Crashed;
                }
                return Some(ended);
            }
            Event::StraySplat { splat } if splat.allowed.is_none() => {
                self.report.stray.push(splat.clone());
            }
            Event::VmEnds { number, fate } => {
                let machines = &mut self.report.machines;
                if let Some(machine) = machines
                    .iter_mut()
                    .find(|machine| machine.number == *number)
                {
                    machine.fate = Some(fate.clone());
                    machine.blamed |= excused;
                }
            }
            Event::RunEnds { interrupted } => self.report.interrupted = *interrupted,
            Event::StraySplat { .. }
            | Event::Heartbeat
            | Event::GuestFails { .. }
            | Event::NeedsNewMachine { .. }
            | Event::GuestWaits
            | Event::GuestDone
            | Event::CommandEnds { .. } => {}
        }
        None
    }

    /// The report; planned tests that are not in `ended` were not run.
    fn finish(mut self, mut ended: HashMap<TestId, TestReport>) -> Report {
        let running = self.running.take();
        let cut_off = |id: &TestId| match &running {
            Some(test) if test.id == *id => TestReport {
                reason: "the run ended while it was running".into(),
                ..test.clone()
            },
            _ => TestReport::not_run(id.clone()),
        };
        self.report.tests = self
            .plan
            .iter()
            .map(|id| ended.remove(id).unwrap_or_else(|| cut_off(id)))
            .collect();
        self.report
    }
}

impl TestReport {
    /// A test that has no verdict yet.
    pub fn not_run(id: TestId) -> Self {
        Self {
            id,
            outcome: Outcome::NotRun,
            reason: "the run ended before it".into(),
            duration_ms: 0,
            output: Vec::new(),
            kernel: Vec::new(),
            splats: Vec::new(),
        }
    }

    /// Parts of the test that did not apply on this kernel, in the test's words.
    pub fn not_applicable(&self) -> impl Iterator<Item = &str> {
        self.output
            .iter()
            .filter_map(|line| line.line.strip_prefix("NOT APPLICABLE: "))
    }
}
