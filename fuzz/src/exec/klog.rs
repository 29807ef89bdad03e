// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel logged while a program ran. The host decodes reports and
//! gives them titles; here they only have to be tied to their program.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use super::violation::{Oracle, Violation};

/// Beginnings and parts of lines with which the kernel reports a bug.
const SIGNS: &[&str] = &[
    "BUG:",
    "WARNING:",
    "kernel BUG at",
    "KASAN:",
    "UBSAN:",
    "Bad page",
    "Bad rss-counter",
    "non-zero pgtables_bytes",
    "sleeping function called",
    "unrecognized swap entry",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "rcu_preempt detected stalls",
    "rcu_sched detected stalls",
    "soft lockup",
    "blocked for more than",
    "page_table_check",
    "Oops:",
    "general protection fault",
];

/// A known report that is not a bug of memory management, and why.
const ALLOWED: &[(&str, &str)] = &[
    (
        "Conflicting mapping in same section",
        "the coherent dmirror device has room for one chunk only (lib/test_hmm.c)",
    ),
    (
        "unhandled return value",
        "madvise populate names an errno it did not expect",
    ),
];

/// The kernel log from a point in time on.
pub struct KernelLog(Option<File>);

impl KernelLog {
    /// Starts at the end of what was logged so far.
    pub fn open() -> Self {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg");
        Self(
            file.ok()
                .and_then(|mut file| file.seek(SeekFrom::End(0)).is_ok().then_some(file)),
        )
    }

    /// The first report since the last call, with what follows it.
    pub fn complaint(&mut self) -> Option<Violation> {
        let lines = self.lines();
        let first = lines.iter().position(|line| is_report(line))?;
        let end = (first + 60).min(lines.len());
        Some(Violation {
            oracle: Oracle::Log,
            step: None,
            title: title(&lines[first]),
            detail: lines[first..end].join("\n"),
        })
    }

    fn lines(&mut self) -> Vec<String> {
        let Some(file) = &mut self.0 else {
            return Vec::new();
        };
        let mut lines = Vec::new();
        let mut record = [0u8; 8192];
        loop {
            match file.read(&mut record) {
                Ok(0) => return lines,
                Ok(count) => {
                    let text = String::from_utf8_lossy(&record[..count]);
                    let line = text.split_once(';').map_or(&*text, |(_, line)| line);
                    lines.push(line.lines().next().unwrap_or_default().to_owned());
                }
                // records were overwritten before they were read: go on with the next
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => return lines,
            }
        }
    }
}

fn is_report(line: &str) -> bool {
    SIGNS.iter().any(|sign| line.contains(sign))
        && !ALLOWED.iter().any(|(known, _)| line.contains(known))
}

/// The line without what differs from run to run: addresses, pids, CPU and line
/// numbers. A warning is named by its function.
fn title(line: &str) -> String {
    let function = |at: &str| {
        at.split(['+', ',', ' '])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    if let Some((_, at)) = line
        .split_once(" at ")
        .filter(|(head, _)| head.contains("WARNING:"))
    {
        return format!("WARNING in {}", function(at));
    }
    let words = line
        .split_whitespace()
        .map(|word| word.split("+0x").next().unwrap_or(word));
    let words = words.filter(|word| {
        !word.starts_with("0x") && !word.starts_with("mm:") && !word.starts_with("val:")
    });
    let number = |word: &str| {
        word.chars().any(|c| c.is_ascii_digit())
            && word.chars().all(|c| c.is_ascii_hexdigit() || c == ':')
    };
    let words = words.filter(|word| !number(word));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_leave_out_what_varies() {
        for (line, wanted) in [
            (
                "WARNING: mm/huge_memory.c:2905 at __split_huge_pmd_locked+0x12/0x30, CPU#1: fuzz-mm/77",
                "WARNING in __split_huge_pmd_locked",
            ),
            (
                "BUG: Bad rss-counter state mm:00000000deadbeef type:MM_ANONPAGES val:512",
                "BUG: Bad rss-counter state type:MM_ANONPAGES",
            ),
            (
                "BUG: KASAN: slab-use-after-free in folio_add_lru+0x1f/0x90",
                "BUG: KASAN: slab-use-after-free in folio_add_lru",
            ),
        ] {
            assert!(is_report(line));
            assert_eq!(title(line), wanted);
        }
    }

    #[test]
    fn ordinary_lines_and_known_reports_are_no_complaint() {
        assert!(!is_report("hugeprobe: run begins"));
        assert!(!is_report("WARNING: Conflicting mapping in same section"));
    }
}
