// SPDX-License-Identifier: GPL-2.0-only
//! The counters of a process against a walk of its page tables, and the model.

use super::check::Broken;
use super::process::Process;
use super::violation::Oracle;
use crate::model::page::Flags;

/// A counter of `/proc/self/status` and what a walk finds in `/proc/self/smaps_rollup`.
const PAIRS: [(&str, &str); 2] = [("RssAnon:", "Anonymous:"), ("VmSwap:", "Swap:")];

impl Process<'_> {
    /// Checks the counters. Reading allocates, so a difference counts only if
    /// the counter is the same before and after the walk.
    pub(super) fn check_accounts(&self) -> Result<(), Broken> {
        let before = read("/proc/self/status")?;
        let rollup = read("/proc/self/smaps_rollup")?;
        let model = self.setup.board.model();
        let mut pages = model.pages(self.me).iter();
        // smaps also counts what shmem has in swap, which is nobody's VmSwap
        let shmem = pages.any(|page| page.flags.any(Flags::SHARED.with(Flags::FILE)));
        // what has failed is no page any more, and smaps still counts it (smaps_pte_entry())
        let failed = model.has_failed(self.me);
        for (counter, walked) in PAIRS {
            if failed && counter == "RssAnon:" {
                continue;
            }
            if shmem && counter == "VmSwap:" {
                continue;
            }
            let (Some(counted), Some(found)) = (kib(&before, counter), kib(&rollup, walked)) else {
                continue;
            };
            if counted != found && kib(&read("/proc/self/status")?, counter) == Some(counted) {
                // the executor's own shared memory may be in swap
                if counter == "VmSwap:" && private_swap() == Some(counted) {
                    continue;
                }
                let name = counter.trim_end_matches(':');
                let detail = format!("status {name} {counted} kB, smaps {walked} {found} kB");
                return Err((Oracle::Bits, format!("{name} wrong"), detail));
            }
        }
        let locked = self.setup.board.model().locked(self.me);
        if let (Some(pages), Some(counted)) = (locked, kib(&before, "VmLck:"))
            && pages * 4 != counted
        {
            let detail = format!("status VmLck {counted} kB, model {} kB", pages * 4);
            return Err((Oracle::Bits, "VmLck wrong".into(), detail));
        }
        Ok(())
    }
}

fn read(path: &str) -> Result<String, Broken> {
    std::fs::read_to_string(path).map_err(|error| {
        (
            Oracle::Bits,
            format!("{path} not readable"),
            error.to_string(),
        )
    })
}

/// What private areas have in swap, in kB.
fn private_swap() -> Option<usize> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").ok()?;
    Some(swap_of_private(&smaps))
}

fn swap_of_private(smaps: &str) -> usize {
    let mut private = false;
    let mut sum = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Swap:"), Some(kib)) if private => sum += kib.parse().unwrap_or(0),
            (Some(area), Some(access)) if area.contains('-') && !area.contains(':') => {
                private = access.ends_with('p');
            }
            _ => {}
        }
    }
    sum
}

/// The number after `name` in a text of `name: N kB` lines.
fn kib(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line[name.len()..].split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_of_shared_areas_does_not_count() {
        let smaps = "1000-2000 rw-p 0 00:00 0\nSize: 4 kB\nSwap:     8 kB\nSwapPss: 8 kB\n\
                     3000-4000 rw-s 0 00:01 7 /dev/zero\nSwap:    16 kB\n";
        assert_eq!(swap_of_private(smaps), 8);
    }

    #[test]
    fn numbers_are_read_from_status_lines() {
        assert_eq!(kib("Name:\tx\nVmLck:\t      12 kB\n", "VmLck:"), Some(12));
        assert_eq!(kib("Name:\tx\n", "VmLck:"), None);
    }
}
