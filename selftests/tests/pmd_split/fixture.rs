// SPDX-License-Identifier: GPL-2.0-only
//! What the tests of this target start from, and what they expect of counters.

use std::ops::{Deref, DerefMut, Range};

use selftests::counters::{Expect, minor_faults, status_kib};
use selftests::guard::{self, Fault, SEGV_ACCERR, SEGV_MAPERR, Signal};
use selftests::mapping::{Advice, PAGE, PAGES_PER_PMD, PMD, Region};
use selftests::pattern::FIRST;
use selftests::settings::{self, Setting};
use selftests::{skip, thp};

/// Huge pages, each page stamped by [`FIRST`], on a quiet machine.
pub struct Filled {
    pub region: Region,
    _quiet: Vec<Setting>,
}

impl Deref for Filled {
    type Target = Region;
    fn deref(&self) -> &Region {
        &self.region
    }
}

impl DerefMut for Filled {
    fn deref_mut(&mut self) -> &mut Region {
        &mut self.region
    }
}

/// `count` huge pages, proven and filled.
#[track_caller]
pub fn filled(count: usize) -> Filled {
    let quiet = settings::quiet();
    let region = thp::obtain(count);
    FIRST.fill_all(&region);
    Filled {
        region,
        _quiet: quiet,
    }
}

/// As [`filled`], as much memory of small pages.
#[track_caller]
pub fn filled_small(count: usize) -> Filled {
    let quiet = settings::quiet();
    let region = Region::private(count * PMD).expect("address space");
    region
        .madvise(region.all(), Advice::NoHugePage)
        .unwrap_or_else(|errno| skip!("MADV_NOHUGEPAGE: {errno} (CONFIG_TRANSPARENT_HUGEPAGE)"));
    FIRST.fill_all(&region);
    Filled {
        region,
        _quiet: quiet,
    }
}

/// `count` PMD entries are split; no folio is, and none is made.
pub fn splits(count: i64) -> Expect {
    Expect::new()
        .delta("thp_split_pmd", count)
        .delta("nr_anon_transparent_hugepages", -count)
        .unchanged(&[
            "thp_split_pmd_failed",
            "thp_split_pud",
            "thp_split_page",
            "thp_split_page_failed",
            "thp_fault_alloc",
            "2048kB/split",
            "2048kB/split_failed",
            "2048kB/nr_anon",
        ])
}

/// [`splits`], and every page stays mapped somewhere.
pub fn splits_and_keeps(count: i64) -> Expect {
    splits(count).unchanged(&[
        "thp_deferred_split_page",
        "2048kB/split_deferred",
        "2048kB/nr_anon_partially_mapped",
    ])
}

/// [`splits`], and each folio loses some of its pages.
pub fn splits_and_unmaps(count: i64) -> Expect {
    splits(count)
        .delta("thp_deferred_split_page", count)
        .delta("2048kB/split_deferred", count)
        .delta("2048kB/nr_anon_partially_mapped", count)
}

/// Nothing at all is split.
pub fn splits_nothing() -> Expect {
    Expect::new().unchanged(&[
        "thp_split_pmd",
        "thp_split_pmd_failed",
        "thp_split_page",
        "thp_deferred_split_page",
        "2048kB/split",
        "2048kB/split_deferred",
        "2048kB/nr_anon_partially_mapped",
    ])
}

/// All pages of a region but those of `range`.
pub fn others(region: &Region, range: &Range<usize>) -> [Range<usize>; 2] {
    [0..range.start, range.end..region.len() / PAGE]
}

/// Checks [`FIRST`] in all pages but those of `range`.
#[track_caller]
pub fn check_others(region: &Region, range: &Range<usize>) {
    for part in others(region, range) {
        FIRST.check(region, part);
    }
}

/// Checks that loads and stores of each page find no mapping.
#[track_caller]
pub fn assert_unmapped(region: &Region, numbers: Range<usize>) {
    for number in numbers {
        let at = region.page_addr(number) + number % PAGE;
        assert_fault(number, "load", guard::load(at).map(drop), SEGV_MAPERR);
        assert_fault(number, "store", guard::store(at, 0), SEGV_MAPERR);
    }
}

/// Checks that each page can be read and not be written.
#[track_caller]
pub fn assert_read_only(region: &Region, numbers: Range<usize>) {
    for number in numbers {
        let at = region.page_addr(number) + number % PAGE;
        let byte = guard::load(at).unwrap_or_else(|fault| panic!("page {number}: load: {fault}"));
        assert_fault(number, "store", guard::store(at, !byte), SEGV_ACCERR);
    }
}

/// Checks that each page can neither be read nor written.
#[track_caller]
pub fn assert_inaccessible(region: &Region, numbers: Range<usize>) {
    for number in numbers {
        let at = region.page_addr(number) + number % PAGE;
        assert_fault(number, "load", guard::load(at).map(drop), SEGV_ACCERR);
        assert_fault(number, "store", guard::store(at, 0), SEGV_ACCERR);
    }
}

#[track_caller]
fn assert_fault(number: usize, what: &str, result: Result<(), Fault>, code: i32) {
    match result {
        Err(fault) if (fault.signal, fault.code) == (Signal::Segv, code) => {}
        Err(fault) => panic!("page {number}: {what}: expected si_code {code}, found {fault}"),
        Ok(()) => panic!("page {number}: {what} went through, expected SIGSEGV"),
    }
}

/// Writes one byte of each page, unchanged, and returns how many page faults
/// that took.
#[track_caller]
pub fn write_each(region: &Region, numbers: impl IntoIterator<Item = usize>) -> usize {
    let stores: Vec<(usize, u8)> = numbers
        .into_iter()
        .map(|number| (number, FIRST.page(number)[0] as u8))
        .collect();
    // After a fork this process's own stack is written for the first time, too.
    let mut own = 0_u8;
    guard::store(&raw mut own as usize, 0).expect("a store to the stack");
    let before = minor_faults();
    for (number, byte) in &stores {
        let stored = guard::store(region.page_addr(*number), *byte);
        stored.unwrap_or_else(|fault| panic!("page {number}: store: {fault}"));
    }
    (minor_faults() - before) as usize
}

/// Checks how many page faults one write to each page takes.
#[track_caller]
pub fn assert_writes_fault(region: &Region, numbers: Range<usize>, faults: usize) {
    let found = write_each(region, numbers.clone());
    assert_eq!(
        found, faults,
        "page faults of one write to each of pages {numbers:?}"
    );
}

/// Whether the resident set in `/proc/self/status` follows single pages: exact
/// sums since 6.16, approximations before.
pub fn rss_is_exact() -> bool {
    let probe = Region::private(3 * PAGE).expect("address space");
    let start = status_kib("RssAnon");
    (0..3).all(|number| {
        guard::store(probe.page_addr(number), 1).expect("a store to our own memory");
        status_kib("RssAnon") - start == (number as i64 + 1) * 4
    })
}

/// The last page of a huge page.
pub const LAST: usize = PAGES_PER_PMD - 1;
