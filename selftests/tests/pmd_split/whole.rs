// SPDX-License-Identifier: GPL-2.0-only
//! Calls on whole huge pages: they split nothing, and what they do to the PMD
//! entry shows in every page.

use selftests::child;
use selftests::counters::{Snapshot, minor_faults, status_kib};
use selftests::mapping::{Advice, PAGES_PER_PMD, PMD, PUD, Prot, Region, Source, pages};
use selftests::pagemap::{self, smaps};
use selftests::pattern::{FIRST, Stamp, check_zero};
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{enter, guard, mapping, thp};
use test_case::test_case;

use crate::cut::need_soft_dirty;
use crate::fixture::*;

/// mprotect to read-only and back: stores fault meanwhile, and afterwards take
/// no page fault, because the memory is the process's own.
#[test]
fn mprotect() {
    enter!();
    let region = filled(2);
    let frames = thp::frames(&region, 0);
    let before = Snapshot::take();
    region.mprotect(0..PMD, Prot::READ).expect("mprotect");
    assert_read_only(&region, 0..512);
    assert_writes_fault(&region, 512..1024, 0);
    region.mprotect(0..PMD, Prot::NONE).expect("mprotect");
    assert_inaccessible(&region, 0..512);
    region.mprotect(0..PMD, Prot::READ_WRITE).expect("mprotect");
    assert_writes_fault(&region, 0..512, 0);
    splits_nothing()
        .unchanged(&["nr_anon_transparent_hugepages"])
        .check(&before);
    thp::assert_huge(&region, 0..2);
    assert_eq!(thp::frames(&region, 0), frames, "frames");
    FIRST.check_all(&region);
}

/// Getting write permission back does not skip soft-dirty tracking.
#[test]
fn mprotect_keeps_soft_dirty_tracking() {
    enter!();
    need_soft_dirty();
    let region = filled(1);
    region.mprotect(region.all(), Prot::READ).expect("mprotect");
    pagemap::clear_soft_dirty();
    region
        .mprotect(region.all(), Prot::READ_WRITE)
        .expect("mprotect");
    thp::assert_huge(&region, 0..1);
    let clean = pagemap::entries(&region, 0, PAGES_PER_PMD);
    assert!(
        clean.iter().all(|entry| !entry.soft_dirty()),
        "soft-dirty without a write"
    );
    FIRST.fill(&region, 300..301);
    let written = pagemap::entries(&region, 0, PAGES_PER_PMD);
    assert!(
        written.iter().all(|entry| entry.soft_dirty()),
        "a write left no soft-dirty bit"
    );
}

/// Getting write permission back does not skip userfaultfd's write-protection.
#[test]
fn mprotect_keeps_uffd_wp() {
    enter!();
    let region = filled(1);
    let uffd = Uffd::open(feature::WP | feature::WP_ASYNC | feature::WP_UNPOPULATED);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    uffd.write_protect(&region, &region.all(), true)
        .expect("write-protect");
    region.mprotect(region.all(), Prot::READ).expect("mprotect");
    region
        .mprotect(region.all(), Prot::READ_WRITE)
        .expect("mprotect");
    thp::assert_huge(&region, 0..1);
    let entries = pagemap::entries(&region, 0, PAGES_PER_PMD);
    assert!(
        entries.iter().all(|entry| entry.uffd_wp()),
        "uffd-wp lost: {:?}",
        entries[0]
    );
    let before = minor_faults();
    FIRST.fill(&region, 300..301);
    assert_eq!(
        minor_faults() - before,
        1,
        "faults of a write to a protected huge page"
    );
}

/// fork copies the PMD entry: both sides share every page, and each write on
/// either side stays there.
#[test]
fn fork() {
    enter!();
    let other = Stamp::of(2);
    let region = filled(1);
    let frames = thp::frames(&region, 0);
    let before = Snapshot::take();
    let rss = status_kib("RssAnon");
    let child = child::start(|parent| {
        thp::assert_huge(&region, 0..1);
        assert_eq!(thp::frames(&region, 0), frames, "frames in the child");
        parent.send(smaps::kib(&region, &region.all(), "Rss"));
        parent.receive();
        FIRST.check_all(&region);
        other.fill_all(&region);
        parent.send(0);
        parent.receive();
        other.check_all(&region);
    });
    assert_eq!(
        child.line().receive(),
        2048,
        "Rss of the region in the child"
    );
    splits_nothing()
        .unchanged(&["2048kB/nr_anon", "nr_anon_transparent_hugepages"])
        .check(&before);
    assert!(
        (status_kib("RssAnon") - rss).abs() < 1024,
        "RssAnon of the parent over fork"
    );
    FIRST.next().fill_all(&region);
    child.line().send(0);
    child.line().receive();
    FIRST.next().check_all(&region);
    child.line().send(0);
    child.join();
}

/// The child of fork has its own accessed bits, which start cleared, and its
/// soft-dirty bits are those of the parent.
#[test]
fn fork_copies_bits() {
    enter!();
    need_soft_dirty();
    let region = filled(2);
    pagemap::clear_soft_dirty();
    FIRST.fill(&region, 3..4);
    child::run_to_end(|_| {
        let entries = pagemap::entries(&region, 0, 1024);
        assert!(
            entries[..512].iter().all(|entry| entry.soft_dirty()),
            "{:?}",
            entries[0]
        );
        assert!(
            entries[512..].iter().all(|entry| !entry.soft_dirty()),
            "{:?}",
            entries[512]
        );
    });
}

/// What userfaultfd protects: a child without the fork event is not protected,
/// the parent still is.
#[test]
fn fork_drops_uffd_wp_in_the_child() {
    enter!();
    let region = filled(1);
    let uffd = Uffd::open(feature::WP | feature::WP_ASYNC | feature::WP_UNPOPULATED);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    uffd.write_protect(&region, &region.all(), true)
        .expect("write-protect");
    child::run_to_end(|_| {
        let entries = pagemap::entries(&region, 0, PAGES_PER_PMD);
        assert!(
            entries.iter().all(|entry| !entry.uffd_wp()),
            "{:?}",
            entries[0]
        );
        FIRST.next().fill_all(&region);
    });
    let entries = pagemap::entries(&region, 0, PAGES_PER_PMD);
    assert!(
        entries.iter().all(|entry| entry.uffd_wp()),
        "{:?}",
        entries[0]
    );
    FIRST.check_all(&region);
}

/// Where a moved huge page goes.
#[derive(Clone, Copy)]
enum Distance {
    Near,
    /// Under another PMD table, so the page table set aside moves as well.
    Far,
}

/// mremap of a whole huge page moves the entry: content, frames and soft-dirty
/// arrive, the old place is empty, and both ends can still be split and freed.
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
    let tables = Snapshot::take();
    region
        .mremap_into(0..PMD, &mut target, 0, Source::Goes)
        .expect("mremap");
    splits_nothing()
        .unchanged(&["nr_anon_transparent_hugepages"])
        .check(&tables);
    thp::assert_huge(&target, 0..1);
    assert_eq!(thp::frames(&target, 0), frames, "frames");
    assert_unmapped(&region, 0..512);
    FIRST.check(&target, 0..512);
    let entries = pagemap::entries(&target, 0, PAGES_PER_PMD);
    if pagemap::soft_dirty_supported() {
        assert!(
            entries.iter().all(|entry| entry.soft_dirty()),
            "{:?}",
            entries[0]
        );
    }
    let before = Snapshot::take();
    target.mprotect(pages(9..10), Prot::READ).expect("mprotect");
    splits_and_keeps(1).check(&before);
    FIRST.check(&target, 0..512);
    assert_read_only(&target, 9..10);
    target.munmap(0..PMD).expect("munmap");
    selftests::counters::Expect::new()
        .delta("2048kB/nr_anon", -1)
        .unchanged(&["2048kB/nr_anon_partially_mapped"])
        .check(&before);
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
        .mremap_into(0..PMD, &mut target, mapping::PAGE, Source::Goes)
        .expect("mremap");
    splits_and_keeps(1).check(&before);
    let moved = selftests::pattern::Content::Moved {
        stamp: FIRST,
        by: -1,
    };
    moved.check(&target, 1..513);
    assert_unmapped(&region, 0..512);
}

/// `MADV_FREE` of a huge page that another process maps is not done: nobody
/// may lose what the other still needs.
#[test]
fn madv_free_of_shared_memory() {
    enter!();
    let region = filled(1);
    let child = child::start(|parent| {
        parent.receive();
        FIRST.check_all(&region);
    });
    region.madvise(region.all(), Advice::Free).expect("madvise");
    assert_eq!(
        smaps::kib(&region, &region.all(), "LazyFree"),
        0,
        "LazyFree"
    );
    // Refused or not, content counts.
    let _ = region.madvise(region.all(), Advice::PageOut);
    child.line().send(0);
    child.join();
    FIRST.check_all(&region);
}

/// `MADV_FREE` and then writes: what was written is kept, whatever reclaim does.
#[test]
fn madv_free_then_write() {
    enter!();
    let region = filled(1);
    region.madvise(region.all(), Advice::Free).expect("madvise");
    FIRST.next().fill_all(&region);
    let _ = region.madvise(region.all(), Advice::PageOut);
    FIRST.next().check_all(&region);
}

/// mlock of a whole huge page keeps it huge and accounts 2 MiB.
#[test]
fn mlock() {
    enter!();
    let region = filled(2);
    let before = Snapshot::take();
    if let Err(errno) = region.mlock(0..PMD) {
        selftests::skip!("mlock: {errno} (RLIMIT_MEMLOCK)");
    }
    splits_nothing().delta("VmLck", 2048).check(&before);
    thp::assert_huge(&region, 0..2);
    region.munlock(0..PMD).expect("munlock");
    splits_nothing().delta("VmLck", 0).check(&before);
    FIRST.check_all(&region);
}

/// After `MADV_DONTNEED` a huge page is zero and a new one comes by a write.
#[test]
fn dontneed_then_huge_again() {
    enter!();
    let region = filled(1);
    let before = Snapshot::take();
    region
        .madvise(region.all(), Advice::DontNeed)
        .expect("madvise");
    let entries = pagemap::entries(&region, 0, PAGES_PER_PMD);
    assert!(
        entries.iter().all(|entry| !entry.present()),
        "{:?}",
        entries[0]
    );
    guard::store(region.addr(), 1).expect("a store to our own memory");
    splits_nothing()
        .delta("thp_fault_alloc", 1)
        .unchanged(&["2048kB/nr_anon"])
        .check(&before);
    thp::assert_huge(&region, 0..1);
    check_zero(&region, 1..512);
}
