// SPDX-License-Identifier: GPL-2.0-only
//! Collapse of page cache: shmem and files of a disk, by khugepaged and by `MADV_COLLAPSE`.

use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use selftests::collapse_model::{MAX_NONE, PTES};
use selftests::counters::{Expect, Snapshot};
use selftests::mapping::{Advice, PAGE, PMD, Region};
use selftests::pagemap;
use selftests::pattern::FIRST;
use selftests::uffd::{Mode, Uffd};
use selftests::{enter, swap, thp};
use test_case::test_case;

use crate::cache::{Cache, Kind, drop_cache, take};
use crate::refuse::hold_page;

/// Blocks of 512 bytes in a huge page.
const HUGE_BLOCKS: u64 = PMD as u64 / 512;

/// khugepaged makes huge pages of cached pages and takes the page tables away; the next access
/// maps them as huge pages, with the same content through the mapping and through read(2).
#[test_case(Kind::Shmem; "shmem")]
#[test_case(Kind::ReadOnly; "file_read_only")]
#[test_case(Kind::ReadWrite; "file_read_write")]
fn khugepaged_collapses_cached_pages(kind: Kind) {
    enter!();
    let khugepaged = take(0);
    let cache = Cache::new(kind, 2, &[0..2 * PTES]);
    cache.advise();
    cache.pass(&khugepaged, 2);
    let entries = pagemap::entries(&cache.region, 0, 2 * PTES);
    assert!(
        entries.iter().all(|entry| !entry.present()),
        "an entry is left of a page table that was taken away"
    );
    let before = Snapshot::take();
    cache.touch(0..1);
    cache.touch(2 * PTES - 1..2 * PTES);
    Expect::new().delta("thp_file_mapped", 2).check(&before);
    thp::assert_huge(&cache.region, 0..2);
    cache.check(FIRST, 0..2 * PTES);
}

/// `MADV_COLLAPSE` makes the huge pages and maps them at once, whatever the switches say.
#[test_case(Kind::Shmem; "shmem")]
#[test_case(Kind::ReadOnly; "file_read_only")]
#[test_case(Kind::ReadWrite; "file_read_write")]
fn madvise_collapses_cached_pages(kind: Kind) {
    enter!();
    let mut khugepaged = take(0);
    let cache = Cache::new(kind, 2, &[0..2 * PTES]);
    cache.advise();
    khugepaged.set("enabled", "never");
    khugepaged.set("shmem_enabled", "never");
    cache.collapse(2);
    cache.check(FIRST, 0..2 * PTES);
    // Huge pages already: success, and nothing is allocated.
    cache.expect(0, 0, || {
        cache
            .region
            .madvise(cache.region.all(), Advice::Collapse)
            .expect("MADV_COLLAPSE")
    });
    cache.check(FIRST, 0..2 * PTES);
}

/// One cached page of a file is enough: the rest is read from the disk.
#[test_case(Kind::ReadOnly; "file_read_only")]
#[test_case(Kind::ReadWrite; "file_read_write")]
fn missing_pages_are_read_from_disk(kind: Kind) {
    enter!();
    let khugepaged = take(MAX_NONE);
    let cache = Cache::new(kind, 1, &[100..101]);
    cache.advise();
    cache.pass_until_made(&khugepaged);
    cache.touch(0..1);
    thp::assert_huge(&cache.region, 0..1);
    cache.check(FIRST, 0..PTES);
}

/// Holes of shmem become zeros, and the file is charged for them.
#[test_case(true; "khugepaged")]
#[test_case(false; "madvise")]
fn holes_of_shmem_become_zeros(by_khugepaged: bool) {
    enter!();
    let khugepaged = take(MAX_NONE);
    let cache = Cache::new(Kind::Shmem, 1, &[7..8, 100..200]);
    assert_eq!(cache.blocks(), 101 * 8, "precondition: the rest are holes");
    cache.advise();
    match by_khugepaged {
        true => cache.pass(&khugepaged, 1),
        false => cache.collapse(1),
    }
    assert_eq!(cache.blocks(), HUGE_BLOCKS);
    cache.touch(0..1);
    thp::assert_huge(&cache.region, 0..1);
    cache.check(FIRST, 7..8);
    cache.check(FIRST, 100..200);
    for zeros in [0..7, 8..100, 200..PTES] {
        cache.check_zero(zeros);
    }
}

/// `max_ptes_none` counts pages that are not cached, to the page.
#[test_case(Kind::Shmem, 256, 1; "shmem_at_the_limit")]
#[test_case(Kind::Shmem, 255, 0; "shmem_one_too_few")]
#[test_case(Kind::ReadOnly, 256, 1; "file_at_the_limit")]
#[test_case(Kind::ReadOnly, 255, 0; "file_one_too_few")]
fn limit_of_missing_pages_is_exact(kind: Kind, cached: usize, made: usize) {
    enter!();
    let khugepaged = take(256);
    let cache = Cache::new(kind, 1, &[PTES - cached..PTES]);
    let blocks = cache.blocks();
    cache.advise();
    let before = Snapshot::take();
    cache.pass(&khugepaged, made);
    Expect::new()
        .delta("thp_scan_exceed_none_pte", 1 - made as i64)
        .check(&before);
    if made == 0 {
        assert_eq!(cache.blocks(), blocks, "memory charged to the file");
    }
    cache.check(FIRST, PTES - cached..PTES);
}

/// Pages of shmem in swap are read in, up to `max_ptes_swap` by khugepaged, any number by
/// `MADV_COLLAPSE`.
#[test_case(true, 64, 1; "khugepaged_at_the_limit")]
#[test_case(true, 65, 0; "khugepaged_one_too_many")]
#[test_case(false, 300, 1; "madvise")]
fn swapped_pages_of_shmem_are_read_in(by_khugepaged: bool, swapped: usize, made: usize) {
    enter!();
    // Pages in swap are not cached either, so both limits count them.
    let khugepaged = take(swapped as u16);
    let cache = Cache::new(Kind::Shmem, 1, &[0..PTES]);
    swap::page_out_shared(&cache.region, 0..swapped);
    cache.advise();
    let before = Snapshot::take();
    match by_khugepaged {
        true => cache.pass(&khugepaged, made),
        false => cache.collapse(made),
    }
    Expect::new()
        .delta("thp_scan_exceed_swap_pte", 1 - made as i64)
        .check(&before);
    cache.check(FIRST, 0..PTES);
}

/// A huge page of shmem is dirty: swapped out and read back it is what it was, zeros included.
#[test]
fn collapsed_shmem_survives_swap() {
    enter!();
    let _khugepaged = take(0);
    let mut cache = Cache::new(Kind::Shmem, 1, &[0..100]);
    cache.collapse(1);
    // Unmapped and mapped anew: nothing but the page itself is dirty.
    cache.region = Region::shared_file(&cache.file, 0, PMD).expect("a new mapping");
    cache.touch(0..PTES);
    swap::page_out_shared(&cache.region, 0..PTES);
    cache.check(FIRST, 0..100);
    cache.check_zero(100..PTES);
}

/// A dirty page of a file: khugepaged waits, `MADV_COLLAPSE` writes it back first; nothing
/// written is lost, in memory or on the disk.
#[test]
fn dirty_file_pages_are_written_back_first() {
    enter!();
    let khugepaged = take(0);
    let cache = Cache::new(Kind::ReadWrite, 1, &[0..PTES]);
    FIRST.next().fill(&cache.region, 5..6);
    FIRST.next().fill(&cache.region, 511..512);
    cache.advise();
    cache.pass_with(&khugepaged, 0, 1);
    cache.collapse_with(1, 2);
    let written = |cache: &Cache| {
        cache.check(FIRST, 0..5);
        cache.check(FIRST.next(), 5..6);
        cache.check(FIRST, 6..511);
        cache.check(FIRST.next(), 511..512);
    };
    written(&cache);
    // What is written into the huge page reaches the disk as well.
    FIRST.next().next().fill(&cache.region, 77..78);
    cache.file.sync_all().expect("fsync");
    cache
        .region
        .madvise(cache.region.all(), Advice::DontNeed)
        .expect("MADV_DONTNEED");
    drop_cache(&cache.file);
    FIRST.next().next().check(&cache.region, 77..78);
    FIRST.next().check(&cache.region, 511..512);
    FIRST.check(&cache.region, 78..511);
}

/// write(2) into a collapsed file is seen through the mapping, and stores through read(2).
#[test_case(Kind::Shmem; "shmem")]
#[test_case(Kind::ReadWrite; "file_read_write")]
fn mapping_and_file_stay_one(kind: Kind) {
    enter!();
    let _khugepaged = take(0);
    let cache = Cache::new(kind, 1, &[0..PTES]);
    cache.collapse(1);
    let bytes: Vec<u8> = FIRST
        .next()
        .page(300)
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    cache
        .file
        .write_all_at(&bytes, 300 * PAGE as u64)
        .expect("write(2) to our own file");
    FIRST.next().fill(&cache.region, 301..302);
    cache.check(FIRST.next(), 300..302);
    cache.check(FIRST, 0..300);
    cache.check(FIRST, 302..PTES);
}

/// A hole whose absence userfaultfd wants to hear of is not filled: EBUSY, and the huge page
/// that was allocated is given back.
#[test]
fn missing_pages_of_shmem_are_not_filled() {
    enter!();
    let _khugepaged = take(MAX_NONE);
    let cache = Cache::new(Kind::Shmem, 1, &[0..PTES - 1]);
    let uffd = Uffd::open(0);
    uffd.register(&cache.region, &cache.region.all(), Mode::MISSING)
        .expect("registration of shmem");
    cache.refuse(Errno::EBUSY, 1);
    cache.check(FIRST, 0..PTES - 1);
}

/// A page that a pipe holds on to: EAGAIN, and the holder sees what is written later.
#[test_case(Kind::Shmem; "shmem")]
#[test_case(Kind::ReadWrite; "file_read_write")]
fn held_page_is_eagain(kind: Kind) {
    enter!();
    let _khugepaged = take(0);
    let cache = Cache::new(kind, 1, &[0..PTES]);
    let pin = hold_page(&cache.region, 400);
    cache.refuse(Errno::EAGAIN, 0);
    FIRST.next().fill(&cache.region, 400..401);
    assert_eq!(pin.read(), FIRST.next().page(400), "what the pipe sees");
    // What was written makes a page of a disk dirty.
    cache.collapse_with(1, if kind == Kind::Shmem { 1 } else { 2 });
    cache.check(FIRST, 0..400);
    cache.check(FIRST.next(), 400..401);
}
