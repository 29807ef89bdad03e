// SPDX-License-Identifier: GPL-2.0-only
//! madvise(2) on PFN mappings: advice about pages is refused, because there are
//! none, and a refusal changes nothing.

use nix::errno::Errno;
use selftests::mapping::{Advice, PAGE, page};
use selftests::{enter, guard};
use test_case::test_case;

use crate::fixture::{self, Device, Way};

const REFUSED: [Advice; 11] = [
    Advice::DontNeed,
    Advice::DontNeedLocked,
    Advice::Free,
    Advice::WipeOnFork,
    Advice::Cold,
    Advice::PageOut,
    Advice::PopulateRead,
    Advice::PopulateWrite,
    Advice::Collapse,
    Advice::DoFork,
    Advice::GuardInstall,
];

/// Each advice about pages is refused with EINVAL, for one page and for all, and changes nothing.
#[test_case(Way::DevMem; "dev_mem")]
#[test_case(Way::Remap; "remap")]
#[test_case(Way::RemapWithHandler; "remap_with_handler")]
#[test_case(Way::FaultPte; "fault_pte")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn advice_is_refused(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    let mut wrong = Vec::new();
    for advice in REFUSED {
        for range in [page(3), region.all()] {
            let result = region.madvise(range.clone(), advice);
            if result != Err(Errno::EINVAL) {
                wrong.push(format!(
                    "{advice:?} of {:#x} bytes: {result:?}",
                    range.len()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "not refused: {}", wrong.join(", "));
    device.expect_all(&region, device.leaf());
    fixture::check(&region, 0..region.len() / PAGE, 0);
}

/// mlock(2) is accepted and does nothing: PFN mappings are never paged out.
#[test_case(Way::Remap; "remap")]
#[test_case(Way::FaultPmd; "fault_pmd")]
#[test_case(Way::FaultPud; "fault_pud")]
fn locking_changes_nothing(way: Way) {
    enter!();
    let device = Device::open(way);
    let region = device.map();
    let before = selftests::counters::Snapshot::take();
    region.mlock(region.all()).expect("mlock");
    selftests::counters::Expect::new()
        .unchanged(&["VmLck", "thp_split_pmd", "thp_split_pud"])
        .check(&before);
    region.munlock(region.all()).expect("munlock");
    device.expect_all(&region, device.leaf());
    guard::store(region.addr(), 0).expect("still writable");
}
