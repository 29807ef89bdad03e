// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel says about single pages: `/proc/self/pagemap` here, and in
//! the modules below PAGEMAP_SCAN, kpageflags, smaps, the page-table dump and
//! idle page tracking. Bits: Documentation/admin-guide/mm/pagemap.rst.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::mapping::{PAGE, Prot, Region};

pub mod idle;
pub mod kpage;
pub mod ptdump;
pub mod scan;
pub mod smaps;

/// One entry of a pagemap file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry(pub u64);

impl Entry {
    const SOFT_DIRTY: u64 = 1 << 55;
    const EXCLUSIVE: u64 = 1 << 56;
    const UFFD_WP: u64 = 1 << 57;
    const GUARD: u64 = 1 << 58;
    const FILE: u64 = 1 << 61;
    const SWAPPED: u64 = 1 << 62;
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;

    /// Written since soft-dirty bits were cleared.
    pub fn soft_dirty(self) -> bool {
        self.0 & Self::SOFT_DIRTY != 0
    }

    /// Mapped by this page table only.
    pub fn exclusive(self) -> bool {
        self.0 & Self::EXCLUSIVE != 0
    }

    /// Write-protected by userfaultfd.
    pub fn uffd_wp(self) -> bool {
        self.0 & Self::UFFD_WP != 0
    }

    /// A guard region (6.15 and newer).
    pub fn guard(self) -> bool {
        self.0 & Self::GUARD != 0
    }

    /// Of a file, or shared anonymous.
    pub fn file(self) -> bool {
        self.0 & Self::FILE != 0
    }

    /// In swap, or in device memory that the CPU cannot reach, or migrating.
    pub fn swapped(self) -> bool {
        self.0 & Self::SWAPPED != 0
    }

    /// In memory.
    pub fn present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// The page frame number, for a present page and a reader with CAP_SYS_ADMIN.
    pub fn pfn(self) -> Option<u64> {
        let frame = self.0 & Self::FRAME;
        (self.present() && frame != 0).then_some(frame)
    }

    /// The entry without the frame: what must stay equal when a page moves.
    pub fn flags(self) -> Self {
        Self(self.0 & !Self::FRAME)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (self.present(), "present"),
            (self.swapped(), "swapped"),
            (self.file(), "file"),
            (self.guard(), "guard"),
            (self.uffd_wp(), "uffd-wp"),
            (self.exclusive(), "exclusive"),
            (self.soft_dirty(), "soft-dirty"),
        ];
        let set: Vec<&str> = names.iter().filter(|n| n.0).map(|n| n.1).collect();
        let flags = if set.is_empty() {
            "none".to_string()
        } else {
            set.join("+")
        };
        match self.pfn() {
            Some(pfn) => write!(f, "{flags}@{pfn:#x}"),
            None => f.write_str(&flags),
        }
    }
}

/// The pagemap entries of the pages of `region`, from `first`, `count` of them.
///
/// # Panics
/// When pagemap cannot be read; it is part of every kernel we test
/// (CONFIG_PROC_PAGE_MONITOR).
#[track_caller]
pub fn entries(region: &Region, first: usize, count: usize) -> Vec<Entry> {
    entries_of("self", region.page_addr(first), count)
}

/// As [`entries`], of a process by its id (or `self`) and an address.
///
/// # Panics
/// As [`entries`].
#[track_caller]
pub fn entries_of(pid: &str, addr: usize, count: usize) -> Vec<Entry> {
    let path = format!("/proc/{pid}/pagemap");
    let mut bytes = vec![0; count * 8];
    File::open(&path)
        .and_then(|file| file.read_exact_at(&mut bytes, (addr / PAGE * 8) as u64))
        .unwrap_or_else(|error| panic!("{path} at {addr:#x}: {error}"));
    bytes
        .chunks_exact(8)
        .map(|entry| Entry(u64::from_ne_bytes(entry.try_into().expect("chunks of 8"))))
        .collect()
}

/// Clears the accessed bits of all pages of this process (`clear_refs` 1), so
/// that the next access to any of them sets it again.
///
/// # Panics
/// When the kernel refuses.
#[track_caller]
pub fn clear_referenced() {
    clear_refs("1");
    flush_tlb();
}

/// Makes CPUs forget all translations of this process, so that the next access to a page sets its
/// accessed bit again: who clears it leaves translations cached, and a cached translation sets no
/// bit. Protecting more pages than are worth single flushes (33, see
/// `tlb_single_page_flush_ceiling`) flushes all of them.
///
/// # Panics
/// When 64 pages cannot be mapped.
pub fn flush_tlb() {
    let region = Region::private(64 * PAGE).expect("64 pages can be mapped");
    crate::pattern::FIRST.fill_all(&region);
    region
        .mprotect(region.all(), Prot::NONE)
        .expect("our own memory can be protected");
}

/// Clears the soft-dirty bits of all pages of this process (`clear_refs` 4).
///
/// # Panics
/// When the kernel refuses.
#[track_caller]
pub fn clear_soft_dirty() {
    clear_refs("4");
}

#[track_caller]
fn clear_refs(what: &str) {
    fs::write("/proc/self/clear_refs", what)
        .unwrap_or_else(|error| panic!("write {what} to /proc/self/clear_refs: {error}"));
}

/// Whether this kernel tracks soft-dirty pages: a page just written shows it.
///
/// # Panics
/// When a page cannot be mapped.
pub fn soft_dirty_supported() -> bool {
    let region = Region::private(PAGE).expect("one page can be mapped");
    crate::pattern::FIRST.fill_all(&region);
    entries(&region, 0, 1)[0].soft_dirty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::FIRST;

    #[test]
    fn bits_have_their_names() {
        let entry = Entry(1 << 63 | 1 << 57 | 1 << 55 | 0x1234);
        assert!(entry.present() && entry.uffd_wp() && entry.soft_dirty());
        assert!(!entry.exclusive() && !entry.swapped() && !entry.file() && !entry.guard());
        assert_eq!(entry.pfn(), Some(0x1234));
        assert_eq!(format!("{entry:?}"), "present+uffd-wp+soft-dirty@0x1234");
        assert_eq!(format!("{:?}", entry.flags()), "present+uffd-wp+soft-dirty");
        assert_eq!(format!("{:?}", Entry(0)), "none");
        assert_eq!(Entry(1 << 62 | 7).pfn(), None);
    }

    #[test]
    fn written_pages_are_present_and_others_are_not() {
        let region = Region::private(4 * PAGE).unwrap();
        FIRST.fill(&region, 1..2);
        let found: Vec<bool> = entries(&region, 0, 4).iter().map(|e| e.present()).collect();
        assert_eq!(found, [false, true, false, false]);
    }
}
