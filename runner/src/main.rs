// SPDX-License-Identifier: GPL-2.0-only
//! The `hugeprobe` command: parse, dispatch, turn errors into exit codes.

mod cli;
mod commands;
mod exit;
mod kernel;
mod programs;
mod report;
mod run;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::exit::{Exit, Failure, Outcome};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    if let Command::Bisect(args) = &cli.command {
        return commands::bisect::run(args);
    }
    match dispatch(cli.command) {
        Ok(exit) => exit.into(),
        Err(Failure { exit, error }) => {
            eprintln!("hugeprobe: {error:#}");
            exit.into()
        }
    }
}

/// Prints clap's message; `--help` and `--version` are no errors.
fn refuse(error: &clap::Error) -> ExitCode {
    let exit = if error.use_stderr() {
        Exit::Usage
    } else {
        Exit::Passed
    };
    // Nothing can be done when even the message cannot be written.
    let _ = error.print();
    exit.into()
}

fn dispatch(command: Command) -> Outcome {
    match command {
        Command::Doctor => commands::doctor::run(),
        Command::Kernel(command) => commands::kernel::run(&command),
        Command::Boot(args) => commands::boot::run(&args),
        Command::List(args) => commands::list::run(&args),
        Command::Run(args) => commands::run::run(&args),
        Command::Report(args) => commands::report::run(&args),
        Command::Completions { shell } => commands::completions::run(shell),
        Command::Man => commands::man::run(),
        other => Err(Failure::new(
            Exit::Usage,
            format!("{other:?} is not built yet"),
        )),
    }
}
