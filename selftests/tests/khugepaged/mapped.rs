// SPDX-License-Identifier: GPL-2.0-only
//! What a collapse of page cache does to the mappings of the file: which lose their page tables,
//! which must keep them, and how they come to map the huge page.

use nix::errno::Errno;
use selftests::child;
use selftests::collapse_model::PTES;
use selftests::counters::{Expect, Snapshot, status_kib};
use selftests::mapping::{Advice, PAGE, PMD, Prot, Region, page, pages};
use selftests::pagemap::{self, smaps};
use selftests::pattern::{Content, FIRST};
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{enter, thp};
use test_case::test_case;

use crate::cache::{Cache, Kind, take};

/// `UFFD_FEATURE_WP_HUGETLBFS_SHMEM`.
const WP_HUGETLBFS_SHMEM: u64 = 1 << 12;

/// Where khugepaged has taken the page table away, `MADV_COLLAPSE` maps the huge page that is in
/// the cache, without a new one and without an access.
#[test_case(Kind::Shmem; "shmem")]
#[test_case(Kind::ReadOnly; "file_read_only")]
#[test_case(Kind::ReadWrite; "file_read_write")]
fn madvise_maps_what_khugepaged_has_made(kind: Kind) {
    enter!();
    let khugepaged = take(0);
    let cache = Cache::new(kind, 1, &[0..PTES]);
    cache.advise();
    cache.pass(&khugepaged, 1);
    let before = Snapshot::take();
    cache.expect(0, 0, || {
        cache
            .region
            .madvise(cache.region.all(), Advice::Collapse)
            .expect("MADV_COLLAPSE");
    });
    Expect::new().delta("thp_file_mapped", 1).check(&before);
    thp::assert_huge(&cache.region, 0..1);
    cache.check(FIRST, 0..PTES);
}

/// Every mapping of the file loses its page table, in other processes too, and all see the same.
#[test]
fn all_mappings_see_the_huge_page() {
    enter!();
    let khugepaged = take(0);
    let cache = Cache::new(Kind::Shmem, 1, &[0..PTES]);
    let second = Region::shared_file(&cache.file, 0, PMD).expect("a second mapping");
    FIRST.check(&second, 0..PTES);
    let region = &cache.region;
    let child = child::start(|parent| {
        FIRST.check(region, 0..PTES);
        parent.send(0);
        parent.receive();
        FIRST.check(region, 0..PTES);
        FIRST.next().fill(region, 9..10);
    });
    child.line().receive();
    cache.advise();
    // Both mappings of this process lose theirs.
    let frames = || pagemap::entries(&cache.region, 0, PTES)[0].pfn();
    let before = frames();
    cache.expect(1, 1, || {
        khugepaged.pass().expect("khugepaged scans when asked");
    });
    child.line().send(0);
    child.join();
    FIRST.next().check(&second, 9..10);
    FIRST.next().check(&cache.region, 9..10);
    FIRST.check(&second, 10..PTES);
    assert_ne!(frames(), before);
    assert_eq!(
        frames(),
        pagemap::entries(&second, 0, 1)[0].pfn(),
        "both mappings map the huge page"
    );
}

/// A private mapping of the file keeps the pages it has copied, and its page table with them.
#[test_case(Kind::Shmem; "shmem")]
#[test_case(Kind::ReadOnly; "file_read_only")]
fn private_copies_survive(kind: Kind) {
    enter!();
    let khugepaged = take(0);
    let cache = Cache::new(kind, 1, &[0..PTES]);
    let private = Region::private_file(&cache.file, 0, PMD).expect("a private mapping");
    FIRST.check(&private, 0..PTES);
    FIRST.next().fill(&private, 33..35);
    cache.advise();
    cache.expect(1, 1, || {
        khugepaged.pass().expect("khugepaged scans when asked");
    });
    FIRST.next().check(&private, 33..35);
    FIRST.check(&private, 0..33);
    FIRST.check(&private, 35..PTES);
    cache.check(FIRST, 0..PTES);
}

/// A mapping with write-protected pages keeps its page table and their bits.
#[test]
fn write_protected_mapping_keeps_its_table() {
    enter!();
    let khugepaged = take(0);
    let cache = Cache::new(Kind::Shmem, 1, &[0..PTES]);
    let second = Region::shared_file(&cache.file, 0, PMD).expect("a second mapping");
    FIRST.check(&second, 0..PTES);
    let uffd = Uffd::open(feature::WP | WP_HUGETLBFS_SHMEM);
    uffd.register(&second, &second.all(), Mode::WP)
        .expect("registration of shmem");
    uffd.write_protect(&second, &page(44), true)
        .expect("write-protection of a page");
    cache.advise();
    cache.expect(1, 1, || {
        khugepaged.pass().expect("khugepaged scans when asked");
    });
    assert!(
        pagemap::entries(&second, 44, 1)[0].uffd_wp(),
        "the page is no longer write-protected"
    );
    FIRST.check(&second, 0..PTES);
    assert!(
        pagemap::entries(&second, 44, 1)[0].uffd_wp(),
        "reading ended the write-protection"
    );
}

/// A mapping whose huge pages would not be aligned in the file: EINVAL.
#[test]
fn mapping_at_an_odd_offset_is_einval() {
    enter!();
    let _khugepaged = take(0);
    let cache = Cache::new(Kind::Shmem, 2, &[0..2 * PTES]);
    let odd =
        Region::shared_file(&cache.file, PAGE, PMD).expect("a mapping from the second page on");
    Content::Moved {
        stamp: FIRST,
        by: 1,
    }
    .check(&odd, 0..PTES);
    cache.expect(0, 0, || {
        assert_eq!(odd.madvise(odd.all(), Advice::Collapse), Err(Errno::EINVAL))
    });
    cache.check(FIRST, 0..2 * PTES);
}

/// A huge page of shmem mapped by entries is mapped as a huge page again by `MADV_COLLAPSE`,
/// without a new one, and RSS is what it was.
#[test_case(PTES; "all_entries")]
#[test_case(3; "three_entries")]
fn entries_of_a_huge_page_are_mapped_huge_again(entries: usize) {
    enter!();
    let _khugepaged = take(0);
    let rss = status_kib("RssShmem");
    let cache = Cache::new(Kind::Shmem, 1, &[0..PTES]);
    cache.collapse(1);
    assert_eq!(status_kib("RssShmem") - rss, 2048, "kB of shmem mapped");
    // Another permission for a part splits the entry; some pages are mapped again, one by one.
    cache
        .region
        .mprotect(page(0), Prot::READ)
        .expect("mprotect");
    cache
        .region
        .mprotect(page(0), Prot::READ_WRITE)
        .expect("mprotect");
    cache
        .region
        .madvise(pages(entries..PTES), Advice::DontNeed)
        .expect("MADV_DONTNEED");
    cache
        .region
        .madvise(cache.region.all(), Advice::NoHugePage)
        .expect("MADV_NOHUGEPAGE");
    cache.touch(0..entries);
    thp::assert_split(&cache.region, 0);
    cache.advise();
    cache.expect(0, 0, || {
        cache
            .region
            .madvise(cache.region.all(), Advice::Collapse)
            .expect("MADV_COLLAPSE")
    });
    thp::assert_huge(&cache.region, 0..1);
    let mapped = smaps::kib(&cache.region, &cache.region.all(), "ShmemPmdMapped");
    assert_eq!(mapped, 2048, "ShmemPmdMapped in kB");
    assert_eq!(status_kib("RssShmem") - rss, 2048, "kB of shmem mapped");
    cache.check(FIRST, 0..PTES);
    drop(cache);
    assert_eq!(status_kib("RssShmem") - rss, 0, "kB of shmem unmapped");
}
