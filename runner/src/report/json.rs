// SPDX-License-Identifier: GPL-2.0-only
//! `results.json`: the whole report as one object, for programs.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::model::{Outcome, Report};

#[derive(Serialize)]
struct Document<'a> {
    exit_code: u8,
    counts: BTreeMap<Outcome, usize>,
    #[serde(flatten)]
    report: &'a Report,
}

/// Writes `report` as JSON.
pub fn write(report: &Report, mut out: impl Write) -> io::Result<()> {
    let counts = Outcome::ALL
        .iter()
        .map(|&outcome| (outcome, report.count(outcome)))
        .collect();
    let document = Document {
        exit_code: report.exit().code(),
        counts,
        report,
    };
    serde_json::to_writer_pretty(&mut out, &document)?;
    writeln!(out)
}
