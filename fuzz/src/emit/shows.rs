// SPDX-License-Identifier: GPL-2.0-only
//! What a finding's title says of the checks that show it, beside those that every
//! reproducer makes.

use crate::exec::{LEAKS, name_of};
use crate::program::Op;

/// A check that is made only where the finding needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Shows {
    /// Nothing beyond what every reproducer checks.
    #[default]
    Nothing,
    /// O1: marks in memory that is free, so that what was not cleared is not zero.
    Content,
    /// O2: what the kernel logs.
    Log,
    /// O3: counters of all memory and of each size are back at the end.
    Baseline,
    /// O3: a counter that others move too does not grow with each run; which of `LEAKS`.
    Leak(usize),
    /// O4: `thp_split_pmd`, over the operation of that name.
    Splits(String),
    /// O5: what moves is soft-dirty.
    Moved,
}

impl Shows {
    /// The check that shows a finding with that title, as campaigns have it; none
    /// for an empty title.
    pub fn of(title: &str) -> Self {
        let after = |what: &str| title.strip_prefix(what).map(str::to_owned);
        let leak = |name: &&str| title == format!("O3 resources: {name} leaked");
        if title.is_empty() {
            Self::Nothing
        } else if title.starts_with("O1 ") {
            Self::Content
        } else if let Some(which) = LEAKS.iter().position(leak) {
            Self::Leak(which)
        } else if title.starts_with("O3 ") {
            Self::Baseline
        } else if let Some(name) = after("O4 counters: thp_split_pmd wrong after ") {
            Self::Splits(name)
        } else if title.starts_with("O5 bits: moved ") {
            Self::Moved
        } else if is_numbered(title) {
            Self::Nothing
        } else {
            // a report of the kernel has a title of its own
            Self::Log
        }
    }

    /// Whether the step is the one over which PMDs that are split are counted.
    pub fn counts_splits_of(&self, op: &Op) -> bool {
        matches!(self, Self::Splits(name) if *name == name_of(op))
    }

    /// Whether free memory has marks when the program begins, as in a campaign.
    pub fn marks_memory(&self) -> bool {
        matches!(self, Self::Content | Self::Log)
    }
}

/// Whether the title begins with the number of an oracle.
fn is_numbered(title: &str) -> bool {
    let number = title
        .strip_prefix('O')
        .and_then(|rest| rest.split_once(' '));
    number.is_some_and(|(number, _)| number.parse::<u8>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    #[test]
    fn a_title_tells_which_check_shows_it() {
        let of = |title: &str| Shows::of(title);
        assert_eq!(of(""), Shows::Nothing);
        assert_eq!(of("O5 bits: uffd-wp lost after place"), Shows::Nothing);
        assert_eq!(of("O1 content: wrong content after write"), Shows::Content);
        assert_eq!(of("BUG: Bad rss-counter state (MM_ANONPAGES)"), Shows::Log);
        assert_eq!(of("Oops: general protection fault"), Shows::Log);
        let resources = "O3 resources: nr_mlock not back at its baseline";
        assert_eq!(of(resources), Shows::Baseline);
        assert_eq!(of("O3 resources: page tables leaked"), Shows::Leak(1));
        let moved = "O5 bits: moved page not soft-dirty after uffd-move";
        assert_eq!(of(moved), Shows::Moved);
        let splits = of("O4 counters: thp_split_pmd wrong after madvise dontneed");
        let counts = |step: &str| splits.counts_splits_of(&text::parse(step).unwrap().steps[0].op);
        assert!(counts("p0 madvise at=0.0 len=1 advice=dontneed\n"));
        assert!(!counts("p0 madvise at=0.0 len=1 advice=free\n"));
    }
}
