// SPDX-License-Identifier: GPL-2.0-only
//! The calls that split a PMD entry, as values: tests of what a split must keep
//! go through all of them.

use std::ops::Range;

use selftests::gup;
use selftests::mapping::{Advice, PAGES_PER_PMD, PMD, Prot, Region, Source, pages};
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{guard, skip};

/// The pages that a cut acts on.
pub const PART: Range<usize> = 5..7;

/// A call on [`PART`] of a huge page, or one that only splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Munmap,
    Mprotect,
    Mremap,
    DontNeed,
    DontFork,
    /// get_user_pages() that asks for small pages: acts on nothing, but touches.
    Gup,
    /// UFFDIO_WRITEPROTECT of a part, taken back at once.
    UffdWp,
}

impl Cut {
    /// Whether the pages of [`PART`] are as they were.
    pub fn keeps_all(self) -> bool {
        matches!(self, Self::DontFork | Self::Gup)
    }

    /// Whether the pages of [`PART`] are still mapped where they were.
    pub fn keeps_mapped(self) -> bool {
        matches!(
            self,
            Self::Mprotect | Self::DontFork | Self::Gup | Self::UffdWp
        )
    }

    /// Does it. What it moves away lives as long as the result.
    #[track_caller]
    pub fn apply(self, region: &mut Region) -> Option<Region> {
        let part = pages(PART);
        let done = match self {
            Self::Munmap => region.munmap(part),
            Self::Mprotect => region.mprotect(part, Prot::READ),
            Self::DontNeed => region.madvise(part, Advice::DontNeed),
            Self::DontFork => region.madvise(part, Advice::DontFork),
            Self::Gup => gup::get_once_split(&gup::open(), region, &part, 0),
            Self::Mremap => {
                let mut target = Region::reserved(PMD).expect("address space");
                let moved = region.mremap_into(part, &mut target, 0, Source::Goes);
                moved.unwrap_or_else(|errno| panic!("mremap: {errno}"));
                return Some(target);
            }
            Self::UffdWp => {
                let uffd = Uffd::open(feature::WP);
                let whole = region.all();
                uffd.register(region, &whole, Mode::WP)
                    .and_then(|()| uffd.write_protect(region, &part, true))
                    .and_then(|()| uffd.write_protect(region, &part, false))
            }
        };
        done.unwrap_or_else(|errno| panic!("{self:?}: {errno}"));
        None
    }

    /// The pages of the first huge page that must be as before.
    pub fn untouched(self) -> Vec<usize> {
        (0..PAGES_PER_PMD)
            .filter(|number| self.keeps_all() || !PART.contains(number))
            .collect()
    }
}

/// Skips the test where soft-dirty is not tracked.
pub fn need_soft_dirty() {
    if !selftests::pagemap::soft_dirty_supported() {
        skip!(
            "soft-dirty is not tracked (CONFIG_MEM_SOFT_DIRTY, which needs CONFIG_CHECKPOINT_RESTORE)"
        );
    }
}

/// Makes all pages of the region clean in every sense, and keeps their content.
///
/// Soft-dirty alone is not enough: x86 has no way to make a PTE dirty without
/// making it soft-dirty, so a split of a dirty entry makes all pages soft-dirty
/// (the kernel says so where it does it). `MADV_FREE` takes the dirty bit away.
#[track_caller]
pub fn clear_soft_dirty(region: &Region) {
    need_soft_dirty();
    region.madvise(region.all(), Advice::Free).expect("madvise");
    selftests::pagemap::clear_soft_dirty();
}

/// Loads one byte: sets the accessed bit of whatever entry maps it.
#[track_caller]
pub fn touch(region: &Region, number: usize) {
    guard::load(region.page_addr(number)).unwrap_or_else(|fault| panic!("page {number}: {fault}"));
}
