// SPDX-License-Identifier: GPL-2.0-only
//! Memory types that the kernel keeps reserved on x86 (PAT), from
//! `/sys/kernel/debug/x86/pat_memtype_list`: a PFN mapping reserves one, and
//! the reservation must go when the last piece of the mapping goes.

use std::fs;
use std::ops::Range;

const LIST: &str = "/sys/kernel/debug/x86/pat_memtype_list";

/// One reserved range and its type as the kernel words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memtype {
    /// Physical addresses.
    pub range: Range<u64>,
    /// For instance `write-back` or `write-combining`.
    pub name: String,
}

/// What is reserved within `range`; `None` where the kernel does not tell (no
/// debugfs, no PAT).
pub fn reserved_within(range: &Range<u64>) -> Option<Vec<Memtype>> {
    let text = fs::read_to_string(LIST).ok()?;
    Some(
        parse(&text)
            .into_iter()
            .filter(|m| m.range.start < range.end && range.start < m.range.end)
            .collect(),
    )
}

fn parse(text: &str) -> Vec<Memtype> {
    text.lines()
        .filter_map(|line| {
            let (range, name) = line.strip_prefix("PAT: [mem ")?.split_once("] ")?;
            let (start, end) = range.split_once('-')?;
            Some(Memtype {
                range: address(start)?..address(end)?,
                name: name.to_owned(),
            })
        })
        .collect()
}

fn address(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_ranges_with_types() {
        let text = "PAT memtype list:\n\
            PAT: [mem 0x00000000bffe0000-0x00000000bffe1000] write-back\n\
            PAT: [mem 0x0000000180000000-0x0000000180400000] write-combining\n";
        assert_eq!(
            parse(text),
            [
                Memtype {
                    range: 0xbffe_0000..0xbffe_1000,
                    name: "write-back".to_owned()
                },
                Memtype {
                    range: 0x1_8000_0000..0x1_8040_0000,
                    name: "write-combining".to_owned()
                },
            ]
        );
    }
}
