// SPDX-License-Identifier: GPL-2.0-only
//! Device-dax with 1 GiB pages: mapped by one PUD entry on any kernel. A split
//! drops the entry, the next touch maps the memory again; nothing may be lost
//! in between, and each split is counted once.

use std::fs::File;
use std::ops::Range;

use nix::errno::Errno;
use selftests::child;
use selftests::counters::{Expect, Snapshot};
use selftests::dax::{DaxError, PudDax};
use selftests::mapping::{Advice, PAGE, PMD, PUD, Prot, Region, Source, page};
use selftests::pagetable::{self, Level};
use selftests::release::release;
use selftests::settings::{self, Setting};
use selftests::{enter, guard, gup, not_applicable, outcome, skip, usermem};
use test_case::test_case;

use crate::gigabyte::PAGES;

/// kB of 1 GiB: what mapping it adds to RssFile.
const GIB_KB: i64 = 1 << 20;

/// The mapped device; fields are dropped in this order.
struct Mapped {
    region: Region,
    file: File,
    _device: PudDax,
    _settings: Vec<Setting>,
}

/// Maps the device, every page marked, or skips the test.
fn mapped() -> Mapped {
    let settings = settings::quiet();
    let device = match PudDax::claim() {
        Ok(device) => device,
        Err(DaxError::NoRegion) => skip!("{}", DaxError::NoRegion),
        Err(error) => panic!("device-dax with 1 GiB pages: {error}"),
    };
    let file = device.open().expect("the device that was just bound");
    let mut region = Region::reserved(PUD).expect("address space");
    region
        .map_file(0..PUD, &file, 0, Prot::READ_WRITE)
        .expect("1 GiB of the device");
    mark(&region);
    Mapped {
        region,
        file,
        _device: device,
        _settings: settings,
    }
}

fn word(number: usize) -> u64 {
    (number as u64 + 1).wrapping_mul(0xd1b5_4a32_d192_ed03)
}

fn mark(region: &Region) {
    for number in 0..PAGES {
        guard::write_words(region.page_addr(number), &[word(number)])
            .unwrap_or_else(|fault| panic!("page {number}: {fault}"));
    }
}

/// Checks the mark of every page.
#[track_caller]
fn check(region: &Region) {
    for number in 0..PAGES {
        let mut found = [0];
        guard::read_words(region.page_addr(number), &mut found)
            .unwrap_or_else(|fault| panic!("page {number}: {fault}"));
        assert_eq!(found, [word(number)], "page {number}");
    }
}

#[track_caller]
fn assert_one_leaf(region: &Region, writable: bool) {
    let leaves = pagetable::leaves(&region.absolute(&region.all()));
    let found: Vec<_> = leaves
        .iter()
        .map(|leaf| (leaf.level, leaf.range.len(), leaf.writable))
        .collect();
    assert_eq!(found, [(Level::Pud, PUD, writable)]);
}

#[track_caller]
fn assert_nothing_mapped(region: &Region) {
    let leaves = pagetable::leaves(&region.absolute(&region.all()));
    assert!(leaves.is_empty(), "still mapped: {leaves:x?}");
}

/// Checks that RssFile changed by `kb`; the program's own pages are noise.
#[track_caller]
fn assert_rss(before: &Snapshot, kb: i64) {
    if release() < (7, 0) {
        not_applicable!("RssFile", "not charged for huge DAX entries (seen on 6.12)");
        return;
    }
    let found = before
        .delta(&Snapshot::take(), "RssFile")
        .expect("a line of status");
    assert!(
        (found - kb).abs() < 2048,
        "RssFile {found:+} kB instead of {kb:+}"
    );
}

/// One touch maps 1 GiB by one PUD entry; nothing else faults, and it is charged in full.
#[test]
fn one_touch_maps_one_pud_entry() {
    enter!();
    let mapped = mapped();
    let mut region = Region::reserved(PUD).expect("address space");
    let before = Snapshot::take();
    region
        .map_file(0..PUD, &mapped.file, 0, Prot::READ_WRITE)
        .expect("1 GiB of the device");
    assert_nothing_mapped(&region);
    guard::load(region.addr() + PUD - 1).expect("the last byte");
    assert_one_leaf(&region, true);
    check(&region);
    assert_rss(&before, GIB_KB);
    Expect::new().unchanged(&["thp_split_pud"]).check(&before);
}

/// MADV_DONTNEED of a part splits the PUD entry, exactly once; every page survives and is charged again.
#[test_case(600 * PAGE..601 * PAGE; "one_page")]
#[test_case(0..PAGE; "first_page")]
#[test_case(PUD - PAGE..PUD; "last_page")]
#[test_case(5 * PMD..6 * PMD; "one_pmd")]
#[test_case(0..PUD / 2; "first_half")]
fn partial_dontneed_splits_once(part: Range<usize>) {
    enter!();
    let mapped = mapped();
    let region = &mapped.region;
    assert_one_leaf(region, true);
    let before = Snapshot::take();
    region
        .madvise(part, Advice::DontNeed)
        .expect("MADV_DONTNEED of a part");
    Expect::new()
        .delta("thp_split_pud", 1)
        .unchanged(&["thp_split_pmd", "thp_split_page"])
        .check(&before);
    assert_nothing_mapped(region);
    assert_rss(&before, -GIB_KB);
    check(region);
    assert_one_leaf(region, true);
    assert_rss(&before, 0);
    Expect::new().delta("thp_split_pud", 1).check(&before);
}

/// MADV_DONTNEED of everything drops the entry without a split; every page survives.
#[test]
fn whole_dontneed_splits_nothing() {
    enter!();
    let mapped = mapped();
    let region = &mapped.region;
    let before = Snapshot::take();
    region
        .madvise(region.all(), Advice::DontNeed)
        .expect("MADV_DONTNEED");
    assert_nothing_mapped(region);
    assert_rss(&before, -GIB_KB);
    check(region);
    assert_one_leaf(region, true);
    assert_rss(&before, 0);
    Expect::new().unchanged(&["thp_split_pud"]).check(&before);
}

/// munmap gives back what was charged; the memory has its content when it is mapped again.
#[test]
fn munmap_uncharges_and_keeps_content() {
    enter!();
    let mut mapped = mapped();
    let before = Snapshot::take();
    mapped.region.munmap(0..PUD).expect("munmap");
    assert_rss(&before, -GIB_KB);
    Expect::new().unchanged(&["thp_split_pud"]).check(&before);
    guard::load(mapped.region.addr()).expect_err("nothing is mapped");
    let mut again = Region::reserved(PUD).expect("address space");
    again
        .map_file(0..PUD, &mapped.file, 0, Prot::READ)
        .expect("1 GiB of the device");
    check(&again);
}

/// mprotect of everything changes the entry in place: stores fault, then pass again.
#[test]
fn mprotect_changes_the_entry_in_place() {
    enter!();
    let mapped = mapped();
    let region = &mapped.region;
    let before = Snapshot::take();
    region.mprotect(region.all(), Prot::READ).expect("mprotect");
    assert_one_leaf(region, false);
    for number in [0, 777, PAGES - 1] {
        let fault = guard::store(region.page_addr(number), 0).expect_err("read-only");
        assert_eq!(fault.code, guard::SEGV_ACCERR, "page {number}: {fault}");
    }
    check(region);
    region
        .mprotect(region.all(), Prot::READ_WRITE)
        .expect("mprotect back");
    assert_one_leaf(region, true);
    mark(region);
    assert_rss(&before, 0);
    Expect::new().unchanged(&["thp_split_pud"]).check(&before);
}

/// Parts of a 1 GiB page can be neither unmapped nor protected; a refusal changes nothing.
#[test]
fn parts_are_refused() {
    enter!();
    let mut mapped = mapped();
    let before = Snapshot::take();
    for part in [page(600), PMD..2 * PMD, 0..PUD / 2] {
        let refused = Err(Errno::EINVAL);
        assert_eq!(
            mapped.region.munmap(part.clone()),
            refused,
            "munmap of {part:x?}"
        );
        let protect = mapped.region.mprotect(part.clone(), Prot::READ);
        assert_eq!(protect, refused, "mprotect of {part:x?}");
    }
    Expect::new().unchanged(&["thp_split_pud"]).check(&before);
    assert_one_leaf(&mapped.region, true);
    check(&mapped.region);
}

/// Parent and child share the memory; the child's end takes nothing from the parent.
#[test]
fn fork_shares_the_memory() {
    enter!();
    let mapped = mapped();
    let region = &mapped.region;
    let before = Snapshot::take();
    child::run_to_end(|_| {
        check(region);
        assert_one_leaf(region, true);
        guard::store(region.addr() + PAGE - 1, 0x5a).expect("a store of the child");
        region
            .madvise(page(9), Advice::DontNeed)
            .expect("MADV_DONTNEED in the child");
        check(region);
    });
    Expect::new().delta("thp_split_pud", 1).check(&before);
    assert_eq!(
        guard::load(region.addr() + PAGE - 1),
        Ok(0x5a),
        "the child's store"
    );
    assert_one_leaf(region, true);
    assert_rss(&before, 0);
    check(region);
}

/// A pin finds the right page inside the PUD entry, for loads and stores, fast or slow.
#[test]
fn pins_find_their_page() {
    enter!();
    let mapped = mapped();
    let region = &mapped.region;
    for number in [0, 1, 511, 512, 77_777, PAGES - 1] {
        for way in [
            gup::Way::Read,
            gup::Way::Write,
            gup::Way::ReadFast,
            gup::Way::WriteFast,
        ] {
            let pin = gup::Pin::take(region, &page(number), way)
                .unwrap_or_else(|errno| panic!("page {number}, {way:?}: {errno}"));
            pin.assert_coherent(region, &page(number));
        }
        let spliced = usermem::splice_page(region.page_addr(number))
            .unwrap_or_else(|errno| panic!("page {number}: vmsplice: {errno}"));
        assert_eq!(spliced[..8], word(number).to_ne_bytes(), "page {number}");
    }
    assert_one_leaf(region, true);
}

/// A pinned page outlives the split of the entry that mapped it.
#[test]
fn pin_survives_a_split() {
    enter!();
    let mapped = mapped();
    let region = &mapped.region;
    let number = 54_321;
    let pin = gup::Pin::take(region, &page(number), gup::Way::WriteFast).expect("a pin");
    let before = Snapshot::take();
    region
        .madvise(page(number), Advice::DontNeed)
        .expect("MADV_DONTNEED");
    Expect::new().delta("thp_split_pud", 1).check(&before);
    assert_nothing_mapped(region);
    pin.assert_coherent(region, &page(number));
    check(region);
}

/// A read-only mapping beside a writable one refuses stores and sees the other's.
#[test]
fn read_only_mapping_refuses_stores() {
    enter!();
    let mapped = mapped();
    let mut other = Region::reserved(PUD).expect("address space");
    other
        .map_file(0..PUD, &mapped.file, 0, Prot::READ)
        .expect("1 GiB of the device");
    guard::load(other.addr()).expect("a load");
    assert_one_leaf(&other, false);
    let fault = guard::store(other.addr(), 0).expect_err("read-only");
    assert_eq!(fault.code, guard::SEGV_ACCERR, "{fault}");
    guard::store(mapped.region.addr() + 9, 0x77).expect("a store");
    assert_eq!(guard::load(other.addr() + 9), Ok(0x77));
    assert_one_leaf(&other, false);
}

/// mremap moves the PUD entry whole: same charge, no fault, same content.
#[test]
fn mremap_moves_the_entry() {
    enter!();
    outcome::known_bug(
        (7, 3),
        "get_old_pud() drops PUD entries as bad, with what they are charged",
    );
    let mut mapped = mapped();
    let mut to = Region::reserved(PUD).expect("address space");
    let before = Snapshot::take();
    mapped
        .region
        .mremap_into(0..PUD, &mut to, 0, Source::Goes)
        .expect("mremap");
    assert_nothing_mapped(&mapped.region);
    assert_one_leaf(&to, true);
    check(&to);
    assert_rss(&before, 0);
    Expect::new().unchanged(&["thp_split_pud"]).check(&before);
}
