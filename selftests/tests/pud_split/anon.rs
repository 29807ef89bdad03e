// SPDX-License-Identifier: GPL-2.0-only
//! Anonymous memory: allocation, access, copy on write, reclaim, migration.

use selftests::child;
use selftests::counters::{Expect, Snapshot};
use selftests::mapping::{Advice, PAGE, PMD, PUD, pages};
use selftests::pagemap;
use selftests::pattern::{FIRST, Stamp};
use selftests::{enter, guard, numa, skip};
use test_case::test_case;

use crate::gigabyte::{self, PAGES, Size};

/// Touching 1 GiB allocates huge pages of the size and nothing else, counted exactly.
#[test_case(Size::Pud; "pud")]
#[test_case(Size::Pmd; "fallback")]
fn basic_allocation(size: Size) {
    enter!();
    let memory = gigabyte::reserve(size);
    let before = Snapshot::all_sizes();
    for offset in (0..PUD).step_by(PMD) {
        guard::store(memory.addr() + offset, 1).expect("our own memory");
    }
    let after = Snapshot::all_sizes();
    memory.prove(size);
    let expect = match size {
        Size::Pud => Expect::new()
            .delta("1048576kB/anon_fault_alloc", 1)
            .delta("1048576kB/nr_anon", 1)
            .unchanged(&["1048576kB/anon_fault_fallback", "thp_fault_alloc"]),
        Size::Pmd => Expect::new()
            .delta("thp_fault_alloc", 512)
            .delta("2048kB/anon_fault_alloc", 512)
            .delta("2048kB/nr_anon", 512)
            .delta("nr_anon_transparent_hugepages", 512),
    };
    expect
        .unchanged(&["thp_split_pmd", "thp_split_pud", "thp_fault_fallback"])
        .check_between(&before, &after);
    let resident = before.delta(&after, "RssAnon").expect("a line of status");
    assert!(
        (0..256).contains(&(resident - (1 << 20))),
        "RssAnon {resident:+} kB"
    );
}

/// Each of 262144 pages keeps what was written to it, and nothing is split.
#[test_case(Size::Pud; "pud")]
#[test_case(Size::Pmd; "fallback")]
fn read_write_access(size: Size) {
    enter!();
    let memory = gigabyte::reserve(size);
    let before = Snapshot::take();
    gigabyte::fill(&memory, FIRST);
    memory.prove(size);
    gigabyte::check(&memory, FIRST, 0..PAGES);
    memory.assert_level(memory.all(), size.level());
    size.splits(0).check(&before);
}

/// A child's stores reach its own copies only; all other pages stay shared and unchanged.
#[test_case(Size::Pud; "pud")]
#[test_case(Size::Pmd; "fallback")]
fn fork_cow(size: Size) {
    enter!();
    let memory = gigabyte::filled(size, FIRST);
    let theirs = Stamp::of(2);
    let written = [0, 300 * 512 + 7];
    let before = Snapshot::take();
    child::run_to_end(|_| {
        for number in written {
            theirs.fill(&memory, number..number + 1);
        }
        theirs.check(&memory, 0..1);
        gigabyte::check(&memory, FIRST, 1..written[1]);
        theirs.check(&memory, written[1]..written[1] + 1);
    });
    let splits = if size == Size::Pud {
        1
    } else {
        written.len() as i64
    };
    size.splits(splits).check(&before);
    gigabyte::check(&memory, FIRST, 0..PAGES);
}

/// Paged out memory comes back with its content.
#[test_case(Size::Pud; "pud")]
#[test_case(Size::Pmd; "fallback")]
fn reclaim_pageout(size: Size) {
    enter!();
    const OUT: usize = 64 << 20;
    let memory = gigabyte::filled(size, FIRST);
    let before = Snapshot::take();
    if before.get("meminfo/SwapFree").unwrap_or(0) < (OUT as i64) >> 10 {
        skip!("no swap, or less than {} MiB of it", OUT >> 20);
    }
    let range = PUD / 2..PUD / 2 + OUT;
    memory
        .madvise(range.clone(), Advice::PageOut)
        .expect("MADV_PAGEOUT");
    let out = pagemap::entries(&memory, range.start / PAGE, OUT / PAGE)
        .iter()
        .filter(|entry| entry.swapped())
        .count();
    assert!(out > 0, "not one of {} pages was paged out", OUT / PAGE);
    let after = Snapshot::take();
    let freed = before.delta(&after, "meminfo/SwapFree").unwrap_or(0);
    assert!(
        freed < 0,
        "{out} pages are in swap, but SwapFree changed by {freed} kB"
    );
    if size == Size::Pud {
        Size::Pud.splits(1).check_between(&before, &after);
    }
    gigabyte::check(&memory, FIRST, 0..PAGES);
}

/// mbind() with MPOL_MF_MOVE brings every page to the other node with its content.
#[test_case(Size::Pud; "pud")]
#[test_case(Size::Pmd; "fallback")]
fn migration_mbind(size: Size) {
    enter!();
    let (home, away) = numa::two_nodes();
    let memory = gigabyte::reserve(size);
    numa::bind(&memory, &memory.all(), home).expect("mbind before the first touch");
    gigabyte::fill(&memory, FIRST);
    memory.prove(size);
    let before = Snapshot::take();
    let moved = match size {
        Size::Pud => memory.all(),
        Size::Pmd => pages(0..PAGES / 8),
    };
    numa::bind(&memory, &moved, away).expect("mbind with MPOL_MF_MOVE");
    let nodes = numa::nodes_of(&memory, &moved).expect("move_pages tells nodes");
    if let Some(number) = nodes.iter().position(|node| *node != Ok(away)) {
        panic!("page {number} is on node {:?}", nodes[number]);
    }
    for huge in (moved.end..PUD).step_by(PMD) {
        let rest = numa::nodes_of(&memory, &(huge..huge + PAGE)).expect("move_pages tells nodes");
        assert_eq!(rest, [Ok(home)], "offset {huge:#x} was not to move");
    }
    match size {
        Size::Pud => Size::Pud.splits(1).check(&before),
        Size::Pmd => Expect::new()
            .delta("thp_migration_success", (moved.len() / PMD) as i64)
            .unchanged(&["thp_migration_fail", "thp_migration_split", "thp_split_pmd"])
            .check(&before),
    }
    gigabyte::check(&memory, FIRST, 0..PAGES);
}
