// SPDX-License-Identifier: GPL-2.0-only
//! khugepaged and `MADV_COLLAPSE`: small pages become large folios when the rule says so, and
//! nothing else changes. `tables` and `cache` set memory up and check it, `verify` knows what
//! must hold; each other module is one subject.

#![expect(
    clippy::single_range_in_vec_init,
    reason = "a table is given by its populated ranges, of which there may be one"
)]

mod cache;
mod tables;
mod verify;

mod bits;
mod eligible;
mod files;
mod madvise;
mod mapped;
mod mirror;
mod mthp;
mod pmd;
mod race;
mod refuse;
mod trouble;
mod uffd;
