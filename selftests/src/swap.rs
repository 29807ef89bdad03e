// SPDX-License-Identifier: GPL-2.0-only
//! Puts pages into swap and proves that they are there.

use std::fs;
use std::ops::Range;

use crate::collapse::drain_lru;
use crate::mapping::{Advice, PAGE, Region, pages};
use crate::pagemap;
use crate::skip;

/// How often reclaim is asked: a page may be on its way to an LRU list just then.
const TRIES: usize = 5;

/// Whether there is a swap device: `/proc/swaps` has more than its heading.
pub fn is_on() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// Swaps out the pages `numbers` of private memory; afterwards each of them is in swap.
///
/// Skips the test where there is no swap.
///
/// # Panics
/// When a page stays in memory.
#[track_caller]
pub fn page_out(region: &Region, numbers: Range<usize>) {
    if !is_on() {
        skip!("no swap: the guest needs CONFIG_ZRAM or a swap device");
    }
    let left = || {
        let entries = pagemap::entries(region, numbers.start, numbers.len());
        entries.iter().position(|entry| !entry.swapped())
    };
    for _ in 0..TRIES {
        drain_lru();
        region
            .madvise(pages(numbers.clone()), Advice::PageOut)
            .expect("MADV_PAGEOUT of private memory");
        if left().is_none() {
            return;
        }
    }
    let at = left().map(|at| (numbers.start + at) * PAGE);
    panic!("MADV_PAGEOUT left the page at offset {at:x?} in memory after {TRIES} tries");
}
