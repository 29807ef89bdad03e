// SPDX-License-Identifier: GPL-2.0-only
//! One call on a part of a huge page: it does to that part what it says, counts
//! one split, and leaves every other page as it was.

use std::ops::Range;

use selftests::counters::{self, Snapshot};
use selftests::mapping::{Advice, PAGE, Prot, Region, pages};
use selftests::pattern::{Content, FIRST, check_zero};
use selftests::{enter, mapping, skip, thp};
use test_case::test_case;

use crate::fixture::*;

/// munmap of some pages: they are gone, the folio is queued for a deferred split.
#[test_case(0..1; "first_page")]
#[test_case(1..2; "second_page")]
#[test_case(256..257; "middle_page")]
#[test_case(LAST..512; "last_page")]
#[test_case(0..3; "head")]
#[test_case(500..512; "tail")]
#[test_case(1..511; "all_but_the_edges")]
fn munmap(hole: Range<usize>) {
    enter!();
    let mut region = filled(1);
    let frames = thp::frames(&region, 0);
    let before = Snapshot::take();
    region.munmap(pages(hole.clone())).expect("munmap");
    splits_and_unmaps(1).check(&before);
    assert_unmapped(&region, hole.clone());
    check_others(&region, &hole);
    for part in others(&region, &hole) {
        assert_writes_fault(&region, part.clone(), 0);
        assert_frames(&region, part, &frames);
    }
}

/// mprotect of some pages to read-only: they cannot be written, all others can
/// and without a page fault.
#[test_case(0..1; "first_page")]
#[test_case(1..2; "second_page")]
#[test_case(256..257; "middle_page")]
#[test_case(LAST..512; "last_page")]
#[test_case(0..3; "head")]
#[test_case(500..512; "tail")]
#[test_case(1..511; "all_but_the_edges")]
fn mprotect(part: Range<usize>) {
    enter!();
    let region = filled(1);
    let frames = thp::frames(&region, 0);
    let before = Snapshot::take();
    region
        .mprotect(pages(part.clone()), Prot::READ)
        .expect("mprotect");
    splits_and_keeps(1).check(&before);
    assert_read_only(&region, part.clone());
    FIRST.check_all(&region);
    for rest in others(&region, &part) {
        assert_writes_fault(&region, rest, 0);
    }
    region
        .mprotect(pages(part.clone()), Prot::READ_WRITE)
        .expect("mprotect back");
    FIRST.next().fill(&region, part.clone());
    FIRST.next().check(&region, part.clone());
    check_others(&region, &part);
    assert_frames(&region, 0..512, &frames);
}

/// mprotect to no access at all.
#[test_case(1..2; "second_page")]
#[test_case(100..300; "many_pages")]
fn mprotect_none(part: Range<usize>) {
    enter!();
    let region = filled(1);
    let before = Snapshot::take();
    region
        .mprotect(pages(part.clone()), Prot::NONE)
        .expect("mprotect");
    splits_and_keeps(1).check(&before);
    assert_inaccessible(&region, part.clone());
    check_others(&region, &part);
    region
        .mprotect(pages(part), Prot::READ_WRITE)
        .expect("mprotect back");
    FIRST.check_all(&region);
}

/// mlock of some pages: exactly those are accounted as locked.
#[test_case(0..1; "first_page")]
#[test_case(1..2; "second_page")]
#[test_case(LAST..512; "last_page")]
#[test_case(7..100; "many_pages")]
fn mlock(part: Range<usize>) {
    enter!();
    let region = filled(1);
    let frames = thp::frames(&region, 0);
    let before = Snapshot::take();
    if let Err(errno) = region.mlock(pages(part.clone())) {
        skip!("mlock: {errno} (RLIMIT_MEMLOCK)");
    }
    let kib = (part.len() * PAGE / 1024) as i64;
    splits_and_keeps(1).delta("VmLck", kib).check(&before);
    assert_eq!(
        locked_pages(&region),
        part,
        "pages of mappings that are locked"
    );
    FIRST.check_all(&region);
    region.munlock(pages(part)).expect("munlock");
    splits_and_keeps(1).delta("VmLck", 0).check(&before);
    assert_frames(&region, 0..512, &frames);
}

/// mremap of some pages elsewhere: they arrive, their old place is empty.
#[test_case(0..1; "first_page")]
#[test_case(1..2; "second_page")]
#[test_case(LAST..512; "last_page")]
#[test_case(5..77; "many_pages")]
fn mremap_fixed(part: Range<usize>) {
    enter!();
    let mut region = filled(1);
    let frames = thp::frames(&region, 0);
    let mut target = Region::reserved(2 * mapping::PMD).expect("address space");
    let before = Snapshot::take();
    // One page off, so that a wrong offset cannot look right.
    let at = part.start + 1;
    region
        .mremap_into(
            pages(part.clone()),
            &mut target,
            at * PAGE,
            mapping::Source::Goes,
        )
        .expect("mremap");
    splits_and_keeps(1).check(&before);
    let moved = Content::Moved {
        stamp: FIRST,
        by: -1,
    };
    moved.check(&target, at..at + part.len());
    assert_unmapped(&region, part.clone());
    check_others(&region, &part);
    let arrived = selftests::pagemap::entries(&target, at, part.len());
    for (number, entry) in part.zip(arrived) {
        assert_eq!(
            entry.pfn(),
            Some(frames[number]),
            "frame of page {number} after mremap"
        );
    }
}

/// mremap that leaves the old mapping behind: it is empty and reads zero.
#[test_case(0..1; "first_page")]
#[test_case(1..2; "second_page")]
#[test_case(LAST..512; "last_page")]
#[test_case(5..77; "many_pages")]
fn mremap_dontunmap(part: Range<usize>) {
    enter!();
    let mut region = filled(1);
    let mut target = Region::reserved(mapping::PMD).expect("address space");
    let before = Snapshot::take();
    region
        .mremap_into(
            pages(part.clone()),
            &mut target,
            pages(part.clone()).start,
            mapping::Source::Stays,
        )
        .expect("mremap");
    splits_and_keeps(1).check(&before);
    FIRST.check(&target, part.clone());
    check_zero(&region, part.clone());
    check_others(&region, &part);
    FIRST.next().fill(&region, part.clone());
    FIRST.check(&target, part);
}

/// `MADV_DONTNEED` of some pages: they read zero, and only they.
#[test_case(0..1; "first_page")]
#[test_case(1..2; "second_page")]
#[test_case(256..257; "middle_page")]
#[test_case(LAST..512; "last_page")]
#[test_case(0..3; "head")]
#[test_case(500..512; "tail")]
#[test_case(1..511; "all_but_the_edges")]
fn madv_dontneed(part: Range<usize>) {
    enter!();
    let region = filled(1);
    let frames = thp::frames(&region, 0);
    let before = Snapshot::take();
    region
        .madvise(pages(part.clone()), Advice::DontNeed)
        .expect("madvise");
    splits_and_unmaps(1).check(&before);
    check_zero(&region, part.clone());
    check_others(&region, &part);
    for rest in others(&region, &part) {
        assert_frames(&region, rest, &frames);
    }
    FIRST.fill(&region, part);
    FIRST.check_all(&region);
}

/// `MADV_FREE` of some pages splits the folio as well, and no content is lost
/// before memory gets short.
#[test]
fn madv_free() {
    enter!();
    let region = filled(1);
    let before = Snapshot::take();
    region.madvise(pages(3..9), Advice::Free).expect("madvise");
    counters::Expect::new()
        .delta("thp_split_pmd", 1)
        .delta("thp_split_page", 1)
        .delta("2048kB/split", 1)
        .delta("2048kB/nr_anon", -1)
        .delta("nr_anon_transparent_hugepages", -1)
        .unchanged(&["thp_split_page_failed", "thp_split_pmd_failed"])
        .check(&before);
    check_others(&region, &(3..9));
    let kept = Content::Stamped(FIRST).mismatches(region.addr(), 3..9);
    let zero = Content::Zero.mismatches(region.addr(), 3..9);
    for number in 3..9 {
        let both = [&kept, &zero]
            .iter()
            .all(|list| list.iter().any(|(n, _)| *n == number));
        assert!(
            !both,
            "page {number} is neither kept nor zero after MADV_FREE"
        );
    }
    FIRST.next().fill(&region, 3..9);
    FIRST.next().check(&region, 3..9);
}

/// Advice that divides the mapping divides the PMD entry, and no more.
#[test_case(Advice::DontFork; "dontfork")]
#[test_case(Advice::NoHugePage; "nohugepage")]
#[test_case(Advice::WipeOnFork; "wipeonfork")]
fn madvise_divides_the_mapping(advice: Advice) {
    enter!();
    let region = filled(1);
    let frames = thp::frames(&region, 0);
    let before = Snapshot::take();
    region.madvise(pages(9..10), advice).expect("madvise");
    splits_and_keeps(1).check(&before);
    FIRST.check_all(&region);
    assert_writes_fault(&region, 0..512, 0);
    assert_frames(&region, 0..512, &frames);
}

/// A PMD entry that is split already is not counted again.
#[test]
fn second_split_does_not_count() {
    enter!();
    let mut region = filled(1);
    region.munmap(pages(1..2)).expect("munmap");
    let before = Snapshot::take();
    region.munmap(pages(3..4)).expect("munmap");
    region.mprotect(pages(5..6), Prot::READ).expect("mprotect");
    region
        .madvise(pages(7..8), Advice::DontNeed)
        .expect("madvise");
    splits_nothing().check(&before);
    FIRST.check(&region, 0..1);
    FIRST.check(&region, 8..512);
}

/// A range over the border of two huge pages splits both, once each.
#[test_case(511..513; "one_page_of_each")]
#[test_case(3..1021; "nearly_all")]
fn across_two_huge_pages(part: Range<usize>) {
    enter!();
    let mut region = filled(2);
    let before = Snapshot::take();
    region
        .mprotect(pages(part.clone()), Prot::READ)
        .expect("mprotect");
    splits_and_keeps(2).check(&before);
    assert_read_only(&region, part.clone());
    let before = Snapshot::take();
    region.munmap(pages(part.clone())).expect("munmap");
    counters::Expect::new()
        .unchanged(&["thp_split_pmd", "thp_split_page"])
        .delta("thp_deferred_split_page", 2)
        .delta("2048kB/nr_anon_partially_mapped", 2)
        .check(&before);
    assert_unmapped(&region, part.clone());
    check_others(&region, &part);
}

/// Of three huge pages only the one in question is split.
#[test]
fn neighbours_stay_huge() {
    enter!();
    let mut region = filled(3);
    let before = Snapshot::take();
    region.munmap(pages(512 + 17..512 + 18)).expect("munmap");
    splits_and_unmaps(1).check(&before);
    thp::assert_huge(&region, 0..1);
    thp::assert_split(&region, 1);
    thp::assert_huge(&region, 2..3);
    check_others(&region, &(512 + 17..512 + 18));
}

#[track_caller]
fn assert_frames(region: &Region, numbers: Range<usize>, frames: &[u64]) {
    let entries = selftests::pagemap::entries(region, numbers.start, numbers.len());
    for (number, entry) in numbers.zip(entries) {
        assert_eq!(
            entry.pfn(),
            Some(frames[number]),
            "frame of page {number} ({entry:?})"
        );
    }
}

/// The pages of the one locked mapping of the region.
#[track_caller]
fn locked_pages(region: &Region) -> Range<usize> {
    let vmas = selftests::pagemap::smaps::vmas(region, &region.all());
    let locked: Vec<_> = vmas
        .iter()
        .filter(|vma| vma.flags.iter().any(|f| f == "lo"))
        .collect();
    assert_eq!(locked.len(), 1, "locked mappings among {vmas:?}");
    let range = &locked[0].range;
    (range.start - region.addr()) / PAGE..(range.end - region.addr()) / PAGE
}
