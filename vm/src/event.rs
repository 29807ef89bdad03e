// SPDX-License-Identifier: GPL-2.0-only
//! The events of a run: the only contract between whoever runs tests and
//! whoever reports on them.
//!
//! Order of one run: [`Event::RunBegins`], then for each virtual machine
//! [`Event::VmBoots`], [`Event::GuestReady`], any number of tests, and
//! [`Event::VmEnds`]; at last [`Event::RunEnds`]. A test is
//! [`Event::TestBegins`], any number of [`Event::TestOutput`] and
//! [`Event::KernelLine`], and exactly one [`Event::TestEnds`]. A test that was
//! running when its machine died gets its [`Event::TestEnds`] from the host.

use serde::{Deserialize, Serialize};

/// An event with the time it was recorded at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stamped {
    /// Milliseconds since the run began, on the clock of the host.
    pub ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Names one test: the test program and the test in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TestId {
    /// The test program, for instance `pmd_split`.
    pub target: String,
    /// The test, for instance `partial_munmap::first_page`.
    pub name: String,
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It ran, every check held and the kernel said nothing.
    Pass,
    /// A check did not hold, or the kernel reported a fault meanwhile.
    Fail,
    /// It could not run here; the reason says what is missing.
    Skip,
    /// It failed in a way that is known and documented.
    Xfail,
    /// It did not end within its time limit.
    Timeout,
    /// The kernel panicked, hung or vanished while it ran.
    Crashed,
}

impl Verdict {
    /// Whether the run as a whole must be called failed because of it.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Fail | Self::Timeout | Self::Crashed)
    }
}

/// Where a line of test output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A fault that the kernel reported: the title and the lines it consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Splat {
    /// Kind and first meaningful frame, for instance
    /// `WARNING in __split_huge_pmd_locked`.
    pub title: String,
    /// The report as the kernel printed it, one line each, time stamps removed.
    pub lines: Vec<String>,
    /// Why it does not count, when the allow-list knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
}

/// How a virtual machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Fate {
    /// The guest ran its plan to the end and powered off.
    Clean,
    /// The kernel panicked.
    Panic {
        /// The title of the report that preceded it.
        title: String,
    },
    /// The guest was alive but made no progress.
    Hang {
        /// What was waited for.
        detail: String,
    },
    /// QEMU ended, or was killed, without the guest having finished.
    Lost {
        /// QEMU's exit status in words.
        detail: String,
    },
    /// The guest asked to be replaced, because what happened in it makes
    /// whatever would run next untrustworthy.
    Replaced {
        /// What happened.
        detail: String,
    },
    /// The time limit of the whole run was reached.
    TimedOut,
    /// The machine never came up, or the host failed.
    Infrastructure {
        /// What went wrong, and the next step.
        detail: String,
    },
    /// The user interrupted the run.
    Interrupted,
}

/// What can happen in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A run begins; `tests` is everything that will get a verdict, in order.
    RunBegins {
        /// Version of hugeprobe.
        version: String,
        /// The planned tests.
        tests: Vec<TestId>,
    },
    /// A virtual machine is started.
    VmBoots {
        /// Counts the machines of this run from 1.
        number: u32,
        /// `kvm` or `tcg`.
        accel: String,
    },
    /// The first process of the guest runs.
    GuestReady {
        /// `uname -r` of the guest.
        release: String,
        /// `uname -v` of the guest.
        version: String,
    },
    /// A test is about to be started.
    TestBegins {
        /// Which.
        test: TestId,
    },
    /// A line that the test wrote; outside any test, a line that the command
    /// of a [`crate::plan::Job::Exec`] wrote.
    TestOutput {
        /// Where to.
        stream: Stream,
        /// The line without its end.
        line: String,
    },
    /// A line of the kernel log.
    KernelLine {
        /// The line, time stamp removed.
        line: String,
    },
    /// A test has its verdict.
    TestEnds {
        /// Which.
        test: TestId,
        /// How.
        verdict: Verdict,
        /// Why, for every verdict but [`Verdict::Pass`]; empty for that.
        reason: String,
        /// Wall time in milliseconds.
        duration_ms: u64,
        /// What the kernel reported meanwhile.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        splats: Vec<Splat>,
    },
    /// A line that the kernel printed outside any test is a fault.
    StraySplat {
        /// The report.
        splat: Splat,
    },
    /// The guest is alive; sent about once a second when nothing else is.
    Heartbeat,
    /// The guest could not prepare itself; it powers off.
    GuestFails {
        /// What failed, and the next step.
        reason: String,
    },
    /// The guest cannot go on reliably and wants the rest of its plan to run
    /// in a new machine.
    NeedsNewMachine {
        /// Why.
        reason: String,
    },
    /// The guest has done what a [`crate::plan::Job::Wait`] asks for, and waits.
    GuestWaits,
    /// The guest has run its plan to the end.
    GuestDone,
    /// A command of a [`crate::plan::Job::Exec`] ended in the guest.
    CommandEnds {
        /// Its exit code, or 128 plus the signal.
        code: i32,
    },
    /// A virtual machine ended.
    VmEnds {
        /// Counts the machines of this run from 1.
        number: u32,
        /// How.
        fate: Fate,
    },
    /// The run ended.
    RunEnds {
        /// Whether the user interrupted it.
        interrupted: bool,
    },
}
