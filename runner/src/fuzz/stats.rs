// SPDX-License-Identifier: GPL-2.0-only
//! Figures of a campaign over time: what the status line shows, `stats.jsonl`
//! keeps and the picture is drawn from. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::lines::Counts;

/// The state of a campaign at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the campaign began, those of earlier runs included.
    pub seconds: u64,
    /// Totals over all machines.
    #[serde(flatten)]
    pub counts: Counts,
    /// Files in the corpus.
    pub corpus: u64,
    /// Different findings.
    pub findings: u64,
    /// Machines started.
    pub machines: u64,
    /// Those of them that replaced one which had ended.
    #[serde(default)]
    pub restarts: u64,
}

impl Counts {
    /// Totals of two processes. Coverage does not add up: the most that one
    /// process saw counts.
    pub fn and(self, other: Self) -> Self {
        Self {
            programs: self.programs + other.programs,
            calls: self.calls + other.calls,
            succeeded: self.succeeded + other.succeeded,
            thp_faults: self.thp_faults + other.thp_faults,
            pcs: self.pcs.max(other.pcs),
            overflows: self.overflows + other.overflows,
        }
    }
}

/// Adds up what the processes of a campaign report, each from 0; one at a time
/// for each machine.
#[derive(Clone, Debug)]
pub struct Totals {
    before: Counts,
    current: Vec<Counts>,
}

impl Totals {
    /// Goes on from `before`, with so many machines at a time.
    pub fn new(before: Counts, machines: usize) -> Self {
        Self {
            before,
            current: vec![Counts::default(); machines],
        }
    }

    /// Takes the latest report of the process in a machine.
    pub fn report(&mut self, machine: usize, counts: Counts) {
        self.current[machine] = counts;
    }

    /// The process in a machine has ended; the next one starts from 0.
    pub fn ended(&mut self, machine: usize) {
        let counts = std::mem::take(&mut self.current[machine]);
        self.before = self.before.and(counts);
    }

    /// Totals so far.
    pub fn sum(&self) -> Counts {
        self.current.iter().fold(self.before, |a, &b| a.and(b))
    }
}

/// What happens now, not since the beginning: rates over the last seconds.
#[derive(Clone, Debug, Default)]
pub struct Speed {
    samples: VecDeque<(Duration, Counts)>,
}

impl Speed {
    /// How far back it looks.
    const WINDOW: Duration = Duration::from_secs(10);

    /// Takes the totals at `elapsed` since the start; returns programs and calls
    /// a second.
    pub fn at(&mut self, elapsed: Duration, counts: Counts) -> (f64, f64) {
        self.samples.push_back((elapsed, counts));
        while self.samples.len() > 2 && elapsed - self.samples[1].0 >= Self::WINDOW {
            self.samples.pop_front();
        }
        let (since, then) = self.samples[0];
        let seconds = (elapsed - since).as_secs_f64().max(0.001);
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        (
            rate(counts.programs, then.programs),
            rate(counts.calls, then.calls),
        )
    }
}

/// One line for people, of a campaign in which so many programs and calls are
/// done each second, in `vms` machines at a time.
pub fn status_line(sample: &Sample, (programs, calls): (f64, f64), vms: u32) -> String {
    let counts = &sample.counts;
    let share = (counts.succeeded * 100)
        .checked_div(counts.calls)
        .unwrap_or(0);
    let (minutes, seconds) = (sample.seconds / 60, sample.seconds % 60);
    let machines = if vms > 1 {
        format!("{vms} VMs, ")
    } else {
        String::new()
    };
    format!(
        "{minutes}:{seconds:02}  {programs:.1} programs/s  {calls:.0} calls/s ({share} % succeed)  {} PCs  corpus {}  findings {}  {machines}{} restarts",
        counts.pcs, sample.corpus, sample.findings, sample.restarts,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(programs: u64, pcs: u64) -> Counts {
        Counts {
            programs,
            pcs,
            ..Counts::default()
        }
    }

    #[test]
    fn totals_add_up_over_processes_except_coverage() {
        let mut totals = Totals::new(counts(100, 0), 2);
        totals.report(0, counts(5, 900));
        totals.report(0, counts(9, 1000));
        totals.report(1, counts(3, 10));
        totals.ended(0);
        totals.report(0, counts(2, 950));
        assert_eq!(totals.sum(), counts(114, 1000));
    }

    #[test]
    fn speed_is_that_of_the_last_seconds() {
        let mut speed = Speed::default();
        let at = |s| Duration::from_secs(s);
        assert_eq!(speed.at(at(0), counts(0, 0)).0, 0.0);
        assert_eq!(speed.at(at(5), counts(10, 0)).0, 2.0);
        // A pause, and then faster: what was before the window is forgotten.
        assert_eq!(speed.at(at(60), counts(10, 0)).0, 0.0);
        assert_eq!(speed.at(at(70), counts(110, 0)).0, 10.0);
        // A machine that died has not reported everything.
        assert_eq!(speed.at(at(71), counts(5, 0)).0, 0.0);
    }

    #[test]
    fn status_line_tells_the_state() {
        let sample = Sample {
            seconds: 75,
            counts: Counts {
                calls: 1000,
                succeeded: 700,
                ..counts(300, 8000)
            },
            corpus: 41,
            findings: 2,
            machines: 4,
            restarts: 3,
        };
        assert_eq!(
            status_line(&sample, (30.0, 100.4), 1),
            "1:15  30.0 programs/s  100 calls/s (70 % succeed)  8000 PCs  corpus 41  findings 2  3 restarts"
        );
        assert!(status_line(&sample, (0.0, 0.0), 2).ends_with("2 VMs, 3 restarts"));
        assert!(status_line(&Sample::default(), (0.0, 0.0), 1).contains("(0 % succeed)"));
    }
}
