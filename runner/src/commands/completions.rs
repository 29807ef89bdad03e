// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe completions SHELL`.

use std::io;

use clap::CommandFactory;

use crate::cli::Cli;
use crate::exit::{Exit, Outcome};

/// Prints the completion script of `shell`.
pub fn run(shell: clap_complete::Shell) -> Outcome {
    clap_complete::generate(shell, &mut Cli::command(), "hugeprobe", &mut io::stdout());
    Ok(Exit::Passed)
}
