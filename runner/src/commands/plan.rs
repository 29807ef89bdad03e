// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe plan`: many runs as plain data, for whatever scheduler there is.
//! A cell is one command; its index decides its output folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use serde::{Deserialize, Serialize};

use super::matrix;
use crate::cli::{Cli, Command, PlanAction, PlanCommand, Profile};
use crate::exit::{Exit, Failure, OrExit, Outcome};
use crate::programs::{self, Layout};
use crate::report::{self, Column, Matrix};

/// The contents of `plan.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PlanFile {
    cells: Vec<Cell>,
}

/// One run.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cell {
    /// Names the column of the matrix: kernel and profile.
    kernel: String,
    /// The target.
    target: String,
    /// Arguments of `hugeprobe run`, without `--output`.
    arguments: Vec<String>,
}

/// Writes a plan, runs one of its cells or merges the results.
pub fn run(command: &PlanCommand) -> Outcome {
    match &command.action {
        PlanAction::Write {
            kver,
            kdir,
            profile,
            targets,
            output,
        } => {
            let programs = programs::find(&Layout::detect()?)?;
            let selected =
                programs::select(&programs.targets, targets, None).or_exit(Exit::Usage)?;
            let targets: Vec<&str> = selected
                .iter()
                .map(|chosen| chosen.target.name.as_str())
                .collect();
            let plan = PlanFile {
                cells: cells(kver, kdir, profile, &targets),
            };
            fs_err::write(output, serde_json::to_vec_pretty(&plan)?)?;
            println!(
                "{} cells: 0..{}",
                plan.cells.len(),
                plan.cells.len().saturating_sub(1)
            );
            Ok(Exit::Passed)
        }
        PlanAction::Cell {
            plan,
            index,
            output,
        } => run_cell(&read(plan)?, *index, output),
        PlanAction::Merge { plan, output } => merge(&read(plan)?, output),
    }
}

/// Kernels x profiles x targets; the newest kernel if none is given.
fn cells(kver: &[String], kdir: &[PathBuf], profiles: &[Profile], targets: &[&str]) -> Vec<Cell> {
    let versions = kver.iter().map(|version| ("--kver", version.clone()));
    let trees = kdir.iter().map(|dir| ("--kdir", dir.display().to_string()));
    let mut kernels: Vec<(String, Vec<String>)> = versions
        .chain(trees)
        .map(|(flag, value)| (value.clone(), vec![flag.to_owned(), value]))
        .collect();
    if kernels.is_empty() {
        kernels.push(("newest".into(), Vec::new()));
    }
    let mut cells = Vec::new();
    for (kernel, arguments) in &kernels {
        for profile in profiles {
            for target in targets {
                let own = ["--profile", profile.name(), target].map(str::to_owned);
                cells.push(Cell {
                    kernel: format!("{kernel} {}", profile.name()),
                    target: (*target).to_owned(),
                    arguments: [arguments.as_slice(), &own].concat(),
                });
            }
        }
    }
    cells
}

fn read(path: &Path) -> Result<PlanFile, Failure> {
    let text = fs_err::read_to_string(path).or_exit(Exit::Usage)?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is no plan", path.display()))
        .or_exit(Exit::Usage)
}

fn folder(output: &Path, index: usize) -> PathBuf {
    output.join(index.to_string())
}

fn run_cell(plan: &PlanFile, index: usize, output: &Path) -> Outcome {
    let cell = plan.cells.get(index).ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            format!("no cell {index}; the plan has {}", plan.cells.len()),
        )
    })?;
    let folder = folder(output, index).into_os_string();
    let words = ["hugeprobe", "run", "--output"]
        .map(Into::into)
        .into_iter()
        .chain([folder]);
    let cli = Cli::try_parse_from(words.chain(cell.arguments.iter().map(Into::into)))
        .or_exit(Exit::Usage)?;
    match cli.command {
        Command::Run(args) => super::run::run(&args),
        _ => Err(Failure::new(Exit::Usage, format!("cell {index} is no run"))),
    }
}

/// One column for each kernel, from the folders that are there.
fn merge(plan: &PlanFile, output: &Path) -> Outcome {
    let mut worst = Exit::Passed;
    let mut seen = BTreeSet::new();
    let mut columns: Vec<Column> = Vec::new();
    for (index, cell) in plan.cells.iter().enumerate() {
        if seen.insert(&cell.kernel) {
            columns.push(Column {
                label: cell.kernel.clone(),
                ..Column::default()
            });
        }
        let column = columns
            .iter_mut()
            .find(|column| column.label == cell.kernel);
        let column = column.expect("each kernel has its column");
        match report::write_all(&folder(output, index)) {
            Ok(report) => {
                worst = worst.worse(report.exit());
                column.release.clone_from(&report.release);
                column.add(&report);
            }
            Err(error) => {
                eprintln!(
                    "hugeprobe: cell {index} ({} {}): {error}",
                    cell.kernel, cell.target
                );
                worst = worst.worse(Exit::Infrastructure);
            }
        }
    }
    matrix::finish(&Matrix { columns }, output)?;
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_a_run_that_the_command_line_takes() {
        let kver = ["6.12".to_owned(), "7.3".to_owned()];
        let profiles = [Profile::Selftest, Profile::Kasan];
        let cells = cells(
            &kver,
            &["/src/linux".into()],
            &profiles,
            &["hmm", "pmd_split"],
        );
        assert_eq!(cells.len(), 3 * 2 * 2);
        for cell in &cells {
            let words = ["hugeprobe", "run"].into_iter().map(str::to_owned);
            let cli = Cli::try_parse_from(words.chain(cell.arguments.clone())).unwrap();
            let Command::Run(args) = cli.command else {
                panic!("{cell:?} is no run")
            };
            assert_eq!(args.select.targets, std::slice::from_ref(&cell.target));
        }
    }
}
