// SPDX-License-Identifier: GPL-2.0-only
//! Kernel coverage: from the addresses that KCOV gives to files, functions and
//! lines. `hugeprobe cov` collects and reports; a campaign's summary takes the
//! share of single files from [`Coverage`].
//!
//! What is counted are call sites of `__sanitizer_cov_trace_pc`: one stands at
//! the start of each block of instrumented code, and `vmlinux` holds them all,
//! so the denominator is exact. Data flows one way: [`sites`] -> [`source`] ->
//! [`coverage`] -> the reports.

pub mod compare;
pub mod coverage;
mod html;
mod lcov;
pub mod map;
pub mod pcs;
pub mod report;
mod sites;
mod source;
mod table;

pub use coverage::Coverage;
pub use map::Map;

#[cfg(test)]
mod tests;

/// The files that this project is about, in the order in which reports show them.
pub const HUGE_CORE: [&str; 13] = [
    "mm/huge_memory.c",
    "mm/memory.c",
    "mm/khugepaged.c",
    "mm/rmap.c",
    "mm/migrate.c",
    "mm/migrate_device.c",
    "mm/hmm.c",
    "lib/test_hmm.c",
    "mm/mremap.c",
    "mm/madvise.c",
    "mm/mprotect.c",
    "mm/page_vma_mapped.c",
    "mm/pgtable-generic.c",
];
