// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe run`: the main job.

use crate::cli::RunArgs;
use crate::exit::{Exit, Failure, OrExit, Outcome};
use crate::programs::Layout;
use crate::report;
use crate::run::{self, Results};

/// Builds the kernel, boots it, runs the tests, reports.
pub fn run(args: &RunArgs) -> Outcome {
    let layout = Layout::detect()?;
    let results = Results::create(args.output.as_deref()).or_exit(Exit::Usage)?;
    let finished = run::run(args, run::origin(&args.kernel), &layout, &results)?;
    eprint!("{}", report::summary(&finished.report, &finished.dir));
    Ok(finished.report.exit())
}

/// As [`run`], with the exit codes that `git bisect run` understands.
pub fn bisect(args: &RunArgs) -> std::process::ExitCode {
    let exit = run(args).unwrap_or_else(|Failure { exit, error }| {
        eprintln!("hugeprobe: {error:#}");
        exit
    });
    exit.bisect_code().into()
}
