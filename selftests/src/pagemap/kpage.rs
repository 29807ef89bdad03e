// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel says about page frames: `/proc/kpageflags` and
//! `/proc/kpagecount`, for root. Bits: include/uapi/linux/kernel-page-flags.h.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The flags of one page frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u64);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)+) => {
        impl Flags {
            $($(#[$doc])* pub fn $name(self) -> bool {
                self.0 & (1 << $bit) != 0
            })+
        }
    };
}

flags! {
    /// Locked (folio flag), for instance isolated.
    locked = 0;
    /// Referenced since the flag was cleared (folio flag).
    referenced = 2;
    /// Its content is valid (folio flag).
    uptodate = 3;
    /// Dirty (folio flag): its content must not be dropped.
    dirty = 4;
    /// On an LRU list.
    lru = 5;
    /// On the active list.
    active = 6;
    /// Free, in the buddy allocator.
    buddy = 10;
    /// Mapped by some process.
    mmap = 11;
    /// Anonymous.
    anon = 12;
    /// In the swap cache.
    swapcache = 13;
    /// Goes to swap when reclaimed (cleared by `MADV_FREE`).
    swapbacked = 14;
    /// First page of a compound page.
    compound_head = 15;
    /// Further page of a compound page.
    compound_tail = 16;
    /// hugetlb.
    huge = 17;
    /// Unevictable, for instance locked.
    unevictable = 18;
    /// A memory error was found here.
    hwpoison = 19;
    /// KSM.
    ksm = 21;
    /// Part of a transparent huge page.
    thp = 22;
    /// The zero page.
    zero_page = 24;
    /// Idle, as seen by idle page tracking.
    idle = 25;
    /// Used as a page table.
    pgtable = 26;
}

fn words(path: &str, pfn: u64, count: usize) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; count * 8];
    File::open(path)?.read_exact_at(&mut bytes, pfn * 8)?;
    Ok(bytes
        .chunks_exact(8)
        .map(|word| u64::from_ne_bytes(word.try_into().expect("chunks of 8")))
        .collect())
}

/// The flags of `count` frames from `pfn`.
///
/// # Errors
/// Those of reading the file: it is for root only.
pub fn flags(pfn: u64, count: usize) -> io::Result<Vec<Flags>> {
    Ok(words("/proc/kpageflags", pfn, count)?
        .into_iter()
        .map(Flags)
        .collect())
}

/// How often each of `count` frames from `pfn` is mapped. Since 6.15 a kernel
/// without CONFIG_PAGE_MAPCOUNT reports an average over a large folio here.
///
/// # Errors
/// As [`flags`].
pub fn mapcounts(pfn: u64, count: usize) -> io::Result<Vec<u64>> {
    words("/proc/kpagecount", pfn, count)
}

#[cfg(test)]
mod tests {
    use super::Flags;

    #[test]
    fn bits_have_their_names() {
        let flags = Flags(1 << 15 | 1 << 22 | 1 << 12);
        assert!(flags.compound_head() && flags.thp() && flags.anon());
        assert!(!flags.compound_tail() && !flags.huge() && !flags.dirty());
    }
}
