// SPDX-License-Identifier: GPL-2.0-only
//! Counters that must be back where they were when a program has ended.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::violation::{Oracle, Violation};

/// Counters of `/proc/vmstat` that only programs move. In the unit of the file.
const VMSTAT: &[&str] = &[
    "nr_anon_transparent_hugepages",
    "nr_mlock",
    "nr_isolated_anon",
    "nr_isolated_file",
    "nr_shmem_pmdmapped",
    "nr_file_pmdmapped",
];
/// Per-size counters of transparent huge pages.
const STATS: &[&str] = &["nr_anon", "nr_anon_partially_mapped"];
const SIZES: &str = "/sys/kernel/mm/transparent_hugepage";
/// Times that a difference is looked at again before it counts.
const ROUNDS: u32 = 12;
/// Rounds of these that do not compact memory.
const GENTLE: u32 = 8;

/// Values before the programs.
pub struct Baseline {
    counters: Counters,
    values: Vec<i64>,
}

impl Baseline {
    /// The values now, when nothing of ours runs.
    pub fn take() -> Self {
        let counters = Counters::open();
        settle(false);
        settle(true);
        let values = counters.read();
        Self { counters, values }
    }

    /// Compares with the values when it was taken. A difference counts if it
    /// stays after per-CPU lists have been emptied several times.
    pub fn violation(&mut self) -> Option<Violation> {
        for round in 0..ROUNDS {
            if self.counters.read() == self.values {
                return None;
            }
            settle(round >= GENTLE);
        }
        // the next program is compared with what is there now
        let before = std::mem::replace(&mut self.values, self.counters.read());
        let names = self.counters.names.iter();
        let differing: Vec<_> = names
            .zip(before.iter().zip(&self.values))
            .filter(|(_, (before, after))| before != after)
            .collect();
        let lines: Vec<String> = differing
            .iter()
            .map(|(name, (before, after))| format!("{name}: {before} before, {after} after"))
            .collect();
        Some(Violation {
            oracle: Oracle::Resources,
            step: None,
            title: format!("{} not back at its baseline", differing.first()?.0),
            detail: lines.join("\n"),
        })
    }
}

/// The files of the counters, open: they are read after most programs.
struct Counters {
    names: Vec<String>,
    vmstat: Option<File>,
    sizes: Vec<File>,
}

impl Counters {
    fn open() -> Self {
        let mut files = Vec::new();
        for size in fs::read_dir(SIZES).into_iter().flatten().flatten() {
            for stat in STATS {
                if let Ok(file) = File::open(size.path().join("stats").join(stat)) {
                    let name = format!("{} {stat}", size.file_name().to_string_lossy());
                    files.push((name, file));
                }
            }
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        let (sized, sizes): (Vec<_>, _) = files.into_iter().unzip();
        let names = VMSTAT.iter().map(|name| (*name).to_owned()).chain(sized);
        Self {
            names: names.collect(),
            vmstat: File::open("/proc/vmstat").ok(),
            sizes,
        }
    }

    /// All counters, in the order of the names.
    fn read(&self) -> Vec<i64> {
        let text = self.vmstat.as_ref().map_or(String::new(), content);
        let mut values = vec![0; VMSTAT.len()];
        for line in text.lines() {
            if let Some((name, value)) = line.split_once(' ')
                && let Some(index) = VMSTAT.iter().position(|wanted| *wanted == name)
            {
                values[index] = number(value);
            }
        }
        let sizes = self.sizes.iter().map(content);
        values.extend(sizes.map(|text| number(text.trim())));
        values
    }
}

/// A counter from its text. One that was counted down too often is printed as the
/// largest numbers there are.
fn number(text: &str) -> i64 {
    text.parse::<i64>()
        .or_else(|_| text.parse::<u64>().map(u64::cast_signed))
        .unwrap_or(0)
}

/// The text of a file of procfs or sysfs, from its start.
pub(super) fn content(file: &File) -> String {
    let mut bytes = [0; 16 << 10];
    let mut end = 0;
    while let Ok(count) = file.read_at(&mut bytes[end..], end as u64)
        && count > 0
    {
        end += count;
    }
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Folds per-CPU counts and empties the per-CPU batches that still hold folios,
/// which `move_pages` does before it looks at a page. With `compact`, also the
/// lists of free pages; that is a lot of work: the last resort.
pub(super) fn settle(compact: bool) {
    let (page, node, mut status) = (settle as *const () as usize, 0i32, 0i32);
    // SAFETY: three arrays of one entry; without MPOL_MF_MOVE_ALL, a page of
    // program text that others map too stays where it is.
    unsafe { libc::syscall(libc::SYS_move_pages, 0, 1, &page, &node, &mut status, 2) };
    // Both fail only without their file, and then there is nothing to do.
    if compact {
        let _ = fs::write("/proc/sys/vm/compact_memory", "1");
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = fs::write("/proc/sys/vm/stat_refresh", "1");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_below_zero_is_not_zero() {
        assert_eq!(number("18446744073709551615"), -1);
        assert_eq!((number("-1"), number("12"), number("")), (-1, 12, 0));
    }
}
