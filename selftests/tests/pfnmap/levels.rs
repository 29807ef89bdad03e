// SPDX-License-Identifier: GPL-2.0-only
//! Which leaves map what, and to which frames: alignment of address, frame
//! number and size; boundaries of page tables.

use selftests::counters::Snapshot;
use selftests::mapping::{PAGE, PMD, PUD, Prot, Region};
use selftests::pagetable::{self, Level};
use selftests::{enter, guard, skip};
use test_case::test_case;

use crate::fixture::{self, Device, FOUR_PMDS, Part, Way};

/// Aligned memory is mapped by leaves of the way's level, each page to its own frame.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::RemapWithHandler; "remap_with_handler")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn aligned_memory_has_leaves_of_the_level(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    if device.leaf() == Level::Pte {
        fixture::touch(&region, region.all(), PAGE);
    }
    device.expect_all(&region, device.leaf());
    fixture::check(&region, 0..region.len() / PAGE, 0);
    assert_eq!(device.file.stats().fallbacks, 0);
}

/// The kernel's own page table dump shows the leaves that our module sees.
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn kernel_dump_shows_the_leaves(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    let range = region.absolute(&region.all());
    let dumped = pagetable::by_dump(&range);
    assert_eq!(dumped.len(), 1, "{dumped:x?}");
    assert_eq!(dumped[0].range, range);
    assert_eq!(dumped[0].level, device.leaf());
    assert!(dumped[0].writable);
}

/// `remap_pfn_range()` maps aligned memory by PMD leaves (kernels with PMD-level PFNMAP).
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
fn remap_uses_pmd_leaves(way: Way) {
    enter!();
    let device = Device::open(way);
    if device.leaf() == Level::Pte {
        skip!("remap_pfn_range() maps PTEs only on this kernel");
    }
    device.expect_all(&device.map(), Level::Pmd);
}

/// `remap_pfn_range()` in a VMA with a fault handler maps PTEs, and no fault is needed.
#[test]
fn remap_with_a_fault_handler_uses_ptes() {
    enter!();
    let device = Device::open(Way::RemapWithHandler);
    let region = device.map();
    device.expect_all(&region, Level::Pte);
    fixture::check(&region, 0..region.len() / PAGE, 0);
    assert_eq!(device.file.stats().inserted(), 0);
}

/// Shifting address and frame number by a page leaves small entries at the edges only.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
fn congruent_shift_has_small_edges(way: Way) {
    enter!();
    let device = Device::open(way);
    let mut region = Region::reserved(FOUR_PMDS).expect("address space");
    let at = PAGE..FOUR_PMDS - PAGE;
    device.map_at(&mut region, at.clone(), PAGE, Prot::READ_WRITE);
    fixture::touch(&region, at.clone(), PAGE);
    fixture::check(&region, 1..FOUR_PMDS / PAGE - 1, 0);
    let inner = PMD..FOUR_PMDS - PMD;
    let parts = [
        Part::rw(at.start..inner.start, Level::Pte),
        Part::rw(inner.clone(), device.leaf()),
        Part::rw(inner.end..at.end, Level::Pte),
    ];
    device.expect(&region, region.all(), 0, &parts);
}

/// Where address and frame number do not match in alignment, only small entries map.
#[test_case(Way::DevMem, 0, PAGE; "dev_mem_frame")]
#[test_case(Way::Remap, 0, PAGE; "remap_frame")]
#[test_case(Way::Remap, PAGE, 0; "remap_address")]
#[test_case(Way::FaultPte, 0, PAGE; "fault_pte_frame")]
#[test_case(Way::FaultPmd, 0, PAGE; "fault_pmd_frame")]
#[test_case(Way::FaultPmd, PAGE, 0; "fault_pmd_address")]
fn incongruent_shift_has_small_entries(way: Way, address: usize, frame: usize) {
    enter!();
    let device = Device::open(way);
    let mut region = Region::reserved(FOUR_PMDS).expect("address space");
    let at = address..address + FOUR_PMDS - PAGE;
    device.map_at(&mut region, at.clone(), frame, Prot::READ_WRITE);
    fixture::touch(&region, at.clone(), PAGE);
    let shift = frame as isize - address as isize;
    device.expect(
        &region,
        region.all(),
        shift,
        &[Part::rw(at.clone(), Level::Pte)],
    );
    let pages = at.start / PAGE..at.end / PAGE;
    fixture::check(&region, pages, shift / PAGE as isize);
}

/// A size that is no multiple of a PMD leaves small entries at the end only.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPmd; "fault_pmd")]
fn odd_size_has_a_small_end(way: Way) {
    enter!();
    let device = Device::open(way);
    let mut region = Region::reserved(FOUR_PMDS).expect("address space");
    let at = 0..2 * PMD + 3 * PAGE;
    device.map_at(&mut region, at.clone(), 0, Prot::READ_WRITE);
    fixture::touch(&region, at.clone(), PAGE);
    let parts = [
        Part::rw(0..2 * PMD, device.leaf()),
        Part::rw(2 * PMD..at.end, Level::Pte),
    ];
    device.expect(&region, region.all(), 0, &parts);
    fixture::check(&region, 0..at.end / PAGE, 0);
}

/// A mapping across a boundary of page tables goes on with the right frames.
#[test_case(Way::DevMem, PUD; "dev_mem_1_gib")]
#[test_case(Way::Remap, PUD; "remap_1_gib")]
#[test_case(Way::Remap, 512 * PUD; "remap_512_gib")]
#[test_case(Way::FaultPmd, PUD; "fault_pmd_1_gib")]
#[test_case(Way::FaultPmd, 512 * PUD; "fault_pmd_512_gib")]
fn boundary_of_page_tables_is_crossed(way: Way, boundary: usize) {
    enter!();
    let device = Device::open(way);
    // 20 TiB and one boundary further: far from where the kernel maps.
    let start = 20 * 1024 * PUD + boundary - FOUR_PMDS / 2;
    for shift in [0, PAGE] {
        let mut region = Region::reserved_at(start + shift, FOUR_PMDS).expect("unused addresses");
        device.map_at(&mut region, 0..FOUR_PMDS, 0, Prot::READ_WRITE);
        fixture::check(&region, 0..FOUR_PMDS / PAGE, 0);
        let level = if shift == 0 {
            device.leaf()
        } else {
            Level::Pte
        };
        device.expect_all(&region, level);
    }
}

/// A read-only mapping has no writable leaf: loads pass, stores fault.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn read_only_mapping_refuses_stores(way: Way) {
    enter!();
    let device = Device::open(way);
    let mut region = Region::reserved(device.bytes()).expect("address space");
    device.map_at(&mut region, 0..device.bytes(), 0, Prot::READ);
    let leaf = device.leaf();
    fixture::touch(&region, region.all(), leaf.bytes());
    for page in [0, 7, region.len() / PAGE - 1] {
        let fault = guard::store(region.page_addr(page), 0).expect_err("the mapping is read-only");
        assert_eq!(fault.code, guard::SEGV_ACCERR, "{fault}");
    }
    fixture::touch(&region, region.all(), PAGE);
    device.expect(&region, region.all(), 0, &[Part::ro(region.all(), leaf)]);
    fixture::check(&region, 0..region.len() / PAGE, 0);
}

/// One fault anywhere in a leaf maps all of it; a store there makes no second fault.
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn one_fault_maps_one_whole_leaf(way: Way) {
    enter!();
    let device = Device::open(way);
    let leaf = device.leaf().bytes();
    let mut region = Region::reserved(device.bytes()).expect("address space");
    device.map_at(&mut region, 0..device.bytes(), 0, Prot::READ_WRITE);
    let touched = [leaf - PAGE, region.len() - leaf + (leaf - PAGE) / 2];
    for offset in touched {
        guard::load(region.addr() + offset).expect("mapped memory");
    }
    let faults = device.file.stats().inserted();
    assert!(faults <= 2, "{:?}", device.file.stats());
    fixture::check(&region, 0..leaf / PAGE, 0);
    fixture::mark(&region, 0..leaf / PAGE, 0);
    assert_eq!(
        device.file.stats().inserted(),
        faults,
        "a mapped leaf faulted"
    );
}

/// Mapping and unmapping leaves no page table behind and charges no memory to the process.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn page_tables_and_rss_balance(way: Way) {
    enter!();
    let device = Device::open(way);
    drop(device.map());
    let before = Snapshot::take();
    let region = device.map();
    let mapped = Snapshot::take();
    drop(region);
    let after = Snapshot::take();
    for name in ["RssFile", "RssShmem"] {
        let delta = before.delta(&mapped, name).expect("a line of status");
        assert!(delta.abs() < 1024, "{name} {delta:+} kB for PFNs");
    }
    assert_eq!(before.delta(&after, "VmPTE"), Some(0));
    let tables = before.delta(&mapped, "VmPTE").expect("a line of status");
    // One table each above; below, remap_pfn_range() has a PTE table for each
    // PMD, in use or deposited.
    let most = if device.is_lazy() { 2 } else { 2 + 4 };
    assert!(tables <= most * 4, "{tables} kB of page tables");
}
