// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe run`, the main job; `hugeprobe bisect` differs in its exit code.

use super::kernel::requests;
use super::matrix;
use crate::cli::RunArgs;
use crate::exit::{Exit, OrExit, Outcome};
use crate::programs::{self, Layout};
use crate::report;
use crate::run::{self, Chosen, Results};

/// Builds the kernel, boots it, runs the tests, reports; several kernels one
/// after another.
pub fn run(args: &RunArgs) -> Outcome {
    let layout = Layout::detect()?;
    let programs = programs::find(&layout)?;
    let chosen = Chosen::of(&layout, &programs, &args.select)?;
    let results = Results::create(args.output.as_deref()).or_exit(Exit::Usage)?;
    let requests = requests(&args.kernel);
    let [request] = requests.as_slice() else {
        return matrix::run(args, &requests, &chosen, &results);
    };
    let finished = run::run(args, request, &chosen, &results)?;
    eprint!("{}", report::summary(&finished.report, &finished.dir));
    Ok(finished.report.exit())
}
