// SPDX-License-Identifier: GPL-2.0-only
//! What a person gets from a campaign: a summary, and the programs of a folder.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use fs_err as fs;

use super::known::KnownBug;
use super::lab::Lab;
use super::stats::Sample;
use super::store::{Record, Store};

/// The summary of a campaign, in Markdown.
pub fn summary(sample: &Sample, records: &[Record], folder: &Path) -> String {
    let counts = &sample.counts;
    let mut text = format!(
        "{} programs, {} calls ({} succeeded), {} THP faults, {} kernel call sites, corpus {}, {} machines\n",
        counts.programs,
        counts.calls,
        counts.succeeded,
        counts.thp_faults,
        counts.pcs,
        sample.corpus,
        sample.machines,
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
        let tries = |tries: Option<super::store::Tries>| {
            tries.map_or("not tried".to_owned(), |tries| tries.to_string())
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} s |",
            finding.title,
            finding.program.lines().count(),
            tries(record.confirmed),
            tries(record.reliability),
            record.seen,
            record.found_after_s,
        );
    }
    for record in records {
        let path = folder
            .join("crashes")
            .join(super::finding::folder_name(&record.finding.title));
        let _ = write!(
            text,
            "\n{}:\n\n{}\nrepeat: hugeprobe repro {}\n",
            record.finding.title,
            indent(&record.finding.program),
            path.display()
        );
    }
    text
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

fn indent(program: &str) -> String {
    program
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect()
}

/// The programs in a folder: text files as they are, others as the fuzzer's
/// corpus holds them.
pub fn programs(lab: &Lab, folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut files: Vec<_> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    files.retain(|file| file.is_file());
    let text = |file: &std::path::PathBuf| {
        if file.extension().is_some_and(|extension| extension == "txt") {
            return Ok(fs::read_to_string(file)?);
        }
        let text = lab.tools.convert("text", file, None)?;
        String::from_utf8(text).context("hugeprobe-exec writes UTF-8")
    };
    files.iter().map(text).collect()
}

/// The record of a finding's folder.
pub fn read_finding(folder: &Path) -> anyhow::Result<Record> {
    let file = folder.join("finding.json");
    let text = fs::read_to_string(&file).context("name a folder of a campaign's crashes")?;
    serde_json::from_str(&text).with_context(|| format!("{} is damaged", file.display()))
}

/// Keeps what was fuzzed beside what was found.
pub fn describe(store: &Store, lab: &crate::run::FuzzLab) -> anyhow::Result<()> {
    let kernel = &lab.kernel;
    let description = serde_json::json!({
        "release": kernel.release,
        "identity": kernel.identity,
        "bzimage": kernel.bzimage,
        "boot_args": lab.lab.machine.append,
    });
    fs::write(
        store.path("kernel.json"),
        serde_json::to_string_pretty(&description)?,
    )?;
    if let Some(config) = &kernel.config {
        fs::copy(config, store.path("kernel.config"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::finding::{Finding, Kind};
    use crate::fuzz::store::Tries;

    #[test]
    fn summary_tells_how_to_repeat_each_finding() {
        let record = Record {
            finding: Finding {
                title: "O1 content: wrong after mremap".into(),
                kind: Kind::Violation,
                detail: String::new(),
                program: "p0 mremap at=0.0\n".into(),
            },
            seen: 4,
            confirmed: Some(Tries { shown: 3, of: 3 }),
            reliability: None,
            found_after_s: 12,
        };
        let text = summary(&Sample::default(), &[record], Path::new("/f"));
        assert!(
            text.contains("| O1 content: wrong after mremap | 1 | 3 of 3 | not tried | 4 | 12 s |")
        );
        assert!(text.contains("    p0 mremap at=0.0\n"));
        assert!(text.contains("repeat: hugeprobe repro /f/crashes/O1-content-wrong-after-mremap"));
        assert!(summary(&Sample::default(), &[], Path::new("/f")).contains("nothing found"));
    }
}
