// SPDX-License-Identifier: GPL-2.0-only
//! Allocations that fail while PFN mappings are made and copied: the call
//! fails or succeeds, nothing in between, and nothing leaks.

use nix::errno::Errno;
use selftests::child::{self, Child};
use selftests::failnth::{Injected, Injection};
use selftests::mapping::{PAGE, Prot, Region, page};
use selftests::pagetable;
use selftests::{enter, memtype};
use test_case::test_case;

use crate::fixture::{self, Device, Way};

/// More allocations than any call here makes.
const MOST: u32 = 400;

/// mmap() that runs out of memory fails with ENOMEM, maps nothing and keeps no memory type.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
fn mmap_fails_whole(way: Way) {
    enter!();
    let device = Device::open(way);
    let phys = device.file.phys().clone();
    let types = memtype::reserved_within(&phys);
    let (file, offset) = device.file.at(0);
    let injection = Injection::of_all_allocations();
    let mut failed = 0;
    let mut call = |injection: &Injection, nth| {
        let mut region = Region::reserved(device.bytes()).expect("address space");
        let at = region.all();
        let (result, injected) =
            injection.call(nth, || region.map_file(at, file, offset, Prot::READ_WRITE));
        ((region, result), injected)
    };
    injection.each(MOST, &mut call, |nth, (region, result), injected| {
        match result {
            Ok(()) => fixture::check(&region, 0..region.len() / PAGE, 0),
            Err(errno) => {
                failed += 1;
                assert_eq!(
                    injected,
                    Injected::Yes,
                    "allocation {nth}: {errno} by itself"
                );
                assert_eq!(errno, Errno::ENOMEM, "allocation {nth}");
                let left = pagetable::leaves(&region.absolute(&region.all()));
                assert!(left.is_empty(), "allocation {nth}: {left:x?}");
            }
        }
        drop(region);
        assert_eq!(memtype::reserved_within(&phys), types, "allocation {nth}");
    });
    assert!(
        failed > 3,
        "only {failed} failures; page tables alone need more"
    );
    fixture::check(&device.map(), 0..device.bytes() / PAGE, 0);
}

/// fork() that runs out of memory fails with ENOMEM and leaves the parent's mapping as it was.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPmd; "fault_pmd")]
fn fork_fails_whole(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    let injection = Injection::of_all_allocations();
    let fork = |injection: &Injection, nth| {
        injection.call(nth, || {
            child::try_fork(|_| {
                fixture::check(&region, 0..1, 0);
            })
        })
    };
    injection.each(MOST, fork, |nth, result: Result<Child, Errno>, injected| {
        match result {
            Ok(child) => child.join(),
            Err(errno) => {
                assert_eq!(
                    injected,
                    Injected::Yes,
                    "allocation {nth}: {errno} by itself"
                );
                assert!(
                    matches!(errno, Errno::ENOMEM | Errno::EAGAIN),
                    "allocation {nth}: {errno}"
                );
            }
        }
        device.expect_all(&region, device.leaf());
    });
    fixture::check(&region, 0..region.len() / PAGE, 0);
}

/// munmap() of one page that runs out of memory fails with ENOMEM or leaves exactly the hole.
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPmd; "fault_pmd")]
fn partial_munmap_fails_whole(way: Way) {
    enter!();
    let device = Device::open(way);
    let injection = Injection::of_all_allocations();
    let unmap = |injection: &Injection, nth| {
        let mut region = device.map();
        let (result, injected) = injection.call(nth, || region.munmap(page(70)));
        ((region, result), injected)
    };
    injection.each(MOST, unmap, |nth, (region, result), _| {
        let pages = region.len() / PAGE;
        match result {
            Ok(()) => {
                selftests::guard::load(region.page_addr(70)).expect_err("the hole");
            }
            Err(errno) => {
                assert_eq!(errno, Errno::ENOMEM, "allocation {nth}");
                fixture::check(&region, 70..71, 0);
            }
        }
        fixture::check(&region, 0..70, 0);
        fixture::check(&region, 71..pages, 0);
    });
}
