// SPDX-License-Identifier: GPL-2.0-only
//! Allocations that fail while PFN mappings are made and copied: the call
//! fails or succeeds, nothing in between, and nothing leaks.

use nix::errno::Errno;
use selftests::child;
use selftests::failnth::{Injected, Injection};
use selftests::mapping::{PAGE, Prot, Region, page};
use selftests::pagetable;
use selftests::{enter, memtype, outcome};
use test_case::test_case;

use crate::fixture::{self, Device, Way};

/// More allocations than any call here makes.
const MOST: u32 = 400;

/// mmap() that runs out of memory fails with ENOMEM, maps nothing and keeps no memory type.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
fn mmap_fails_whole(way: Way) {
    enter!();
    outcome::known_bug(
        (6, 15),
        "get_pat_info() warns of a mapping whose first page was never mapped",
    );
    let device = Device::open(way);
    let phys = device.file.phys().clone();
    let types = memtype::reserved_within(&phys);
    let (file, offset) = device.file.at(0);
    let injection = Injection::of_all_allocations();
    let mut failed = 0;
    for nth in 1..=MOST {
        let mut region = Region::reserved(device.bytes()).expect("address space");
        let at = region.all();
        let (result, injected) =
            injection.call(nth, || region.map_file(at, file, offset, Prot::READ_WRITE));
        match result {
            Ok(()) => fixture::check(&region, 0..region.len() / PAGE, 0),
            Err(errno) => {
                failed += 1;
                // pfnmap_track_ctx_alloc() of mm/memory.c makes EINVAL of
                // whatever keeps it from reserving the memory type.
                if errno != Errno::EINVAL || injected == Injected::No {
                    only_injected(nth, errno, injected);
                }
                let left = pagetable::leaves(&region.absolute(&region.all()));
                assert!(left.is_empty(), "allocation {nth}: {left:x?}");
            }
        }
        drop(region);
        assert_eq!(memtype::reserved_within(&phys), types, "allocation {nth}");
        if injected == Injected::No {
            break;
        }
    }
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
    for nth in 1..=MOST {
        let (result, injected) = child::try_fork_by(
            |fork| injection.call(nth, fork),
            |_| fixture::check(&region, 0..1, 0),
        );
        match result {
            Ok(child) => child.join(),
            Err(errno) => only_injected(nth, errno, injected),
        }
        device.expect_all(&region, device.leaf());
        if injected == Injected::No {
            break;
        }
    }
    fixture::check(&region, 0..region.len() / PAGE, 0);
}

/// munmap() of one page that runs out of memory fails with ENOMEM or leaves exactly the hole.
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPmd; "fault_pmd")]
fn partial_munmap_fails_whole(way: Way) {
    enter!();
    let device = Device::open(way);
    let injection = Injection::of_all_allocations();
    for nth in 1..=MOST {
        let mut region = device.map();
        let pages = region.len() / PAGE;
        let (result, injected) = injection.call(nth, || region.munmap(page(70)));
        match result {
            Ok(()) => {
                selftests::guard::load(region.page_addr(70)).expect_err("the hole");
            }
            Err(errno) => {
                only_injected(nth, errno, injected);
                fixture::check(&region, 70..71, 0);
            }
        }
        fixture::check(&region, 0..70, 0);
        fixture::check(&region, 71..pages, 0);
        if injected == Injected::No {
            break;
        }
    }
}

/// A call fails for want of memory, and only when an allocation was made to fail.
#[track_caller]
fn only_injected(nth: u32, errno: Errno, injected: Injected) {
    assert_eq!(
        injected,
        Injected::Yes,
        "allocation {nth}: {errno} by itself"
    );
    let expected = matches!(errno, Errno::ENOMEM | Errno::EAGAIN);
    assert!(expected, "allocation {nth}: {errno}");
}
