// SPDX-License-Identifier: GPL-2.0-only
//! The cache attribute of a PFN mapping, which must survive whatever happens to
//! its entries: a lost one makes a device register cached.

use selftests::child;
use selftests::mapping::{PAGE, PMD, Prot, Region, Source, page};
use selftests::pagetable::Level;
use selftests::pfndev::Cache;
use selftests::{enter, outcome};
use test_case::test_case;

use crate::fixture::{self, Device, Part, Way, ZAP_OF_A_PART};

/// Every entry of the mapping has the attribute, and keeps it over mprotect of everything.
#[test_case(Way::Remap, Cache::WriteCombining; "remap_wc")]
#[test_case(Way::Remap, Cache::Uncached; "remap_uc")]
#[test_case(Way::FaultPte, Cache::WriteCombining; "fault_pte_wc")]
#[test_case(Way::FaultPmd, Cache::WriteCombining; "fault_pmd_wc")]
#[test_case(Way::FaultPmd, Cache::Uncached; "fault_pmd_uc")]
#[test_case(Way::FaultPud, Cache::WriteCombining; "fault_pud_wc")]
#[test_case(Way::FaultPud, Cache::Uncached; "fault_pud_uc")]
fn attribute_survives_mprotect(way: Way, cache: Cache) {
    enter!();
    let device = Device::open_with(way, cache);
    let region = device.map();
    let leaf = device.leaf();
    device.expect_all(&region, leaf);
    region.mprotect(region.all(), Prot::READ).expect("mprotect");
    device.expect(&region, region.all(), 0, &[Part::ro(region.all(), leaf)]);
    region
        .mprotect(region.all(), Prot::READ_WRITE)
        .expect("mprotect back");
    device.expect_all(&region, leaf);
    fixture::check(&region, 0..region.len() / PAGE, 0);
}

/// All 512 small entries that replace a leaf have its attribute.
#[test_case(Way::Remap, Cache::WriteCombining; "remap_wc")]
#[test_case(Way::Remap, Cache::Uncached; "remap_uc")]
#[test_case(Way::FaultPmd, Cache::WriteCombining; "fault_pmd_wc")]
#[test_case(Way::FaultPmd, Cache::Uncached; "fault_pmd_uc")]
fn attribute_survives_a_split(way: Way, cache: Cache) {
    enter!();
    if way == Way::Remap {
        // The tests that follow would get this type, whatever they ask for.
        outcome::known_bug(
            (6, 15),
            "the memory type of remap_pfn_range() is not given back once its VMA was split",
        );
    }
    let device = Device::open_with(way, cache);
    let region = device.map();
    let leaf = device.leaf();
    region
        .mprotect(page(100), Prot::READ)
        .expect("mprotect of one page");
    fixture::check(&region, 0..region.len() / PAGE, 0);
    let parts = [
        Part::rw(0..100 * PAGE, Level::Pte),
        Part::ro(page(100), Level::Pte),
        Part::rw(101 * PAGE..PMD, Level::Pte),
        Part::rw(PMD..region.len(), leaf),
    ];
    device.expect(&region, region.all(), 0, &parts);
}

/// A PUD leaf that a driver took back in part comes back with its attribute.
#[test_case(Cache::WriteCombining; "wc")]
#[test_case(Cache::Uncached; "uc")]
fn attribute_survives_a_pud_split(cache: Cache) {
    enter!();
    outcome::known_bug((6, 12), ZAP_OF_A_PART);
    let device = Device::open_with(Way::FaultPud, cache);
    let region = device.map();
    device.file.zap(PMD..2 * PMD).expect("a part");
    fixture::touch(&region, region.all(), PMD);
    device.expect_all(&region, Level::Pud);
}

/// The child's entries have the attribute of the parent's.
#[test_case(Way::Remap, Cache::WriteCombining; "remap_wc")]
#[test_case(Way::FaultPmd, Cache::Uncached; "fault_pmd_uc")]
#[test_case(Way::FaultPud, Cache::WriteCombining; "fault_pud_wc")]
fn attribute_is_inherited(way: Way, cache: Cache) {
    enter!();
    let device = Device::open_with(way, cache);
    let region = device.map();
    child::run_to_end(|_| device.expect_all(&region, device.leaf()));
    device.expect_all(&region, device.leaf());
}

/// Moved entries keep the attribute.
#[test_case(Way::Remap, Cache::WriteCombining; "remap_wc")]
#[test_case(Way::FaultPmd, Cache::WriteCombining; "fault_pmd_wc")]
#[test_case(Way::FaultPmd, Cache::Uncached; "fault_pmd_uc")]
fn attribute_moves_along(way: Way, cache: Cache) {
    enter!();
    let device = Device::open_with(way, cache);
    let mut from = device.map();
    let mut to = Region::reserved(from.len()).expect("address space");
    from.mremap_into(from.all(), &mut to, 0, Source::Goes)
        .expect("mremap");
    device.expect_all(&to, device.leaf());
}
