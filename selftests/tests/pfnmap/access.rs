// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's own access to PFN mappings: nothing may take a reference to
//! what has no page, at any level; and what goes by frame number finds the
//! right frame inside a huge leaf.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use selftests::mapping::{PAGE, Region, page};
use selftests::{enter, gup, usermem};
use test_case::test_case;

use crate::fixture::{self, Device, Way};

/// A futex in a PFN mapping is refused with EFAULT: it would need the page.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn futex_is_refused(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    for number in some_pages(&region) {
        let result = usermem::futex_wake_shared(region.page_addr(number));
        assert_eq!(result, Err(Errno::EFAULT), "page {number}");
    }
    fixture::check(&region, 0..region.len() / PAGE, 0);
}

/// Pages of a PFN mapping cannot be gifted to a pipe.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn splice_is_refused(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    for number in some_pages(&region) {
        let result = usermem::splice_page(region.page_addr(number));
        assert_eq!(result, Err(Errno::EFAULT), "page {number}");
    }
    device.expect_all(&region, device.leaf());
    fixture::check(&region, 0..region.len() / PAGE, 0);
}

/// No page of a PFN mapping can be pinned, for loads or stores, fast or slow.
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn pins_are_refused(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    for number in some_pages(&region) {
        for pin in [
            gup::Way::Read,
            gup::Way::Write,
            gup::Way::ReadFast,
            gup::Way::WriteFast,
        ] {
            let result = gup::Pin::take(&region, &page(number), pin);
            let errno = result.err();
            assert_eq!(errno, Some(Errno::EFAULT), "page {number}, {pin:?}");
        }
    }
    device.expect_all(&region, device.leaf());
}

/// `/proc/self/mem` goes by frame number and finds the frame of each page, for loads and stores.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn proc_mem_finds_the_frame(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    let mem = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/proc/self/mem")
        .expect("our own memory");
    let pages = region.len() / PAGE;
    // A prime number of pages apart, so that each place in a leaf is met.
    let step = if pages > 4096 { 509 } else { 1 };
    for number in (0..pages).step_by(step) {
        let mut found = [0; 8];
        let at = (region.page_addr(number) + fixture::MARK) as u64;
        mem.read_exact_at(&mut found, at)
            .unwrap_or_else(|error| panic!("page {number}: {error}"));
        assert_eq!(found, fixture::mark_of(number), "page {number}");
        mem.write_all_at(&fixture::mark_of(number + 1), at)
            .unwrap_or_else(|error| panic!("page {number}: {error}"));
        fixture::check(&region, number..number + 1, 1);
    }
}

/// Pages at the edges and in the middle of the first and last leaf.
fn some_pages(region: &Region) -> [usize; 6] {
    let pages = region.len() / PAGE;
    [0, 1, 511, pages / 2, pages - 300, pages - 1]
}
