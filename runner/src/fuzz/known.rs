// SPDX-License-Identifier: GPL-2.0-only
//! Bugs of mainline that are known: `fuzz/known.tsv`. A campaign counts them
//! and goes on; they are no findings. Pure but for reading the file.

use std::path::Path;

/// A known bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownBug {
    /// Title of the finding.
    pub title: String,
    /// Why it is a bug of the kernel, and which.
    pub reason: String,
    /// Programs that are not run because of it, as [`super::pattern`] writes them;
    /// for one that takes the machine down.
    pub patterns: Vec<String>,
}

/// Reads the list; a file that is not there is an empty one.
pub fn read(path: &Path) -> Vec<KnownBug> {
    parse(&std::fs::read_to_string(path).unwrap_or_default())
}

fn parse(text: &str) -> Vec<KnownBug> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let bugs = lines.filter_map(|line| line.split_once('\t'));
    bugs.map(|(title, rest)| {
        let (reason, patterns) = rest.split_once('\t').unwrap_or((rest, ""));
        KnownBug {
            title: title.to_owned(),
            reason: reason.to_owned(),
            patterns: patterns
                .split(" | ")
                .filter(|pattern| !pattern.is_empty())
                .map(str::to_owned)
                .collect(),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_that_is_shipped_can_be_read() {
        let bugs = parse(include_str!("../../../fuzz/known.tsv"));
        assert!(!bugs.is_empty());
        assert!(bugs.iter().all(|bug| !bug.reason.is_empty()));
        let mut patterns = bugs.iter().flat_map(|bug| &bug.patterns);
        assert!(patterns.all(|pattern| !pattern.contains('\t')));
    }

    #[test]
    fn a_bug_may_name_the_programs_that_show_it() {
        let bugs = parse("# comment\nO5 bits: a\twhy\nkernel BUG in b\twhy\tfork ; write | exit\n");
        assert!(bugs[0].patterns.is_empty());
        assert_eq!(bugs[1].patterns, ["fork ; write", "exit"]);
    }
}
