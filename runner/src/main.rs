// SPDX-License-Identifier: GPL-2.0-only
//! The `hugeprobe` command: parse, dispatch, turn errors into exit codes.

mod bench;
mod cli;
mod commands;
mod cov;
mod exit;
mod fuzz;
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
    let bisecting = matches!(cli.command, Command::Bisect(_));
    let exit = dispatch(cli.command).unwrap_or_else(|Failure { exit, error }| {
        eprintln!("hugeprobe: {error:#}");
        exit
    });
    if bisecting {
        ExitCode::from(exit.bisect_code())
    } else {
        exit.into()
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
        Command::Run(args) | Command::Bisect(args) => commands::run::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Cov(args) => commands::cov::run(&args),
        Command::Fuzz(args) => commands::fuzz::run(&args),
        Command::Repro(args) => commands::fuzz::repro(&args),
        Command::Report(args) => commands::report::run(&args),
        Command::Completions { shell } => commands::completions::run(shell),
        Command::Man => commands::man::run(),
        Command::Plan(command) => commands::plan::run(&command),
        Command::Install(args) => commands::install::run(&args),
        Command::Here { target } => commands::here::run(&target),
        Command::SelfTest => commands::self_test::run(),
        Command::Docs { check } => commands::docs::run(check),
    }
}
