// SPDX-License-Identifier: GPL-2.0-only
//! What splits an entry: losing a part, protecting a part. Nothing may be lost
//! or gained by it but the entry's size.

use nix::errno::Errno;
use selftests::counters::Snapshot;
use selftests::failnth::{Injected, Injection};
use selftests::mapping::{PAGE, PMD, PUD, Prot, page, pages};
use selftests::pagemap;
use selftests::pagetable::Level;
use selftests::pattern::FIRST;
use selftests::{enter, guard};
use test_case::test_case;

use crate::gigabyte::{self, PAGES, Size};

/// munmap of a part splits what it must, once; the hole faults, all else keeps its content.
#[test_case(Size::Pud, PMD; "pud_2_mib")]
#[test_case(Size::Pud, PAGE; "pud_4_kib")]
#[test_case(Size::Pmd, PMD; "fallback_2_mib")]
#[test_case(Size::Pmd, PAGE; "fallback_4_kib")]
fn partial_munmap(size: Size, bytes: usize) {
    enter!();
    let empty = Snapshot::take();
    let mut memory = gigabyte::filled(size, FIRST);
    let hole = gigabyte::middle(bytes);
    let before = Snapshot::take();
    memory
        .munmap(pages(hole.clone()))
        .expect("munmap of a part");
    let after = Snapshot::take();
    size.splits(gigabyte::splits_of(size, bytes))
        .check_between(&before, &after);
    gigabyte::assert_hole(&memory, &hole);
    gigabyte::check_around(&memory, FIRST, &hole);
    let tables = empty.delta(&after, "VmPTE").expect("a line of status");
    // 512 PTE tables and one PMD table, less the one that the hole may free,
    // and a few of the process's own.
    let most = 4 * (512 + 1 + 8);
    assert!(
        (4 * 512..=most).contains(&tables),
        "{tables} kB of page tables"
    );
}

/// mprotect of a part splits what it must, once; that part refuses stores, all else takes them.
#[test_case(Size::Pud, PMD; "pud_2_mib")]
#[test_case(Size::Pud, PAGE; "pud_4_kib")]
#[test_case(Size::Pmd, PMD; "fallback_2_mib")]
#[test_case(Size::Pmd, PAGE; "fallback_4_kib")]
fn mprotect_split(size: Size, bytes: usize) {
    enter!();
    let memory = gigabyte::filled(size, FIRST);
    let part = gigabyte::middle(bytes);
    let before = Snapshot::take();
    memory
        .mprotect(pages(part.clone()), Prot::READ)
        .expect("mprotect of a part");
    size.splits(gigabyte::splits_of(size, bytes)).check(&before);
    for number in [part.start, part.end - 1] {
        let fault = guard::store(memory.page_addr(number), 0).expect_err("a read-only page");
        assert_eq!(fault.code, guard::SEGV_ACCERR, "page {number}: {fault}");
    }
    // One store for each huge page, and around the part.
    let stores = (0..PAGES).step_by(512).chain([part.start - 1, part.end]);
    for number in stores.filter(|number| !part.contains(number)) {
        FIRST.fill(&memory, number..number + 1);
    }
    gigabyte::check(&memory, FIRST, 0..PAGES);
    match size {
        Size::Pud => memory.assert_level(memory.all(), Level::Pte),
        Size::Pmd if bytes < PMD => {
            memory.assert_level(PUD / 2..PUD / 2 + PMD, Level::Pte);
            memory.assert_level(0..PUD / 2, Level::Pmd);
            memory.assert_level(PUD / 2 + PMD..PUD, Level::Pmd);
        }
        Size::Pmd => memory.assert_level(memory.all(), Level::Pmd),
    }
}

/// A split changes no page's frame, and neither its soft-dirty nor its exclusive flag.
#[test_case(Size::Pud; "pud")]
#[test_case(Size::Pmd; "fallback")]
fn split_flags(size: Size) {
    enter!();
    let memory = gigabyte::filled(size, FIRST);
    let tracked = pagemap::soft_dirty_supported();
    if tracked {
        pagemap::clear_soft_dirty();
        // Every other huge page is written again, the one to be split too.
        for number in (0..PAGES).step_by(1024) {
            FIRST.fill(&memory, number..number + 1);
        }
    }
    let counters = Snapshot::take();
    let before = pagemap::entries(&memory, 0, PAGES);
    let target = gigabyte::middle(PAGE);
    memory
        .mprotect(pages(target), Prot::READ)
        .expect("mprotect of one page");
    size.splits(1).check(&counters);
    let after = pagemap::entries(&memory, 0, PAGES);
    // An entry has one soft-dirty bit for all that it maps.
    let written = |number: usize| size == Size::Pud || (number / 512).is_multiple_of(2);
    let wrong: Vec<String> = (0..PAGES)
        .filter(|number| {
            let entry = after[*number];
            before[*number] != entry
                || !entry.exclusive()
                || tracked && entry.soft_dirty() != written(*number)
        })
        .map(|number| {
            format!(
                "page {number}: {:?} became {:?}",
                before[number], after[number]
            )
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{} pages changed or are not as they must be:\n  {}",
        wrong.len(),
        wrong[..wrong.len().min(8)].join("\n  ")
    );
    gigabyte::check(&memory, FIRST, 0..PAGES);
}

/// A split that runs out of memory fails with ENOMEM or succeeds; no data is lost.
#[test]
fn split_nomem() {
    enter!();
    let memory = gigabyte::filled(Size::Pud, FIRST);
    let injection = Injection::of_all_allocations();
    for nth in 1..=200 {
        let target = page(3 * nth as usize);
        let (result, injected) = injection.call(nth, || memory.mprotect(target, Prot::READ));
        if let Err(errno) = result {
            assert_eq!(errno, Errno::ENOMEM, "allocation {nth}");
        }
        if injected == Injected::No {
            break;
        }
    }
    gigabyte::check(&memory, FIRST, 0..PAGES);
}
