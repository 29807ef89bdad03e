// SPDX-License-Identifier: GPL-2.0-only
//! Target `pmd_split`: what happens when a PMD entry that maps a huge page is
//! split into 512 PTE entries, for whatever reason and from whichever call.
//!
//! Each module is one subject. What a split must keep: content, permissions,
//! sharing, soft-dirty, userfaultfd, accessed and dirty state of every page, and
//! every counter. CATALOGUE 2.4 of the design names the thirteen rows.

mod accounting;
mod cow;
mod cut;
mod fail;
mod fixture;
mod flags;
mod folio;
mod migrate;
mod moved;
mod partial;
mod shmem;
mod uffd_scan;
mod whole;
mod zap;
