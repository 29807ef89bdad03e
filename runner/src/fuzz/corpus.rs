// SPDX-License-Identifier: GPL-2.0-only
//! What is done with the programs of a folder: replayed, and made fewer.

use std::path::{Path, PathBuf};

use anyhow::Context;
use fs_err as fs;

use super::lab::Lab;

/// A program of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its file.
    pub file: PathBuf,
    /// It, in text form.
    pub text: String,
}

/// The programs in a folder, by name: text files as they are, others as the
/// fuzzer's corpus holds them.
///
/// # Errors
/// When a file cannot be read.
pub fn members(lab: &Lab, folder: &Path) -> anyhow::Result<Vec<Member>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        files.push(entry?.path());
    }
    files.retain(|file| file.is_file());
    files.sort();
    let member = |file: PathBuf| {
        let text = text(lab, &file)?;
        Ok(Member { file, text })
    };
    files.into_iter().map(member).collect()
}

/// The program in a file, in text form.
///
/// # Errors
/// When the file cannot be read.
pub fn text(lab: &Lab, file: &Path) -> anyhow::Result<String> {
    if file.extension().is_some_and(|extension| extension == "txt") {
        return Ok(fs::read_to_string(file)?);
    }
    let text = lab.tools.convert("text", file, &[])?;
    String::from_utf8(text).context("hugeprobe-exec writes UTF-8")
}

/// What a replay came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Index of a program and title of what it showed.
    pub shown: Vec<(usize, String)>,
    /// For each program whether it reached something new; one that did not run to
    /// its end counts as if it had.
    pub adds: Vec<bool>,
}

/// Runs every program once, in as many machines as it takes.
///
/// # Errors
/// When no machine comes up, or the user interrupts.
pub fn replay(lab: &Lab, programs: &[String]) -> anyhow::Result<Replay> {
    let mut replay = Replay::default();
    while replay.adds.len() < programs.len() {
        let from = replay.adds.len();
        let batch = lab.run(&programs[from..], 1, true)?;
        let findings = batch.findings.iter();
        replay
            .shown
            .extend(findings.map(|(at, finding)| (from + at, finding.title.clone())));
        replay.adds.extend(batch.ran.iter().map(|ran| ran.new > 0));
        if replay.adds.len() < programs.len() {
            // This one took the machine down; the rest runs in another.
            replay.adds.push(true);
        }
    }
    Ok(replay)
}

/// The members of a corpus that together reach all that it reaches, the shorter
/// ones first: a longer one is kept for what no shorter one reaches. A program that
/// shows a finding is not of use for a corpus and is left out. Also the number of those.
///
/// # Errors
/// As [`replay`].
pub fn fewest(lab: &Lab, members: &[Member]) -> anyhow::Result<(Vec<Member>, usize)> {
    let mut sorted = members.to_vec();
    sorted.sort_by_key(|member| (member.text.len(), member.file.clone()));
    let texts: Vec<String> = sorted.iter().map(|member| member.text.clone()).collect();
    let replay = replay(lab, &texts)?;
    let shows = |index: usize| replay.shown.iter().any(|(at, _)| *at == index);
    let failed = (0..sorted.len()).filter(|&index| shows(index)).count();
    let kept = sorted.into_iter().enumerate();
    let kept = kept.filter(|(index, _)| replay.adds[*index] && !shows(*index));
    Ok((kept.map(|(_, member)| member).collect(), failed))
}

/// Writes members to a new folder beside `folder`; returns it.
///
/// # Errors
/// When it exists already, or cannot be written.
pub fn write_beside(folder: &Path, members: &[Member]) -> anyhow::Result<PathBuf> {
    let target = beside(folder)?;
    fs::create_dir(&target).context("an earlier result is not overwritten; move it away")?;
    for member in members {
        let name = member.file.file_name().unwrap_or_default();
        fs::copy(&member.file, target.join(name))?;
    }
    Ok(target)
}

/// `PATH.min`, which must not exist.
///
/// # Errors
/// When it does.
pub fn beside(path: &Path) -> anyhow::Result<PathBuf> {
    let path = fs::canonicalize(path)?;
    let mut name = path.into_os_string();
    name.push(".min");
    let target = PathBuf::from(name);
    anyhow::ensure!(
        !target.exists(),
        "{} exists already; move it away",
        target.display()
    );
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let corpus = folder.path().join("corpus");
        std::fs::create_dir(&corpus).unwrap();
        let file = corpus.join("a");
        std::fs::write(&file, "p0 verify\n").unwrap();
        let member = Member {
            file,
            text: String::new(),
        };
        let written = write_beside(&corpus, std::slice::from_ref(&member)).unwrap();
        assert_eq!(written.file_name().unwrap(), "corpus.min");
        assert!(written.join("a").exists() && corpus.join("a").exists());
        assert!(write_beside(&corpus, &[]).is_err());
        assert!(written.join("a").exists());
    }
}
