// SPDX-License-Identifier: GPL-2.0-only
//! A driver takes mappings back (`unmap_mapping_range()`, as vfio does when a
//! device is reset): entries go in every process, VMAs stay, and the next touch
//! faults them in again. The one way in which mainline splits PUD PFN leaves.

use selftests::child;
use selftests::counters::{Expect, Snapshot};
use selftests::mapping::{PAGE, PMD};
use selftests::pagetable::{self, Level};
use selftests::{enter, guard, outcome};
use test_case::test_case;

use crate::fixture::{self, Device, Part, Way, ZAP_OF_A_PART};

/// Taking everything back empties the page tables without a split; a touch maps it again.
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn everything_goes_and_comes_back(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    let before = Snapshot::take();
    device.file.zap(region.all()).expect("the whole range");
    let left = pagetable::leaves(&region.absolute(&region.all()));
    assert!(left.is_empty(), "{left:x?}");
    fixture::touch(&region, region.all(), device.leaf().bytes());
    device.expect_all(&region, device.leaf());
    fixture::check(&region, 0..region.len() / PAGE, 0);
    Expect::new()
        .unchanged(&["thp_split_pmd", "thp_split_pud"])
        .check(&before);
}

/// Taking one page back splits the PMD leaf once; its other pages fault in again.
#[test]
fn one_page_splits_a_pmd_leaf() {
    enter!();
    let device = Device::open(Way::FaultPmd);
    let region = device.map();
    let before = Snapshot::take();
    let page = PMD + 40 * PAGE..PMD + 41 * PAGE;
    device.file.zap(page).expect("one page");
    Expect::new()
        .delta("thp_split_pmd", 1)
        .unchanged(&["thp_split_pud", "thp_split_page"])
        .check(&before);
    let rest = [
        Part::rw(0..PMD, Level::Pmd),
        Part::rw(2 * PMD..region.len(), Level::Pmd),
    ];
    device.expect(&region, region.all(), 0, &rest);
    fixture::check(&region, 0..region.len() / PAGE, 0);
}

/// Taking a part back splits the PUD leaf exactly once, and all of it can be touched again.
#[test_case(40 * PAGE, PAGE; "one_page")]
#[test_case(6 * PMD, PMD; "one_pmd")]
#[test_case(0, 512 << 20; "first_half")]
#[test_case(512 << 20, 512 << 20; "second_half")]
fn part_splits_a_pud_leaf(offset: usize, len: usize) {
    enter!();
    outcome::known_bug((6, 12), ZAP_OF_A_PART);
    let device = Device::open(Way::FaultPud);
    let region = device.map();
    device.expect_all(&region, Level::Pud);
    let before = Snapshot::take();
    device.file.zap(offset..offset + len).expect("a part");
    Expect::new()
        .delta("thp_split_pud", 1)
        .unchanged(&["thp_split_pmd", "thp_split_page"])
        .check(&before);
    fixture::check(&region, 0..region.len() / PAGE, 0);
    fixture::mark(&region, 0..region.len() / PAGE, 0);
    fixture::check(&region, 0..region.len() / PAGE, 0);
}

/// Taking mappings back reaches the child's page tables too.
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn child_loses_its_entries_too(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    let child = child::start(|parent| {
        device.expect_all(&region, device.leaf());
        parent.send(0);
        parent.receive();
        let left = pagetable::leaves(&region.absolute(&region.all()));
        assert!(left.is_empty(), "{left:x?}");
        guard::load(region.addr()).expect("the child faults it in again");
        fixture::check(&region, 0..device.leaf().bytes() / PAGE, 0);
    });
    child.line().receive();
    device.file.zap(region.all()).expect("the whole range");
    child.line().send(0);
    child.join();
}

/// `remap_pfn_range()` has no fault handler: what was taken back stays away, with SIGBUS.
#[test]
fn remapped_memory_does_not_come_back() {
    enter!();
    let device = Device::open(Way::Remap);
    let region = device.map();
    device.file.zap(PMD..2 * PMD).expect("one PMD");
    let fault = guard::load(region.addr() + PMD).expect_err("nobody can map it again");
    assert_eq!(fault.signal, guard::Signal::Bus, "{fault}");
    fixture::check(&region, 0..512, 0);
    fixture::check(&region, 1024..2048, 0);
}
