// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe fuzz`: fuzzes a kernel in virtual machines.

use std::io::IsTerminal;
use std::path::PathBuf;

use crate::cli::FuzzArgs;
use crate::cov;
use crate::exit::{Exit, Failure, Outcome};
use crate::fuzz::campaign::{Campaign, Outcome as Fuzzed, Say};
use crate::fuzz::known::{self, KnownBug};
use crate::fuzz::report;
use crate::fuzz::store::Store;
use crate::run;

/// Fuzzes until the time is over, or replays with `--check`.
pub fn run(args: &FuzzArgs) -> Outcome {
    let folder = args
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from("results/fuzz").join(args.target.name()));
    let store = Store::open(&folder).map_err(|error| Failure {
        exit: Exit::Usage,
        error,
    })?;
    let lab = run::lab(args, &store.path("scratch"))?;
    report::describe(&store, &lab)?;
    if let Some(corpus) = &args.check {
        return check(&lab, corpus);
    }
    let known = known::read(&lab.lab.tools.known);
    let terminal = std::io::stderr().is_terminal();
    let mut said = std::time::Instant::now();
    let mut say = |say: Say<'_>| match say {
        Say::Status(text) if terminal => eprint!("\r\x1b[K{text}"),
        // A log gets a line a minute, not one a second.
        Say::Status(text) if said.elapsed().as_secs() >= 60 => {
            said = std::time::Instant::now();
            eprintln!("{text}");
        }
        Say::Status(_) => {}
        Say::Note(text) if terminal => eprintln!("\r\x1b[K{text}"),
        Say::Note(text) => eprintln!("{text}"),
    };
    let mut campaign = Campaign {
        lab: &lab.lab,
        store: &store,
        time: args.time,
        seed: args.seed,
        known: &known,
        say: &mut say,
    };
    let fuzzed = campaign.run()?;
    finish(&store, &fuzzed, &known, &covered(&store, &lab))
}

/// How much of the kernel the campaign has reached; empty where that cannot be told.
fn covered(store: &Store, lab: &run::FuzzLab) -> String {
    let pcs = store.path("pcs.txt");
    match &lab.kernel.vmlinux {
        Some(vmlinux) if pcs.is_file() => cov::report::line(vmlinux, &pcs)
            .unwrap_or_else(|error| format!("no coverage: {error:#}\n")),
        _ => String::new(),
    }
}

fn finish(store: &Store, fuzzed: &Fuzzed, known: &[KnownBug], covered: &str) -> Outcome {
    let records = store.records()?;
    let mut summary = report::summary(&fuzzed.sample, &records, store.folder());
    summary.push_str(covered);
    summary.push_str(&report::known(&fuzzed.known, known));
    fs_err::write(store.path("summary.md"), &summary)?;
    println!("{summary}");
    if fuzzed.interrupted {
        return Ok(Exit::Interrupted);
    }
    Ok(if records.is_empty() {
        Exit::Passed
    } else {
        Exit::Failed
    })
}

/// Replays every program of a folder once, without changing any.
fn check(lab: &run::FuzzLab, corpus: &std::path::Path) -> Outcome {
    let programs = report::programs(&lab.lab, corpus)?;
    if programs.is_empty() {
        return Err(Failure::new(
            Exit::NothingRan,
            format!("{} holds no program", corpus.display()),
        ));
    }
    let mut from = 0;
    let mut failed = 0;
    while from < programs.len() {
        let batch = lab.lab.run(&programs[from..], 1, true)?;
        for (at, finding) in &batch.findings {
            failed += 1;
            println!("{}: {}", from + at, finding.title);
        }
        // A machine that died took the rest with it; go on behind its program.
        from += batch.finished + 1;
        if lab.lab.is_interrupted() {
            return Ok(Exit::Interrupted);
        }
    }
    println!(
        "{} passed, {failed} failed",
        programs.len().saturating_sub(failed)
    );
    Ok(if failed == 0 {
        Exit::Passed
    } else {
        Exit::Failed
    })
}

/// `hugeprobe repro`: runs the program of a finding in fresh machines.
pub fn repro(args: &crate::cli::ReproArgs) -> Outcome {
    let record = report::read_finding(&args.finding).map_err(|error| Failure {
        exit: Exit::Usage,
        error,
    })?;
    let scratch = tempfile::tempdir()?;
    let lab = run::lab(&args.as_fuzz(), scratch.path())?;
    let tries = crate::fuzz::triage::confirm(&lab.lab, &record.finding)?;
    println!("{}: shown by {tries} fresh machines", record.finding.title);
    Ok(if tries.shown > 0 {
        Exit::Failed
    } else {
        Exit::Passed
    })
}
