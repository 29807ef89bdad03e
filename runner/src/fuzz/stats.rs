// SPDX-License-Identifier: GPL-2.0-only
//! Figures of a campaign over time: what the status line shows, `stats.jsonl`
//! keeps and the picture is drawn from. Pure.

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
}

/// Adds up what the processes of a campaign report, each from 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    before: Counts,
    current: Counts,
}

impl Totals {
    /// Takes the latest report of the present process.
    pub fn report(&mut self, counts: Counts) {
        self.current = counts;
    }

    /// The present process has ended; the next one starts from 0.
    pub fn ended(&mut self) {
        self.before = self.sum();
        self.current = Counts::default();
    }

    /// Totals so far. Coverage does not add up: the most that one process saw counts.
    pub fn sum(&self) -> Counts {
        let (a, b) = (self.before, self.current);
        Counts {
            programs: a.programs + b.programs,
            calls: a.calls + b.calls,
            succeeded: a.succeeded + b.succeeded,
            thp_faults: a.thp_faults + b.thp_faults,
            pcs: a.pcs.max(b.pcs),
            overflows: a.overflows + b.overflows,
        }
    }
}

/// One line for people.
pub fn status_line(sample: &Sample, elapsed: Duration) -> String {
    let counts = &sample.counts;
    let rate = |n: u64| n as f64 / elapsed.as_secs_f64().max(1.0);
    let share = (counts.succeeded * 100)
        .checked_div(counts.calls)
        .unwrap_or(0);
    let (minutes, seconds) = (sample.seconds / 60, sample.seconds % 60);
    format!(
        "{minutes}:{seconds:02}  {:.1} programs/s  {:.0} calls/s ({share} % succeed)  {} PCs  corpus {}  findings {}  machines {}",
        rate(counts.programs),
        rate(counts.calls),
        counts.pcs,
        sample.corpus,
        sample.findings,
        sample.machines,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up_over_processes_except_coverage() {
        let mut totals = Totals::default();
        let counts = |programs, pcs| Counts {
            programs,
            pcs,
            ..Counts::default()
        };
        totals.report(counts(5, 900));
        totals.report(counts(9, 1000));
        totals.ended();
        totals.report(counts(2, 950));
        assert_eq!(totals.sum(), counts(11, 1000));
    }

    #[test]
    fn status_line_has_rates_and_no_division_by_zero() {
        let sample = Sample {
            seconds: 75,
            counts: Counts {
                programs: 300,
                calls: 1000,
                succeeded: 700,
                ..Counts::default()
            },
            ..Sample::default()
        };
        let line = status_line(&sample, Duration::from_secs(10));
        assert!(
            line.starts_with("1:15  30.0 programs/s  100 calls/s (70 % succeed)"),
            "{line}"
        );
        assert!(status_line(&Sample::default(), Duration::ZERO).contains("0 PCs"));
    }
}
