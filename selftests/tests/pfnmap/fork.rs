// SPDX-License-Identifier: GPL-2.0-only
//! fork(2) with PFN mappings, which are copied: the child has the same leaves
//! at once, shares the memory, and may take its mapping apart in any order
//! with its parent.

use std::time::{Duration, Instant};

use selftests::child;
use selftests::counters::{Expect, Snapshot};
use selftests::mapping::{Advice, PAGE, PMD, Prot, page};
use selftests::pagetable::{self, Level};
use selftests::{enter, guard};
use test_case::test_case;

use crate::fixture::{self, Device, Way};

/// The child has every leaf without a fault, writable, to the same frames; the parent keeps its own.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::RemapWithHandler; "remap_with_handler")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn child_has_the_same_leaves(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    let leaf = device.leaf();
    fixture::touch(&region, region.all(), leaf.bytes());
    let inserted = device.file.stats().inserted();
    let before = Snapshot::take();
    child::run_to_end(|_| {
        device.expect_all(&region, leaf);
        fixture::check(&region, 0..region.len() / PAGE, 0);
        device.expect_all(&region, leaf);
    });
    device.expect_all(&region, leaf);
    fixture::check(&region, 0..region.len() / PAGE, 0);
    assert_eq!(
        device.file.stats().inserted(),
        inserted,
        "a leaf was not copied"
    );
    Expect::new()
        .unchanged(&["thp_split_pmd", "thp_split_pud"])
        .check(&before);
}

/// Stores of parent and child reach the same memory, before and after each other.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn stores_are_shared(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    let last = region.len() - 1;
    let child = child::start(|parent| {
        guard::store(region.addr() + last, 0x5a).expect("a store of the child");
        parent.send(0);
        parent.receive();
        let found = guard::load(region.addr() + PMD).expect("a load of the child");
        assert_eq!(found, 0xa5, "the parent's store");
    });
    child.line().receive();
    assert_eq!(
        guard::load(region.addr() + last),
        Ok(0x5a),
        "the child's store"
    );
    guard::store(region.addr() + PMD, 0xa5).expect("a store of the parent");
    child.line().send(0);
    child.join();
}

/// The child unmaps a page, protects another and exits; the parent notices nothing.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::RemapWithHandler; "remap_with_handler")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
fn child_takes_its_mapping_apart(way: Way) {
    enter!();
    let device = Device::open(way);
    let mut region = device.map();
    fixture::touch(&region, region.all(), PAGE);
    let before = Snapshot::take();
    child::run_to_end(|_| {
        region.munmap(page(5)).expect("munmap in the child");
        region
            .mprotect(page(700), Prot::READ)
            .expect("mprotect in the child");
        guard::load(region.page_addr(5)).expect_err("the child's hole");
        guard::store(region.page_addr(700), 0).expect_err("the child's read-only page");
        fixture::check(&region, 6..region.len() / PAGE, 0);
    });
    let splits = 2 * i64::from(device.leaf() == Level::Pmd);
    Expect::new()
        .delta("thp_split_pmd", splits)
        .unchanged(&["VmPTE"])
        .check(&before);
    device.expect_all(&region, device.leaf());
    fixture::mark(&region, 0..region.len() / PAGE, 0);
    fixture::check(&region, 0..region.len() / PAGE, 0);
}

/// The parent unmaps everything; the child's mapping still works, also its own split.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::RemapWithHandler; "remap_with_handler")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn parent_goes_first(way: Way) {
    enter!();
    let device = Device::open(way);
    let mut region = device.map();
    let pages = region.len() / PAGE;
    let child = child::start(|parent| {
        parent.receive();
        device.expect_all(&region, device.leaf());
        fixture::check(&region, 0..pages, 0);
        if device.leaf() != Level::Pud {
            region
                .mprotect(page(9), Prot::READ)
                .expect("mprotect in the child");
            guard::store(region.page_addr(9), 0).expect_err("the child's read-only page");
            fixture::mark(&region, 10..pages, 0);
        }
    });
    region.munmap(region.all()).expect("munmap in the parent");
    child.line().send(0);
    child.join();
}

/// A mapping that is not to be inherited is not there in the child.
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn mapping_stays_behind_on_request(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    region
        .madvise(region.all(), Advice::DontFork)
        .expect("MADV_DONTFORK");
    child::run_to_end(|_| {
        let left = pagetable::leaves(&region.absolute(&region.all()));
        assert!(left.is_empty(), "{left:x?}");
        guard::load(region.addr()).expect_err("nothing was inherited");
    });
    device.expect_all(&region, device.leaf());
}

/// Many generations of children leave no page table behind.
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn generations_leak_no_page_table(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    let generation = || child::run_to_end(|_| fixture::check(&region, 0..1, 0));
    generation();
    let before = Snapshot::take();
    for _ in 0..32 {
        generation();
    }
    // Tables are freed after a grace period; one for each child would be 32.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let delta = before
            .delta(&Snapshot::take(), "nr_page_table_pages")
            .expect("a counter of every kernel");
        if delta < 8 {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{delta} page tables left by 32 children"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
