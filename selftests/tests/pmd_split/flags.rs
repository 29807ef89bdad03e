// SPDX-License-Identifier: GPL-2.0-only
//! What a PMD entry says of its pages, each of the 512 PTE entries must say
//! after the split: soft-dirty, write-protected by userfaultfd, accessed, dirty,
//! exclusive. Checked as the kernel reports it and as memory behaves.

use selftests::child;
use selftests::gup::{Pin, Way};
use selftests::mapping::{Advice, PAGE, PAGES_PER_PMD, Prot, Region, pages};
use selftests::pagemap::{self, Entry, smaps};
use selftests::pattern::{Content, FIRST};
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{enter, thp};
use test_case::test_case;

use crate::cut::{Cut, PART, clear_soft_dirty, touch};
use crate::fixture::*;

#[track_caller]
fn assert_entries_kept(region: &Region, cut: Cut, before: &[Entry]) {
    let after = pagemap::entries(region, 0, PAGES_PER_PMD);
    let wrong: Vec<usize> = cut
        .untouched()
        .into_iter()
        .filter(|n| before[*n] != after[*n])
        .collect();
    if let Some(first) = wrong.first() {
        panic!(
            "{} of 512 pagemap entries changed by {cut:?}; page {first}: {:?} became {:?}",
            wrong.len(),
            before[*first],
            after[*first]
        );
    }
}

/// A page written since soft-dirty was cleared makes the whole huge page
/// soft-dirty; after the split every small page is. One that was not written
/// stays clean, and then each page becomes soft-dirty by its own write only.
#[test_case(Cut::Munmap, true; "munmap_written")]
#[test_case(Cut::Munmap, false; "munmap_clean")]
#[test_case(Cut::Mprotect, true; "mprotect_written")]
#[test_case(Cut::Mprotect, false; "mprotect_clean")]
#[test_case(Cut::Mremap, true; "mremap_written")]
#[test_case(Cut::Mremap, false; "mremap_clean")]
#[test_case(Cut::DontNeed, true; "dontneed_written")]
#[test_case(Cut::DontNeed, false; "dontneed_clean")]
#[test_case(Cut::DontFork, true; "madvise_written")]
#[test_case(Cut::DontFork, false; "madvise_clean")]
#[test_case(Cut::Gup, true; "gup_written")]
#[test_case(Cut::Gup, false; "gup_clean")]
#[test_case(Cut::UffdWp, true; "uffd_wp_written")]
#[test_case(Cut::UffdWp, false; "uffd_wp_clean")]
fn soft_dirty(cut: Cut, written: bool) {
    enter!();
    let mut region = filled(1);
    clear_soft_dirty(&region);
    if written {
        FIRST.fill(&region, 400..401);
        // Soft-dirty has to be kept for its own sake, not for the dirty bit's.
        region.madvise(region.all(), Advice::Free).expect("madvise");
    }
    thp::assert_huge(&region, 0..1);
    let before = pagemap::entries(&region, 0, PAGES_PER_PMD);
    assert!(
        before.iter().all(|entry| entry.soft_dirty() == written),
        "{:?}",
        before[0]
    );
    let _moved = cut.apply(&mut region);
    assert_entries_kept(&region, cut, &before);
    let even: Vec<usize> = cut.untouched().into_iter().filter(|n| n % 2 == 0).collect();
    for number in &even {
        FIRST.fill(&region, *number..number + 1);
    }
    let after = pagemap::entries(&region, 0, PAGES_PER_PMD);
    for number in cut.untouched() {
        let expected = written || number % 2 == 0;
        assert_eq!(
            after[number].soft_dirty(),
            expected,
            "soft-dirty of page {number}"
        );
    }
}

/// Pages that userfaultfd write-protects are so after the split; a write takes
/// exactly one fault each, and pages that are not protected take none.
#[test_case(Cut::Munmap, true; "munmap_protected")]
#[test_case(Cut::Munmap, false; "munmap_plain")]
#[test_case(Cut::Mprotect, true; "mprotect_protected")]
#[test_case(Cut::Mprotect, false; "mprotect_plain")]
#[test_case(Cut::Mremap, true; "mremap_protected")]
#[test_case(Cut::Mremap, false; "mremap_plain")]
#[test_case(Cut::DontNeed, true; "dontneed_protected")]
#[test_case(Cut::DontNeed, false; "dontneed_plain")]
#[test_case(Cut::DontFork, true; "madvise_protected")]
#[test_case(Cut::DontFork, false; "madvise_plain")]
#[test_case(Cut::Gup, true; "gup_protected")]
#[test_case(Cut::Gup, false; "gup_plain")]
fn uffd_wp(cut: Cut, protected: bool) {
    enter!();
    let mut region = filled(1);
    let uffd = Uffd::open(feature::WP | feature::WP_ASYNC | feature::WP_UNPOPULATED);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    if protected {
        uffd.write_protect(&region, &region.all(), true)
            .expect("write-protect");
    }
    thp::assert_huge(&region, 0..1);
    let before = pagemap::entries(&region, 0, PAGES_PER_PMD);
    assert!(
        before.iter().all(|entry| entry.uffd_wp() == protected),
        "{:?}",
        before[0]
    );
    let _moved = cut.apply(&mut region);
    assert_entries_kept(&region, cut, &before);
    let numbers = cut.untouched().len();
    let faults = write_each(&region, cut.untouched());
    assert_eq!(
        faults,
        if protected { numbers } else { 0 },
        "faults of {numbers} writes"
    );
    let after = pagemap::entries(&region, 0, PAGES_PER_PMD);
    for number in cut.untouched() {
        assert!(
            !after[number].uffd_wp(),
            "page {number} is still protected after a write"
        );
    }
}

/// Neither does a split make untouched pages look accessed, nor does it forget
/// that they were.
#[test_case(Cut::Munmap, true; "munmap_young")]
#[test_case(Cut::Munmap, false; "munmap_old")]
#[test_case(Cut::Mprotect, true; "mprotect_young")]
#[test_case(Cut::Mprotect, false; "mprotect_old")]
#[test_case(Cut::Mremap, true; "mremap_young")]
#[test_case(Cut::Mremap, false; "mremap_old")]
#[test_case(Cut::DontNeed, true; "dontneed_young")]
#[test_case(Cut::DontNeed, false; "dontneed_old")]
#[test_case(Cut::DontFork, true; "madvise_young")]
#[test_case(Cut::DontFork, false; "madvise_old")]
#[test_case(Cut::UffdWp, true; "uffd_wp_young")]
#[test_case(Cut::UffdWp, false; "uffd_wp_old")]
fn accessed(cut: Cut, young: bool) {
    enter!();
    let mut region = filled(1);
    pagemap::clear_referenced();
    if young {
        touch(&region, 300);
    }
    let referenced = |region: &Region| smaps::kib(region, &region.all(), "Referenced");
    assert_eq!(
        referenced(&region),
        if young { 2048 } else { 0 },
        "Referenced while huge"
    );
    let _moved = cut.apply(&mut region);
    let left = if cut.keeps_mapped() {
        512
    } else {
        512 - PART.len()
    };
    let expected = if young { left * PAGE / 1024 } else { 0 };
    assert_eq!(
        referenced(&region),
        expected as u64,
        "Referenced in kB after {cut:?}"
    );
}

/// A huge page that was given free and not written stays so over a split; one
/// that was written is needed again, every byte of it.
#[test_case(Cut::Munmap, true; "munmap_written")]
#[test_case(Cut::Munmap, false; "munmap_clean")]
#[test_case(Cut::Mprotect, true; "mprotect_written")]
#[test_case(Cut::Mprotect, false; "mprotect_clean")]
#[test_case(Cut::Mremap, true; "mremap_written")]
#[test_case(Cut::Mremap, false; "mremap_clean")]
#[test_case(Cut::DontNeed, true; "dontneed_written")]
#[test_case(Cut::DontNeed, false; "dontneed_clean")]
#[test_case(Cut::DontFork, true; "madvise_written")]
#[test_case(Cut::DontFork, false; "madvise_clean")]
#[test_case(Cut::UffdWp, true; "uffd_wp_written")]
#[test_case(Cut::UffdWp, false; "uffd_wp_clean")]
fn dirty_after_madv_free(cut: Cut, written: bool) {
    enter!();
    let mut region = filled(1);
    region.madvise(region.all(), Advice::Free).expect("madvise");
    thp::assert_huge(&region, 0..1);
    if written {
        FIRST.fill(&region, 400..401);
    }
    let lazy = |region: &Region| smaps::kib(region, &region.all(), "LazyFree");
    assert_eq!(
        lazy(&region),
        if written { 0 } else { 2048 },
        "LazyFree while huge"
    );
    let _moved = cut.apply(&mut region);
    let left = if cut.keeps_mapped() {
        512
    } else {
        512 - PART.len()
    };
    let expected = if written { 0 } else { left * PAGE / 1024 };
    assert_eq!(
        lazy(&region),
        expected as u64,
        "LazyFree in kB after {cut:?}"
    );
    reclaim(&region);
    let untouched = cut.untouched();
    let kept = Content::Stamped(FIRST).mismatches(region.addr(), 0..PAGES_PER_PMD);
    let zero = Content::Zero.mismatches(region.addr(), 0..PAGES_PER_PMD);
    let lost = |list: &[(usize, String)], n: usize| list.iter().any(|(number, _)| *number == n);
    for number in untouched {
        if written {
            assert!(
                !lost(&kept, number),
                "page {number} was lost though the huge page was dirty"
            );
        } else {
            let neither = lost(&kept, number) && lost(&zero, number);
            assert!(!neither, "page {number} is neither kept nor zero");
        }
    }
}

/// Asks for reclaim of everything that is mapped in the region.
fn reclaim(region: &Region) {
    for vma in smaps::vmas(region, &region.all()) {
        let range = vma.range.start - region.addr()..vma.range.end - region.addr();
        // May be refused, for instance for locked memory; content counts.
        let _ = region.madvise(range, Advice::PageOut);
    }
}

/// Pages of a process alone are its own after the split: written without any
/// fault, on the same frames.
#[test_case(Cut::Munmap; "munmap")]
#[test_case(Cut::Mprotect; "mprotect")]
#[test_case(Cut::Mremap; "mremap")]
#[test_case(Cut::DontNeed; "dontneed")]
#[test_case(Cut::DontFork; "madvise")]
#[test_case(Cut::Gup; "gup")]
#[test_case(Cut::UffdWp; "uffd_wp")]
fn exclusive(cut: Cut) {
    enter!();
    let mut region = filled(1);
    let before = pagemap::entries(&region, 0, PAGES_PER_PMD);
    let _moved = cut.apply(&mut region);
    assert_entries_kept(&region, cut, &before);
    assert_eq!(
        write_each(&region, cut.untouched()),
        0,
        "page faults of writes after {cut:?}"
    );
    assert_entries_kept(&region, cut, &before);
}

/// Pages shared with a child are shared after the split: each write takes a
/// fault and a copy, and the child sees nothing of it.
#[test_case(Cut::Munmap; "munmap")]
#[test_case(Cut::Mprotect; "mprotect")]
#[test_case(Cut::Mremap; "mremap")]
#[test_case(Cut::DontNeed; "dontneed")]
#[test_case(Cut::DontFork; "madvise")]
#[test_case(Cut::Gup; "gup")]
#[test_case(Cut::UffdWp; "uffd_wp")]
fn shared(cut: Cut) {
    enter!();
    let mut region = filled(1);
    let child = child::start(|parent| {
        parent.receive();
        FIRST.check_all(&region);
    });
    let frames = thp::frames(&region, 0);
    let _moved = cut.apply(&mut region);
    let numbers = cut.untouched().len();
    let faults = write_each(&region, cut.untouched());
    assert_eq!(
        faults, numbers,
        "faults of writes to shared pages after {cut:?}"
    );
    let after = pagemap::entries(&region, 0, PAGES_PER_PMD);
    for number in cut.untouched() {
        let copied = after[number].pfn() != Some(frames[number]);
        assert!(
            copied,
            "page {number} was written in place though a child shares it"
        );
        FIRST.next().fill(&region, number..number + 1);
    }
    child.line().send(0);
    child.join();
}

/// A pin taken after the split holds the page through fork and write: pages
/// kept that they are the process's own.
#[test_case(Cut::Munmap, Way::Write; "munmap_for_writing")]
#[test_case(Cut::Munmap, Way::Read; "munmap_for_reading")]
#[test_case(Cut::Munmap, Way::WriteFast; "munmap_fast")]
#[test_case(Cut::Mprotect, Way::Write; "mprotect_for_writing")]
#[test_case(Cut::Mprotect, Way::Read; "mprotect_for_reading")]
#[test_case(Cut::Mprotect, Way::WriteFast; "mprotect_fast")]
#[test_case(Cut::Mremap, Way::Write; "mremap_for_writing")]
#[test_case(Cut::Mremap, Way::Read; "mremap_for_reading")]
#[test_case(Cut::Mremap, Way::WriteFast; "mremap_fast")]
#[test_case(Cut::DontNeed, Way::Write; "dontneed_for_writing")]
#[test_case(Cut::DontNeed, Way::Read; "dontneed_for_reading")]
#[test_case(Cut::DontNeed, Way::WriteFast; "dontneed_fast")]
#[test_case(Cut::DontFork, Way::Write; "madvise_for_writing")]
#[test_case(Cut::DontFork, Way::Read; "madvise_for_reading")]
#[test_case(Cut::DontFork, Way::WriteFast; "madvise_fast")]
#[test_case(Cut::UffdWp, Way::Write; "uffd_wp_for_writing")]
#[test_case(Cut::UffdWp, Way::Read; "uffd_wp_for_reading")]
#[test_case(Cut::UffdWp, Way::WriteFast; "uffd_wp_fast")]
fn pin_after_split(cut: Cut, way: Way) {
    enter!();
    let mut region = filled(1);
    let frames = thp::frames(&region, 0);
    let _moved = cut.apply(&mut region);
    let range = pages(100..140);
    let pin = Pin::take(&region, &range, way).expect("pin");
    let child = child::start(|parent| {
        FIRST.check(&region, 100..140);
        parent.receive();
        FIRST.check(&region, 100..140);
    });
    FIRST.next().fill(&region, 100..140);
    pin.assert_coherent(&region, &range);
    child.line().send(0);
    child.join();
    let now = pagemap::entries(&region, 100, 40);
    for (number, entry) in (100..140).zip(now) {
        assert_eq!(
            entry.pfn(),
            Some(frames[number]),
            "frame of pinned page {number}"
        );
    }
    pin.assert_coherent(&region, &range);
}

/// A pin taken before the split keeps its frame, whatever is split around it.
#[test_case(Cut::Munmap; "munmap")]
#[test_case(Cut::Mprotect; "mprotect")]
#[test_case(Cut::Mremap; "mremap")]
#[test_case(Cut::DontNeed; "dontneed")]
#[test_case(Cut::DontFork; "madvise")]
fn pin_before_split(cut: Cut) {
    enter!();
    let mut region = filled(1);
    let range = pages(100..140);
    let pin = Pin::take(&region, &range, Way::Write).expect("pin");
    let before = pagemap::entries(&region, 0, PAGES_PER_PMD);
    let _moved = cut.apply(&mut region);
    assert_entries_kept(&region, cut, &before);
    FIRST.next().fill(&region, 100..140);
    pin.assert_coherent(&region, &range);
}

/// Memory that is only readable when it is split stays only readable.
#[test_case(Cut::Munmap; "munmap")]
#[test_case(Cut::Mremap; "mremap")]
#[test_case(Cut::DontNeed; "dontneed")]
#[test_case(Cut::DontFork; "madvise")]
#[test_case(Cut::Gup; "gup")]
fn read_only(cut: Cut) {
    enter!();
    let mut region = filled(1);
    region.mprotect(region.all(), Prot::READ).expect("mprotect");
    thp::assert_huge(&region, 0..1);
    let _moved = cut.apply(&mut region);
    for number in cut.untouched() {
        assert_read_only(&region, number..number + 1);
        FIRST.check(&region, number..number + 1);
    }
}
