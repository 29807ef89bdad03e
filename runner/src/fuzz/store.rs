// SPDX-License-Identifier: GPL-2.0-only
//! The folder of a campaign: corpus, findings, statistics. A campaign that is
//! started again on it goes on where it was.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::finding::{Finding, Kind, folder_name};
use super::known::KnownBug;
use super::lab::CONSOLE;
use super::pattern;
use super::stats::Sample;

/// The file of a finding's folder that says everything.
const RECORD: &str = "finding.json";
/// Steps of a program that is specific enough to be avoided as it is.
const TELLING: usize = 4;

/// The folder of a campaign. What changes a finding does so one at a time, as
/// several machines may report the same one.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    made: Made,
    changes: Mutex<()>,
}

/// What findings are made with, so that they can be repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Made {
    /// What `hugeprobe fuzz` is given for the same target, kernel and guest.
    pub arguments: Vec<String>,
    /// Release of the kernel.
    pub release: String,
    /// What the kernel is, precisely.
    pub kernel: String,
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
    /// What it was found with.
    #[serde(default)]
    pub made: Made,
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

/// What programs of the corpus reached, for the machines of one run of a campaign.
pub const SIGNALS: &str = "scratch/signals";

impl Store {
    /// Opens a folder, which is made if need be.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        // those of another run may be of another kernel
        let _ = fs::remove_dir_all(folder.join(SIGNALS));
        for part in ["corpus", "crashes", SIGNALS] {
            fs::create_dir_all(folder.join(part)).context("choose another folder with --output")?;
        }
        let folder = fs::canonicalize(folder)?;
        Ok(Self {
            folder,
            made: Made::default(),
            changes: Mutex::new(()),
        })
    }

    /// Says what the findings from now on are made with.
    pub fn set_made(&mut self, made: Made) {
        self.made = made;
    }

    /// The folder itself, absolute.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file or folder in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The file of kernel call sites that a worker's machines append to, each its own:
    /// two guests that append to one file overwrite each other's lines.
    pub fn pcs_of(&self, worker: usize) -> PathBuf {
        self.folder.join(format!("pcs-{worker}.txt"))
    }

    /// Moves what all workers have reached to `pcs.txt`.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn gather_pcs(&self) -> anyhow::Result<()> {
        for worker in 0.. {
            let part = self.pcs_of(worker);
            if !part.exists() {
                break;
            }
            let mut all = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.path("pcs.txt"))?;
            all.write_all(&fs::read(&part)?)?;
            fs::remove_file(part)?;
        }
        Ok(())
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
            let file = folder?.path().join(RECORD);
            if file.exists() {
                records.push(read_record(&file)?);
            }
        }
        records.sort_by(|a, b| a.finding.title.cmp(&b.finding.title));
        Ok(records)
    }

    /// Notes a finding; true when its title is new.
    pub fn note(&self, finding: &Finding, found_after_s: u64) -> anyhow::Result<bool> {
        let _alone = self.alone();
        let folder = self.finding_folder(&finding.title);
        if folder.join(RECORD).exists() {
            self.count(&finding.title)?;
            return Ok(false);
        }
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("original.txt"), &finding.program)?;
        fs::write(folder.join("report.txt"), &finding.detail)?;
        if !finding.console.is_empty() {
            fs::write(folder.join(CONSOLE), &finding.console)?;
        }
        self.write_record(&Record {
            finding: finding.clone(),
            seen: 1,
            confirmed: None,
            reliability: None,
            found_after_s,
            made: self.made.clone(),
        })?;
        Ok(true)
    }

    /// Counts another sighting of a title.
    pub fn seen_again(&self, title: &str) -> anyhow::Result<()> {
        let _alone = self.alone();
        self.count(title)
    }

    /// Writes what triage has learnt of a finding. How often it was seen is
    /// left as it is: machines go on meanwhile.
    pub fn update(&self, record: &Record) -> anyhow::Result<()> {
        let _alone = self.alone();
        let file = self.finding_folder(&record.finding.title).join(RECORD);
        let seen = read_record(&file)?.seen;
        self.write_record(&Record {
            seen,
            ..record.clone()
        })
    }

    fn count(&self, title: &str) -> anyhow::Result<()> {
        let file = self.finding_folder(title).join(RECORD);
        if file.exists() {
            let mut record = read_record(&file)?;
            record.seen += 1;
            self.write_record(&record)?;
        }
        Ok(())
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_record(&self, record: &Record) -> anyhow::Result<()> {
        let folder = self.finding_folder(&record.finding.title);
        write_whole(&folder.join("program.txt"), &record.finding.program)?;
        write_whole(&folder.join(RECORD), &serde_json::to_string_pretty(record)?)
    }

    /// Writes the lists that keep known bugs from stopping the search to
    /// `folder`; returns the paths of the titles and of the patterns.
    pub fn write_lists(
        &self,
        bugs: &[KnownBug],
        folder: &Path,
    ) -> anyhow::Result<(PathBuf, PathBuf)> {
        let mut titles: Vec<String> = bugs.iter().map(|bug| bug.title.clone()).collect();
        let mut patterns: Vec<String> = bugs.iter().flat_map(|bug| bug.patterns.clone()).collect();
        for record in self.records()? {
            match record.finding.kind {
                Kind::Violation | Kind::Report => titles.push(record.finding.title.clone()),
                Kind::Death => patterns.extend(record.avoided()),
            }
        }
        let (known, avoid) = (folder.join("known.txt"), folder.join("avoid.txt"));
        write_whole(&known, &lines(&titles))?;
        write_whole(&avoid, &lines(&patterns))?;
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

impl Record {
    /// The pattern by which programs are avoided that would show this finding
    /// again; only for one that takes the kernel down. That of the whole program
    /// until it is minimised, if it is long enough to mean little else.
    pub fn avoided(&self) -> Option<String> {
        let steps = pattern::steps(&self.finding.program).count();
        let waits = self.confirmed.is_none() && steps >= TELLING;
        let avoided = self.finding.kind == Kind::Death && (self.reliability.is_some() || waits);
        avoided.then(|| pattern::of(&self.finding.program))
    }
}

fn lines(texts: &[String]) -> String {
    texts.iter().map(|text| format!("{text}\n")).collect()
}

fn read_record(file: &Path) -> anyhow::Result<Record> {
    let text = fs::read_to_string(file)?;
    serde_json::from_str(&text).with_context(|| format!("{} is damaged", file.display()))
}

/// Writes a file so that it is whole or not there.
///
/// # Errors
/// When it cannot be written.
pub fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
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
            console: String::new(),
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
            let (known, avoid) = store.write_lists(&[], store.folder()).unwrap();
            (
                fs::read_to_string(known).unwrap(),
                fs::read_to_string(avoid).unwrap(),
            )
        };
        assert_eq!(lists(&store), ("O5 bits: b\n".into(), String::new()));
        let mut record = store.records().unwrap().remove(1);
        record.reliability = Some(Tries { shown: 10, of: 10 });
        store.update(&record).unwrap();
        assert_eq!(lists(&store).1, "mmap prot=rw ; fork child=p1\n");
    }

    #[test]
    fn a_long_program_is_avoided_until_triage_has_tried_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let long = Finding {
            program: "p0 verify\n".repeat(TELLING),
            ..finding("hang", Kind::Death)
        };
        store.note(&long, 0).unwrap();
        let mut record = store.records().unwrap().remove(0);
        assert_eq!(
            record.avoided(),
            Some("verify ; verify ; verify ; verify".into())
        );
        record.confirmed = Some(Tries { shown: 0, of: 3 });
        assert_eq!(record.avoided(), None);
    }

    #[test]
    fn triage_does_not_forget_what_was_seen_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.note(&finding("t", Kind::Report), 0).unwrap();
        let record = store.records().unwrap().remove(0);
        store.seen_again("t").unwrap();
        store.update(&record).unwrap();
        assert_eq!(store.records().unwrap()[0].seen, 2);
    }

    #[test]
    fn call_sites_of_all_workers_come_together() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        fs::write(store.path("pcs.txt"), "0x1\n").unwrap();
        fs::write(store.pcs_of(0), "0x2\n").unwrap();
        fs::write(store.pcs_of(1), "0x3\n").unwrap();
        store.gather_pcs().unwrap();
        let all = fs::read_to_string(store.path("pcs.txt")).unwrap();
        assert_eq!(all, "0x1\n0x2\n0x3\n");
        assert!(!store.pcs_of(0).exists() && !store.pcs_of(1).exists());
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
