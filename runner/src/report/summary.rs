// SPDX-License-Identifier: GPL-2.0-only
//! The closing words of a run, for a person at a terminal.

use std::fmt::Write;
use std::path::Path;

use hugeprobe_vm::event::Fate;

use super::model::{Outcome, Report};
use super::{meaning, repeat};

/// Counts, each failure with its reason and the command to repeat it, and
/// where the report is. Each line is ended.
pub fn summary(report: &Report, dir: &Path) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let mut line = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    for test in report.tests.iter().filter(|test| test.outcome.is_failure()) {
        let words = test.outcome.words();
        line(format!(
            "{}.{}: {words}: {}",
            test.id.target,
            test.id.name,
            one_line(&test.reason)
        ));
        if let Some(meaning) = meaning::of(&test.id) {
            line(format!("  checks: {meaning}"));
        }
        line(format!(
            "  again: {}",
            repeat::command(report.run.as_ref(), &test.id)
        ));
    }
    for splat in &report.stray {
        line(format!("outside any test: {}", splat.title));
    }
    for (machine, fate) in report.unexplained() {
        line(format!(
            "virtual machine {}: {}",
            machine.number,
            describe(fate)
        ));
    }
    if report.count(Outcome::Skip) > 0 {
        line(format!("skipped: {}", skips(report)));
    }
    line(report.tally());
    line(format!("report: {}", dir.join("report.html").display()));
    text
}

/// The reasons for skips, each with how often it occurs, most frequent first.
fn skips(report: &Report) -> String {
    let mut reasons: Vec<(&str, usize)> = Vec::new();
    for test in report
        .tests
        .iter()
        .filter(|test| test.outcome == Outcome::Skip)
    {
        match reasons
            .iter_mut()
            .find(|(reason, _)| *reason == test.reason)
        {
            Some((_, count)) => *count += 1,
            None => reasons.push((&test.reason, 1)),
        }
    }
    reasons.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let words = reasons
        .iter()
        .map(|(reason, count)| format!("{count} x {reason}"));
    words.collect::<Vec<_>>().join("; ")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// How a machine ended, in words.
fn describe(fate: &Fate) -> String {
    match fate {
        Fate::Clean => "ended well".into(),
        Fate::Panic { title } => format!("kernel panic: {title}"),
        Fate::Hang { detail } => format!("hung: {detail}"),
        Fate::Lost { detail } => format!("lost: {detail}"),
        Fate::Replaced { detail } => format!("replaced: {detail}"),
        Fate::TimedOut => "the time limit of the run was reached".into(),
        Fate::Infrastructure { detail } => detail.clone(),
        Fate::Interrupted => "interrupted".into(),
    }
}
