// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe cov`: what the fuzzers' programs and the selftests reach of the
//! kernel's memory management.

use std::path::PathBuf;

use crate::cli::{CovArgs, KernelArgs, Profile};
use crate::cov::pcs::Pcs;
use crate::cov::report::{self, Counted};
use crate::cov::{Coverage, Map};
use crate::exit::{Exit, Failure, OrExit, Outcome};
use crate::kernel::cache::Cache;
use crate::kernel::progress::Ui;
use crate::kernel::{self, KernelError, Request};
use crate::run::cover;

/// Runs what the arguments name, and reports.
pub fn run(args: &CovArgs) -> Outcome {
    let tests = args.selftests || !args.select.targets.is_empty() || args.select.tests.is_some();
    if !tests && args.corpus.is_empty() && args.pcs.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "name what to count: --corpus DIR, --selftests, a target, or --pcs FILE",
        ));
    }
    let old = args.compare.as_deref().map(report::read).transpose();
    let old = old.map_err(|error| Failure {
        exit: Exit::Usage,
        error,
    })?;
    let request = request(args)?;
    let ui = Ui::stderr(false);
    let cache = Cache::open().map_err(KernelError::into_failure)?;
    let kernel = kernel::prepare(&cache, &request, &ui).map_err(KernelError::into_failure)?;
    let Some(vmlinux) = kernel.vmlinux.clone() else {
        return Err(Failure::new(
            Exit::Usage,
            "the kernel has no vmlinux beside it, which knows its lines",
        ));
    };
    let folder = args
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from("results/cov"));
    fs_err::create_dir_all(&folder)?;
    let folder = fs_err::canonicalize(folder)?;
    // First of all: a kernel that cannot tell is not run for an hour.
    let map = Map::of(&vmlinux).or_exit(Exit::Usage)?;

    let mut pcs = Pcs::default();
    let mut ran = Vec::new();
    for file in &args.pcs {
        pcs.read(file).or_exit(Exit::Usage)?;
        ran.push((
            "addresses of".into(),
            file.display().to_string(),
            Exit::Passed,
        ));
    }
    for corpus in &args.corpus {
        ran.push(cover::corpus(args, corpus, &folder, &mut pcs)?);
    }
    if tests {
        ran.push(cover::selftests(args, &request, &folder, &mut pcs)?);
    }
    let exit = ran.iter().fold(Exit::Passed, |exit, ran| exit.worse(ran.2));
    let counted = Counted {
        kernel: format!("{} ({})", kernel.release, kernel.identity.source),
        facts: ran
            .into_iter()
            .map(|(name, told, _)| (name, told))
            .collect(),
        coverage: Coverage::of(&map, &pcs.reached),
    };
    print!(
        "{}",
        report::write(&folder, &counted, &pcs, &kernel, old.as_ref())?
    );
    Ok(exit)
}

/// The one kernel, with KCOV unless the user asks for another profile.
fn request(args: &CovArgs) -> Result<Request, Failure> {
    let profile = match args.kernel.profile {
        Profile::Selftest => Profile::Kcov,
        other => other,
    };
    let wanted = KernelArgs {
        profile,
        ..args.kernel.clone()
    };
    let mut requests = super::kernel::requests(&wanted);
    if requests.len() > 1 {
        return Err(Failure::new(
            Exit::Usage,
            "coverage is of one kernel; give one version",
        ));
    }
    Ok(requests.remove(0))
}
