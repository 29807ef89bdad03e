// SPDX-License-Identifier: GPL-2.0-only
//! userfaultfd and PAGEMAP_SCAN on a part of a huge page: the entry is split,
//! and only the pages in question are protected or moved.

use std::time::Duration;

use selftests::counters::{Expect, Snapshot};
use selftests::gup::{Pin, Way};
use selftests::mapping::{PAGE, PAGES_PER_PMD, PMD, Region, pages};
use selftests::pagemap::{self, scan};
use selftests::pattern::{FIRST, check_zero};
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{child, enter, guard, settings, skip, swap, thp};
use test_case::test_case;

use crate::fixture::*;

/// Long enough for another thread to fault.
const SOON: Duration = Duration::from_secs(30);

#[track_caller]
fn assert_protected(region: &Region, protected: impl Fn(usize) -> bool) {
    for (number, entry) in pagemap::entries(region, 0, PAGES_PER_PMD)
        .iter()
        .enumerate()
    {
        assert_eq!(
            entry.uffd_wp(),
            protected(number),
            "uffd-wp of page {number} ({entry:?})"
        );
    }
}

/// PAGEMAP_SCAN that write-protects one page splits the entry and protects that
/// page; only a write to it is noticed as new.
#[test_case(0; "first_page")]
#[test_case(100; "middle_page")]
#[test_case(LAST; "last_page")]
fn pagemap_scan_wp(number: usize) {
    enter!();
    let region = filled(1);
    let uffd = Uffd::open(feature::WP | feature::WP_ASYNC | feature::WP_UNPOPULATED);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    let one = pages(number..number + 1);
    let before = Snapshot::take();
    let found = match scan::write_protect(&region, &one, scan::Is::WRITTEN) {
        Err(nix::errno::Errno::ENOTTY) => skip!("no PAGEMAP_SCAN (since 6.7)"),
        found => found.expect("PAGEMAP_SCAN"),
    };
    assert_eq!(found.len(), 1, "written runs: {found:?}");
    assert_eq!(found[0].0, one, "written pages");
    splits_and_keeps(1).check(&before);
    assert_protected(&region, |n| n == number);
    let written = |n: usize| scan::per_page(&region, &region.all()).expect("PAGEMAP_SCAN")[n];
    assert!(
        !written(number).contains(scan::Is::WRITTEN),
        "protected page counts as written"
    );
    assert!(
        written((number + 1) % 512).contains(scan::Is::WRITTEN),
        "neighbour lost WRITTEN"
    );
    assert_eq!(
        write_each(&region, (0..512).filter(|n| *n != number)),
        0,
        "faults elsewhere"
    );
    assert_eq!(
        write_each(&region, [number]),
        1,
        "faults of the protected page"
    );
    assert!(
        written(number).contains(scan::Is::WRITTEN),
        "a write was not noticed"
    );
    assert_protected(&region, |_| false);
    FIRST.check_all(&region);
}

/// PAGEMAP_SCAN on a whole huge page protects it as a whole.
#[test]
fn pagemap_scan_wp_of_all() {
    enter!();
    let region = filled(1);
    let uffd = Uffd::open(feature::WP | feature::WP_ASYNC | feature::WP_UNPOPULATED);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    let before = Snapshot::take();
    match scan::write_protect(&region, &region.all(), scan::Is::WRITTEN) {
        Err(nix::errno::Errno::ENOTTY) => skip!("no PAGEMAP_SCAN (since 6.7)"),
        found => drop(found.expect("PAGEMAP_SCAN")),
    }
    splits_nothing().check(&before);
    thp::assert_huge(&region, 0..1);
    assert_protected(&region, |_| true);
    assert_eq!(
        write_each(&region, [300]),
        1,
        "faults of a protected huge page"
    );
    FIRST.check_all(&region);
}

/// Write-protection of some pages, and its end in some of them, concern those.
#[test]
fn protect_and_unprotect_a_part() {
    enter!();
    let region = filled(1);
    let uffd = Uffd::open(feature::WP);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    let before = Snapshot::take();
    uffd.write_protect(&region, &pages(100..200), true)
        .expect("write-protect");
    splits_and_keeps(1).check(&before);
    assert_protected(&region, |n| (100..200).contains(&n));
    assert_eq!(
        write_each(&region, (0..100).chain(200..512)),
        0,
        "faults elsewhere"
    );
    uffd.write_protect(&region, &pages(150..160), false)
        .expect("unprotect");
    assert_protected(&region, |n| {
        (100..150).contains(&n) || (160..200).contains(&n)
    });
    FIRST.check_all(&region);
}

/// The end of write-protection in a part of a protected huge page.
#[test]
fn unprotect_a_part_of_a_huge_page() {
    enter!();
    let region = filled(1);
    let uffd = Uffd::open(feature::WP);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    uffd.write_protect(&region, &region.all(), true)
        .expect("write-protect");
    thp::assert_huge(&region, 0..1);
    let before = Snapshot::take();
    uffd.write_protect(&region, &pages(7..9), false)
        .expect("unprotect");
    splits_and_keeps(1).check(&before);
    assert_protected(&region, |n| !(7..9).contains(&n));
    FIRST.next().fill(&region, 7..9);
    FIRST.next().check(&region, 7..9);
    check_others(&region, &(7..9));
}

/// After a split each protected page delivers its own event, with its address,
/// and nothing is written before the answer.
#[test]
fn each_protected_page_delivers_its_event() {
    enter!();
    let region = filled(1);
    let uffd = Uffd::open(feature::WP);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    uffd.write_protect(&region, &region.all(), true)
        .expect("write-protect");
    region
        .madvise(pages(5..6), selftests::mapping::Advice::DontFork)
        .expect("madvise");
    thp::assert_split(&region, 0);
    let numbers = [0, 4, 5, 6, 255, 256, 511];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in numbers {
                // A lost event shows in the other thread.
                let _ = guard::store(region.page_addr(number), 0xaa);
            }
        });
        for number in numbers {
            let event = uffd.event(SOON).expect("poll");
            let answered = event.map(|e| (e.is_wp_fault(), e.address));
            // Lets the writer go on even when the check below fails.
            uffd.write_protect(&region, &pages(number..number + 1), false)
                .expect("unprotect");
            assert_eq!(
                answered,
                Some((true, region.page_addr(number))),
                "event of page {number}"
            );
        }
    });
    for number in numbers {
        assert_eq!(
            guard::load(region.page_addr(number)),
            Ok(0xaa),
            "page {number}"
        );
    }
    assert_protected(&region, |n| !numbers.contains(&n));
    assert_eq!(uffd.event(Duration::ZERO), Ok(None), "an event too many");
}

/// UFFDIO_MOVE of some pages of a huge page: they arrive with their content, and
/// only they are gone.
#[test_case(0; "first_page")]
#[test_case(100; "middle_page")]
#[test_case(LAST; "last_page")]
fn move_partial(number: usize) {
    enter!();
    let source = filled(1);
    let target = Region::private(PMD).expect("address space");
    let uffd = Uffd::open(feature::MOVE);
    uffd.register(&target, &target.all(), Mode::MISSING)
        .expect("register");
    let one = pages(number..number + 1);
    let before = Snapshot::take();
    let moved = uffd
        .move_pages(&source, &one, &target, number * PAGE)
        .expect("UFFDIO_MOVE");
    assert_eq!(moved, PAGE, "bytes moved");
    Expect::new()
        .delta("thp_split_pmd", 1)
        .delta("nr_anon_transparent_hugepages", -1)
        .unchanged(&[
            "thp_split_pmd_failed",
            "thp_fault_alloc",
            "2048kB/nr_anon_partially_mapped",
        ])
        .check(&before);
    FIRST.check(&target, number..number + 1);
    check_zero(&source, number..number + 1);
    check_others(&source, &(number..number + 1));
    FIRST.next().fill(&target, number..number + 1);
    FIRST.next().fill_all(&source);
    FIRST.next().check(&target, number..number + 1);
    FIRST.next().check_all(&source);
}

/// UFFDIO_MOVE of a whole huge page moves the entry.
#[test]
fn move_whole() {
    enter!();
    let source = filled(1);
    let frames = thp::frames(&source, 0);
    let target = Region::private(PMD).expect("address space");
    let uffd = Uffd::open(feature::MOVE);
    uffd.register(&target, &target.all(), Mode::MISSING)
        .expect("register");
    let before = Snapshot::take();
    let moved = uffd
        .move_pages(&source, &source.all(), &target, 0)
        .expect("UFFDIO_MOVE");
    assert_eq!(moved, PMD, "bytes moved");
    splits_nothing().check(&before);
    thp::assert_huge(&target, 0..1);
    assert_eq!(thp::frames(&target, 0), frames, "frames");
    FIRST.check_all(&target);
    check_zero(&source, 0..512);
}

/// Who has only the page finds where it is mapped after UFFDIO_MOVE, too: it can be swapped out
/// from its new place, and a child shares it there.
#[test_case(0..512; "whole")]
#[test_case(100..101; "one_page")]
#[test_case(0..3; "first_pages")]
fn moved_pages_can_be_swapped_out(part: std::ops::Range<usize>) {
    enter!();
    let source = filled(1);
    let target = Region::private(PMD).expect("address space");
    let uffd = Uffd::open(feature::MOVE);
    uffd.register(&target, &target.all(), Mode::MISSING)
        .expect("register");
    for number in part
        .clone()
        .step_by(if part.len() == 512 { 512 } else { 1 })
    {
        let bytes = if part.len() == 512 {
            source.all()
        } else {
            pages(number..number + 1)
        };
        let moved = uffd.move_pages(&source, &bytes, &target, bytes.start);
        assert_eq!(moved, Ok(bytes.len()), "bytes moved");
    }
    swap::page_out(&target, part.clone());
    FIRST.check(&target, part.clone());
    let child = child::start(|parent| {
        parent.receive();
        FIRST.check(&target, part.clone());
    });
    FIRST.next().fill(&target, part.clone());
    child.line().send(0);
    child.join();
    FIRST.next().check(&target, part);
}

/// A pinned huge page is not moved (EBUSY): its holder would lose it. Unpinned it is.
#[test]
fn move_of_a_pinned_page_is_refused() {
    enter!();
    let source = filled(1);
    let target = Region::private(PMD).expect("address space");
    let uffd = Uffd::open(feature::MOVE);
    uffd.register(&target, &target.all(), Mode::MISSING)
        .expect("register");
    let pin = Pin::take(&source, &pages(9..10), Way::WriteFast).expect("a pin on one page");
    let moved = uffd.move_pages(&source, &source.all(), &target, 0);
    assert_eq!(moved, Err(nix::errno::Errno::EBUSY));
    thp::assert_huge(&source, 0..1);
    FIRST.next().fill_all(&source);
    pin.assert_coherent(&source, &pages(9..10));
    drop(pin);
    let moved = uffd.move_pages(&source, &source.all(), &target, 0);
    assert_eq!(moved, Ok(PMD), "bytes moved");
    FIRST.next().check_all(&target);
}

/// Reading maps the huge zero page; taking a part of it away, or protecting
/// one, splits the entry, and every page reads zero.
#[test_case(|region| region.munmap(pages(9..10)).expect("munmap"), 9..10; "munmap")]
#[test_case(|region| region.mprotect(pages(9..10), selftests::mapping::Prot::READ).expect("mprotect"), 9..9; "mprotect")]
#[test_case(|region| region.madvise(pages(9..10), selftests::mapping::Advice::DontNeed).expect("madvise"), 9..9; "dontneed")]
fn huge_zero(operation: fn(&mut Region), gone: std::ops::Range<usize>) {
    enter!();
    let _quiet = settings::quiet();
    let mut region = thp::obtain_huge_zero(1);
    let before = Snapshot::take();
    operation(&mut region);
    Expect::new()
        .delta("thp_split_pmd", 1)
        .unchanged(&[
            "thp_split_page",
            "thp_deferred_split_page",
            "2048kB/nr_anon",
            "thp_fault_alloc",
        ])
        .check(&before);
    assert_unmapped(&region, gone.clone());
    for part in others(&region, &gone) {
        check_zero(&region, part);
    }
    let written: Vec<usize> = (10..512).step_by(3).collect();
    assert_eq!(
        write_each(&region, written.clone()),
        written.len(),
        "faults of writes to zero pages"
    );
    for number in written {
        FIRST.fill(&region, number..number + 1);
        FIRST.check(&region, number..number + 1);
        check_zero(&region, number + 1..(number + 3).min(512));
    }
}

/// The huge zero page is shared by all: a child's writes stay with the child.
#[test]
fn huge_zero_after_fork() {
    enter!();
    let _quiet = settings::quiet();
    let region = thp::obtain_huge_zero(1);
    region
        .mprotect(pages(9..10), selftests::mapping::Prot::READ)
        .expect("mprotect");
    child::run_to_end(|_| {
        check_zero(&region, 0..512);
        FIRST.fill(&region, 0..9);
        FIRST.check(&region, 0..9);
        check_zero(&region, 9..512);
    });
    check_zero(&region, 0..512);
}

/// Write-protection of the huge zero page holds for its pages after a split.
#[test]
fn huge_zero_keeps_uffd_wp() {
    enter!();
    let _quiet = settings::quiet();
    let region = thp::obtain_huge_zero(1);
    let uffd = Uffd::open(feature::WP | feature::WP_ASYNC | feature::WP_UNPOPULATED);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    uffd.write_protect(&region, &region.all(), true)
        .expect("write-protect");
    region
        .madvise(pages(5..6), selftests::mapping::Advice::DontFork)
        .expect("madvise");
    assert_protected(&region, |_| true);
    check_zero(&region, 0..512);
}
