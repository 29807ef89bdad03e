// SPDX-License-Identifier: GPL-2.0-only
//! Collapse while others use the memory: writers, reclaim, migration and unmapping of
//! neighbours in the same page table, and pins that are taken without a lock. Each test makes
//! a fixed number of passes and every wait in it has a limit.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use selftests::collapse::Khugepaged;
use selftests::collapse_model::{MAX_NONE, Orders, PTES, Pte};
use selftests::mapping::{Advice, Region, pages};
use selftests::pattern::{FIRST, Stamp, check_zero};
use selftests::{enter, guard, numa, pagemap};
use test_case::test_case;

use crate::mthp::take;
use crate::refuse::hold_page;
use crate::tables::{Held, Tables};

/// Passes of a race.
const PASSES: usize = 4;

/// Passes after which a race is given up in which khugepaged finds the table in use each time.
const MOST_PASSES: usize = 24;

/// Runs `other` in a thread until `passes` is done.
fn against(other: impl Fn(&AtomicBool) + Sync, passes: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let running = scope.spawn(|| other(&stop));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(passes));
        stop.store(true, Ordering::Relaxed);
        let other = running.join();
        if let Err(panic) = result.and(other) {
            std::panic::resume_unwind(panic);
        }
    });
}

#[track_caller]
fn pass(khugepaged: &Khugepaged) {
    khugepaged.pass().expect("khugepaged scans when asked");
}

/// Word of a page in which the writer counts.
const COUNTER: usize = 8;

/// What is written while khugepaged copies is not lost: a stale TLB entry, or a copy taken
/// before the entries were gone, would bring old values back.
#[test_case(Orders::range(2, 8); "mthp")]
#[test_case(Orders::only(9); "pmd")]
fn writes_during_collapse_are_not_lost(orders: Orders) {
    enter!();
    let (khugepaged, _) = take(orders, MAX_NONE);
    for round in 0..PASSES {
        let mut tables = Tables::new(&[&[0..PTES], &[0..PTES], &[0..PTES], &[0..PTES]]);
        let hot: Vec<usize> = (0..tables.count())
            .flat_map(|table| tables.pages(table, 0..PTES).step_by(61))
            .collect();
        for page in &hot {
            tables.now_hold(*page..page + 1, Held::Other);
        }
        let written = AtomicUsize::new(0);
        let region = &tables.region;
        let write_all = |value: u64| {
            for page in &hot {
                let address = region.page_addr(*page) + COUNTER * 8;
                guard::write_words(address, &[value]).expect("a store to our own memory");
                let mut found = [0];
                guard::read_words(address, &mut found).expect("a load from our own memory");
                assert_eq!(found, [value], "page {page}: a store was lost at once");
            }
        };
        write_all(0);
        tables.advise();
        against(
            |stop| {
                for value in 1.. {
                    write_all(value);
                    written.store(value as usize, Ordering::Relaxed);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            },
            || pass(&khugepaged),
        );
        let last = written.into_inner() as u64;
        for page in &hot {
            let mut words = [0; 512];
            guard::read_words(region.page_addr(*page), &mut words)
                .expect("a load from our own memory");
            let mut expected = FIRST.page(*page);
            expected[COUNTER] = last;
            assert_eq!(
                words, expected,
                "round {round}: page {page} after {last} rounds of stores"
            );
        }
        let large = (0..tables.count())
            .flat_map(|table| tables.ptes(table))
            .filter(|pte| *pte != Pte::Mapped(0));
        assert!(
            large.count() > 0,
            "nothing was collapsed, so nothing was tested"
        );
        tables.check_content();
    }
}

/// Groups of 16 pages: the even ones are collapsed, the odd ones are used otherwise meanwhile.
const GROUP: usize = 16;

/// While one group is collapsed, pages of its neighbours in the same table may be reclaimed,
/// moved to the other node, or unmapped and filled again: nobody loses a byte.
#[test_case(disturb_by_reclaim; "reclaimed")]
#[test_case(disturb_by_migration; "migrated")]
#[test_case(disturb_by_unmapping; "unmapped")]
fn neighbours_may_be(disturb: fn(&Region, Range<usize>, u16)) {
    enter!();
    let (khugepaged, _) = take(Orders::only(4), 0);
    let mut tables = Tables::full();
    tables.advise();
    let odd: Vec<Range<usize>> = (0..PTES / GROUP)
        .filter(|n| n % 2 == 1)
        .map(|n| tables.pages(0, n * GROUP..(n + 1) * GROUP))
        .collect();
    for group in &odd {
        tables.now_hold(group.clone(), Held::Other);
    }
    let mut rounds = 0;
    for _ in 0..MOST_PASSES {
        let region = &tables.region;
        against(
            |stop| {
                for version in 1..1000 {
                    for group in &odd {
                        disturb(region, group.clone(), version);
                    }
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            },
            || pass(&khugepaged),
        );
        tables.check_content();
        // A page that is just being moved keeps khugepaged from the whole table, so not every
        // pass collapses something.
        let even = (0..PTES / GROUP).step_by(2);
        let found = tables.ptes(0);
        if even
            .clone()
            .all(|number| found[number * GROUP] != Pte::Mapped(4))
        {
            continue;
        }
        for number in even {
            tables.refill(0, number * GROUP..(number + 1) * GROUP);
        }
        rounds += 1;
        if rounds == PASSES {
            return;
        }
    }
    assert!(
        rounds > 0,
        "nothing was collapsed in {MOST_PASSES} passes, so nothing was tested"
    );
}

fn version(version: u16) -> Stamp {
    Stamp {
        owner: 2,
        version: version % 1000,
    }
}

fn disturb_by_reclaim(region: &Region, group: Range<usize>, round: u16) {
    version(round).fill(region, group.clone());
    region
        .madvise(pages(group.clone()), Advice::PageOut)
        .expect("MADV_PAGEOUT");
    version(round).check(region, group);
}

fn disturb_by_migration(region: &Region, group: Range<usize>, round: u16) {
    let nodes = numa::two_nodes();
    version(round).fill(region, group.clone());
    let node = if round.is_multiple_of(2) {
        nodes.0
    } else {
        nodes.1
    };
    // A page that khugepaged holds just now is busy, which is no error.
    numa::move_to(region, &pages(group.clone()), node).expect("move_pages");
    version(round).check(region, group);
}

fn disturb_by_unmapping(region: &Region, group: Range<usize>, round: u16) {
    region
        .madvise(pages(group.clone()), Advice::DontNeed)
        .expect("MADV_DONTNEED");
    check_zero(region, group.start..group.start + 1);
    version(round).fill(region, group.clone());
    version(round).check(region, group);
}

/// A reference taken without a lock sees the memory it was taken of, whenever the collapse
/// comes: what the holder reads is what was written last.
#[test_case(Orders::range(2, 8); "mthp")]
#[test_case(Orders::only(9); "pmd")]
fn pins_see_the_memory_they_were_taken_of(orders: Orders) {
    enter!();
    let (khugepaged, _) = take(orders, MAX_NONE);
    let mut tables = Tables::full();
    let range = tables.pages(0, 0..PTES);
    tables.now_hold(range.clone(), Held::Other);
    tables.advise();
    for _ in 0..PASSES {
        let region = &tables.region;
        against(
            |stop| {
                for round in 1..1000 {
                    for page in range.clone().step_by(67) {
                        let pin = hold_page(region, page);
                        version(round).fill(region, page..page + 1);
                        assert_eq!(
                            pin.read(),
                            version(round).page(page),
                            "what a reference sees of page {page}"
                        );
                    }
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            },
            || pass(&khugepaged),
        );
        let present = pagemap::entries(&tables.region, range.start, range.len())
            .iter()
            .all(|entry| entry.present());
        assert!(present, "an entry got lost");
        tables.refill(0, 0..PTES);
        tables.now_hold(range.clone(), Held::Other);
    }
}
