// SPDX-License-Identifier: GPL-2.0-only
//! The folder of a campaign: corpus, findings, statistics. A campaign that is
//! started again on it goes on where it was.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::finding::{Finding, Kind, folder_name};
use super::known::KnownBug;
use super::pattern;
use super::stats::Sample;

/// The folder of a campaign.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

/// What became of a finding; `finding.json` of its folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The finding, with the program as small as it got.
    pub finding: Finding,
    /// Times seen.
    pub seen: u64,
    /// Fresh machines that showed it again, of how many.
    pub confirmed: Option<Tries>,
    /// Runs of the minimised program that showed it, of how many.
    pub reliability: Option<Tries>,
    /// Seconds from the start of the campaign until it was first seen.
    pub found_after_s: u64,
}

/// So many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tries {
    /// How often it showed.
    pub shown: u32,
    /// How often it was tried.
    pub of: u32,
}

impl std::fmt::Display for Tries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.shown, self.of)
    }
}

impl Store {
    /// Opens a folder, which is made if need be.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        for part in ["corpus", "crashes", "scratch"] {
            fs::create_dir_all(folder.join(part)).context("choose another folder with --output")?;
        }
        let folder = fs::canonicalize(folder)?;
        Ok(Self { folder })
    }

    /// The folder itself, absolute.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file or folder in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Number of files in the corpus.
    pub fn corpus_size(&self) -> u64 {
        std::fs::read_dir(self.path("corpus")).map_or(0, |files| files.count() as u64)
    }

    /// The folder of a title.
    pub fn finding_folder(&self, title: &str) -> PathBuf {
        self.path("crashes").join(folder_name(title))
    }

    /// All findings, sorted by title.
    pub fn records(&self) -> anyhow::Result<Vec<Record>> {
        let mut records = Vec::new();
        for folder in fs::read_dir(self.path("crashes"))? {
            let file = folder?.path().join("finding.json");
            if file.exists() {
                records.push(read_record(&file)?);
            }
        }
        records.sort_by(|a, b| a.finding.title.cmp(&b.finding.title));
        Ok(records)
    }

    /// Notes a finding; true when its title is new.
    pub fn note(&self, finding: &Finding, found_after_s: u64) -> anyhow::Result<bool> {
        let folder = self.finding_folder(&finding.title);
        let file = folder.join("finding.json");
        if file.exists() {
            let mut record = read_record(&file)?;
            record.seen += 1;
            self.write_record(&record)?;
            return Ok(false);
        }
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("original.txt"), &finding.program)?;
        fs::write(folder.join("report.txt"), &finding.detail)?;
        self.write_record(&Record {
            finding: finding.clone(),
            seen: 1,
            confirmed: None,
            reliability: None,
            found_after_s,
        })?;
        Ok(true)
    }

    /// Counts another sighting of a title.
    pub fn seen_again(&self, title: &str) -> anyhow::Result<()> {
        let file = self.finding_folder(title).join("finding.json");
        if file.exists() {
            let mut record = read_record(&file)?;
            record.seen += 1;
            self.write_record(&record)?;
        }
        Ok(())
    }

    /// Writes what is known about a finding.
    pub fn write_record(&self, record: &Record) -> anyhow::Result<()> {
        let folder = self.finding_folder(&record.finding.title);
        fs::write(folder.join("program.txt"), &record.finding.program)?;
        write_whole(
            &folder.join("finding.json"),
            &serde_json::to_string_pretty(record)?,
        )
    }

    /// Brings the lists up to date that keep known bugs from stopping the
    /// search; returns the paths of the titles and of the patterns.
    pub fn write_lists(&self, bugs: &[KnownBug]) -> anyhow::Result<(PathBuf, PathBuf)> {
        let (mut titles, mut patterns) = (String::new(), String::new());
        for bug in bugs {
            titles.push_str(&bug.title);
            titles.push('\n');
        }
        for record in self.records()? {
            let finding = &record.finding;
            match finding.kind {
                Kind::Violation | Kind::Report => {
                    titles.push_str(&finding.title);
                    titles.push('\n');
                }
                // The pattern of a program that was not minimised would keep
                // the fuzzer from everything.
                Kind::Death if record.reliability.is_some() => {
                    patterns.push_str(&pattern::of(&finding.program));
                    patterns.push('\n');
                }
                Kind::Death => {}
            }
        }
        let (known, avoid) = (self.path("known.txt"), self.path("avoid.txt"));
        write_whole(&known, &titles)?;
        write_whole(&avoid, &patterns)?;
        Ok((known, avoid))
    }

    /// The samples of this campaign, earlier runs included.
    pub fn samples(&self) -> Vec<Sample> {
        let text = std::fs::read_to_string(self.path("stats.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Appends a sample.
    pub fn add_sample(&self, sample: &Sample) -> anyhow::Result<()> {
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("stats.jsonl"))?;
        writeln!(file, "{}", serde_json::to_string(sample)?)?;
        Ok(())
    }
}

fn read_record(file: &Path) -> anyhow::Result<Record> {
    let text = fs::read_to_string(file)?;
    serde_json::from_str(&text).with_context(|| format!("{} is damaged", file.display()))
}

/// Writes a file so that it is whole or not there.
fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(title: &str, kind: Kind) -> Finding {
        Finding {
            title: title.into(),
            kind,
            detail: "detail".into(),
            program: "p0 mmap at=0.0 len=512 prot=rw\np0 fork child=p1\n".into(),
        }
    }

    #[test]
    fn same_title_is_one_finding() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let bug = finding("O1 content: wrong", Kind::Violation);
        assert!(store.note(&bug, 3).unwrap());
        assert!(!store.note(&bug, 9).unwrap());
        store.seen_again(&bug.title).unwrap();
        let records = Store::open(folder.path()).unwrap().records().unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].seen, records[0].found_after_s), (3, 3));
    }

    #[test]
    fn only_minimised_deaths_are_avoided() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store
            .note(&finding("kernel BUG in a", Kind::Death), 0)
            .unwrap();
        store
            .note(&finding("O5 bits: b", Kind::Violation), 0)
            .unwrap();
        let lists = |store: &Store| {
            let (known, avoid) = store.write_lists(&[]).unwrap();
            (
                fs::read_to_string(known).unwrap(),
                fs::read_to_string(avoid).unwrap(),
            )
        };
        assert_eq!(lists(&store), ("O5 bits: b\n".into(), String::new()));
        let mut record = store.records().unwrap().remove(1);
        record.reliability = Some(Tries { shown: 10, of: 10 });
        store.write_record(&record).unwrap();
        assert_eq!(lists(&store).1, "mmap prot=rw ; fork child=p1\n");
    }

    #[test]
    fn samples_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let sample = Sample {
            seconds: 7,
            ..Sample::default()
        };
        store.add_sample(&sample).unwrap();
        assert_eq!(Store::open(folder.path()).unwrap().samples(), [sample]);
    }
}
