// SPDX-License-Identifier: GPL-2.0-only
//! Calls on whole huge pages: they split nothing, and what they do to the PMD
//! entry shows in every page.

use selftests::child;
use selftests::counters::{Snapshot, minor_faults, status_kib};
use selftests::mapping::{Advice, PAGES_PER_PMD, PMD, Prot};
use selftests::pagemap::{self, smaps};
use selftests::pattern::{FIRST, Stamp, check_zero};
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{enter, guard, thp};

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
    // A writable translation that is cached must not outlive the permission.
    assert_writes_fault(&region, 0..512, 0);
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

/// The end of userfaultfd's protection of a whole huge page: no bit is left, and
/// nobody has to resolve a write any more.
#[test]
fn uffd_wp_ends() {
    enter!();
    let region = filled(1);
    let uffd = Uffd::open(feature::WP);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    let before = Snapshot::take();
    uffd.write_protect(&region, &region.all(), true)
        .expect("write-protect");
    uffd.write_protect(&region, &region.all(), false)
        .expect("unprotect");
    splits_nothing().check(&before);
    thp::assert_huge(&region, 0..1);
    for (number, entry) in pagemap::entries(&region, 0, PAGES_PER_PMD)
        .iter()
        .enumerate()
    {
        assert!(!entry.uffd_wp(), "page {number} is {entry:?}");
    }
    FIRST.next().fill_all(&region);
    FIRST.next().check_all(&region);
}

/// A child has as much resident memory and as many page tables more as the huge
/// pages it inherits account for.
#[test]
fn fork_accounts_for_huge_pages() {
    enter!();
    let _quiet = selftests::settings::quiet();
    let of_child = || {
        let child = child::start(|parent| {
            parent.send(status_kib("RssAnon") as u64);
            parent.send(status_kib("VmPTE") as u64);
        });
        let found = (child.line().receive() as i64, child.line().receive() as i64);
        child.join();
        found
    };
    let _neighbour = thp::obtain(1);
    let parent_before = status_kib("VmPTE");
    let (rss, tables) = of_child();
    let region = thp::obtain(8);
    FIRST.fill_all(&region);
    let parent_grew = status_kib("VmPTE") - parent_before;
    let (rss_with, tables_with) = of_child();
    // A few small pages of the heap may come and go.
    assert!(
        ((rss_with - rss) / 1024 - 16).abs() <= 1,
        "RssAnon of the child: {rss} -> {rss_with} kB"
    );
    assert_eq!(
        tables_with - tables,
        parent_grew,
        "kB of page tables: child, parent"
    );
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
