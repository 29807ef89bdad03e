// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe report`: makes the reports of a results folder again.

use anyhow::Context;

use crate::cli::ReportArgs;
use crate::exit::{Exit, OrExit, Outcome};
use crate::report;

/// Writes the reports; exits as the run did.
pub fn run(args: &ReportArgs) -> Outcome {
    let report = report::write_all(&args.dir)
        .with_context(|| format!("{} is no results folder", args.dir.display()))
        .or_exit(Exit::Usage)?;
    print!("{}", report::summary(&report, &args.dir));
    Ok(report.exit())
}
