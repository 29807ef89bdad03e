// SPDX-License-Identifier: GPL-2.0-only
//! Target `pmd_split`: what happens when a PMD entry that maps a huge page is
//! split into 512 PTE entries, for whatever reason and from whichever call.
//!
//! Each module is one subject. What a split must keep: content, permissions,
//! sharing, soft-dirty, userfaultfd, accessed and dirty state of every page, and
//! every counter. Kernels either set a page table aside for each huge page, so
//! that a split cannot fail, or allocate one for the split; both are served.

mod accounting;
mod asked;
mod cow;
mod cut;
mod fail;
mod fixture;
mod flags;
mod folio;
mod fork_event;
mod migrate;
mod moved;
mod partial;
mod shared;
mod shmem;
mod tlb;
mod tracking;
mod uffd_scan;
mod whole;
mod zap;
