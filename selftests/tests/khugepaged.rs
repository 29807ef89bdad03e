// SPDX-License-Identifier: GPL-2.0-only
//! khugepaged and `MADV_COLLAPSE`: small pages become large folios when the rule says so, and
//! nothing else changes.

#[path = "khugepaged/tables.rs"]
mod tables;
#[path = "khugepaged/verify.rs"]
mod verify;

#[path = "khugepaged/mthp.rs"]
mod mthp;

#[path = "khugepaged/refuse.rs"]
mod refuse;

#[path = "khugepaged/bits.rs"]
mod bits;

#[path = "khugepaged/pmd.rs"]
mod pmd;

#[path = "khugepaged/madvise.rs"]
mod madvise;

#[path = "khugepaged/uffd.rs"]
mod uffd;

#[path = "khugepaged/trouble.rs"]
mod trouble;

#[path = "khugepaged/race.rs"]
mod race;

#[path = "khugepaged/cache.rs"]
mod cache;
#[path = "khugepaged/files.rs"]
mod files;

#[path = "khugepaged/mirror.rs"]
mod mirror;
