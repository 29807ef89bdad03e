// SPDX-License-Identifier: GPL-2.0-only
//! munmap(2) of PFN mappings: the hole faults, everything else stays.

use selftests::counters::{Expect, Snapshot};
use selftests::mapping::{PAGE, PMD, Prot, Region, page};
use selftests::pagetable::{self, Level};
use selftests::{enter, guard, memtype, not_applicable, outcome, skip};
use test_case::test_case;

use crate::fixture::{self, Device, FOUR_PMDS, Part, Way};

#[track_caller]
fn hole_faults(region: &Region, number: usize) {
    let fault = guard::load(region.page_addr(number)).expect_err("nothing is mapped there");
    assert_eq!(fault.code, guard::SEGV_MAPERR, "page {number}: {fault}");
}

/// munmap of one page splits the leaf around it; the hole faults, all other pages stay.
#[test_case(Way::DevMem, 600; "dev_mem")]
#[test_case(Way::Remap, 600; "remap")]
#[test_case(Way::Remap, 512; "remap_first_of_leaf")]
#[test_case(Way::Remap, 1023; "remap_last_of_leaf")]
#[test_case(Way::RemapWithHandler, 600; "remap_with_handler")]
#[test_case(Way::FaultPte, 600; "fault_pte")]
#[test_case(Way::FaultPmd, 600; "fault_pmd")]
#[test_case(Way::FaultPmd, 512; "fault_pmd_first_of_leaf")]
#[test_case(Way::FaultPmd, 1023; "fault_pmd_last_of_leaf")]
fn one_page_leaves_a_hole(way: Way, target: usize) {
    enter!();
    let device = Device::open(way);
    let mut region = device.map();
    let leaf = device.leaf();
    // This CPU's TLB knows the page, and has to forget it.
    fixture::mark(&region, target..target + 1, 0);
    let before = Snapshot::take();
    region.munmap(page(target)).expect("munmap of one page");
    hole_faults(&region, target);
    Expect::new()
        .delta("thp_split_pmd", i64::from(leaf == Level::Pmd))
        .unchanged(&["thp_split_pud", "thp_split_page"])
        .check(&before);
    let pages = region.len() / PAGE;
    fixture::check(&region, 0..target, 0);
    fixture::check(&region, target + 1..pages, 0);
    fixture::mark(&region, 0..target, 0);
    fixture::mark(&region, target + 1..pages, 0);
    let parts: Vec<Part> = [
        Part::rw(0..PMD, leaf),
        Part::rw(PMD..target * PAGE, Level::Pte),
        Part::rw((target + 1) * PAGE..2 * PMD, Level::Pte),
        Part::rw(2 * PMD..FOUR_PMDS, leaf),
    ]
    .into_iter()
    .filter(|part| !part.is_empty())
    .collect();
    device.expect(&region, region.all(), 0, &parts);
}

/// munmap of a part of a PUD leaf splits it once; the hole faults, all else stays.
#[test_case(600 * PAGE, PAGE; "one_page")]
#[test_case(6 * PMD, PMD; "one_pmd")]
fn part_of_a_pud_leaf_goes(offset: usize, len: usize) {
    enter!();
    outcome::known_bug(
        (7, 3),
        "splitting a VMA does not split the PUD leaf, and DEBUG_VM stops the kernel",
    );
    let device = Device::open_unaligned(Way::FaultPud);
    let mut region = device.map();
    let before = Snapshot::take();
    region
        .munmap(offset..offset + len)
        .expect("munmap of a part");
    Expect::new().delta("thp_split_pud", 1).check(&before);
    hole_faults(&region, offset / PAGE);
    hole_faults(&region, (offset + len) / PAGE - 1);
    fixture::check(&region, 0..offset / PAGE, 0);
    fixture::check(&region, (offset + len) / PAGE..region.len() / PAGE, 0);
}

/// munmap of one aligned leaf splits nothing and takes only that leaf.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
fn one_aligned_leaf_goes_alone(way: Way) {
    enter!();
    let device = Device::open(way);
    let mut region = device.map();
    let leaf = device.leaf();
    fixture::touch(&region, region.all(), PAGE);
    let before = Snapshot::take();
    region.munmap(PMD..2 * PMD).expect("munmap of one PMD");
    Expect::new()
        .unchanged(&["thp_split_pmd", "thp_split_pud"])
        .check(&before);
    hole_faults(&region, 512);
    hole_faults(&region, 1023);
    let parts = [Part::rw(0..PMD, leaf), Part::rw(2 * PMD..FOUR_PMDS, leaf)];
    device.expect(&region, region.all(), 0, &parts);
    fixture::check(&region, 0..512, 0);
    fixture::check(&region, 1024..2048, 0);
}

/// munmap of everything leaves no leaf behind.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn everything_goes(way: Way) {
    enter!();
    let device = Device::open(way);
    let mut region = device.map();
    let before = Snapshot::take();
    region.munmap(region.all()).expect("munmap of everything");
    Expect::new()
        .unchanged(&["thp_split_pmd", "thp_split_pud"])
        .check(&before);
    let left = pagetable::leaves(&region.absolute(&region.all()));
    assert!(left.is_empty(), "{left:x?}");
    hole_faults(&region, 0);
    hole_faults(&region, region.len() / PAGE - 1);
    fixture::check(&device.map(), 0..region.len() / PAGE, 0);
}

/// A page can be mapped again while the rest of its first mapping is still there.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
fn hole_can_be_mapped_again(way: Way) {
    enter!();
    let device = Device::open(way);
    let mut region = device.map();
    region.munmap(page(0)).expect("munmap of the first page");
    device.map_at(&mut region, page(0), 0, Prot::READ_WRITE);
    fixture::check(&region, 0..region.len() / PAGE, 0);
}

/// The memory type stays reserved while a piece of the mapping is left, and no longer.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
fn memory_type_is_reserved_as_long_as_mapped(way: Way) {
    enter!();
    let device = Device::open(way);
    let phys = device.file.phys().clone();
    let count = || memtype::reserved_within(&phys).map(|types| types.len());
    let Some(before) = count() else {
        skip!("no pat_memtype_list (CONFIG_X86_PAT, debugfs)");
    };
    let mut region = device.map();
    assert_eq!(count(), Some(before + 1), "mapping reserves the type once");
    region.munmap(page(5)).expect("munmap of one page");
    region.munmap(0..PAGE).expect("munmap of the first page");
    if kernel_tracks_pieces() {
        assert_eq!(count(), Some(before + 1), "pieces are still mapped");
    } else {
        not_applicable!(
            "tracking of pieces",
            "kernels before 6.16 untrack by address"
        );
    }
    region.munmap(region.all()).expect("munmap of the rest");
    assert_eq!(
        count(),
        Some(before),
        "the reservation outlives the mapping"
    );
}

/// Since 6.16 a VMA and its pieces share one counted reservation.
fn kernel_tracks_pieces() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(16))
}
