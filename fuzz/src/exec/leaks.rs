// SPDX-License-Identifier: GPL-2.0-only
//! Leaks of single pages. The counters that show them are moved by others too, so
//! a difference counts only if the same program makes it again each time.
//!
//! A base page that somebody still holds is on the lists for reclaim, and is
//! neither mapped nor part of a file. How many such pages there are follows from
//! counters that are exact once they are folded.

use std::fs::File;
use std::time::Duration;

use super::baseline::{content, settle};
use super::violation::{Oracle, Violation};

/// Times that a program has to make a counter grow, each time.
const ROUNDS: u32 = 6;

/// What is counted, as it is called in titles.
pub const NAMES: [&str; 3] = [
    "pages on lists for reclaim that nobody maps",
    "page tables",
    "swap in use",
];

/// The counters, in the order of `NAMES`.
type Counts = [i64; 3];

/// The counters after the programs so far.
pub struct Leaks {
    vmstat: Option<File>,
    meminfo: Option<File>,
    last: Counts,
}

impl Leaks {
    /// What is there now, when nothing of ours runs.
    pub fn take() -> Self {
        let mut leaks = Self {
            vmstat: File::open("/proc/vmstat").ok(),
            meminfo: File::open("/proc/meminfo").ok(),
            last: [0; 3],
        };
        leaks.last = leaks.read();
        leaks
    }

    /// Whether any counter has grown since the last time, and stays so when what
    /// waits to be freed is.
    pub fn grown(&mut self) -> bool {
        let before = self.last;
        let more = |now: &Counts| (0..now.len()).any(|i| now[i] > before[i]);
        self.last = self.read();
        if more(&self.last) {
            self.last = self.read_freed();
        }
        more(&self.last)
    }

    /// Runs the program again and again; a counter that grows each time is a violation.
    /// Tables of the kernel count too, and a driver that adds memory makes some; and
    /// `memory.reclaim` swaps out pages of the executor, too.
    pub fn violation(
        &mut self,
        (with_devices, reclaims): (bool, bool),
        mut run: impl FnMut() -> bool,
    ) -> Option<Violation> {
        let first = self.read_freed();
        let mut before = first;
        let mut grows = [true, !with_devices, !reclaims];
        for _ in 0..ROUNDS {
            if !run() {
                return None;
            }
            let now = self.read_freed();
            for i in 0..now.len() {
                grows[i] &= now[i] > before[i];
            }
            before = now;
            if grows == [false; 3] {
                self.last = now;
                return None;
            }
        }
        self.last = before;
        let index = grows.iter().position(|grows| *grows)?;
        Some(Violation {
            oracle: Oracle::Resources,
            step: None,
            title: format!("{} leaked", NAMES[index]),
            detail: format!(
                "{} before, {} after {ROUNDS} runs of the program, more each time",
                first[index], before[index]
            ),
        })
    }

    /// The counters when what the last program had is freed: page tables wait for a
    /// grace period of RCU.
    fn read_freed(&self) -> Counts {
        for _ in 0..2 {
            // SAFETY: a barrier without effect on memory of ours; it waits for a grace period.
            unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
            std::thread::sleep(Duration::from_millis(2));
        }
        self.read()
    }

    fn read(&self) -> Counts {
        settle(false);
        let text = |file: &Option<File>| file.as_ref().map_or(String::new(), content);
        let (vmstat, meminfo) = (text(&self.vmstat), text(&self.meminfo));
        counts(&vmstat, &meminfo)
    }
}

/// The counters from the texts of `/proc/vmstat` and `/proc/meminfo`.
fn counts(vmstat: &str, meminfo: &str) -> Counts {
    let value = |text: &str, name: &str| -> i64 {
        let line = text.lines().find(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', ':']))
        });
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let page = |name| value(vmstat, name);
    let listed = page("nr_active_anon") + page("nr_inactive_anon") + page("nr_unevictable");
    let known = page("nr_anon_pages") + page("nr_shmem") + page("nr_swapcached");
    let swap = value(meminfo, "SwapTotal") - value(meminfo, "SwapFree");
    [listed - known, page("nr_page_table_pages"), swap / 4]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_nobody_maps_is_counted() {
        let vmstat = "nr_inactive_anon 30\nnr_active_anon 12\nnr_unevictable 3\nnr_anon_pages 20\n\
                      nr_shmem 20\nnr_shmem_hugepages 7\nnr_swapcached 4\nnr_page_table_pages 9\n";
        let meminfo = "SwapTotal:   4096 kB\nSwapFree:    4088 kB\n";
        assert_eq!(counts(vmstat, meminfo), [1, 9, 2]);
    }
}
