// SPDX-License-Identifier: GPL-2.0-only
//! mremap of whole huge pages: the PMD entry moves with everything it says, and
//! nothing is left at the old place.

use std::ops::Range;
use std::time::Duration;

use selftests::counters::{Expect, Snapshot};
use selftests::mapping::{PAGE, PAGES_PER_PMD, PMD, PUD, Prot, Region, Source, pages};
use selftests::pagemap::{self, smaps};
use selftests::pattern::{Content, FIRST, check_zero};
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{enter, settings, skip, thp};
use test_case::test_case;

use crate::cut::clear_soft_dirty;
use crate::fixture::*;

/// Where a moved huge page goes.
#[derive(Clone, Copy)]
enum Distance {
    Near,
    /// Under another PMD table, so the page table set aside moves as well.
    Far,
}

/// mremap of a whole huge page moves the entry: content and frames arrive, the
/// old place is empty at once, and the new one can be split and freed.
#[test_case(Distance::Near; "near")]
#[test_case(Distance::Far; "under_another_pmd_table")]
fn mremap(distance: Distance) {
    enter!();
    let mut region = filled(1);
    let frames = thp::frames(&region, 0);
    let space = match distance {
        Distance::Near => PMD,
        Distance::Far => PUD,
    };
    let mut target = Region::reserved(space).expect("address space");
    let before = Snapshot::take();
    // A translation of the old place that is cached must not outlive it.
    assert_writes_fault(&region, 0..512, 0);
    region
        .mremap_into(0..PMD, &mut target, 0, Source::Goes)
        .expect("mremap");
    assert_unmapped(&region, 0..512);
    splits_nothing()
        .unchanged(&["nr_anon_transparent_hugepages"])
        .check(&before);
    thp::assert_huge(&target, 0..1);
    assert_eq!(thp::frames(&target, 0), frames, "frames");
    FIRST.check(&target, 0..512);
    let before = Snapshot::take();
    target.mprotect(pages(9..10), Prot::READ).expect("mprotect");
    splits_and_keeps(1).check(&before);
    FIRST.check(&target, 0..512);
    assert_read_only(&target, 9..10);
    target.munmap(0..PMD).expect("munmap");
    Expect::new()
        .delta("2048kB/nr_anon", -1)
        .unchanged(&["2048kB/nr_anon_partially_mapped"])
        .check(&before);
}

/// Pages that move are soft-dirty at their new place: a huge page, a part of
/// one, and small pages. (Moved with their whole table, small pages are not.)
#[test_case(filled, 0..512; "huge_page")]
#[test_case(filled, 100..101; "part_of_a_huge_page")]
#[test_case(filled_small, 100..103; "small_pages")]
fn mremap_makes_soft_dirty(obtain: fn(usize) -> Filled, part: Range<usize>) {
    enter!();
    let mut region = obtain(1);
    clear_soft_dirty(&region);
    let mut target = Region::reserved(PMD).expect("address space");
    let (offset, count) = (part.start, part.len());
    region
        .mremap_into(pages(part), &mut target, offset * PAGE, Source::Goes)
        .expect("mremap");
    for (number, entry) in pagemap::entries(&target, offset, count).iter().enumerate() {
        assert!(entry.soft_dirty(), "page {number} moved and is {entry:?}");
    }
    FIRST.check(&target, offset..offset + count);
}

/// mremap with userfaultfd's remap event: the protection moves along.
#[test]
fn mremap_keeps_uffd_wp_with_the_event() {
    enter!();
    let mut region = filled(1);
    let uffd = Uffd::open(feature::WP | feature::EVENT_REMAP);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    uffd.write_protect(&region, &region.all(), true)
        .expect("write-protect");
    let mut target = Region::reserved(PMD).expect("address space");
    std::thread::scope(|scope| {
        // mremap does not return before somebody has read the event.
        let reader = scope.spawn(|| uffd.event(Duration::from_secs(30)));
        let moved = region.mremap_into(0..PMD, &mut target, 0, Source::Goes);
        moved.expect("mremap");
        let event = reader
            .join()
            .expect("the reader does not panic")
            .expect("poll");
        assert_eq!(
            event.map(|event| event.kind),
            Some(0x14),
            "UFFD_EVENT_REMAP"
        );
    });
    thp::assert_huge(&target, 0..1);
    for (number, entry) in pagemap::entries(&target, 0, PAGES_PER_PMD)
        .iter()
        .enumerate()
    {
        assert!(entry.uffd_wp(), "page {number} moved and is {entry:?}");
    }
    FIRST.check_all(&target);
}

/// mremap that leaves the mapping: the old place is zero and can be huge again.
#[test]
fn mremap_dontunmap() {
    enter!();
    let mut region = filled(1);
    let mut target = Region::reserved(PMD).expect("address space");
    let before = Snapshot::take();
    region
        .mremap_into(0..PMD, &mut target, 0, Source::Stays)
        .expect("mremap");
    splits_nothing().check(&before);
    thp::assert_huge(&target, 0..1);
    check_zero(&region, 0..512);
    FIRST.next().fill_all(&region);
    FIRST.check_all(&target);
    FIRST.next().check_all(&region);
}

/// mremap of memory that userfaultfd protects, without the remap event: the
/// moved pages are ordinary ones, writable and with their content.
#[test]
fn mremap_drops_uffd_wp() {
    enter!();
    let mut region = filled(1);
    let uffd = Uffd::open(feature::WP);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    uffd.write_protect(&region, &region.all(), true)
        .expect("write-protect");
    let mut target = Region::reserved(PMD).expect("address space");
    region
        .mremap_into(0..PMD, &mut target, 0, Source::Goes)
        .expect("mremap");
    let entries = pagemap::entries(&target, 0, PAGES_PER_PMD);
    assert!(
        entries.iter().all(|entry| !entry.uffd_wp()),
        "{:?}",
        entries[0]
    );
    FIRST.check_all(&target);
    FIRST.next().fill_all(&target);
    FIRST.next().check_all(&target);
}

/// mremap to an address that is not aligned splits, and every page arrives.
#[test]
fn mremap_unaligned() {
    enter!();
    let mut region = filled(1);
    let mut target = Region::reserved(2 * PMD).expect("address space");
    let before = Snapshot::take();
    region
        .mremap_into(0..PMD, &mut target, PAGE, Source::Goes)
        .expect("mremap");
    splits_and_keeps(1).check(&before);
    let moved = Content::Moved {
        stamp: FIRST,
        by: -1,
    };
    moved.check(&target, 1..513);
    assert_unmapped(&region, 0..512);
}

/// mremap of small pages from the middle of a page table on may move whole tables, but never what
/// lies before them in the same table and belongs to another mapping.
#[test]
fn mremap_spares_the_mapping_before() {
    enter!();
    let mut region = filled_small(2);
    // Another mapping in front of what moves: one with other permissions.
    region
        .mprotect(pages(0..100), Prot::READ)
        .expect("mprotect");
    let mut target = Region::reserved(2 * PMD).expect("address space");
    region
        .mremap_into(pages(100..1024), &mut target, 100 * PAGE, Source::Goes)
        .expect("mremap");
    FIRST.check(&target, 100..1024);
    FIRST.check(&region, 0..100);
    assert_read_only(&region, 0..100);
    assert_inaccessible(&target, 0..100);
}

/// The same for what lies before the place where the pages go.
#[test]
fn mremap_spares_the_mapping_before_its_target() {
    enter!();
    let mut region = filled_small(2);
    region.munmap(pages(0..100)).expect("munmap");
    let mut target = filled_small(2);
    target
        .mprotect(pages(0..100), Prot::READ)
        .expect("mprotect");
    region
        .mremap_into(pages(100..1024), &mut target, 100 * PAGE, Source::Goes)
        .expect("mremap");
    FIRST.check_all(&target);
    assert_read_only(&target, 0..100);
    assert_unmapped(&region, 0..1024);
}

/// mremap of locked memory that leaves the old mapping behind: the lock goes along, and only the
/// new place is locked and counted as such.
#[test]
fn mremap_dontunmap_takes_the_lock_along() {
    enter!();
    let mut region = filled(1);
    region
        .mlock(region.all())
        .unwrap_or_else(|errno| skip!("mlock of 2 MiB: {errno} (RLIMIT_MEMLOCK)"));
    let mut target = Region::reserved(PMD).expect("address space");
    let before = Snapshot::take();
    region
        .mremap_into(0..PMD, &mut target, 0, Source::Stays)
        .expect("mremap");
    let locked = |region: &Region| {
        let vmas = smaps::vmas(region, &region.all());
        vmas.iter()
            .all(|vma| vma.flags.iter().any(|flag| flag == "lo"))
    };
    assert!(locked(&target), "the new place is not locked");
    assert!(!locked(&region), "the old place is still locked");
    Expect::new()
        .unchanged(&["nr_mlock", "VmLck"])
        .check(&before);
    FIRST.next().fill_all(&region);
    Expect::new()
        .unchanged(&["nr_mlock", "VmLck"])
        .check(&before);
    FIRST.check_all(&target);
    drop(target);
    drop(region);
    Expect::new()
        .delta("nr_mlock", -512)
        .delta("VmLck", -2048)
        .check_settled(&before);
}

/// Memory that mremap leaves behind is memory of the process, too: all that is charged for both
/// places is given back with them.
#[test]
fn mremap_dontunmap_is_charged() {
    enter!();
    let _quiet = settings::quiet();
    let mut region = Region::private(64 * PMD).expect("address space");
    let all = region.all();
    let mut target = Region::reserved(all.len()).expect("address space");
    let before = Snapshot::take();
    region
        .mremap_into(all, &mut target, 0, Source::Stays)
        .expect("mremap");
    let charged = before.delta(&Snapshot::take(), "meminfo/Committed_AS");
    // Others on the machine charge and give back meanwhile, though less than that.
    assert!(
        charged.is_some_and(|kib| (100 << 10..160 << 10).contains(&kib)),
        "{charged:?} kB were charged for 128 MiB that were left behind"
    );
}
