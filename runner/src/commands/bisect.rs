// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe bisect`: `hugeprobe run` for `git bisect run`.

use std::process::ExitCode;

use crate::cli::RunArgs;
use crate::exit::Failure;

/// Runs; exits with 125 ("skip this commit") when nothing was learnt about it.
pub fn run(args: &RunArgs) -> ExitCode {
    let exit = super::run::run(args).unwrap_or_else(|Failure { exit, error }| {
        eprintln!("hugeprobe: {error:#}");
        exit
    });
    exit.bisect_code().into()
}
