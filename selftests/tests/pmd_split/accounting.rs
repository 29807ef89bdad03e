// SPDX-License-Identifier: GPL-2.0-only
//! Page tables, resident memory, folio statistics, map counts, and that memory
//! really goes back: what a split must neither lose nor invent.

use std::time::{Duration, Instant};

use selftests::child;
use selftests::counters::{Expect, Snapshot, minor_faults, status_kib};
use selftests::mapping::{Advice, PAGE, PMD, Prot, Region, pages};
use selftests::pagemap::{kpage, smaps};
use selftests::pattern::{Content, FIRST};
use selftests::{enter, guard, not_applicable, settings, thp};
use test_case::test_case;

use crate::fixture::*;

/// kB of one page table.
const TABLE: i64 = (PAGE / 1024) as i64;

/// Two huge pages, and by how many kB `VmPTE` grew when the second was mapped.
/// The tables above the PTE level exist before that.
#[track_caller]
fn two_and_growth() -> (Region, i64) {
    let _neighbour = thp::obtain(1);
    let region = Region::private(2 * PMD).expect("address space");
    let advised = region.madvise(region.all(), Advice::HugePage);
    advised.expect("madvise");
    FIRST.fill(&region, 0..512);
    let before = status_kib("VmPTE");
    guard::store(region.addr() + PMD, 1).expect("a store to our own memory");
    let grown = status_kib("VmPTE") - before;
    FIRST.fill(&region, 512..1024);
    thp::assert_huge(&region, 0..2);
    (region, grown)
}

/// Page tables of a huge page: either set aside when it is mapped and constant
/// over the split, or allocated by the split. Nothing between, nothing twice.
#[test]
fn page_tables() {
    enter!();
    let _quiet = settings::quiet();
    let (region, at_fault) = two_and_growth();
    let before = status_kib("VmPTE");
    let protected = region.mprotect(pages(513..514), Prot::READ);
    protected.expect("mprotect");
    let at_split = status_kib("VmPTE") - before;
    match (at_fault, at_split) {
        (TABLE, 0) => println!("page tables are set aside when a huge page is mapped"),
        (0, TABLE) => println!("page tables are allocated when a huge page is split"),
        other => panic!("VmPTE grew by (fault, split) = {other:?} kB: neither model"),
    }
}

/// Page tables of many huge pages are all given back, split or not. What the
/// other processes of the guest may do to the same counter meanwhile is less
/// than one table for every fourth huge page.
#[test_case(0; "none_split")]
#[test_case(8; "half_split")]
#[test_case(16; "all_split")]
fn page_tables_are_freed(split: usize) {
    enter!();
    let _quiet = settings::quiet();
    let warm = thp::obtain(1);
    let (vm_pte, before) = (status_kib("VmPTE"), Snapshot::take());
    child::run_to_end(|_| {
        let region = thp::obtain(16);
        FIRST.fill_all(&region);
        for number in 0..split {
            let at = number * 512 + 3;
            let protected = region.mprotect(pages(at..at + 1), Prot::READ);
            protected.expect("mprotect");
        }
        FIRST.check_all(&region);
    });
    Expect::new()
        .delta("thp_split_pmd", split as i64)
        .unchanged(&["2048kB/nr_anon", "nr_anon_transparent_hugepages"])
        .check_settled(&before);
    let tables = |now: &Snapshot| before.delta(now, "nr_page_table_pages").unwrap_or(0);
    let deadline = Instant::now() + Duration::from_secs(10);
    while tables(&Snapshot::take()) >= 4 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let left = tables(&Snapshot::take());
    assert!(
        left < 4,
        "{left} page tables are left of a process with 16 huge pages"
    );
    assert_eq!(status_kib("VmPTE"), vm_pte, "VmPTE of the parent");
    drop(warm);
}

/// Resident memory follows every page that goes, exactly.
#[test]
fn rss() {
    enter!();
    let mut region = filled(2);
    let exact = rss_is_exact();
    if !exact {
        not_applicable!("RssAnon", "this kernel reports an approximation");
    }
    let mut resident = 2 * PMD / 1024;
    let mut step = |what: &str, gone: usize, operation: &mut dyn FnMut(&mut Region)| {
        let before = status_kib("RssAnon");
        operation(&mut region);
        let fell = before - status_kib("RssAnon");
        let kib = gone * PAGE / 1024;
        resident -= kib;
        if exact {
            assert_eq!(fell, kib as i64, "kB that RssAnon fell by {what}");
        }
        let mapped = smaps::kib(&region, &region.all(), "Rss") as usize;
        assert_eq!(mapped, resident, "Rss of the region after {what}");
    };
    step("munmap of one page", 1, &mut |r| {
        r.munmap(pages(1..2)).expect("munmap")
    });
    step("DONTNEED of 20 pages", 20, &mut |r| {
        r.madvise(pages(10..30), Advice::DontNeed).expect("madvise");
    });
    step("mprotect", 0, &mut |r| {
        r.mprotect(pages(40..41), Prot::READ).expect("mprotect")
    });
    step("munmap of a tail", 12, &mut |r| {
        r.munmap(pages(1012..1024)).expect("munmap")
    });
    step("DONTNEED of the rest", 500, &mut |r| {
        r.madvise(pages(512..1012), Advice::DontNeed)
            .expect("madvise");
    });
}

/// A whole huge page that goes takes all its accounting with it.
#[test_case(|region| region.munmap(0..PMD).expect("munmap"); "munmap")]
#[test_case(|region| region.madvise(0..PMD, Advice::DontNeed).expect("madvise"); "dontneed")]
#[test_case(|region| region.renew(0..PMD).expect("mmap"); "mmap_over")]
fn whole_huge_page_goes(operation: fn(&mut Region)) {
    enter!();
    let _quiet = settings::quiet();
    let (mut region, table) = two_and_growth();
    let exact = rss_is_exact();
    let before = Snapshot::take();
    let (rss, tables) = (status_kib("RssAnon"), status_kib("VmPTE"));
    operation(&mut region);
    let (rss_after, tables_after) = (status_kib("RssAnon"), status_kib("VmPTE"));
    if exact {
        assert_eq!(rss_after - rss, -2048, "kB that RssAnon changed by");
    }
    assert_eq!(tables - tables_after, table, "kB of page tables given back");
    splits_nothing()
        .delta("2048kB/nr_anon", -1)
        .delta("nr_anon_transparent_hugepages", -1)
        .check(&before);
    thp::assert_huge(&region, 1..2);
    FIRST.check(&region, 512..1024);
}

/// How the pages of a split huge page go.
#[derive(Clone, Copy)]
enum Order {
    Upwards,
    Downwards,
    EvenThenOdd,
}

/// When the last page of a split huge page goes, all of it is free: no
/// reference is left, whatever the order.
#[test_case(Order::Upwards; "upwards")]
#[test_case(Order::Downwards; "downwards")]
#[test_case(Order::EvenThenOdd; "even_then_odd")]
fn memory_is_freed_page_by_page(order: Order) {
    enter!();
    let _quiet = settings::quiet();
    let before = Snapshot::take();
    let mut region = thp::obtain(1);
    FIRST.fill_all(&region);
    let numbers: Vec<usize> = match order {
        Order::Upwards => (0..512).collect(),
        Order::Downwards => (0..512).rev().collect(),
        Order::EvenThenOdd => (0..512).step_by(2).chain((1..512).step_by(2)).collect(),
    };
    for (step, number) in numbers.iter().enumerate() {
        if step == 100 {
            let all = Content::Stamped(FIRST).mismatches(region.addr(), 0..512);
            let gone = all
                .iter()
                .filter(|(_, why)| why.contains("SIGSEGV"))
                .count();
            assert_eq!((all.len(), gone), (100, 100), "pages gone and pages wrong");
        }
        region.munmap(pages(*number..number + 1)).expect("munmap");
    }
    Expect::new()
        .delta("thp_fault_alloc", 1)
        .delta("thp_split_pmd", 1)
        .delta("thp_deferred_split_page", 1)
        .unchanged(&BASELINE)
        .check(&before);
}

/// What is as before when a region is gone.
const BASELINE: [&str; 4] = [
    "2048kB/nr_anon",
    "2048kB/nr_anon_partially_mapped",
    "nr_anon_transparent_hugepages",
    "thp_split_page",
];

/// A folio that lost pages is partially mapped until its last page goes.
#[test]
fn partially_mapped_until_the_end() {
    enter!();
    let before = Snapshot::take();
    let mut region = filled(1);
    region.munmap(pages(0..511)).expect("munmap");
    Expect::new()
        .delta("2048kB/nr_anon", 1)
        .delta("2048kB/nr_anon_partially_mapped", 1)
        .delta("thp_deferred_split_page", 1)
        .check(&before);
    FIRST.check(&region, 511..512);
    region.munmap(pages(511..512)).expect("munmap");
    Expect::new().unchanged(&BASELINE).check(&before);
}

/// Each page of a split huge page is mapped exactly as often as processes map it.
#[test]
fn map_counts() {
    enter!();
    let mut region = filled(1);
    let head = thp::frames(&region, 0)[0];
    let counts = |what: &str, wanted: &dyn Fn(usize) -> u64| {
        let counts = kpage::mapcounts(head, 512).expect("kpagecount for root");
        for (number, count) in counts.iter().enumerate() {
            assert_eq!(*count, wanted(number), "map count of page {number} {what}");
        }
    };
    counts("while huge", &|_| 1);
    region.mprotect(pages(8..9), Prot::READ).expect("mprotect");
    counts("after the split", &|_| 1);
    let child = child::start(|parent| {
        parent.receive();
    });
    counts("after fork", &|_| 2);
    region.munmap(pages(100..200)).expect("munmap");
    if counts_are_per_page(head) {
        counts("after a partial munmap", &|n| {
            if (100..200).contains(&n) { 1 } else { 2 }
        });
    } else {
        not_applicable!("map count per page", "kernel without CONFIG_PAGE_MAPCOUNT");
    }
    child.line().send(0);
    child.join();
    check_others(&region, &(100..200));
}

/// Whether the kernel counts single pages: after part of a folio went, an
/// average over the folio is the same for all.
fn counts_are_per_page(head: u64) -> bool {
    let counts = kpage::mapcounts(head, 512).expect("kpagecount for root");
    counts.iter().any(|count| *count != counts[0])
}

/// smaps divides what is shared: Rss and Pss of a split and shared huge page.
#[test]
fn proportional_share() {
    enter!();
    let region = filled(1);
    let sum = |name: &str| smaps::kib(&region, &region.all(), name);
    assert_eq!(
        (sum("Rss"), sum("Pss"), sum("AnonHugePages")),
        (2048, 2048, 2048)
    );
    region.mprotect(pages(8..9), Prot::READ).expect("mprotect");
    assert_eq!(
        (sum("Rss"), sum("Pss"), sum("AnonHugePages")),
        (2048, 2048, 0)
    );
    let child = child::start(|parent| {
        parent.receive();
    });
    assert_eq!((sum("Rss"), sum("Pss")), (2048, 1024), "shared by two");
    child.line().send(0);
    child.join();
    assert_eq!((sum("Rss"), sum("Pss")), (2048, 2048), "after the child");
}

/// A split costs no page fault and changes no entry of the neighbouring table.
#[test]
fn no_page_fault_by_reading_after_a_split() {
    enter!();
    let region = filled(2);
    region.mprotect(pages(8..9), Prot::READ).expect("mprotect");
    let before = minor_faults();
    for number in 0..1024 {
        guard::load(region.page_addr(number)).expect("a load from our own memory");
    }
    assert_eq!(
        minor_faults() - before,
        0,
        "page faults of reading 1024 pages"
    );
}
