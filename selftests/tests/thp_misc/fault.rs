// SPDX-License-Identifier: GPL-2.0-only
//! Faults that make huge pages: of which size, where, and what they count.

use std::time::Duration;

use selftests::cgroup::Cgroup;
use selftests::counters::{Expect, Snapshot, minor_faults, status_kib};
use selftests::mapping::{Advice, PAGE, PAGES_PER_PMD, PMD, Prot, Region, page, pages};
use selftests::pagemap;
use selftests::pattern::{FIRST, check_zero};
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{child, enter, guard, settings, skip, thp};
use test_case::test_case;

use crate::sizes::{OneSize, found};

/// A huge page needs all of its range inside the mapping: where a page is missing at either end,
/// faults make small pages, and the whole range beside it gets its huge page.
#[test_case(0, 0..1; "no_first_page")]
#[test_case(0, 511..512; "no_last_page")]
#[test_case(1, 512..513; "no_first_page_of_the_second")]
#[test_case(1, 1023..1024; "no_last_page_of_the_second")]
fn huge_page_stays_inside_its_mapping(cut: usize, missing: std::ops::Range<usize>) {
    enter!();
    let _quiet = settings::quiet();
    let mut region = Region::private(2 * PMD).expect("address space");
    region
        .madvise(region.all(), Advice::HugePage)
        .unwrap_or_else(|errno| skip!("MADV_HUGEPAGE: {errno}"));
    region.munmap(pages(missing.clone())).expect("munmap");
    let before = Snapshot::take();
    for half in [0, 1] {
        let at = region.page_addr(half * PAGES_PER_PMD + 100);
        // A load first would map the huge zero page, which old kernels split.
        guard::store(at, 7).expect("a store to our own memory");
        assert_eq!(guard::load(at + 5), Ok(0));
    }
    Expect::new()
        .delta("thp_fault_alloc", 1)
        .delta("2048kB/nr_anon", 1)
        .delta("nr_anon_transparent_hugepages", 1)
        .check(&before);
    thp::assert_huge(&region, 1 - cut..2 - cut);
    assert!(!thp::is_pmd_mapped(&region, cut));
    assert!(
        guard::load(region.page_addr(missing.start)).is_err(),
        "memory outside of the mapping"
    );
    let entries = pagemap::entries(&region, cut * PAGES_PER_PMD, PAGES_PER_PMD);
    let present = entries.iter().filter(|entry| entry.present()).count();
    assert_eq!(present, 1, "pages present after two touches of one page");
}

/// One store makes one folio of the enabled size around it, all zeros, mapped whole and counted
/// once; stores to its other pages fault no more.
#[test_case(2; "order_2")]
#[test_case(3; "order_3")]
#[test_case(4; "order_4")]
#[test_case(6; "order_6")]
#[test_case(8; "order_8")]
fn fault_makes_a_folio_of_the_enabled_size(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.untouched();
    let rss = status_kib("RssAnon");
    let before = Snapshot::all_sizes();
    let first = 256 - size.pages();
    guard::store(region.page_addr(255), 0).expect("a store to our own memory");
    let grown = status_kib("RssAnon") - rss;
    Expect::new()
        .delta(&size.counter("anon_fault_alloc"), 1)
        .delta(&size.counter("nr_anon"), 1)
        .unchanged(&[
            &size.counter("anon_fault_fallback"),
            "thp_fault_alloc",
            "2048kB/nr_anon",
        ])
        .check(&before);
    let found = found(&region);
    let shape: Vec<_> = found.iter().map(|p| (p.offset, p.order, p.pages)).collect();
    assert_eq!(shape, [(first, order, size.pages())], "folios");
    // The heap of this process may have grown by some pages meanwhile.
    let wanted = 4 << order;
    assert!(
        (wanted..wanted + 200).contains(&grown),
        "RssAnon grew by {grown} kB, the folio has {wanted}"
    );
    check_zero(&region, first..256);
    let faults = minor_faults();
    for number in first..256 {
        guard::store(region.page_addr(number), 0).expect("a store to our own memory");
    }
    assert_eq!(minor_faults() - faults, 0, "faults of the folio's pages");
    region
        .madvise(region.all(), Advice::DontNeed)
        .expect("MADV_DONTNEED");
    Expect::new()
        .unchanged(&[
            &size.counter("nr_anon"),
            &size.counter("nr_anon_partially_mapped"),
        ])
        .check_settled(&before);
    let left = status_kib("RssAnon") - rss;
    assert!(
        (0..200).contains(&left),
        "RssAnon is {left} kB higher though the folio is gone"
    );
}

/// A folio is made only where no page is yet: a page that is there keeps its content, and the
/// rest of its range stays in small pages.
#[test_case(16; "first_page")]
#[test_case(20; "middle_page")]
#[test_case(31; "last_page")]
fn fault_spares_pages_that_are_there(there: usize) {
    enter!();
    let size = OneSize::of(4);
    let region = size.untouched();
    region
        .madvise(page(there), Advice::NoHugePage)
        .and_then(|()| {
            FIRST.fill(&region, there..there + 1);
            region.madvise(page(there), Advice::HugePage)
        })
        .expect("madvise");
    let before = Snapshot::all_sizes();
    guard::store(region.page_addr(25), 0).expect("a store to our own memory");
    Expect::new()
        .unchanged(&[&size.counter("anon_fault_alloc"), &size.counter("nr_anon")])
        .check(&before);
    FIRST.check(&region, there..there + 1);
    let shape: Vec<_> = found(&region).iter().map(|p| (p.offset, p.order)).collect();
    let expected = [(there.min(25), 0), (there.max(25), 0)];
    assert_eq!(shape, expected, "folios");
    guard::store(region.page_addr(40), 0).expect("a store to our own memory");
    Expect::new()
        .delta(&size.counter("anon_fault_alloc"), 1)
        .check(&before);
}

/// Memory that userfaultfd watches for missing pages gets exactly the pages that are asked for.
#[test]
fn fault_in_watched_memory_makes_one_page() {
    enter!();
    let size = OneSize::of(4);
    let region = size.untouched();
    let uffd = Uffd::open(feature::WP);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    let before = Snapshot::all_sizes();
    guard::store(region.page_addr(25), 0).expect("a store to our own memory");
    Expect::new()
        .unchanged(&[&size.counter("anon_fault_alloc"), &size.counter("nr_anon")])
        .check(&before);
    let shape: Vec<_> = found(&region).iter().map(|p| (p.offset, p.order)).collect();
    assert_eq!(shape, [(25, 0)], "folios");
}

/// A store to a missing page of memory that userfaultfd watches delivers one event for it, huge
/// pages or not, and nothing is kept of the page that was to be mapped.
#[test_case(true; "store")]
#[test_case(false; "load")]
fn missing_page_is_reported_and_costs_nothing(store: bool) {
    enter!();
    let _quiet = settings::quiet();
    let rounds = 64;
    let region = Region::private(PMD).expect("address space");
    region
        .madvise(region.all(), Advice::HugePage)
        .unwrap_or_else(|errno| skip!("MADV_HUGEPAGE: {errno}"));
    let uffd = Uffd::open(0);
    uffd.register(&region, &region.all(), Mode::MISSING)
        .expect("register");
    let at = region.page_addr(77);
    let bytes = FIRST.page(77).map(u64::to_ne_bytes).concat();
    let round = || {
        std::thread::scope(|scope| {
            let toucher = scope.spawn(|| match store {
                true => guard::store(at, 1).map(|()| 1),
                false => guard::load(at),
            });
            let event = uffd.event(Duration::from_secs(30)).expect("poll");
            let event = event.expect("an event for the missing page");
            assert_eq!((event.address, event.write, event.wp), (at, store, false));
            uffd.copy(&region, &page(77), &bytes).expect("UFFDIO_COPY");
            let found = toucher.join().expect("the toucher does not panic");
            assert_eq!(found, Ok(if store { 1 } else { bytes[0] }));
        });
        region
            .madvise(region.all(), Advice::DontNeed)
            .expect("MADV_DONTNEED");
    };
    round();
    let before = Snapshot::take();
    (0..rounds).for_each(|_| round());
    Expect::new()
        .unchanged(&[
            "2048kB/nr_anon",
            "nr_anon_transparent_hugepages",
            "thp_fault_alloc",
        ])
        .check(&before);
    // Tables of threads' stacks come and go; one table leaked in each round does not go.
    let tables = || before.delta(&Snapshot::take(), "nr_page_table_pages");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while tables().is_some_and(|tables| tables >= rounds / 2) {
        assert!(
            std::time::Instant::now() < deadline,
            "{tables:?} more page tables after {rounds} faults",
            tables = tables()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// fork shares folios of a middle size: each side has its own content after either wrote, page by
/// page, and the child counts what it maps.
#[test_case(true; "child_writes")]
#[test_case(false; "parent_writes")]
fn fork_keeps_folios_apart(child_writes: bool) {
    enter!();
    let size = OneSize::of(4);
    let region = size.filled();
    let wrote = FIRST.next();
    let child = child::start(|parent| {
        let own = status_kib("RssAnon");
        parent.send(u64::try_from(own).expect("a size"));
        if child_writes {
            wrote.fill(&region, 5..200);
        }
        parent.receive();
        let theirs = if child_writes { wrote } else { FIRST };
        FIRST.check(&region, 0..5);
        theirs.check(&region, 5..200);
        FIRST.check(&region, 200..PAGES_PER_PMD);
    });
    let counted = child.line().receive();
    assert!(
        counted >= (PMD / 1024) as u64,
        "the child counts {counted} kB and maps 2048 kB"
    );
    if !child_writes {
        wrote.fill(&region, 5..200);
    }
    child.line().send(0);
    child.join();
    let ours = if child_writes { FIRST } else { wrote };
    FIRST.check(&region, 0..5);
    ours.check(&region, 5..200);
    FIRST.check(&region, 200..PAGES_PER_PMD);
}

/// A folio of which a child shares some pages: made read-only and writable again, its pages are
/// written in place or copied page by page, and nothing reaches the child.
#[test_case(0; "first_page_is_ours")]
#[test_case(7; "middle_page_is_ours")]
fn partly_shared_folio_is_copied_where_it_is_shared(ours: usize) {
    enter!();
    let size = OneSize::of(4);
    let region = size.filled();
    let own = page(ours);
    region
        .madvise(own.clone(), Advice::DontFork)
        .expect("MADV_DONTFORK");
    let child = child::start(|parent| {
        parent.receive();
        FIRST.check(&region, 0..ours);
        FIRST.check(&region, ours + 1..PAGES_PER_PMD);
    });
    region.madvise(own, Advice::DoFork).expect("MADV_DOFORK");
    let folio = pages(0..size.pages());
    region
        .mprotect(folio.clone(), Prot::READ)
        .expect("mprotect");
    region.mprotect(folio, Prot::READ_WRITE).expect("mprotect");
    let wrote = FIRST.next();
    wrote.fill(&region, 0..size.pages());
    child.line().send(0);
    child.join();
    wrote.check(&region, 0..size.pages());
    FIRST.check(&region, size.pages()..PAGES_PER_PMD);
}

/// A huge page that the memory cgroup cannot hold is not made and costs nothing: small pages
/// take its place, and the memory that was to become it is free again.
#[test]
fn huge_page_over_the_limit_is_given_back() {
    enter!();
    let _quiet = settings::quiet();
    let group = Cgroup::create();
    child::run_to_end(|_| {
        group.enter();
        group.set("memory.max", "2M");
        let rounds = 24;
        let used_by_faults = || {
            let before = Snapshot::take();
            for _ in 0..rounds {
                let region = Region::private(4 * PMD).expect("address space");
                region
                    .madvise(region.all(), Advice::HugePage)
                    .unwrap_or_else(|errno| skip!("MADV_HUGEPAGE: {errno}"));
                for number in 0..4 {
                    guard::store(region.page_addr(number * PAGES_PER_PMD), 1)
                        .expect("a small page is within the limit");
                }
            }
            let after = Snapshot::take();
            let refused = before.delta(&after, "thp_fault_fallback_charge");
            assert!(
                refused.is_none_or(|refused| refused >= rounds),
                "{refused:?} huge pages were refused for the limit in {rounds} rounds"
            );
            let used = before.delta(&after, "meminfo/MemAvailable");
            -used.expect("every kernel shows MemAvailable")
        };
        // What else the machine takes meanwhile it does not take every time; a leak does.
        let mut used = Vec::new();
        for _ in 0..5 {
            used.push(used_by_faults());
            if used.last().is_some_and(|kib| *kib < rounds * 2048 / 4) {
                return;
            }
        }
        panic!("{rounds} refused huge pages used up {used:?} kB, one time after the other");
    });
}

/// mmap of a multiple of 2 MiB without an address returns one that huge pages fit; of another
/// length it need not.
#[test_case(1; "one")]
#[test_case(3; "three")]
fn mmap_of_huge_pages_is_aligned(count: usize) {
    enter!();
    let length = count * PMD;
    // SAFETY: a new mapping at a place of the kernel's choice, unmapped below.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(at, libc::MAP_FAILED, "mmap");
    // SAFETY: what was just mapped, of which nobody knows.
    let unmapped = unsafe { libc::munmap(at, length) };
    assert_eq!(unmapped, 0, "munmap");
    assert_eq!(at as usize % PMD, 0, "{at:p} for {} pages", length / PAGE);
}
