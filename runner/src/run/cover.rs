// SPDX-License-Identifier: GPL-2.0-only
//! Collects what programs and tests reach in the kernel, for `hugeprobe cov`.

use std::path::{Path, PathBuf};

use crate::cli::{CovArgs, RunArgs};
use crate::cov::pcs::Pcs;
use crate::exit::{Exit, Failure, OrExit};
use crate::fuzz::corpus;
use crate::kernel::Request;
use crate::programs::{self, Layout};
use crate::report::Outcome;
use crate::run::{self, Chosen, Results};

/// Programs that one machine runs.
const BATCH: usize = 1000;

/// What was run, for the report, and how it went.
pub type Ran = (String, String, Exit);

/// Runs the programs of `corpus`, each once; adds what they reach.
///
/// # Errors
/// When machines cannot be started or the folder holds no program.
pub fn corpus(args: &CovArgs, corpus: &Path, folder: &Path, pcs: &mut Pcs) -> Result<Ran, Failure> {
    let fuzz = args.as_fuzz();
    let scratch = folder.join("scratch");
    fs_err::create_dir_all(&scratch)?;
    let mut lab = run::lab(&fuzz, &scratch)?;
    lab.share(folder);
    let members = corpus::members(&lab, corpus)?;
    let programs: Vec<String> = members.into_iter().map(|member| member.text).collect();
    if programs.is_empty() {
        let text = format!("{} holds no program", corpus.display());
        return Err(Failure::new(Exit::NothingRan, text));
    }
    let file = fresh(folder, "programs.pcs")?;
    let (mut from, mut findings, mut overflows) = (0, 0, 0);
    while from < programs.len() {
        let end = programs.len().min(from + BATCH);
        let batch = lab.cover(&programs[from..end], &file)?;
        if lab.is_interrupted() {
            break;
        }
        findings += batch.findings.len();
        overflows += batch.overflows;
        // A machine that died took the rest with it; go on behind its program.
        let died = from + batch.finished() < end;
        from += batch.finished() + usize::from(died);
    }
    pcs.read(&file)?;
    pcs.full += overflows;
    let name = format!("programs of {}", corpus.display());
    let told = format!("{} run, {findings} findings", from.min(programs.len()));
    Ok((name, told, Exit::Passed))
}

/// Runs the selftests that `args` choose; adds what they reach.
///
/// # Errors
/// Those of [`run::run`].
pub fn selftests(
    args: &CovArgs,
    request: &Request,
    folder: &Path,
    pcs: &mut Pcs,
) -> Result<Ran, Failure> {
    let layout = Layout::detect()?;
    let programs = programs::find(&layout)?;
    let output = folder.join("selftests");
    let run_args = RunArgs {
        select: args.select.clone(),
        timeout: None,
        known_bugs: false,
        fail_fast: false,
        patience: 20,
        kernel: args.kernel.clone(),
        guest: args.guest.clone(),
        output: Some(output.clone()),
        verbose: false,
    };
    let results = Results::create(Some(&output)).or_exit(Exit::Usage)?;
    let file = fresh(results.dir(), "tests.pcs")?;
    let chosen = Chosen {
        coverage: Some(file.clone()),
        ..Chosen::of(&layout, &programs, &run_args.select)?
    };
    let finished = run::run(&run_args, request, &chosen, &results)?;
    eprint!(
        "{}",
        crate::report::summary(&finished.report, &finished.dir)
    );
    pcs.read(&file)?;
    let ran = finished.report.tests.iter();
    let skipped = ran.filter(|test| test.outcome == Outcome::Skip).count();
    let told = format!("{}, {skipped} skipped", finished.report.tally());
    Ok(("selftests".into(), told, finished.report.exit()))
}

/// An empty file in a folder that is there, by its full path.
fn fresh(folder: &Path, name: &str) -> Result<PathBuf, Failure> {
    let file = folder.join(name);
    fs_err::write(&file, "")?;
    Ok(fs_err::canonicalize(file)?)
}
