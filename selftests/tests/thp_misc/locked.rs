// SPDX-License-Identifier: GPL-2.0-only
//! Locked folios of which a part is locked, unlocked, missing, moved or split off: `nr_mlock`
//! counts whole folios, and exactly those that are.

use selftests::collapse::drain_lru;
use selftests::counters::{Expect, Snapshot, minor_faults};
use selftests::mapping::{Advice, PAGES_PER_PMD, Region, pages};
use selftests::pattern::{FIRST, check_zero};
use selftests::{enter, guard, settings, skip, thp};
use test_case::test_case;

use crate::sizes::OneSize;
use crate::split::split;

#[track_caller]
fn lock(region: &Region, numbers: std::ops::Range<usize>) {
    region
        .mlock(pages(numbers))
        .unwrap_or_else(|errno| skip!("mlock: {errno} (RLIMIT_MEMLOCK)"));
    drain_lru();
}

/// Checks how many pages count as locked, and that the end of the mapping leaves none.
#[track_caller]
fn count(before: &Snapshot, locked: i64) {
    drain_lru();
    Expect::new().delta("nr_mlock", locked).check(before);
}

/// A folio of which only a part lies in the locked range is not locked; the others are. The rest
/// of it locked as well, it still is not, as the two ranges were locked one after the other.
#[test]
fn folio_at_the_edge_is_not_locked() {
    enter!();
    let size = OneSize::of(4);
    let region = size.filled();
    drain_lru();
    let before = Snapshot::take();
    lock(&region, 8..PAGES_PER_PMD - 4);
    count(&before, 512 - 32);
    FIRST.check_all(&region);
    drop(region);
    count(&before, 0);
}

/// A folio that is not mapped whole is not locked; the new pages in its holes are.
#[test]
fn folio_with_a_hole_is_not_locked() {
    enter!();
    let size = OneSize::of(4);
    let region = size.filled();
    drain_lru();
    let before = Snapshot::take();
    region
        .madvise(pages(3..4), Advice::DontNeed)
        .expect("MADV_DONTNEED");
    lock(&region, 0..PAGES_PER_PMD);
    count(&before, 512 - 16 + 1);
    FIRST.check(&region, 0..3);
    check_zero(&region, 3..4);
    FIRST.check(&region, 4..PAGES_PER_PMD);
    drop(region);
    count(&before, 0);
}

/// The end of locking in a part of a folio unlocks all of it.
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn unlocked_part_unlocks_the_folio(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    drain_lru();
    let before = Snapshot::take();
    lock(&region, 0..PAGES_PER_PMD);
    count(&before, 512);
    region.munlock(pages(2..6)).expect("munlock");
    count(&before, 512 - size.pages() as i64);
    Expect::new().delta("VmLck", 2048 - 16).check(&before);
    FIRST.check_all(&region);
    drop(region);
    count(&before, 0);
}

/// A locked huge page that is split stays locked and counted, and each of its folios is counted off
/// again. Folios of a middle size are not counted until reclaim meets them: their pages are mapped
/// again one by one, and only what is mapped whole is locked.
#[test_case(0; "order_0")]
#[test_case(2; "order_2")]
#[test_case(5; "order_5")]
fn split_of_a_locked_huge_page_keeps_count(order: u8) {
    enter!();
    let _quiet = settings::quiet();
    let region = thp::obtain(1);
    FIRST.fill_all(&region);
    drain_lru();
    let before = Snapshot::take();
    lock(&region, 0..PAGES_PER_PMD);
    count(&before, 512);
    split(&region, &region.all(), order, None);
    Expect::new().delta("thp_split_page", 1).check(&before);
    if order == 0 {
        count(&before, 512);
    }
    FIRST.check_all(&region);
    region.munlock(region.all()).expect("munlock");
    count(&before, 0);
    lock(&region, 0..PAGES_PER_PMD);
    count(&before, 512);
    drop(region);
    count(&before, 0);
}

/// A locked huge page that is split keeps its pages of zeros, which others give up for the zero
/// page: a store to locked memory needs no fault.
#[test]
fn split_of_a_locked_huge_page_keeps_its_zeros() {
    enter!();
    let _quiet = settings::quiet();
    let region = thp::obtain(1);
    FIRST.fill(&region, 100..200);
    drain_lru();
    let before = Snapshot::take();
    lock(&region, 0..PAGES_PER_PMD);
    split(&region, &region.all(), 0, None);
    Expect::new().delta("thp_split_page", 1).check(&before);
    count(&before, 512);
    let faults = minor_faults();
    for number in [0, 99, 200, 511] {
        guard::store(region.page_addr(number), 0).expect("a store to our own memory");
    }
    assert_eq!(
        minor_faults() - faults,
        0,
        "faults of stores to locked pages"
    );
    check_zero(&region, 0..100);
    FIRST.check(&region, 100..200);
    check_zero(&region, 200..PAGES_PER_PMD);
    drop(region);
    count(&before, 0);
}
