// SPDX-License-Identifier: GPL-2.0-only
//! What happens to a new finding: confirmed in fresh machines, minimised, its
//! reliability measured, reproducers written.

use std::time::{Duration, Instant};

use fs_err as fs;

use super::finding::{Finding, Kind};
use super::lab::{CONSOLE, Lab, SameFinding};
use super::minimise::{self, Minimised};
use super::report::{self, CONFIG, KERNEL};
use super::store::{Record, Store, Tries};

/// Fresh machines that a finding is tried in.
const MACHINES: u32 = 3;
/// Runs of a program in each of them.
const RUNS: u32 = 5;
/// The same for programs in which steps race.
const RACING_RUNS: u32 = 20;
/// Runs that the stated reliability comes from.
const RELIABILITY_RUNS: u32 = 10;
/// After this no further run is begun: each run of a bug that hangs takes a minute.
const RELIABILITY_LIMIT: Duration = Duration::from_secs(120);
/// How long minimising may take.
const MINIMISE_LIMIT: Duration = Duration::from_secs(300);

/// The console of the last machine that showed the finding.
const SHOWN: &str = "shown.log";

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
    let _ = std::fs::remove_file(lab.scratch.join(SHOWN));
    if record.finding.program.is_empty() {
        say(&format!("{title}: no program is known to show it"));
        return Ok(());
    }
    say(&format!("{title}: confirming in {MACHINES} fresh machines"));
    let confirmed = confirm(lab, &record.finding, MACHINES)?;
    record.confirmed = Some(confirmed);
    store.update(record)?;
    if confirmed.shown > 0 {
        say(&format!(
            "{title}: shown by {confirmed} machines; minimising"
        ));
        let surely = confirmed.shown == confirmed.of;
        let repeat = repeats(&record.finding.program, surely);
        let small = smallest(lab, &record.finding, repeat)?;
        record.finding.program = small.program;
        store.update(record)?;
        let (reliability, detail) = reliability(lab, &record.finding)?;
        // What was found belongs to the steps of the program that is shown.
        record.finding.detail = detail.unwrap_or_else(|| record.finding.detail.clone());
        say(&format!(
            "{title}: {} steps, shown in {reliability} runs",
            record.finding.program.lines().count()
        ));
        record.reliability = Some(reliability);
    } else {
        say(&format!("{title}: did not show again"));
    }
    store.update(record)?;
    write_files(store, lab, record)
}

/// How often a program is run before it counts as harmless. What races shows a
/// bug now and then, also one that each of the fresh machines has shown.
pub fn repeats(program: &str, surely: bool) -> u32 {
    if program.contains(" lane=") {
        RACING_RUNS
    } else if surely {
        1
    } else {
        RUNS
    }
}

/// The smallest program that still shows the finding, each candidate run
/// `repeat` times.
///
/// # Errors
/// As [`confirm`].
pub fn smallest(lab: &Lab, finding: &Finding, repeat: u32) -> anyhow::Result<Minimised> {
    let mut judge = SameFinding {
        lab,
        wanted: finding,
        repeat,
    };
    let deadline = Instant::now() + MINIMISE_LIMIT;
    minimise::minimise(&finding.program, &mut judge, deadline)
}

/// How many of `machines` fresh ones show the finding again.
///
/// # Errors
/// When no machine comes up, or the user interrupts.
pub fn confirm(lab: &Lab, finding: &Finding, machines: u32) -> anyhow::Result<Tries> {
    let mut shown = 0;
    for _ in 0..machines {
        let repeat = repeats(&finding.program, false);
        shown += u32::from(try_once(lab, finding, repeat)?.is_some());
    }
    Ok(Tries {
        shown,
        of: machines,
    })
}

/// What a fresh machine shows of the finding. Its console is evidence then.
fn try_once(lab: &Lab, finding: &Finding, repeat: u32) -> anyhow::Result<Option<Finding>> {
    let batch = lab.run(std::slice::from_ref(&finding.program), repeat, false)?;
    let shown = batch.findings.into_iter().find(|(_, f)| f.is_same(finding));
    if shown.is_some() {
        fs::write(lab.scratch.join(SHOWN), lab.console())?;
    }
    Ok(shown.map(|(_, finding)| finding))
}

/// How many of ten runs, or of those that the time allows, show the finding, each in a machine of its own if that
/// costs no boot; those of a bug that kills its machine in any case. Also what
/// one of them has shown.
fn reliability(lab: &Lab, finding: &Finding) -> anyhow::Result<(Tries, Option<String>)> {
    let mut shown = Vec::new();
    let mut of = RELIABILITY_RUNS;
    if finding.kind == Kind::Death || lab.machine.template.is_some() {
        let began = Instant::now();
        for run in 1..=RELIABILITY_RUNS {
            shown.extend(try_once(lab, finding, 1)?);
            if began.elapsed() > RELIABILITY_LIMIT {
                of = run;
                break;
            }
        }
    } else {
        let runs = vec![finding.program.clone(); RELIABILITY_RUNS as usize];
        let mut found = lab.run(&runs, 1, true)?.findings;
        found.retain(|(_, f)| f.is_same(finding));
        found.dedup_by_key(|(at, _)| *at);
        shown.extend(found.into_iter().map(|(_, finding)| finding));
    }
    let tries = Tries {
        shown: u32::try_from(shown.len()).unwrap_or(of),
        of,
    };
    Ok((tries, shown.pop().map(|finding| finding.detail)))
}

/// Writes the report, the reproducers and the console beside the program.
fn write_files(store: &Store, lab: &Lab, record: &Record) -> anyhow::Result<()> {
    let folder = store.finding_folder(&record.finding.title);
    let program = folder.join("program.txt");
    let shown = lab.scratch.join(SHOWN);
    if shown.exists() {
        fs::copy(shown, folder.join(CONSOLE))?;
    }
    fs::write(
        folder.join("report.txt"),
        report::finding(record, &lab.kernel)?,
    )?;
    let repeat = report::repeat(&folder);
    fs::write(folder.join("repeat.txt"), format!("{repeat}\n"))?;
    for (kept, name) in [(KERNEL, "kernel.txt"), (CONFIG, "config")] {
        let kept = store.path(kept);
        if kept.exists() {
            fs::copy(kept, folder.join(name))?;
        }
    }
    let name = super::finding::folder_name(&record.finding.title)
        .to_lowercase()
        .replace('-', "_");
    let shows = ["--shows", record.finding.title.as_str()];
    for (verb, file, more) in [
        ("emit-c", "repro.c", &shows[..]),
        ("emit-rust", "repro.rs", &[&name, shows[0], shows[1]]),
    ] {
        match lab.tools.convert(verb, &program, more) {
            Ok(text) => fs::write(folder.join(file), report::headed(&text, record))?,
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
