// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe list`: the tests, one `target.name` per line.

use std::io::{self, Write};

use crate::cli::ListArgs;
use crate::exit::{Exit, OrExit, Outcome};
use crate::programs::{self, Layout};

/// Prints the chosen tests.
pub fn run(args: &ListArgs) -> Outcome {
    let programs = programs::find(&Layout::detect()?)?;
    let selected = programs::select(
        &programs.targets,
        &args.select.targets,
        args.select.tests.as_deref(),
    )
    .or_exit(Exit::Usage)?;
    let names: Vec<String> = selected
        .iter()
        .flat_map(|chosen| {
            chosen
                .tests
                .iter()
                .map(|test| format!("{}.{}", chosen.target.name, test.name))
        })
        .collect();
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &names)?;
        writeln!(out)?;
    } else {
        for name in names {
            writeln!(out, "{name}")?;
        }
    }
    Ok(Exit::Passed)
}
