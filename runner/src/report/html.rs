// SPDX-License-Identifier: GPL-2.0-only
//! One page for a maintainer: what failed and why, how to see it again, and
//! every verdict. No script, nothing loaded from elsewhere.

use std::collections::HashMap;
use std::io::{self, Write};

use hugeprobe_vm::event::TestId;
use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;

use super::model::{Report, TestReport};
use super::{meaning, repeat};

/// The template; its name ends in `.html`, which makes minijinja escape
/// whatever is put into it.
const TEMPLATE: &str = include_str!("page.html");

/// What the template shows.
#[derive(Serialize)]
struct Page<'a> {
    tally: String,
    kernel: String,
    facts: Vec<(String, String)>,
    failures: Vec<&'a Test<'a>>,
    stray: Vec<String>,
    targets: &'a [Target<'a>],
}

#[derive(Serialize)]
struct Target<'a> {
    name: &'a str,
    tally: String,
    tests: Vec<Test<'a>>,
}

#[derive(Serialize)]
struct Test<'a> {
    name: &'a str,
    full_name: String,
    outcome: super::model::Outcome,
    words: &'static str,
    reason: &'a str,
    failed: bool,
    notes: Vec<&'a str>,
    seconds: String,
    output: String,
    splat: String,
    meaning: Option<&'static str>,
    again: Option<String>,
}

/// Decoded kernel reports, by test.
pub type Decoded = HashMap<TestId, String>;

/// Writes `report` as a page; `decoded` replaces the kernel's raw reports.
pub fn write(report: &Report, decoded: &Decoded, mut out: impl Write) -> io::Result<()> {
    let targets: Vec<Target> = report
        .targets()
        .into_iter()
        .map(|(name, tests)| Target {
            name,
            tally: super::model::tally(&tests),
            tests: tests
                .into_iter()
                .map(|test| row(report, decoded, test))
                .collect(),
        })
        .collect();
    let page = Page {
        tally: report.tally(),
        kernel: format!("kernel {}", report.release),
        facts: facts(report),
        failures: targets
            .iter()
            .flat_map(|target| &target.tests)
            .filter(|test| test.failed)
            .collect(),
        stray: report
            .stray
            .iter()
            .map(|splat| splat.lines.join("\n"))
            .collect(),
        targets: &targets,
    };
    let mut environment = Environment::new();
    environment
        .add_template("page.html", TEMPLATE)
        .map_err(io::Error::other)?;
    let page = environment
        .get_template("page.html")
        .and_then(|template| template.render(Serde(&page)))
        .map_err(io::Error::other)?;
    out.write_all(page.as_bytes())
}

fn row<'a>(report: &Report, decoded: &Decoded, test: &'a TestReport) -> Test<'a> {
    let failed = test.outcome.is_failure();
    let raw = || {
        test.splats
            .iter()
            .flat_map(|splat| splat.lines.clone())
            .collect::<Vec<_>>()
    };
    let output: Vec<&str> = test.output.iter().map(|line| line.line.as_str()).collect();
    Test {
        name: &test.id.name,
        full_name: format!("{}.{}", test.id.target, test.id.name),
        outcome: test.outcome,
        words: test.outcome.words(),
        reason: &test.reason,
        failed,
        notes: notes(test),
        seconds: format!("{:.1}", test.duration_ms as f64 / 1000.0),
        output: output.join("\n"),
        splat: decoded
            .get(&test.id)
            .cloned()
            .unwrap_or_else(|| raw().join("\n")),
        meaning: meaning::of(&test.id),
        again: failed.then(|| repeat::command(report.run.as_ref(), &test.id)),
    }
}

/// What does not apply to this kernel, each once.
fn notes(test: &TestReport) -> Vec<&str> {
    let mut notes: Vec<&str> = test.not_applicable().collect();
    notes.dedup();
    notes
}

/// What the table of the environment shows.
fn facts(report: &Report) -> Vec<(String, String)> {
    let mut facts = vec![(
        "kernel".to_owned(),
        format!("{} {}", report.release, report.build),
    )];
    if let Some(run) = &report.run {
        facts.extend(run.kernel.iter().cloned());
    }
    let accel = report
        .machines
        .last()
        .map_or("none", |machine| machine.accel.as_str());
    facts.push((
        "machines".into(),
        format!("{} ({accel})", report.machines.len()),
    ));
    facts.push((
        "time".into(),
        format!("{:.1} s", report.duration_ms as f64 / 1000.0),
    ));
    facts.push(("hugeprobe".into(), report.version.clone()));
    facts
}
