// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe man`.

use std::io;

use clap::CommandFactory;

use crate::cli::Cli;
use crate::exit::{Exit, Outcome};

/// Prints the man page in roff.
pub fn run() -> Outcome {
    clap_mangen::Man::new(Cli::command()).render(&mut io::stdout())?;
    Ok(Exit::Passed)
}
