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
}

/// Reads the list; a file that is not there is an empty one.
pub fn read(path: &Path) -> Vec<KnownBug> {
    parse(&std::fs::read_to_string(path).unwrap_or_default())
}

fn parse(text: &str) -> Vec<KnownBug> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let bugs = lines.filter_map(|line| line.split_once('\t'));
    bugs.map(|(title, reason)| KnownBug {
        title: title.to_owned(),
        reason: reason.to_owned(),
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
        assert!(
            bugs.iter()
                .all(|bug| !bug.reason.is_empty() && !bug.reason.contains('\t'))
        );
    }
}
