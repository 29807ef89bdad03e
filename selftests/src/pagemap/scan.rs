// SPDX-License-Identifier: GPL-2.0-only
//! PAGEMAP_SCAN: asks which pages have which properties, and write-protects
//! them on request. Documentation/admin-guide/mm/pagemap.rst; since 6.7.

use std::fs::File;
use std::ops::{BitOr, Range};
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use crate::mapping::{PAGE, Region};

/// A set of page properties.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Is(pub u64);

impl Is {
    /// Write-protection by PAGEMAP_SCAN is possible here.
    pub const WP_ALLOWED: Self = Self(1 << 0);
    /// Written since the last write-protection.
    pub const WRITTEN: Self = Self(1 << 1);
    /// Of a file.
    pub const FILE: Self = Self(1 << 2);
    /// In memory.
    pub const PRESENT: Self = Self(1 << 3);
    /// In swap.
    pub const SWAPPED: Self = Self(1 << 4);
    /// The zero page.
    pub const ZERO: Self = Self(1 << 5);
    /// Mapped by a PMD entry (or hugetlb).
    pub const HUGE: Self = Self(1 << 6);
    /// Soft-dirty.
    pub const SOFT_DIRTY: Self = Self(1 << 7);
    /// Accessed since userfaultfd protected it against that (7.3 and newer).
    pub const ACCESSED: Self = Self(1 << 9);

    /// Whether all of `other` is in `self`.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Is {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// `struct pm_scan_arg` of include/uapi/linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct Arg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    start: u64,
    end: u64,
    categories: u64,
}

nix::ioctl_readwrite!(
    /// `PAGEMAP_SCAN`.
    pagemap_scan,
    b'f',
    16,
    Arg
);

/// `PM_SCAN_WP_MATCHING`.
const WP_MATCHING: u64 = 1 << 0;
/// `PM_SCAN_CHECK_WPASYNC`.
const CHECK_WPASYNC: u64 = 1 << 1;

/// Properties of a run of pages: byte range in the region, and what holds.
pub type Run = (Range<usize>, Is);

fn scan(region: &Region, range: &Range<usize>, wanted: Is, flags: u64) -> Result<Vec<Run>, Errno> {
    let pages = range.len() / PAGE;
    let mut found = vec![Found::default(); pages.max(1)];
    let at = region.absolute(range);
    let mut arg = Arg {
        size: size_of::<Arg>() as u64,
        flags,
        start: at.start as u64,
        end: at.end as u64,
        vec: found.as_mut_ptr() as u64,
        vec_len: found.len() as u64,
        category_mask: wanted.0,
        // Kernels refuse what they do not know.
        return_mask: 0xff | wanted.0,
        ..Arg::default()
    };
    let file = File::open("/proc/self/pagemap")
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    // SAFETY: the structure is complete and `vec` has room for `vec_len`
    // regions; write-protection only concerns the region's own memory.
    let count = unsafe { pagemap_scan(file.as_raw_fd(), &raw mut arg) }?;
    let base = region.addr();
    Ok(found[..count as usize]
        .iter()
        .map(|f| {
            (
                f.start as usize - base..f.end as usize - base,
                Is(f.categories),
            )
        })
        .collect())
}

/// The runs of pages in `range` that have all `wanted` properties, with all
/// their properties.
///
/// # Errors
/// `ENOTTY` before 6.7, and those that pagemap.rst lists.
pub fn runs(region: &Region, range: &Range<usize>, wanted: Is) -> Result<Vec<Run>, Errno> {
    scan(region, range, wanted, 0)
}

/// As [`runs`], and write-protects what it finds, in one step.
///
/// # Errors
/// `EPERM` where userfaultfd's asynchronous write-protection is not set up;
/// `ENOMEM` when a huge page could not be split.
pub fn write_protect(region: &Region, range: &Range<usize>, wanted: Is) -> Result<Vec<Run>, Errno> {
    scan(region, range, wanted, WP_MATCHING | CHECK_WPASYNC)
}

/// The properties of each single page of `range`.
///
/// # Errors
/// As [`runs`].
pub fn per_page(region: &Region, range: &Range<usize>) -> Result<Vec<Is>, Errno> {
    let mut pages = vec![Is::default(); range.len() / PAGE];
    for (run, is) in runs(region, range, Is::default())? {
        let first = (run.start - range.start) / PAGE;
        pages[first..first + run.len() / PAGE].fill(is);
    }
    Ok(pages)
}
