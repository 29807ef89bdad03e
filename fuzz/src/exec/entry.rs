// SPDX-License-Identifier: GPL-2.0-only
//! Entries of the page map: their bits, and what the model says of them.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::sys;
use crate::model::page::{Flags, Page};
use crate::program::Advice;

/// What the kernel under test can tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// Soft-dirty bits.
    pub soft_dirty: bool,
    /// The guard-region bit of the page map.
    pub guard: bool,
}

/// Bits of a page map entry (Documentation/admin-guide/mm/pagemap.rst).
pub mod bit {
    pub const SOFT_DIRTY: u64 = 1 << 55;
    pub const UFFD_WP: u64 = 1 << 57;
    pub const GUARD: u64 = 1 << 58;
    pub const SWAP: u64 = 1 << 62;
    pub const PRESENT: u64 = 1 << 63;
    /// The entry is not empty.
    pub const ANYTHING: u64 = PRESENT | SWAP | GUARD | UFFD_WP;

    /// Whether there is no page behind an entry but a mark of userfaultfd or a guard. The page
    /// map shows marks as swapped out, to the last of the 32 swap types
    /// (`SWP_PTE_MARKER` in include/linux/swap.h).
    pub const fn is_mark(entry: u64) -> bool {
        entry & MARK_MASK == MARK
    }

    /// The bits that show poison, and how: a mark, or a swap entry of memory that has failed.
    pub fn poison(flags: super::Flags) -> (u64, u64) {
        if flags.has(super::Flags::FAILED) {
            (PRESENT | SWAP, SWAP)
        } else {
            (MARK_MASK, MARK)
        }
    }

    /// What `is_mark` looks at, and what it must find.
    pub const MARK_MASK: u64 = PRESENT | MARK;
    pub const MARK: u64 = SWAP | 0x1f;

    /// Whether there is a page behind an entry, in memory or in swap.
    pub const fn is_populated(entry: u64) -> bool {
        entry & (PRESENT | SWAP) != 0 && !is_mark(entry)
    }
}

/// A page map entry in words.
pub fn shown(entry: u64) -> String {
    const NAMES: [(u64, &str); 7] = [
        (bit::PRESENT, "present"),
        (bit::SWAP, "swap"),
        (bit::SOFT_DIRTY, "soft-dirty"),
        (bit::UFFD_WP, "uffd-wp"),
        (bit::GUARD, "guard"),
        (1 << 56, "exclusive"),
        (1 << 61, "file"),
    ];
    let set = NAMES.iter().filter(|(bit, _)| entry & bit != 0);
    let names: Vec<&str> = set.map(|(_, name)| *name).collect();
    if names.is_empty() {
        "empty".to_owned()
    } else {
        names.join(" ")
    }
}

/// What is wrong with the entry of a page, if anything is.
pub(super) fn wrong_bits(page: &Page, entry: u64, features: Features) -> Option<&'static str> {
    let flags = page.flags;
    let populated = entry & (bit::PRESENT | bit::SWAP) != 0;
    if !flags.has(Flags::MAPPED) {
        return populated.then_some("unmapped page populated");
    }
    // the page map passes over device memory (walk_page_test())
    if flags.has(Flags::PFN) {
        return None;
    }
    if features.guard && flags.has(Flags::GUARD) != (entry & bit::GUARD != 0) {
        return Some(if flags.has(Flags::GUARD) {
            "guard marker lost"
        } else {
            "guard marker appeared"
        });
    }
    if flags.has(Flags::POISON) && !flags.has(Flags::POISON_UNSURE) {
        let (mask, wanted) = bit::poison(flags);
        if entry & mask != wanted {
            return Some("poison lost");
        }
    }
    if flags.has(Flags::DIRTY) && !flags.has(Flags::MERGEABLE) {
        if !populated {
            return Some("written page lost");
        }
        if features.soft_dirty && entry & bit::SOFT_DIRTY == 0 {
            return Some("soft-dirty lost");
        }
    }
    let protected = entry & bit::UFFD_WP != 0;
    if !flags.has(Flags::PROTECTED_UNSURE) && protected != flags.has(Flags::PROTECTED) {
        return Some(if protected {
            "uffd-wp appeared"
        } else {
            "uffd-wp lost"
        });
    }
    None
}

/// Whether the page map shows guard regions: installs one and looks.
pub fn guard_bit_supported() -> bool {
    use crate::program::{Addr, Backing, Len, PAGE, Prot};
    let (at, len) = (Addr(0), Len(1));
    if sys::mmap(at, len, Prot::Write, Backing::Anon, -1) != 0 {
        return false;
    }
    let mut entry = [0; 8];
    let shown = sys::madvise(at, len, Advice::GuardInstall) == 0
        && File::open("/proc/self/pagemap")
            .and_then(|file| file.read_exact_at(&mut entry, (sys::address(0) / PAGE * 8) as u64))
            .is_ok()
        && u64::from_ne_bytes(entry) & bit::GUARD != 0;
    sys::munmap(at, len);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(flags: Flags) -> Page {
        Page {
            flags: Flags::MAPPED.with(flags),
            ..Page::default()
        }
    }

    #[test]
    fn each_lost_bit_is_named() {
        let features = Features {
            soft_dirty: true,
            guard: true,
        };
        let wrong = |flags, entry| wrong_bits(&page(flags), entry, features);
        let present = bit::PRESENT;
        assert_eq!(wrong(Flags(0), present), None);
        assert_eq!(wrong(Flags::DIRTY, present | bit::SOFT_DIRTY), None);
        assert_eq!(wrong(Flags::DIRTY, present), Some("soft-dirty lost"));
        assert_eq!(wrong(Flags::DIRTY, 0), Some("written page lost"));
        assert_eq!(wrong(Flags::PROTECTED, present), Some("uffd-wp lost"));
        assert_eq!(
            wrong(Flags(0), present | bit::UFFD_WP),
            Some("uffd-wp appeared")
        );
        assert_eq!(
            wrong(Flags::PROTECTED.with(Flags::PROTECTED_UNSURE), present),
            None
        );
        assert_eq!(wrong(Flags::GUARD, 0), Some("guard marker lost"));
        assert_eq!(wrong(Flags::POISON, bit::MARK), None);
        assert_eq!(wrong(Flags::POISON, present), Some("poison lost"));
        let failed = Flags::POISON.with(Flags::FAILED);
        assert_eq!(wrong(failed, bit::SWAP), None);
        assert_eq!(wrong(failed, present), Some("poison lost"));
        assert_eq!(
            wrong_bits(&Page::default(), present, features),
            Some("unmapped page populated")
        );
    }

    #[test]
    fn entries_and_flags_are_told_in_words() {
        assert_eq!(shown(bit::PRESENT | bit::UFFD_WP | 77), "present uffd-wp");
        assert_eq!(shown(77), "empty");
        let page = page(Flags::WRITE.with(Flags::PROTECTED).with(Flags::EXCLUSIVE));
        assert_eq!(
            format!("{:?}", page.flags),
            "mapped write uffd-wp exclusive"
        );
    }
}
