// SPDX-License-Identifier: GPL-2.0-only
//! What happens to a new finding: confirmed in fresh machines, minimised, its
//! reliability measured, reproducers written.

use std::time::{Duration, Instant};

use fs_err as fs;

use super::finding::{Finding, Kind};
use super::lab::{Lab, SameFinding};
use super::minimise;
use super::store::{Record, Store, Tries};

/// Fresh machines that a finding is tried in.
const MACHINES: u32 = 3;
/// Runs of a program in each of them.
const RUNS: u32 = 5;
/// Runs that the stated reliability comes from.
const RELIABILITY_RUNS: u32 = 10;
/// How long minimising may take.
const MINIMISE_LIMIT: Duration = Duration::from_secs(300);

/// Takes a finding through all stages; what each gives is written at once.
///
/// # Errors
/// When machines cannot be started or files not be written.
pub fn triage(
    store: &Store,
    lab: &Lab,
    record: &mut Record,
    say: &mut dyn FnMut(&str),
) -> anyhow::Result<()> {
    let title = record.finding.title.clone();
    if record.finding.program.is_empty() {
        say(&format!("{title}: no program is known to show it"));
        return Ok(());
    }
    say(&format!("{title}: confirming in {MACHINES} fresh machines"));
    let confirmed = confirm(lab, &record.finding)?;
    record.confirmed = Some(confirmed);
    store.write_record(record)?;
    if confirmed.shown > 0 {
        say(&format!(
            "{title}: shown by {confirmed} machines; minimising"
        ));
        let mut judge = SameFinding {
            lab,
            wanted: &record.finding,
            repeat: if confirmed.shown == confirmed.of {
                1
            } else {
                RUNS
            },
        };
        let deadline = Instant::now() + MINIMISE_LIMIT;
        let small = minimise::minimise(&record.finding.program, &mut judge, deadline)?;
        record.finding.program = small.program;
        store.write_record(record)?;
        let reliability = reliability(lab, &record.finding)?;
        say(&format!(
            "{title}: {} steps, shown in {reliability} runs",
            record.finding.program.lines().count()
        ));
        record.reliability = Some(reliability);
    } else {
        say(&format!("{title}: did not show again"));
    }
    store.write_record(record)?;
    write_files(store, lab, record)
}

/// How many of the fresh machines show the finding again.
pub fn confirm(lab: &Lab, finding: &Finding) -> anyhow::Result<Tries> {
    let mut shown = 0;
    for _ in 0..MACHINES {
        let batch = lab.run(std::slice::from_ref(&finding.program), RUNS, false)?;
        shown += u32::from(batch.findings.iter().any(|(_, f)| f.is_same(finding)));
    }
    Ok(Tries {
        shown,
        of: MACHINES,
    })
}

/// How many of ten runs show the finding. Those of a bug that kills its
/// machine take a machine each.
fn reliability(lab: &Lab, finding: &Finding) -> anyhow::Result<Tries> {
    let program = std::slice::from_ref(&finding.program);
    let runs: Vec<String> = vec![finding.program.clone(); RELIABILITY_RUNS as usize];
    let mut shown = 0;
    if finding.kind == Kind::Death {
        for _ in 0..RELIABILITY_RUNS {
            let batch = lab.run(program, 1, false)?;
            shown += u32::from(batch.findings.iter().any(|(_, f)| f.is_same(finding)));
        }
    } else {
        let batch = lab.run(&runs, 1, true)?;
        let mut programs: Vec<usize> = batch
            .findings
            .iter()
            .filter(|(_, f)| f.is_same(finding))
            .map(|(at, _)| *at)
            .collect();
        programs.dedup();
        shown = u32::try_from(programs.len()).unwrap_or(RELIABILITY_RUNS);
    }
    Ok(Tries {
        shown,
        of: RELIABILITY_RUNS,
    })
}

/// Writes the reproducers and the console beside the program.
fn write_files(store: &Store, lab: &Lab, record: &Record) -> anyhow::Result<()> {
    let folder = store.finding_folder(&record.finding.title);
    let program = folder.join("program.txt");
    fs::write(folder.join("console.log"), lab.console())?;
    fs::write(
        folder.join("repeat.txt"),
        format!(
            "hugeprobe repro {} --target {} --kernel {}\n",
            folder.display(),
            lab.tools.target(),
            lab.machine.kernel.display()
        ),
    )?;
    let name = super::finding::folder_name(&record.finding.title)
        .to_lowercase()
        .replace('-', "_");
    for (verb, file, name) in [
        ("emit-c", "repro.c", None),
        ("emit-rust", "repro.rs", Some(name.as_str())),
    ] {
        match lab.tools.convert(verb, &program, name) {
            Ok(text) => fs::write(folder.join(file), text)?,
            // Not every operation has a form in every language; the program
            // itself is always there.
            Err(error) => fs::write(
                folder.join(format!("{file}.missing")),
                format!("{error:#}\n"),
            )?,
        }
    }
    Ok(())
}
