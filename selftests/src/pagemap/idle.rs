// SPDX-License-Identifier: GPL-2.0-only
//! Idle page tracking (CONFIG_IDLE_PAGE_TRACKING): whether a frame was accessed
//! through any page table since it was marked idle.
//! Documentation/admin-guide/mm/idle_page_tracking.rst. For a large folio only
//! the bit of its first page counts.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;

const BITMAP: &str = "/sys/kernel/mm/page_idle/bitmap";

/// Marks the frame idle.
///
/// # Errors
/// Those of the bitmap file; `NotFound` without CONFIG_IDLE_PAGE_TRACKING.
pub fn mark(pfn: u64) -> io::Result<()> {
    let word = 1_u64 << (pfn % 64);
    OpenOptions::new()
        .write(true)
        .open(BITMAP)?
        .write_all_at(&word.to_ne_bytes(), pfn / 64 * 8)
}

/// Whether the frame is still idle; reading looks at the accessed bits of all
/// page tables that map it.
///
/// # Errors
/// As [`mark`].
pub fn is_idle(pfn: u64) -> io::Result<bool> {
    let mut word = [0; 8];
    OpenOptions::new()
        .read(true)
        .open(BITMAP)?
        .read_exact_at(&mut word, pfn / 64 * 8)?;
    Ok(u64::from_ne_bytes(word) >> (pfn % 64) & 1 == 1)
}
