// SPDX-License-Identifier: GPL-2.0-only
//! Snapshots of the kernel's counters and exact expectations about what an
//! operation does to them.
//!
//! Names: `thp_split_pmd` is a line of `/proc/vmstat`; `2048kB/nr_anon` a file
//! of `/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/stats`;
//! `VmPTE` (capital first letter) a line of `/proc/self/status`;
//! `meminfo/SwapFree` a line of `/proc/meminfo`. Values in kB stay in kB.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::sources::Sources;
use crate::{not_applicable, text};

mod sources;

thread_local! {
    /// Opened by the first snapshot, and closed by the end of the process: one by one would take
    /// longer.
    static SOURCES: RefCell<ManuallyDrop<Sources>> =
        RefCell::new(ManuallyDrop::new(Sources::open()));
}

/// Counters at one moment. Kept as text: a test asks for a few of some three hundred.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    vmstat: String,
    status: String,
    meminfo: String,
    thp: Vec<(u32, Stats)>,
}

/// Names and values of the statistics of one THP size.
type Stats = Vec<(Arc<str>, i64)>;

impl Snapshot {
    /// Reads vmstat, meminfo, this process's status and the statistics of
    /// PMD-sized THPs.
    pub fn take() -> Self {
        Self::of_sizes(&[2048])
    }

    /// As [`Self::take`] with the statistics of every THP size.
    pub fn all_sizes() -> Self {
        Self::of_sizes(&thp_sizes_kib())
    }

    fn of_sizes(kib: &[u32]) -> Self {
        SOURCES.with_borrow_mut(|sources| {
            sources.fold();
            Self {
                vmstat: sources.vmstat(),
                // Not kept open: a child is another process.
                status: text::read("/proc/self/status").unwrap_or_default(),
                meminfo: sources.meminfo(),
                thp: kib.iter().map(|kib| (*kib, sources.thp(*kib))).collect(),
            }
        })
    }

    /// The value of a counter, or `None` where the kernel has no such counter.
    pub fn get(&self, name: &str) -> Option<i64> {
        if let Some(name) = name.strip_prefix("meminfo/") {
            return value_of(&self.meminfo, name);
        }
        if let Some((kib, name)) = name.split_once("kB/") {
            let kib = kib.parse().ok()?;
            let (_, stats) = self.thp.iter().find(|(size, _)| *size == kib)?;
            return stats.iter().find(|(n, _)| **n == *name).map(|(_, v)| *v);
        }
        value_of(&self.vmstat, name).or_else(|| value_of(&self.status, name))
    }

    /// What happened to a counter from this snapshot to `after`.
    pub fn delta(&self, after: &Self, name: &str) -> Option<i64> {
        Some(after.get(name)? - self.get(name)?)
    }
}

/// A `kB` field of `/proc/self/status`, read without touching the heap, so that
/// looking at `RssAnon` does not change it.
///
/// # Panics
/// When there is no such field.
#[track_caller]
pub fn status_kib(name: &str) -> i64 {
    let mut buffer = [0; 8192];
    let length = fs::File::open("/proc/self/status")
        .and_then(|mut file| std::io::Read::read(&mut file, &mut buffer))
        .unwrap_or_default();
    let text = std::str::from_utf8(&buffer[..length]).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(field, _)| *field == name)
        .and_then(|(_, value)| value.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("/proc/self/status has no field {name}"))
}

/// Page faults of this thread that needed no input, so far.
pub fn minor_faults() -> i64 {
    // SAFETY: an all-zero rusage is valid, and the kernel fills it in.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage.ru_minflt
    }
}

/// THP sizes in KiB that this kernel has statistics or settings for.
pub fn thp_sizes_kib() -> Vec<u32> {
    let Ok(folder) = fs::read_dir(crate::settings::THP) else {
        return Vec::new();
    };
    let mut sizes: Vec<u32> = folder
        .flatten()
        .filter_map(|entry| parse_thp_folder(entry.file_name().to_str()?))
        .collect();
    sizes.sort_unstable();
    sizes
}

/// `hugepages-64kB` is 64.
fn parse_thp_folder(name: &str) -> Option<u32> {
    name.strip_prefix("hugepages-")?
        .strip_suffix("kB")?
        .parse()
        .ok()
}

/// A count. The kernel shows one below zero as a number just below 2^64, and a
/// counter that is wrong must not look like one that is not there.
fn number(text: &str) -> Option<i64> {
    let wrapped = || text.parse::<u64>().ok().map(u64::cast_signed);
    text.parse().ok().or_else(wrapped)
}

/// The value of the line `name value`, `name: value` or `name: value kB` of a text; others, such
/// as masks and names, have none.
fn value_of(text: &str, name: &str) -> Option<i64> {
    let rest = text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with([':', ' ', '\t']).then_some(rest)
    })?;
    let mut words = rest.trim_start_matches(':').split_ascii_whitespace();
    let value = number(words.next()?)?;
    matches!(words.next(), None | Some("kB")).then_some(value)
}

/// What an operation shall do to the counters: every named one exactly so.
///
/// ```no_run
/// # use selftests::counters::{Expect, Snapshot};
/// let before = Snapshot::take();
/// // the operation
/// Expect::new()
///     .delta("thp_split_pmd", 1)
///     .unchanged(&["thp_split_page", "2048kB/nr_anon"])
///     .check(&before);
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is checked before `check` is called"]
pub struct Expect {
    deltas: Vec<(String, i64)>,
}

impl Expect {
    /// Expects nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Expects that `name` changes by exactly `by`.
    pub fn delta(mut self, name: &str, by: i64) -> Self {
        self.deltas.push((name.to_string(), by));
        self
    }

    /// Expects that none of `names` changes.
    pub fn unchanged(mut self, names: &[&str]) -> Self {
        self.deltas
            .extend(names.iter().map(|name| (name.to_string(), 0)));
        self
    }

    /// Compares now with `before`. A counter that this kernel does not have is
    /// reported as not applicable, never taken for 0.
    ///
    /// # Panics
    /// When a counter moved differently; the message names all of them.
    #[track_caller]
    pub fn check(&self, before: &Snapshot) {
        let sizes = self.wanted_sizes();
        self.check_between(before, &Snapshot::of_sizes(&sizes));
    }

    /// As [`Self::check`], for counters that the kernel brings down some time
    /// later: page tables and folios that are freed after a grace period. What
    /// leaked stays, so waiting hides nothing.
    ///
    /// # Panics
    /// As [`Self::check`], after ten seconds.
    #[track_caller]
    pub fn check_settled(&self, before: &Snapshot) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let sizes = self.wanted_sizes();
        let mut after = Snapshot::of_sizes(&sizes);
        while self.violations(before, &after).is_some() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            after = Snapshot::of_sizes(&sizes);
        }
        self.check_between(before, &after);
    }

    /// As [`Self::check`], between two snapshots.
    ///
    /// # Panics
    /// As [`Self::check`].
    #[track_caller]
    pub fn check_between(&self, before: &Snapshot, after: &Snapshot) {
        for name in self.absent(before, after) {
            not_applicable!(name, "this kernel has no such counter");
        }
        if let Some(text) = self.violations(before, after) {
            panic!("{text}");
        }
    }

    fn wanted_sizes(&self) -> Vec<u32> {
        let mut sizes: Vec<u32> = self
            .deltas
            .iter()
            .filter_map(|(name, _)| name.split_once("kB/")?.0.parse().ok())
            .collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    fn absent(&self, before: &Snapshot, after: &Snapshot) -> Vec<&str> {
        self.deltas
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| before.delta(after, name).is_none())
            .collect()
    }

    /// Every violated expectation in words, or `None`.
    pub fn violations(&self, before: &Snapshot, after: &Snapshot) -> Option<String> {
        let mut text = String::new();
        for (name, wanted) in &self.deltas {
            let Some(found) = before.delta(after, name) else {
                continue;
            };
            if found == *wanted {
                continue;
            }
            let from = before.get(name).unwrap_or_default();
            let line = match wanted {
                0 => format!("expected {name} unchanged, found {found:+}"),
                _ => format!("expected {name} {wanted:+}, found {found:+}"),
            };
            let _ = writeln!(text, "  {line} ({from} -> {})", from + found);
        }
        (!text.is_empty()).then(|| format!("counters:\n{}", text.trim_end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_below_zero_are_counts() {
        let text = "nr_anon 18446744073709551615\nVmRSS: 12 kB\nname: text\n";
        assert_eq!(value_of(text, "nr_anon"), Some(-1));
        assert_eq!(value_of(text, "VmRSS"), Some(12));
        assert_eq!(value_of(text, "name"), None);
    }

    fn snapshot(vmstat: &str) -> Snapshot {
        Snapshot {
            vmstat: vmstat.to_string(),
            ..Snapshot::default()
        }
    }

    #[test]
    fn each_name_is_looked_up_in_its_file() {
        let counters = Snapshot {
            vmstat: "nr_free_pages 1234\nthp_split_pmd 7\nthp_split_pud 8\n".into(),
            status: "Name:\tpmd_split\nVmPTE:\t     124 kB\nUid:\t0\t0\t0\t0\nThreads:\t1\n".into(),
            meminfo: "SwapTotal: 9 kB\nSwapFree:      8 kB\nHugePages_Free:        3\n".into(),
            thp: vec![(64, vec![]), (2048, vec![("nr_anon".into(), 5)])],
        };
        assert_eq!(counters.get("thp_split_pmd"), Some(7));
        assert_eq!(counters.get("VmPTE"), Some(124));
        assert_eq!(counters.get("Threads"), Some(1));
        assert_eq!(counters.get("meminfo/SwapFree"), Some(8));
        assert_eq!(counters.get("meminfo/HugePages_Free"), Some(3));
        assert_eq!(counters.get("2048kB/nr_anon"), Some(5));
        let absent = ["Name", "Uid", "thp_split", "SwapFree", "64kB/nr_anon"];
        assert_eq!(absent.map(|name| counters.get(name)), [None; 5]);
    }

    #[test]
    fn thp_folders_are_sizes() {
        assert_eq!(parse_thp_folder("hugepages-2048kB"), Some(2048));
        assert_eq!(parse_thp_folder("khugepaged"), None);
    }

    #[test]
    fn violations_name_every_counter_that_moved_wrongly() {
        let before = snapshot("thp_split_pmd 4\nthp_split_page 1\nx 0\n");
        let after = snapshot("thp_split_pmd 6\nthp_split_page 2\nx 0\n");
        let expect =
            Expect::new()
                .delta("thp_split_pmd", 1)
                .unchanged(&["thp_split_page", "x", "absent"]);
        let text = expect.violations(&before, &after).unwrap();
        assert!(
            text.contains("expected thp_split_pmd +1, found +2 (4 -> 6)"),
            "{text}"
        );
        assert!(
            text.contains("expected thp_split_page unchanged, found +1 (1 -> 2)"),
            "{text}"
        );
        assert!(!text.contains(" x "), "{text}");
        assert_eq!(expect.absent(&before, &after), ["absent"]);
    }

    #[test]
    fn exact_deltas_are_no_violation() {
        let before = snapshot("thp_split_pmd 4\n");
        let after = snapshot("thp_split_pmd 5\n");
        let expect = Expect::new().delta("thp_split_pmd", 1);
        assert_eq!(expect.violations(&before, &after), None);
    }
}
