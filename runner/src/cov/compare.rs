// SPDX-License-Identifier: GPL-2.0-only
//! What one coverage has that another has not. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::coverage::{Coverage, Share};

/// Functions shown in each direction; the rest is counted.
const SHOWN: usize = 40;

/// The files whose share differs, and the functions that only one of both
/// reached. The kernels may differ, too: what is compared are names.
pub fn write(old: &Coverage, new: &Coverage) -> String {
    let mut text = format!(
        "{:<26} {:>8} {:>8} {:>7}\n",
        "file", "before %", "now %", "sites"
    );
    let before: BTreeMap<&str, Share> = files(old).collect();
    for (name, now) in files(new) {
        let before = before.get(name).copied().unwrap_or_default();
        if before != now {
            row(&mut text, name, before, now);
        }
    }
    row(&mut text, "all", old.sites, new.sites);
    let (before, now) = (reached(old), reached(new));
    list(&mut text, "reached only now", &now, &before);
    list(&mut text, "no longer reached", &before, &now);
    text
}

fn files(coverage: &Coverage) -> impl Iterator<Item = (&str, Share)> {
    let files = coverage.files.iter().filter(|file| file.sites.all > 0);
    files.map(|file| (file.name.as_str(), file.sites))
}

fn row(text: &mut String, name: &str, before: Share, now: Share) {
    let more = i64::from(now.hit) - i64::from(before.hit);
    let _ = writeln!(
        text,
        "{name:<26} {:>8.1} {:>8.1} {more:>+7}",
        before.percent(),
        now.percent()
    );
}

/// Functions that were reached, with their call sites.
fn reached(coverage: &Coverage) -> BTreeMap<(&str, &str), u32> {
    let functions = coverage.files.iter().flat_map(|file| {
        let hit = file.functions.iter().filter(|f| f.sites.hit > 0);
        hit.map(|f| ((file.name.as_str(), f.name.as_str()), f.sites.hit))
    });
    functions.collect()
}

fn list(
    text: &mut String,
    title: &str,
    these: &BTreeMap<(&str, &str), u32>,
    others: &BTreeMap<(&str, &str), u32>,
) {
    let mut only: Vec<_> = these
        .iter()
        .filter(|(name, _)| !others.contains_key(*name))
        .collect();
    if only.is_empty() {
        return;
    }
    only.sort_by_key(|(_, sites)| std::cmp::Reverse(**sites));
    let _ = writeln!(text, "\n{title}: {} functions", only.len());
    for ((file, function), sites) in only.iter().take(SHOWN) {
        let _ = writeln!(text, "  {file}: {function} ({sites} sites)");
    }
    if only.len() > SHOWN {
        let _ = writeln!(text, "  ... and {} smaller ones", only.len() - SHOWN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cov::coverage::{File, Function};

    fn coverage(hits: [u32; 2]) -> Coverage {
        let function = |name: &str, hit| Function {
            name: name.into(),
            line: 1,
            sites: Share { hit, all: 10 },
        };
        let sites = Share {
            hit: hits.iter().sum(),
            all: 20,
        };
        Coverage {
            sites,
            unknown: 0,
            files: vec![File {
                name: "mm/rmap.c".into(),
                sites,
                functions: vec![function("one", hits[0]), function("two", hits[1])],
                ..File::default()
            }],
        }
    }

    #[test]
    fn functions_of_only_one_side_are_named() {
        insta::assert_snapshot!(write(&coverage([4, 0]), &coverage([0, 6])), @r"
        file                       before %    now %   sites
        mm/rmap.c                      20.0     30.0      +2
        all                            20.0     30.0      +2

        reached only now: 1 functions
          mm/rmap.c: two (6 sites)

        no longer reached: 1 functions
          mm/rmap.c: one (4 sites)
        ");
    }

    #[test]
    fn equal_files_are_left_out() {
        let text = write(&coverage([4, 1]), &coverage([4, 1]));
        assert!(!text.contains("mm/rmap.c"), "{text}");
    }
}
