// SPDX-License-Identifier: GPL-2.0-only
//! mprotect(2) of PFN mappings: permissions change where they were asked to,
//! and nowhere else; whole leaves stay whole.

use std::ops::Range;

use nix::errno::Errno;
use selftests::counters::{Expect, Snapshot};
use selftests::mapping::{PAGE, PMD, Prot, Region, page};
use selftests::pagetable::Level;
use selftests::{enter, guard, outcome};
use test_case::test_case;

use crate::fixture::{self, Device, FOUR_PMDS, Part, Way};

#[track_caller]
fn store_fails(region: &Region, number: usize) {
    let fault = guard::store(region.page_addr(number), 0xee).expect_err("the page is read-only");
    assert_eq!(fault.code, guard::SEGV_ACCERR, "page {number}: {fault}");
}

/// Stores to pages, so that this CPU knows them as writable: whoever takes that
/// away has to flush its TLB.
#[track_caller]
fn warm(region: &Region, numbers: &[usize]) {
    for number in numbers {
        fixture::mark(region, *number..number + 1, 0);
    }
}

/// Rewrites the marks, which shows that the pages take stores.
#[track_caller]
fn stores_pass(region: &Region, numbers: Range<usize>) {
    fixture::mark(region, numbers.clone(), 0);
    fixture::check(region, numbers, 0);
}

/// mprotect of one page splits the leaf around it; that page alone becomes read-only.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::RemapWithHandler; "remap_with_handler")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
fn one_page_becomes_read_only(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    let leaf = device.leaf();
    let target = 512 + 77;
    warm(&region, &[target]);
    let before = Snapshot::take();
    region
        .mprotect(page(target), Prot::READ)
        .expect("mprotect of one page");
    let splits = i64::from(leaf == Level::Pmd);
    Expect::new()
        .delta("thp_split_pmd", splits)
        .unchanged(&["thp_split_pud", "thp_split_page"])
        .check(&before);

    fixture::check(&region, 0..region.len() / PAGE, 0);
    store_fails(&region, target);
    stores_pass(&region, 0..target);
    stores_pass(&region, target + 1..region.len() / PAGE);
    let parts = [
        Part::rw(0..PMD, leaf),
        Part::rw(PMD..target * PAGE, Level::Pte),
        Part::ro(page(target), Level::Pte),
        Part::rw((target + 1) * PAGE..2 * PMD, Level::Pte),
        Part::rw(2 * PMD..region.len(), leaf),
    ];
    device.expect(&region, region.all(), 0, &parts);

    region
        .mprotect(page(target), Prot::READ_WRITE)
        .expect("mprotect back");
    stores_pass(&region, 0..region.len() / PAGE);
}

/// mprotect of everything changes each leaf in place: none is split or lost, and no fault follows.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::RemapWithHandler; "remap_with_handler")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn whole_leaves_change_in_place(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    let leaf = device.leaf();
    let stored = [0, 511, region.len() / PAGE - 1];
    warm(&region, &stored);
    let before = Snapshot::take();
    let inserted = device.file.stats().inserted();
    region
        .mprotect(region.all(), Prot::READ)
        .expect("mprotect of everything");
    for number in stored {
        store_fails(&region, number);
    }
    device.expect(&region, region.all(), 0, &[Part::ro(region.all(), leaf)]);
    region
        .mprotect(region.all(), Prot::READ_WRITE)
        .expect("mprotect back");
    device.expect_all(&region, leaf);
    stores_pass(&region, 0..region.len() / PAGE);
    Expect::new()
        .unchanged(&["thp_split_pmd", "thp_split_pud"])
        .check(&before);
    assert_eq!(device.file.stats().inserted(), inserted, "a leaf was lost");
}

/// mprotect of one aligned leaf leaves its neighbours writable and splits nothing.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
fn one_aligned_leaf_changes_alone(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    let leaf = device.leaf();
    warm(&region, &[512, 1023]);
    let before = Snapshot::take();
    let target = PMD..2 * PMD;
    region
        .mprotect(target.clone(), Prot::READ)
        .expect("mprotect of one PMD");
    store_fails(&region, 512);
    store_fails(&region, 1023);
    Expect::new()
        .unchanged(&["thp_split_pmd", "thp_split_pud"])
        .check(&before);
    let parts = [
        Part::rw(0..target.start, leaf),
        Part::ro(target.clone(), leaf),
        Part::rw(target.end..FOUR_PMDS, leaf),
    ];
    device.expect(&region, region.all(), 0, &parts);
    stores_pass(&region, 0..512);
    stores_pass(&region, 1024..2048);
    fixture::check(&region, 512..1024, 0);
}

/// Memory that was made inaccessible faults, and has its content when it is accessible again.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn inaccessible_memory_comes_back(way: Way) {
    enter!();
    if way == Way::FaultPud {
        // pud_present() denies an inaccessible leaf, so pudp_invalidate() warns
        // (up to 7.3); the allow-list knows this test by its name.
        std::fs::write("/proc/thread-self/comm", "hp-pud-none").expect("our own name");
    }
    let device = Device::open(way);
    let region = device.map();
    let last = region.len() / PAGE - 1;
    warm(&region, &[0, 300, last]);
    region
        .mprotect(region.all(), Prot::NONE)
        .expect("mprotect to nothing");
    for number in [0, 300, last] {
        let fault = guard::load(region.page_addr(number)).expect_err("nothing is permitted");
        assert_eq!(fault.code, guard::SEGV_ACCERR, "page {number}: {fault}");
    }
    region
        .mprotect(region.all(), Prot::READ_WRITE)
        .expect("mprotect back");
    device.expect_all(&region, device.leaf());
    stores_pass(&region, 0..region.len() / PAGE);
}

/// mprotect of one page inside a PUD leaf splits it once; that page alone becomes read-only.
#[test]
fn one_page_of_a_pud_leaf_becomes_read_only() {
    enter!();
    outcome::known_bug(
        (7, 3),
        "splitting a VMA does not split the PUD leaf, and DEBUG_VM stops the kernel",
    );
    let device = Device::open_unaligned(Way::FaultPud);
    let region = device.map();
    let before = Snapshot::take();
    region
        .mprotect(page(600), Prot::READ)
        .expect("mprotect of one page");
    Expect::new().delta("thp_split_pud", 1).check(&before);
    fixture::check(&region, 0..region.len() / PAGE, 0);
    store_fails(&region, 600);
    stores_pass(&region, 0..600);
    stores_pass(&region, 601..region.len() / PAGE);
}

/// Where a driver forbids it, no part of a PUD leaf is protected or unmapped alone, and it stays whole.
#[test]
fn driver_can_forbid_parts_of_a_pud_leaf() {
    enter!();
    let device = Device::open(Way::FaultPud);
    let mut region = device.map();
    let before = Snapshot::take();
    let errno = region
        .mprotect(page(600), Prot::READ)
        .expect_err("the module refuses");
    assert_eq!(errno, Errno::EINVAL);
    let errno = region.munmap(PMD..2 * PMD).expect_err("the module refuses");
    assert_eq!(errno, Errno::EINVAL);
    Expect::new().unchanged(&["thp_split_pud"]).check(&before);
    device.expect_all(&region, Level::Pud);
    stores_pass(&region, 0..region.len() / PAGE);
}
