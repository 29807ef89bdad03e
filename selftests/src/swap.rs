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
    let left = || {
        let entries = pagemap::entries(region, numbers.start, numbers.len());
        entries.iter().position(|entry| !entry.swapped())
    };
    ask(region, &numbers, left);
}

/// As [`page_out`], of shmem that has content: its page tables show nothing of a page in swap,
/// so it is enough that the page is in no memory.
///
/// # Panics
/// When a page stays in memory.
#[track_caller]
pub fn page_out_shared(region: &Region, numbers: Range<usize>) {
    let left = || {
        let there = resident(region, numbers.clone());
        there.iter().position(|page| *page)
    };
    ask(region, &numbers, left);
}

/// Whether each of the pages `numbers` is in memory, as mincore(2) says it.
///
/// # Panics
/// When not all of them are mapped.
#[track_caller]
pub fn resident(region: &Region, numbers: Range<usize>) -> Vec<bool> {
    let mut found = vec![0_u8; numbers.len()];
    let at = region.absolute(&pages(numbers));
    // SAFETY: mincore writes one byte for each page of the range.
    let status = unsafe { libc::mincore(at.start as *mut _, at.len(), found.as_mut_ptr()) };
    assert_eq!(status, 0, "mincore of a mapped range");
    found.iter().map(|page| page & 1 != 0).collect()
}

/// Asks reclaim until no page is `left`.
#[track_caller]
fn ask(region: &Region, numbers: &Range<usize>, left: impl Fn() -> Option<usize>) {
    if !is_on() {
        skip!("no swap: the guest needs CONFIG_ZRAM or a swap device");
    }
    for _ in 0..TRIES {
        drain_lru();
        region
            .madvise(pages(numbers.clone()), Advice::PageOut)
            .expect("MADV_PAGEOUT of memory");
        if left().is_none() {
            return;
        }
    }
    let at = left().map(|at| (numbers.start + at) * PAGE);
    panic!("MADV_PAGEOUT left the page at offset {at:x?} in memory after {TRIES} tries");
}
