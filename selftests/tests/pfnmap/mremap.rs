// SPDX-License-Identifier: GPL-2.0-only
//! mremap(2) of PFN mappings: whole leaves move whole, others page by page,
//! and the old place is empty.

use nix::errno::Errno;
use selftests::counters::{Expect, Snapshot};
use selftests::mapping::{PAGE, PMD, Region, Source, page};
use selftests::pagetable::{self, Level};
use selftests::{enter, guard, outcome};
use test_case::test_case;

use crate::fixture::{self, Device, Part, Way};

#[track_caller]
fn is_empty(region: &Region) {
    let left = pagetable::leaves(&region.absolute(&region.all()));
    assert!(left.is_empty(), "left behind: {left:x?}");
    guard::load(region.addr()).expect_err("the old place is unmapped");
}

/// An aligned move takes each leaf whole: no split, no fault, same frames.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::RemapWithHandler; "remap_with_handler")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
fn aligned_move_keeps_leaves(way: Way) {
    enter!();
    let device = Device::open(way);
    let mut from = device.map();
    fixture::touch(&from, from.all(), PAGE);
    let mut to = Region::reserved(from.len()).expect("address space");
    let before = Snapshot::take();
    let inserted = device.file.stats().inserted();
    from.mremap_into(from.all(), &mut to, 0, Source::Goes)
        .expect("mremap");
    is_empty(&from);
    device.expect_all(&to, device.leaf());
    fixture::check(&to, 0..to.len() / PAGE, 0);
    fixture::mark(&to, 0..to.len() / PAGE, 0);
    Expect::new()
        .unchanged(&["thp_split_pmd", "thp_split_pud"])
        .check(&before);
    assert_eq!(device.file.stats().inserted(), inserted, "a leaf was lost");
}

/// A PUD leaf moves whole: the new place has it without a fault.
#[test]
fn pud_leaf_moves_whole() {
    enter!();
    outcome::known_bug(
        (7, 3),
        "get_old_pud() of mremap drops PUD leaves as bad entries",
    );
    let device = Device::open(Way::FaultPud);
    let mut from = device.map();
    let mut to = Region::reserved(from.len()).expect("address space");
    let inserted = device.file.stats().inserted();
    from.mremap_into(from.all(), &mut to, 0, Source::Goes)
        .expect("mremap");
    is_empty(&from);
    device.expect_all(&to, Level::Pud);
    fixture::check(&to, 0..to.len() / PAGE, 0);
    assert_eq!(
        device.file.stats().inserted(),
        inserted,
        "the leaf was lost"
    );
}

/// A move by one page splits what it must; each page arrives with its content.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
fn unaligned_move_goes_page_by_page(way: Way) {
    enter!();
    let device = Device::open(way);
    let mut from = device.map();
    let mut to = Region::reserved(from.len() + PAGE).expect("address space");
    from.mremap_into(from.all(), &mut to, PAGE, Source::Goes)
        .expect("mremap");
    is_empty(&from);
    let pages = 1..to.len() / PAGE;
    fixture::check(&to, pages.clone(), -1);
    fixture::mark(&to, pages, -1);
    let all = PAGE..to.len();
    device.expect(
        &to,
        to.all(),
        -(PAGE as isize),
        &[Part::rw(all, Level::Pte)],
    );
}

/// One page moved out of the middle leaves a hole; it and all others keep their content.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::RemapWithHandler; "remap_with_handler")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
fn one_page_moves_out(way: Way) {
    enter!();
    let device = Device::open(way);
    let mut from = device.map();
    let leaf = device.leaf();
    let target = 1024 + 13;
    let mut to = Region::reserved(PAGE).expect("address space");
    let before = Snapshot::take();
    from.mremap_into(page(target), &mut to, 0, Source::Goes)
        .expect("mremap of one page");
    Expect::new()
        .delta("thp_split_pmd", i64::from(leaf == Level::Pmd))
        .check(&before);
    guard::load(from.page_addr(target)).expect_err("the page has moved");
    fixture::check(&to, 0..1, target as isize);
    fixture::check(&from, 0..target, 0);
    fixture::check(&from, target + 1..from.len() / PAGE, 0);
    let shift = (target * PAGE) as isize;
    device.expect(&to, to.all(), shift, &[Part::rw(page(0), Level::Pte)]);
}

/// One aligned leaf moves alone, whole; its neighbours stay where they are.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPmd; "fault_pmd")]
fn one_leaf_moves_alone(way: Way) {
    enter!();
    let device = Device::open(way);
    let mut from = device.map();
    let leaf = device.leaf();
    let mut to = Region::reserved(2 * PMD).expect("address space");
    let inserted = device.file.stats().inserted();
    from.mremap_into(PMD..2 * PMD, &mut to, PMD, Source::Goes)
        .expect("mremap of one PMD");
    device.expect(&to, to.all(), 0, &[Part::rw(PMD..2 * PMD, leaf)]);
    let rest = [Part::rw(0..PMD, leaf), Part::rw(2 * PMD..from.len(), leaf)];
    device.expect(&from, from.all(), 0, &rest);
    fixture::check(&to, 512..1024, 0);
    fixture::check(&from, 0..512, 0);
    fixture::check(&from, 1024..2048, 0);
    assert_eq!(device.file.stats().inserted(), inserted, "a leaf was lost");
}

/// Shrinking unmaps the end and nothing else.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
fn shrinking_takes_the_end(way: Way) {
    enter!();
    let device = Device::open(way);
    let mut region = device.map();
    let keep = PMD + 3 * PAGE;
    region.shrink(keep).expect("mremap to a smaller size");
    fixture::check(&region, 0..keep / PAGE, 0);
    for number in [keep / PAGE, 1023, 2047] {
        guard::load(region.page_addr(number)).expect_err("the end is unmapped");
    }
    let parts = [
        Part::rw(0..PMD, device.leaf()),
        Part::rw(PMD..keep, Level::Pte),
    ];
    device.expect(&region, region.all(), 0, &parts);
}

/// Growing, duplicating and moving with the old place kept are refused; the mapping is unchanged.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn other_moves_are_refused(way: Way) {
    enter!();
    let device = Device::open(way);
    let mut region = device.map();
    let bytes = region.len();
    assert_eq!(
        region.resize(bytes, bytes + PAGE),
        Err(Errno::EFAULT),
        "growing"
    );
    assert_eq!(region.resize(0, bytes), Err(Errno::EFAULT), "duplicating");
    let mut to = Region::reserved(bytes).expect("address space");
    let kept = region.mremap_into(region.all(), &mut to, 0, Source::Stays);
    assert_eq!(kept, Err(Errno::EINVAL), "keeping the old place");
    device.expect_all(&region, device.leaf());
    fixture::check(&region, 0..bytes / PAGE, 0);
}
