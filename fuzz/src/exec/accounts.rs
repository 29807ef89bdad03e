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
        for (counter, walked) in PAIRS {
            if shmem && counter == "VmSwap:" {
                continue;
            }
            let (Some(counted), Some(found)) = (kib(&before, counter), kib(&rollup, walked)) else {
                continue;
            };
            if counted != found && kib(&read("/proc/self/status")?, counter) == Some(counted) {
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

/// The number after `name` in a text of `name: N kB` lines.
fn kib(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line[name.len()..].split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_status_lines() {
        assert_eq!(kib("Name:\tx\nVmLck:\t      12 kB\n", "VmLck:"), Some(12));
        assert_eq!(kib("Name:\tx\n", "VmLck:"), None);
    }
}
