// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's own dump of this process's page tables
//! (CONFIG_PTDUMP_DEBUGFS): at which level memory is mapped, and with which bits.

use std::fs;
use std::io;
use std::ops::Range;

/// Level of the entry that maps a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// A 4 KiB entry.
    Pte,
    /// A 2 MiB entry.
    Pmd,
    /// A 1 GiB entry.
    Pud,
    /// Above.
    Higher,
}

/// A run of equal entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its addresses.
    pub range: Range<usize>,
    /// Level of its entries.
    pub level: Level,
    /// The bits that are set: `USR`, `RW`, `PSE`, `PWT`, `PCD`, `NX` and others.
    /// Empty where nothing is mapped.
    pub flags: Vec<String>,
}

/// The same page tables under two names; the first exists only with
/// CONFIG_MITIGATION_PAGE_TABLE_ISOLATION.
const FILES: [&str; 2] = [
    "/sys/kernel/debug/page_tables/current_user",
    "/sys/kernel/debug/page_tables/current_kernel",
];

/// Parses the text of the dump.
pub fn parse(text: &str) -> Vec<Run> {
    text.lines().filter_map(parse_line).collect()
}

/// `0x00007f0000000000-0x00007f0000200000   2M USR RW  PSE  NX pmd`.
fn parse_line(line: &str) -> Option<Run> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let number = |text: &str| usize::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let range = number(start)?..number(end)?;
    let mut rest: Vec<&str> = words.skip(1).collect();
    let level = match rest.pop()? {
        "pte" => Level::Pte,
        "pmd" => Level::Pmd,
        "pud" => Level::Pud,
        _ => Level::Higher,
    };
    let flags = rest.into_iter().map(str::to_string).collect();
    Some(Run {
        range,
        level,
        flags,
    })
}

/// The runs that overlap the addresses `at`, of this process.
///
/// # Errors
/// Those of reading the file; `NotFound` without CONFIG_PTDUMP_DEBUGFS.
pub fn runs(at: &Range<usize>) -> io::Result<Vec<Run>> {
    let text = fs::read_to_string(FILES[0]).or_else(|_| fs::read_to_string(FILES[1]))?;
    let overlap = |run: &Run| run.range.start < at.end && at.start < run.range.end;
    Ok(parse(&text).into_iter().filter(overlap).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
---[ User Space ]---
0x0000000000000000-0x0000000000400000           4M                               pmd
0x0000000000400000-0x0000000000401000           4K USR ro                     NX pte
0x00007f4a00000000-0x00007f4a00200000           2M USR RW         PSE         NX pmd
0x00007f4a00200000-0x00007f4a40200000           1G USR RW     PCD PSE         NX pud
";

    #[test]
    fn levels_ranges_and_flags_are_parsed() {
        let runs = parse(SAMPLE);
        assert_eq!(runs.len(), 4);
        assert!(runs[0].flags.is_empty());
        assert_eq!(runs[1].level, Level::Pte);
        assert_eq!(runs[2].range, 0x7f4a_0000_0000..0x7f4a_0020_0000);
        assert_eq!(runs[2].level, Level::Pmd);
        assert_eq!(runs[2].flags, ["USR", "RW", "PSE", "NX"]);
        assert_eq!(runs[3].level, Level::Pud);
        assert!(runs[3].flags.contains(&"PCD".to_string()));
    }
}
