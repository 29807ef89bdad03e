// SPDX-License-Identifier: GPL-2.0-only
//! userfaultfd and PAGEMAP_SCAN on memory that is in swap, or that was filled or moved by
//! userfaultfd: what is known of each page there.

use selftests::mapping::{PAGE, PAGES_PER_PMD, PMD, Region, memfd, pages};
use selftests::pagemap::{self, scan};
use selftests::pattern::FIRST;
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{enter, guard, skip, swap};
use test_case::test_case;

use crate::files::{Cached, Kind, page_out};
use crate::sizes::OneSize;

/// Pages that a test protects.
const SOME: std::ops::Range<usize> = 64..256;

#[track_caller]
fn assert_protected(region: &Region, protected: impl Fn(usize) -> bool, when: &str) {
    let entries = pagemap::entries(region, 0, PAGES_PER_PMD);
    for (number, entry) in entries.iter().enumerate() {
        assert_eq!(
            entry.uffd_wp(),
            protected(number),
            "{when}: page {number} is {entry:?}"
        );
    }
}

/// PAGEMAP_SCAN write-protects pages in swap like others: they come back protected, a store to one
/// is noticed, and of those that were not protected each counts as written.
#[test_case(0; "small")]
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn scan_protects_pages_in_swap(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    let uffd = Uffd::open(feature::WP | feature::WP_ASYNC | feature::WP_UNPOPULATED);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    swap::page_out(&region, 0..PAGES_PER_PMD);
    let wanted = scan::Is::WRITTEN | scan::Is::SWAPPED;
    let found = match scan::write_protect(&region, &pages(SOME), wanted) {
        Err(nix::errno::Errno::ENOTTY) => skip!("no PAGEMAP_SCAN (since 6.7)"),
        found => found.expect("PAGEMAP_SCAN"),
    };
    let count: usize = found.iter().map(|(run, _)| run.len() / PAGE).sum();
    assert_eq!(count, SOME.len(), "pages found written and in swap");
    let written = |number: usize| {
        let page = pages(number..number + 1);
        scan::per_page(&region, &page).expect("PAGEMAP_SCAN")[0].contains(scan::Is::WRITTEN)
    };
    assert_protected(&region, |number| SOME.contains(&number), "in swap");
    for number in [0, 63, 64, 100, 255, 256, 511] {
        assert_eq!(
            written(number),
            !SOME.contains(&number),
            "page {number} in swap counts as written"
        );
    }
    FIRST.check_all(&region);
    assert_protected(&region, |number| SOME.contains(&number), "read in");
    FIRST.next().fill(&region, 100..101);
    assert!(written(100), "a store was not noticed");
    assert_protected(
        &region,
        |number| SOME.contains(&number) && number != 100,
        "written",
    );
}

/// PAGEMAP_SCAN finds pages in swap soft-dirty that were written since the bits were cleared.
#[test_case(0; "small")]
#[test_case(2; "order_2")]
fn scan_finds_soft_dirty_pages_in_swap(order: u8) {
    enter!();
    if !pagemap::soft_dirty_supported() {
        skip!("no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)");
    }
    let size = OneSize::of(order);
    let region = size.filled();
    pagemap::clear_soft_dirty();
    FIRST.fill(&region, SOME);
    swap::page_out(&region, 0..PAGES_PER_PMD);
    let found = match scan::per_page(&region, &region.all()) {
        Err(nix::errno::Errno::ENOTTY) => skip!("no PAGEMAP_SCAN (since 6.7)"),
        found => found.expect("PAGEMAP_SCAN"),
    };
    for (number, is) in found.iter().enumerate() {
        assert!(is.contains(scan::Is::SWAPPED), "page {number} is {is:?}");
        assert_eq!(
            is.contains(scan::Is::SOFT_DIRTY),
            SOME.contains(&number),
            "soft-dirty: page {number} is {is:?}"
        );
    }
}

/// UFFDIO_COPY makes a page that is write-protected from the start, if asked to: a store to it is
/// noticed. Others are not.
#[test_case(false; "private")]
#[test_case(true; "shmem")]
fn copied_pages_are_protected(shared: bool) {
    enter!();
    let region = match shared {
        true => {
            let file = memfd("uffd", PMD).expect("a memfd");
            Region::shared_file(&file, 0, PMD)
        }
        false => Region::private(PMD),
    }
    .expect("address space");
    let mut features = feature::WP | feature::WP_ASYNC;
    if shared {
        features |= feature::WP_HUGETLBFS_SHMEM;
    }
    let uffd = Uffd::open(features);
    uffd.register(&region, &region.all(), Mode::MISSING_AND_WP)
        .expect("register");
    let bytes = |range: std::ops::Range<usize>| -> Vec<u8> {
        range
            .flat_map(|number| FIRST.page(number))
            .flat_map(u64::to_ne_bytes)
            .collect()
    };
    for part in [0..SOME.start, SOME.end..PAGES_PER_PMD] {
        uffd.copy(&region, &pages(part.clone()), &bytes(part))
            .expect("UFFDIO_COPY");
    }
    uffd.copy_protected(&region, &pages(SOME), &bytes(SOME))
        .expect("UFFDIO_COPY");
    assert_protected(&region, |number| SOME.contains(&number), "copied");
    FIRST.check_all(&region);
    FIRST.next().fill(&region, 60..70);
    assert_protected(&region, |number| (70..256).contains(&number), "written");
    FIRST.next().check(&region, 60..70);
    FIRST.check(&region, 70..PAGES_PER_PMD);
}

/// What UFFDIO_MOVE has moved is soft-dirty at its new place, in memory or in swap, and has its
/// content there, also after the other state.
#[test_case(false; "in_memory")]
#[test_case(true; "in_swap")]
fn moved_pages_are_soft_dirty(swapped: bool) {
    enter!();
    if !pagemap::soft_dirty_supported() {
        skip!("no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)");
    }
    let size = OneSize::of(0);
    let region = size.filled();
    if swapped {
        swap::page_out(&region, 0..PAGES_PER_PMD);
    }
    let target = size.untouched();
    let uffd = Uffd::open(feature::MOVE);
    uffd.register(&target, &target.all(), Mode::MISSING)
        .expect("register");
    pagemap::clear_soft_dirty();
    let moved = uffd.move_pages(&region, &region.all(), &target, 0);
    assert_eq!(moved, Ok(PMD), "bytes moved");
    for (number, entry) in pagemap::entries(&target, 0, PAGES_PER_PMD)
        .iter()
        .enumerate()
    {
        assert!(
            entry.soft_dirty() && entry.swapped() == swapped,
            "page {number} is {entry:?} at its new place"
        );
    }
    let left = pagemap::entries(&region, 0, PAGES_PER_PMD)
        .iter()
        .position(|entry| entry.present() || entry.swapped());
    assert_eq!(left, None, "a page at its old place");
    if !swapped {
        swap::page_out(&target, 0..PAGES_PER_PMD);
    }
    FIRST.check_all(&target);
}

/// A folio of shmem in swap comes back page by page where userfaultfd watches, each with its own
/// content and accounted for, whichever comes first.
#[test_case(4, 1; "order_4")]
#[test_case(9, 1; "huge")]
#[test_case(4, 7; "order_4_every_seventh")]
#[test_case(9, 37; "huge_every_37th")]
fn shmem_returns_from_swap_page_by_page(order: u8, step: usize) {
    enter!();
    let cached = Cached::new(Kind::Shmem(order));
    let region = cached.map();
    FIRST.fill_all(&region);
    page_out(&region);
    let uffd = Uffd::open(feature::WP | feature::WP_HUGETLBFS_SHMEM);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    // From the end, and then what was left out.
    for number in (0..PAGES_PER_PMD).rev().step_by(step) {
        FIRST.check(&region, number..number + 1);
    }
    FIRST.check_all(&region);
    FIRST.next().fill(&region, 5..6);
    guard::load(region.addr()).expect("our own memory");
    drop(uffd);
    FIRST.check(&region, 0..5);
    FIRST.next().check(&region, 5..6);
    FIRST.check(&region, 6..PAGES_PER_PMD);
    let left = selftests::pagemap::smaps::kib(&region, &region.all(), "Swap");
    assert_eq!(left, 0, "kB that are still in swap");
}
