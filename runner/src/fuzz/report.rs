// SPDX-License-Identifier: GPL-2.0-only
//! What a person gets from a campaign: a summary, and the programs of a folder.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use fs_err as fs;

use super::finding::Kind;
use super::known::KnownBug;
use super::lab::Lab;
use super::pattern;
use super::stats::Sample;
use super::store::{Made, Record, Store, write_whole};
use crate::kernel::Kernel;
use crate::report::shell_word;
use crate::run::decode;

/// The kernel's identity, in the folder of a campaign.
pub const KERNEL: &str = "kernel.txt";
/// The kernel's configuration, there.
pub const CONFIG: &str = "kernel.config";

/// The summary of a campaign, in Markdown.
pub fn summary(sample: &Sample, records: &[Record], folder: &Path) -> String {
    let counts = &sample.counts;
    let (minutes, seconds) = (sample.seconds / 60, sample.seconds % 60);
    let share = (counts.succeeded * 100)
        .checked_div(counts.calls)
        .unwrap_or(0);
    let mut text = format!(
        "{} programs, {} calls ({share} % succeeded) and {} THP faults in {minutes}:{seconds:02}; \
         {} kernel call sites reached, {} programs in the corpus, {} machines, {} of them restarts\n",
        counts.programs,
        counts.calls,
        counts.thp_faults,
        counts.pcs,
        sample.corpus,
        sample.machines,
        sample.restarts,
    );
    if counts.overflows > 0 {
        let _ = writeln!(text, "KCOV areas overflowed {} times", counts.overflows);
    }
    if records.is_empty() {
        text.push_str("\nnothing found\n");
        return text;
    }
    text.push_str(
        "\n| finding | steps | confirmed | reliable | seen | after |\n|---|---|---|---|---|---|\n",
    );
    for record in records {
        let finding = &record.finding;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} s |",
            finding.title,
            pattern::steps(&finding.program).count(),
            tried(record.confirmed),
            tried(record.reliability),
            record.seen,
            record.found_after_s,
        );
    }
    for record in records {
        let path = finding_folder(folder, record);
        let _ = write!(
            text,
            "\n{} (everything about it: {}):\n\n{}\n    {}\n",
            record.finding.title,
            path.display(),
            indent(&record.finding.program),
            repeat(&path)
        );
    }
    let avoided: Vec<String> = records
        .iter()
        .filter_map(|record| {
            Some(format!(
                "- `{}`: {}",
                record.avoided()?,
                record.finding.title
            ))
        })
        .collect();
    if !avoided.is_empty() {
        let _ = write!(
            text,
            "\nNot run any more, as it would take the machine down again; programs with these steps in this order:\n\n{}\n",
            avoided.join("\n")
        );
    }
    text
}

fn tried(tries: Option<super::store::Tries>) -> String {
    tries.map_or("not tried".to_owned(), |tries| tries.to_string())
}

fn finding_folder(campaign: &Path, record: &Record) -> PathBuf {
    let name = super::finding::folder_name(&record.finding.title);
    campaign.join("crashes").join(name)
}

/// The command that repeats the finding of a folder.
pub fn repeat(folder: &Path) -> String {
    let folder = folder.display().to_string();
    format!("hugeprobe repro {}", shell_word(&folder))
}

/// What a maintainer reads first of a finding; `report.txt` of its folder.
///
/// # Errors
/// When the script that decodes stacks cannot be run.
pub fn finding(record: &Record, kernel: &Kernel) -> anyhow::Result<String> {
    let finding = &record.finding;
    let detail = match finding.kind {
        Kind::Violation => finding.detail.clone(),
        Kind::Report | Kind::Death => decode::decoded(&finding.detail, kernel)?,
    };
    let steps = pattern::steps(&finding.program).count();
    Ok(format!(
        "{}\n\n\
         kernel:    {} ({})\n\
         confirmed: {} (fresh machines that showed it)\n\
         reliable:  {} (runs of the program below that showed it)\n\
         seen:      {} times, first after {} s\n\n\
         Program, {steps} steps (repro.c: the same in C; original.txt: before it was minimised):\n\n\
         {}\n{}\n",
        finding.title,
        record.made.release,
        record.made.kernel,
        tried(record.confirmed),
        tried(record.reliability),
        record.seen,
        record.found_after_s,
        numbered(&finding.program),
        detail.trim_end(),
    ))
}

/// What a summary says of known bugs that were seen.
pub fn known(seen: &BTreeMap<String, u64>, bugs: &[KnownBug]) -> String {
    let mut text = String::new();
    for bug in bugs {
        if let Some(count) = seen.get(&bug.title) {
            let _ = writeln!(
                text,
                "known, seen {count} times: {}: {}",
                bug.title, bug.reason
            );
        }
    }
    text
}

/// A reproducer with what it shows in front: the first thing that one wants to know.
pub fn headed(source: &[u8], record: &Record) -> String {
    const MOST: usize = 8;
    let source = String::from_utf8_lossy(source);
    let finding = &record.finding;
    let runs = record
        .reliability
        .map_or(String::new(), |tries| format!(", shown in {tries} runs"));
    let mut lines = vec![
        finding.title.clone(),
        format!("on {} ({}){runs}", record.made.release, record.made.kernel),
    ];
    if finding.kind == Kind::Violation {
        lines.extend(finding.detail.lines().take(MOST).map(str::to_owned));
    }
    let comment: String = lines
        .iter()
        .map(|line| format!("// {}\n", line.trim_end()))
        .collect();
    match source.split_once('\n') {
        Some((license, rest)) => format!("{license}\n{comment}{rest}"),
        None => source.into_owned(),
    }
}

/// With the numbers by which reports call steps.
fn numbered(program: &str) -> String {
    pattern::steps(program)
        .enumerate()
        .map(|(number, step)| format!("{number:>4}  {step}\n"))
        .collect()
}

fn indent(program: &str) -> String {
    program
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect()
}

/// The record of a finding's folder.
pub fn read_finding(folder: &Path) -> anyhow::Result<Record> {
    let file = folder.join("finding.json");
    let text = fs::read_to_string(&file).context("name a folder of a campaign's crashes")?;
    serde_json::from_str(&text).with_context(|| format!("{} is damaged", file.display()))
}

/// Keeps what was fuzzed beside what was found.
///
/// # Errors
/// When files cannot be written.
pub fn describe(store: &Store, lab: &Lab, made: &Made) -> anyhow::Result<()> {
    let kernel = &lab.kernel;
    let facts = [
        ("release", kernel.release.clone()),
        ("source", kernel.identity.source.clone()),
        ("profile", kernel.identity.profile.clone()),
        ("compiler", kernel.identity.compiler.clone()),
        ("config digest", kernel.identity.config.clone()),
        ("image", kernel.bzimage.display().to_string()),
        (
            "guest",
            format!(
                "{} CPUs, {} MiB, {}",
                lab.machine.cpus,
                lab.machine.memory_mib,
                lab.machine.accel.name()
            ),
        ),
        ("command line", lab.machine.append.join(" ")),
        (
            "again",
            format!("hugeprobe fuzz {}", made.arguments.join(" ")),
        ),
    ];
    let lines: String = facts
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}: {value}\n"))
        .collect();
    write_whole(&store.path(KERNEL), &lines)?;
    if let Some(config) = &kernel.config {
        fs::copy(config, store.path(CONFIG))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::finding::Finding;
    use crate::fuzz::store::Tries;

    fn record(title: &str, kind: Kind) -> Record {
        Record {
            finding: Finding {
                title: title.into(),
                kind,
                detail: "after step 0\nexpected 1, found 2".into(),
                program: "# a comment\np0 mremap at=0.0\n".into(),
                console: String::new(),
            },
            seen: 4,
            confirmed: Some(Tries { shown: 3, of: 3 }),
            reliability: None,
            found_after_s: 12,
            made: Made {
                release: "7.3.4".into(),
                ..Made::default()
            },
        }
    }

    #[test]
    fn summary_tells_how_to_repeat_each_finding() {
        let record = record("O1 content: wrong after mremap", Kind::Violation);
        let text = summary(&Sample::default(), &[record], Path::new("/f"));
        assert!(
            text.contains("| O1 content: wrong after mremap | 1 | 3 of 3 | not tried | 4 | 12 s |")
        );
        assert!(text.contains("    p0 mremap at=0.0\n"));
        assert!(text.contains("    hugeprobe repro /f/crashes/O1-content-wrong-after-mremap\n"));
        assert!(!text.contains("Not run any more"), "{text}");
        assert!(summary(&Sample::default(), &[], Path::new("/f")).contains("nothing found"));
    }

    #[test]
    fn summary_shows_what_is_avoided() {
        let mut record = record("kernel BUG in zap_huge_pmd", Kind::Death);
        record.reliability = Some(Tries { shown: 10, of: 10 });
        let text = summary(&Sample::default(), &[record], Path::new("/f"));
        assert!(
            text.contains("- `mremap`: kernel BUG in zap_huge_pmd\n"),
            "{text}"
        );
    }

    #[test]
    fn a_reproducer_says_first_what_it_shows() {
        let record = record("O1 content: wrong after mremap", Kind::Violation);
        let text = headed(b"// SPDX\n/*\n * Made by\n */\n", &record);
        let wanted = "// SPDX\n// O1 content: wrong after mremap\n// on 7.3.4 ()\n\
                      // after step 0\n// expected 1, found 2\n/*\n";
        assert!(text.starts_with(wanted), "{text}");
    }

    #[test]
    fn report_says_what_where_how_surely_and_by_which_program() {
        let record = record("O1 content: wrong after mremap", Kind::Violation);
        let text = finding(&record, &Kernel::default()).unwrap();
        assert!(text.starts_with("O1 content: wrong after mremap\n\nkernel:    7.3.4 ("));
        assert!(
            text.contains(
                "\nconfirmed: 3 of 3 (fresh machines that showed it)\nreliable:  not tried"
            )
        );
        assert!(text.contains("Program, 1 steps"));
        assert!(text.ends_with("   0  p0 mremap at=0.0\n\nafter step 0\nexpected 1, found 2\n"));
    }
}
