// SPDX-License-Identifier: GPL-2.0-only
//! Physical address ranges, from `/proc/iomem`: which memory was set aside at
//! boot for tests that map physical memory.

use std::fs;
use std::io;
use std::ops::Range;

/// Below this, "Reserved" is firmware and devices, never memory set aside.
const FOUR_GIB: u64 = 1 << 32;

/// The biggest range above 4 GiB that was set aside with `memmap=SIZE$START`,
/// if there is one of at least `bytes`. Ranges above all memory are holes of the
/// machine's address space.
///
/// # Errors
/// When `/proc/iomem` cannot be read.
pub fn reserved_memory(bytes: u64) -> io::Result<Option<Range<u64>>> {
    let text = fs::read_to_string("/proc/iomem")?;
    let ram = top_level(&text, "System RAM");
    let end_of_ram = ram.iter().map(|r| r.end).max().unwrap_or(0);
    Ok(top_level(&text, "Reserved")
        .into_iter()
        .filter(|r| r.start >= FOUR_GIB && r.end < end_of_ram && r.end - r.start >= bytes)
        .max_by_key(|r| r.end - r.start))
}

/// All ranges without a parent that bear `name`, in the order of the text.
///
/// A reader without privileges sees zeros; such ranges are left out.
fn top_level(text: &str, name: &str) -> Vec<Range<u64>> {
    text.lines()
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| {
            let (range, owner) = line.split_once(" : ")?;
            let (first, last) = range.split_once('-')?;
            let first = u64::from_str_radix(first, 16).ok()?;
            let last = u64::from_str_radix(last, 16).ok()?;
            (owner == name && last > first).then(|| first..last + 1)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: &str = "\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
100000000-11fffffff : Reserved
180000000-1bfffffff : Reserved
  180000000-1bfffffff : hugeprobe_pfnmap
1c0000000-1ffffffff : Soft Reserved
200000000-27fffffff : System RAM
";

    #[test]
    fn children_and_other_owners_are_left_out() {
        assert_eq!(
            top_level(GUEST, "Reserved"),
            [
                0..0x1000,
                0x1_0000_0000..0x1_2000_0000,
                0x1_8000_0000..0x1_c000_0000
            ]
        );
        assert!(top_level(GUEST, "hugeprobe_pfnmap").is_empty());
    }

    #[test]
    fn hidden_addresses_are_left_out() {
        assert!(top_level("00000000-00000000 : Reserved\n", "Reserved").is_empty());
    }
}
