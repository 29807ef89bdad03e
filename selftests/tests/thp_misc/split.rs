// SPDX-License-Identifier: GPL-2.0-only
//! Splitting of huge pages themselves, not only of the entry that maps them: to smaller folios
//! of each order, all alike or around one page, on demand through debugfs.

use std::ops::Range;
use std::path::Path;
use std::{fs, process};

use selftests::child;
use selftests::collapse::drain_lru;
use selftests::counters::{Expect, Snapshot, minor_faults};
use selftests::folios::Piece;
use selftests::gup::{Pin, Way};
use selftests::mapping::{Advice, PAGES_PER_PMD, PMD, Prot, Region, Source, memfd, page};
use selftests::pagemap::{self, kpage, smaps};
use selftests::pattern::{Content, FIRST, check_zero};
use selftests::release::release;
use selftests::{enter, guard, outcome, settings, skip, thp};
use test_case::test_case;

use crate::sizes::found;

const SPLIT: &str = "/sys/kernel/debug/split_huge_pages";

/// Asks for a split of every huge page in `range` into folios of `order`; with `around`, only as
/// far as that page of the folio needs it.
#[track_caller]
pub fn split(region: &Region, range: &Range<usize>, order: u8, around: Option<usize>) {
    if !Path::new(SPLIT).exists() {
        skip!("no {SPLIT} (CONFIG_DEBUG_FS, CONFIG_TRANSPARENT_HUGEPAGE)");
    }
    let at = region.absolute(range);
    let mut request = format!("{},{:#x},{:#x},{order}", process::id(), at.start, at.end);
    if let Some(around) = around {
        request += &format!(",{around}");
    }
    fs::write(SPLIT, &request).unwrap_or_else(|error| panic!("{request} to {SPLIT}: {error}"));
}

/// A stamped huge page.
fn stamped() -> Region {
    let region = thp::obtain(1);
    FIRST.fill_all(&region);
    region
}

#[track_caller]
fn assert_orders(region: &Region, wanted: &[(usize, u8)]) {
    let found = found(region);
    let orders: Vec<_> = found
        .iter()
        .map(|piece| (piece.offset, piece.order))
        .collect();
    assert_eq!(orders, wanted, "offset and order of the folios");
    assert!(
        found.iter().all(Piece::is_whole),
        "a folio that is not mapped whole and in order: {found:?}"
    );
}

/// Offset and order of equal folios.
pub fn uniform(order: u8) -> Vec<(usize, u8)> {
    (0..PAGES_PER_PMD)
        .step_by(1 << order)
        .map(|offset| (offset, order))
        .collect()
}

/// A huge page is split into folios of one order, which hold what it held where it was.
#[test_case(0; "order_0")]
#[test_case(2; "order_2")]
#[test_case(3; "order_3")]
#[test_case(4; "order_4")]
#[test_case(5; "order_5")]
#[test_case(6; "order_6")]
#[test_case(7; "order_7")]
#[test_case(8; "order_8")]
fn huge_page_splits_to_one_order(order: u8) {
    enter!();
    let _quiet = settings::quiet();
    let region = stamped();
    let before = Snapshot::all_sizes();
    split(&region, &region.all(), order, None);
    let mut expect = Expect::new()
        .delta("thp_split_page", 1)
        .delta("thp_split_pmd", 1)
        .delta("2048kB/split", 1)
        .delta("2048kB/nr_anon", -1)
        .unchanged(&["thp_split_page_failed", "VmPTE", "thp_deferred_split_page"]);
    if order > 0 {
        expect = expect.delta(
            &format!("{}kB/nr_anon", 4 << order),
            (PAGES_PER_PMD >> order) as i64,
        );
    }
    expect.check(&before);
    assert_orders(&region, &uniform(order));
    FIRST.check_all(&region);
    FIRST.next().fill_all(&region);
    FIRST.next().check_all(&region);
}

/// Split around one page, a huge page leaves the largest folios that do not hold it.
#[test_case(0, 0; "first_page")]
#[test_case(100, 0; "page_100")]
#[test_case(511, 0; "last_page")]
#[test_case(300, 4; "page_300_in_order_4")]
fn huge_page_splits_around_one_page(around: usize, order: u8) {
    enter!();
    if release() < (6, 15) {
        skip!("this kernel splits a huge page evenly, wherever it is asked (before 6.15)");
    }
    let _quiet = settings::quiet();
    let region = stamped();
    // Asked for one page only: the kernel goes on to split what else it finds in the range.
    // It leaves a folio alone that another CPU's batch still holds a reference to.
    for _ in 0..3 {
        split(&region, &page(around), order, Some(around));
        if found(&region).len() > 1 {
            break;
        }
    }
    if found(&region).len() == PAGES_PER_PMD && order > 0 {
        skip!("this kernel splits into equal folios only");
    }
    assert_orders(&region, &halves_without(around, order, true));
    FIRST.check_all(&region);
}

/// Halves the huge page, then the half that holds the page, and so on. Anonymous memory knows
/// no folios of two pages, so four pages become four small ones.
pub fn halves_without(around: usize, order: u8, anonymous: bool) -> Vec<(usize, u8)> {
    let mut folios = vec![(0, 9)];
    while let Some(at) = folios.iter().position(|&(offset, size)| {
        size > order && (offset..offset + (1 << size)).contains(&around)
    }) {
        let (offset, size): (usize, u8) = folios[at];
        let into = if anonymous && size == 2 { 0 } else { size - 1 };
        let parts = (offset..offset + (1 << size))
            .step_by(1 << into)
            .map(|offset| (offset, into));
        folios.splice(at..=at, parts);
    }
    folios
}

/// Pages of a huge page that hold only zeros are freed when it is split, and read as zeros.
#[test]
fn zero_pages_are_freed_by_a_split() {
    enter!();
    let _quiet = settings::quiet();
    let region = thp::obtain(1);
    FIRST.fill(&region, 10..20);
    let before = Snapshot::take();
    split(&region, &region.all(), 0, None);
    let freed = (PAGES_PER_PMD - 10) as i64;
    Expect::new()
        .delta("thp_split_page", 1)
        .delta("2048kB/nr_anon", -1)
        .check(&before);
    let entries = pagemap::entries(&region, 0, PAGES_PER_PMD);
    let zero = |at: &usize| {
        let pfn = entries[*at].pfn().expect("a page or the zero page");
        kpage::flags(pfn, 1).expect("root may read kpageflags")[0].zero_page()
    };
    let zeros: Vec<_> = (0..PAGES_PER_PMD).filter(zero).collect();
    let wanted: Vec<_> = (0..10).chain(20..PAGES_PER_PMD).collect();
    assert_eq!(zeros, wanted, "entries of the zero page");
    let rss = before
        .delta(&Snapshot::take(), "RssAnon")
        .expect("status has RssAnon");
    // The heap of this process may have grown by some pages meanwhile.
    assert!(
        (-4 * freed..-4 * freed + 400).contains(&rss),
        "RssAnon changed by {rss} kB, {freed} pages were freed"
    );
    FIRST.check(&region, 10..20);
    check_zero(&region, 0..10);
    check_zero(&region, 20..PAGES_PER_PMD);
}

/// A huge page of which single pages were moved elsewhere is split by way of any of them, and
/// each place keeps its content.
#[test]
fn huge_page_mapped_by_entries_splits() {
    enter!();
    let _quiet = settings::quiet();
    let mut region = stamped();
    let mut elsewhere = Region::reserved(PMD).expect("address space");
    region
        .mremap_into(page(77), &mut elsewhere, 0, Source::Goes)
        .expect("mremap of a page");
    let before = Snapshot::take();
    split(&elsewhere, &page(0), 0, None);
    Expect::new()
        .delta("thp_split_page", 1)
        .delta("2048kB/nr_anon", -1)
        .unchanged(&["thp_split_pmd"])
        .check(&before);
    Content::Moved {
        stamp: FIRST,
        by: 77,
    }
    .check(&elsewhere, 0..1);
    FIRST.check(&region, 0..77);
    FIRST.check(&region, 78..PAGES_PER_PMD);
}

/// A huge page that a child maps as well is split for both, and writes stay apart.
#[test]
fn shared_huge_page_splits_for_both() {
    enter!();
    let _quiet = settings::quiet();
    let region = stamped();
    let child = child::start(|parent| {
        parent.receive();
        thp::assert_split(&region, 0);
        FIRST.check_all(&region);
        FIRST.next().next().fill(&region, 5..10);
    });
    split(&region, &region.all(), 0, None);
    assert_orders(&region, &uniform(0));
    FIRST.next().fill(&region, 7..12);
    child.line().send(0);
    child.join();
    FIRST.check(&region, 0..7);
    FIRST.next().check(&region, 7..12);
    FIRST.check(&region, 12..PAGES_PER_PMD);
}

/// A pinned huge page is not split: the holder would lose the pages around the pin.
#[test]
fn pinned_huge_page_does_not_split() {
    enter!();
    let _quiet = settings::quiet();
    let region = stamped();
    let pin = Pin::take(&region, &page(9), Way::WriteFast).expect("a pin on one page");
    split(&region, &region.all(), 0, None);
    assert_orders(&region, &[(0, 9)]);
    FIRST.next().fill(&region, 9..10);
    pin.assert_coherent(&region, &page(9));
    drop(pin);
    split(&region, &region.all(), 0, None);
    assert_orders(&region, &uniform(0));
    FIRST.check(&region, 0..9);
    FIRST.next().check(&region, 9..10);
}

/// The pages of a huge page are as old as it was: accessed since the last round of aging, or not.
#[test_case(true; "accessed")]
#[test_case(false; "not_accessed")]
fn split_keeps_the_age(accessed: bool) {
    enter!();
    let _quiet = settings::quiet();
    let region = stamped();
    let referenced = |when: &str| {
        let wanted = if accessed { 2048 } else { 0 };
        let found = smaps::kib(&region, &region.all(), "Referenced");
        assert_eq!(found, wanted, "kB referenced {when}");
    };
    pagemap::clear_referenced();
    if accessed {
        guard::load(region.page_addr(300)).expect("a load from our own memory");
    }
    referenced("before");
    split(&region, &region.all(), 0, None);
    assert_orders(&region, &uniform(0));
    referenced("after the split");
    FIRST.check_all(&region);
}

/// Read-only pages of a process alone stay its own through a split: writable again, they take
/// stores without a fault.
#[test]
fn read_only_pages_stay_ours() {
    enter!();
    let _quiet = settings::quiet();
    let region = stamped();
    region.mprotect(region.all(), Prot::READ).expect("mprotect");
    thp::assert_huge(&region, 0..1);
    split(&region, &region.all(), 0, None);
    assert_orders(&region, &uniform(0));
    region
        .mprotect(region.all(), Prot::READ_WRITE)
        .expect("mprotect");
    let faults = minor_faults();
    for number in 0..PAGES_PER_PMD {
        guard::store(region.page_addr(number), 0).expect("a store to our own memory");
    }
    assert_eq!(minor_faults() - faults, 0, "faults of stores to 512 pages");
}

/// A locked huge page that is split stays in memory; its small pages are counted as locked, each
/// of them once, and nothing is after the end of the lock. (Larger folios are counted again once
/// reclaim has met them.)
#[test_case(0; "order_0")]
#[test_case(4; "order_4")]
fn locked_huge_page_splits(order: u8) {
    enter!();
    let _quiet = settings::quiet();
    let region = stamped();
    let unlocked = Snapshot::take();
    region
        .mlock(region.all())
        .unwrap_or_else(|errno| skip!("mlock of 2 MiB: {errno} (RLIMIT_MEMLOCK)"));
    drain_lru();
    Expect::new().delta("nr_mlock", 512).check(&unlocked);
    split(&region, &region.all(), order, None);
    assert_orders(&region, &uniform(order));
    drain_lru();
    let mut expect = Expect::new()
        .delta("thp_split_page", 1)
        .delta("VmLck", 2048);
    if order == 0 {
        expect = expect.delta("nr_mlock", 512);
    }
    expect.check(&unlocked);
    // May be refused for locked memory; that nothing goes away counts.
    let _ = region.madvise(region.all(), Advice::PageOut);
    let entries = pagemap::entries(&region, 0, PAGES_PER_PMD);
    let gone = entries.iter().position(|entry| !entry.present());
    assert_eq!(gone, None, "a page of locked memory that went away");
    FIRST.check_all(&region);
    region.munlock(region.all()).expect("munlock");
    drain_lru();
    Expect::new()
        .unchanged(&["nr_mlock", "VmLck"])
        .check_settled(&unlocked);
    FIRST.check_all(&region);
}

/// A huge page of shmem is split in the cache; the file's content is what it was.
#[test_case(0; "order_0")]
#[test_case(1; "order_1")]
#[test_case(2; "order_2")]
#[test_case(3; "order_3")]
#[test_case(4; "order_4")]
#[test_case(5; "order_5")]
#[test_case(6; "order_6")]
#[test_case(7; "order_7")]
#[test_case(8; "order_8")]
fn shmem_huge_page_splits(order: u8) {
    enter!();
    if order > 0 {
        outcome::known_bug(
            (6, 12),
            "split_huge_page_to_list_to_order() warns and refuses shmem",
        );
    }
    let _quiet = settings::quiet();
    let file = memfd("hugeprobe-split", PMD).expect("a memory file");
    let region = Region::shared_file(&file, 0, PMD).expect("a mapping of it");
    FIRST.fill_all(&region);
    if let Err(errno) = region.madvise(region.all(), Advice::Collapse) {
        skip!("MADV_COLLAPSE of shmem: {errno}");
    }
    thp::assert_huge(&region, 0..1);
    let before = Snapshot::take();
    split(&region, &region.all(), order, None);
    Expect::new()
        .delta("thp_split_page", 1)
        .delta("nr_shmem_hugepages", -1)
        .check(&before);
    FIRST.check_all(&region);
    assert_orders(&region, &uniform(order));
}
