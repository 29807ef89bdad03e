// SPDX-License-Identifier: GPL-2.0-only
//! Huge pages that the kernel splits later, when memory gets short: those of which a part is no
//! longer mapped, and those that hold mostly zeros.

use std::fs;
use std::ops::Range;

use selftests::counters::{Expect, Snapshot};
use selftests::gup::{Pin, Way};
use selftests::mapping::{PAGES_PER_PMD, PMD, Region, pages};
use selftests::pagemap::smaps;
use selftests::pattern::{FIRST, check_zero};
use selftests::settings::{Setting, THP};
use selftests::{enter, outcome, skip, thp};
use test_case::test_case;

use crate::sizes::OneSize;
use crate::split::split;

/// Pages of zeros that a huge page may hold and still counts as used, in these tests.
const LIMIT: usize = 100;

/// Calls every shrinker, which is what a shortage of memory would do.
fn shrink() {
    fs::write("/proc/sys/vm/drop_caches", "2").expect("root may ask for it");
}

/// Makes huge pages with more than [`LIMIT`] zero pages count as underused.
fn limit_zeros() -> [Setting; 2] {
    let split = format!("{THP}/shrink_underused");
    if !fs::exists(&split).unwrap_or(false) {
        skip!("no shrink_underused (since 6.12)");
    }
    [
        Setting::set(
            format!("{THP}/khugepaged/max_ptes_none"),
            &LIMIT.to_string(),
        ),
        Setting::set(split, "1"),
    ]
}

/// Huge pages; the first `zeros` pages of each hold zeros, the others are stamped.
fn huge_with_zeros(zeros: &[usize]) -> Region {
    let region = thp::obtain(zeros.len());
    for (number, zeros) in zeros.iter().enumerate() {
        let first = number * PAGES_PER_PMD;
        FIRST.fill(&region, first + zeros..first + PAGES_PER_PMD);
    }
    thp::assert_huge(&region, 0..zeros.len());
    region
}

fn check(region: &Region, zeros: &[usize]) {
    for (number, zeros) in zeros.iter().enumerate() {
        let first = number * PAGES_PER_PMD;
        check_zero(region, first..first + zeros);
        FIRST.check(region, first + zeros..first + PAGES_PER_PMD);
    }
}

/// A huge page with one page of zeros too many is split when memory gets short, and its zeros are
/// freed; one with as many as allowed stays whole.
#[test]
fn underused_huge_page_is_split() {
    enter!();
    let _size = OneSize::of(9);
    let _limit = limit_zeros();
    let zeros = [LIMIT + 1, LIMIT];
    let region = huge_with_zeros(&zeros);
    let before = Snapshot::take();
    shrink();
    Expect::new()
        .delta("thp_underused_split_page", 1)
        .delta("thp_split_page", 1)
        .delta("2048kB/split", 1)
        .delta("2048kB/nr_anon", -1)
        .unchanged(&["2048kB/nr_anon_partially_mapped"])
        .check_settled(&before);
    assert!(!thp::is_pmd_mapped(&region, 0), "one zero page too many");
    thp::assert_huge(&region, 1..2);
    let left = smaps::kib(&region, &region.all(), "Rss");
    assert_eq!(left, 4096 - 4 * (LIMIT as u64 + 1), "kB that are left");
    check(&region, &zeros);
    // Used again, it is not looked at again.
    let before = Snapshot::take();
    shrink();
    Expect::new()
        .unchanged(&["thp_underused_split_page", "thp_split_page"])
        .check(&before);
    check(&region, &zeros);
}

/// Locked memory keeps its pages of zeros, and its huge page.
#[test]
fn underused_locked_huge_page_is_kept() {
    enter!();
    outcome::known_bug(
        (6, 12),
        "deferred_split_scan() splits locked huge pages for their zeros",
    );
    let _size = OneSize::of(9);
    let _limit = limit_zeros();
    let region = huge_with_zeros(&[300]);
    region
        .mlock(region.all())
        .unwrap_or_else(|errno| skip!("mlock of 2 MiB: {errno} (RLIMIT_MEMLOCK)"));
    let before = Snapshot::take();
    shrink();
    Expect::new()
        .unchanged(&["thp_underused_split_page", "thp_split_page", "nr_mlock"])
        .check(&before);
    thp::assert_huge(&region, 0..1);
    check(&region, &[300]);
}

/// A huge page of which a part was unmapped gives that part back when memory gets short; one that
/// is pinned cannot be split, is not forgotten, and gives it back the next time.
#[test]
fn partly_mapped_huge_page_is_split_once_it_can_be() {
    enter!();
    let _size = OneSize::of(9);
    let mut region = thp::obtain(1);
    FIRST.fill_all(&region);
    let start = Snapshot::take();
    region.munmap(0..PMD / 2).expect("munmap");
    let queued = || {
        Expect::new()
            .delta("2048kB/nr_anon_partially_mapped", 1)
            .delta("2048kB/split_deferred", 1)
            .unchanged(&["2048kB/split"])
    };
    queued().check(&start);
    let pinned = pages(300..301);
    let pin = Pin::take(&region, &pinned, Way::Write).expect("pin");
    for _ in 0..2 {
        shrink();
        queued().check(&start);
        FIRST.check(&region, 256..512);
        pin.assert_coherent(&region, &pinned);
    }
    drop(pin);
    shrink();
    Expect::new()
        .delta("2048kB/split", 1)
        .delta("thp_split_page", 1)
        .unchanged(&["2048kB/nr_anon_partially_mapped"])
        .check_settled(&start);
    FIRST.check(&region, 256..512);
}

/// A huge page of which a part was unmapped and then all of it is gone from every count, without
/// a split.
#[test]
fn partly_mapped_huge_page_that_ends_is_counted_off() {
    enter!();
    let _size = OneSize::of(9);
    let start = Snapshot::take();
    for _ in 0..3 {
        let mut region = thp::obtain(1);
        FIRST.fill_all(&region);
        region.munmap(0..PMD / 2).expect("munmap");
        drop(region);
    }
    Expect::new()
        .unchanged(&[
            "2048kB/nr_anon",
            "2048kB/nr_anon_partially_mapped",
            "2048kB/split",
            "thp_split_page",
        ])
        .check_settled(&start);
}

/// Folios that a huge page was split into are like any others: of which a page is unmapped waits to
/// be split and is, when memory gets short; one that ends before is counted off.
#[test_case(2; "order_2")]
#[test_case(4; "order_4")]
#[test_case(8; "order_8")]
fn folios_of_a_split_wait_for_theirs(order: u8) {
    enter!();
    let size = OneSize::of(9);
    let mut region = size.filled();
    split(&region, &region.all(), order, None);
    let folios: Vec<Range<usize>> = (0..PAGES_PER_PMD)
        .step_by(1 << order)
        .map(|first| first..first + (1 << order))
        .collect();
    let count = folios.len() as i64;
    let of_size = |name: &str| format!("{}kB/{name}", 4 << order);
    let start = Snapshot::all_sizes();
    for folio in &folios {
        region
            .munmap(pages(folio.start..folio.start + 1))
            .expect("munmap");
    }
    Expect::new()
        .delta(&of_size("nr_anon_partially_mapped"), count)
        .delta(&of_size("split_deferred"), count)
        .unchanged(&[&of_size("nr_anon"), &of_size("split")])
        .check(&start);
    let (ends, stays) = folios.split_at(folios.len() / 2);
    for folio in ends {
        region
            .munmap(pages(folio.start + 1..folio.end))
            .expect("munmap");
    }
    let left = stays.len() as i64;
    Expect::new()
        .delta(&of_size("nr_anon_partially_mapped"), left)
        .delta(&of_size("nr_anon"), left - count)
        .unchanged(&[&of_size("split")])
        .check_settled(&start);
    shrink();
    Expect::new()
        .unchanged(&[&of_size("nr_anon_partially_mapped")])
        .delta(&of_size("nr_anon"), -count)
        .delta(&of_size("split"), left)
        .check_settled(&start);
    for folio in stays {
        FIRST.check(&region, folio.start + 1..folio.end);
    }
}
