// SPDX-License-Identifier: GPL-2.0-only
//! Counters that must be back where they were when a program has ended.

use std::fs;
use std::time::Duration;

use super::violation::{Oracle, Violation};

/// Counters of `/proc/vmstat` that only programs move. In the unit of the file.
const VMSTAT: &[&str] = &[
    "nr_anon_transparent_hugepages",
    "nr_mlock",
    "nr_isolated_anon",
];
/// Per-size counters of transparent huge pages.
const STATS: &[&str] = &["nr_anon", "nr_anon_partially_mapped"];
const SIZES: &str = "/sys/kernel/mm/transparent_hugepage";
/// Times that a difference is looked at again before it counts.
const ROUNDS: u32 = 12;
/// Rounds of these in which per-CPU counts are folded and no more.
const FOLD_ONLY: u32 = 6;

/// Values before the programs.
pub struct Baseline {
    names: Vec<String>,
    values: Vec<i64>,
}

impl Baseline {
    /// The values now, when nothing of ours runs.
    pub fn take() -> Self {
        settle(true);
        settle(true);
        let (names, values) = read().into_iter().unzip();
        Self { names, values }
    }

    /// Compares with the values when it was taken. A difference counts if it
    /// stays after per-CPU lists have been emptied several times.
    pub fn violation(&mut self) -> Option<Violation> {
        let mut differing = self.differences();
        for round in 0..ROUNDS {
            if differing.is_empty() {
                return None;
            }
            settle(round >= FOLD_ONLY);
            differing = self.differences();
        }
        let (first, ..) = differing.first()?.clone();
        let lines: Vec<String> = differing
            .iter()
            .map(|(name, before, after)| format!("{name}: {before} before, {after} after"))
            .collect();
        // the next program is compared with what is there now
        (self.names, self.values) = read().into_iter().unzip();
        Some(Violation {
            oracle: Oracle::Resources,
            step: None,
            title: format!("{first} not back at its baseline"),
            detail: lines.join("\n"),
        })
    }

    fn differences(&self) -> Vec<(String, i64, i64)> {
        let now = read();
        let pairs = self.names.iter().zip(&self.values).zip(now);
        pairs
            .filter(|((_, before), (_, after))| after != *before)
            .map(|((name, before), (_, after))| (name.clone(), *before, after))
            .collect()
    }
}

/// All counters with their values.
fn read() -> Vec<(String, i64)> {
    let mut found = Vec::new();
    let vmstat = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    for line in vmstat.lines() {
        if let Some((name, value)) = line.split_once(' ')
            && VMSTAT.contains(&name)
        {
            found.push((name.to_owned(), value.parse().unwrap_or(0)));
        }
    }
    let Ok(sizes) = fs::read_dir(SIZES) else {
        return found;
    };
    for size in sizes.flatten() {
        for stat in STATS {
            let path = size.path().join("stats").join(stat);
            if let Ok(text) = fs::read_to_string(&path) {
                let name = format!("{} {stat}", size.file_name().to_string_lossy());
                found.push((name, text.trim().parse().unwrap_or(0)));
            }
        }
    }
    found.sort();
    found
}

/// Folds per-CPU counts; with `drain` empties the per-CPU lists before, which
/// still hold pages. Compaction does that, and a lot more: it is the last resort.
fn settle(drain: bool) {
    // Both fail only without their file, and then there is nothing to do.
    if drain {
        let _ = fs::write("/proc/sys/vm/compact_memory", "1");
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = fs::write("/proc/sys/vm/stat_refresh", "1");
}
