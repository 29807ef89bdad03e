// SPDX-License-Identifier: GPL-2.0-only
//! The folio itself goes: it is split, swapped out or migrated, before or after
//! its PMD entry was split. Through migration entries and swap entries every
//! page must keep content, permissions, sharing and flags.

use std::fs;

use selftests::counters::{Expect, Snapshot};
use selftests::mapping::{Advice, PAGES_PER_PMD, Prot, Region, pages};
use selftests::pagemap::{self, smaps};
use selftests::pattern::{FIRST, Stamp};
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{child, enter, skip};
use test_case::test_case;

use crate::cut::{Cut, clear_soft_dirty};
use crate::fixture::*;

/// Splits the folios that `region` maps, by debugfs.
#[track_caller]
fn split_folios(region: &Region) {
    let file = "/sys/kernel/debug/split_huge_pages";
    let at = region.absolute(&region.all());
    let request = format!("{},{:#x},{:#x}", std::process::id(), at.start, at.end);
    match fs::write(file, request) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip!("no {file} (CONFIG_DEBUG_FS)")
        }
        done => done.unwrap_or_else(|error| panic!("{file}: {error}")),
    }
}

/// A folio is split through its PMD entry: one split of each kind, and pages
/// that are still the process's own.
#[test]
fn split_by_debugfs() {
    enter!();
    let region = filled(1);
    let before = pagemap::entries(&region, 0, PAGES_PER_PMD);
    let counters = Snapshot::take();
    split_folios(&region);
    Expect::new()
        .delta("thp_split_pmd", 1)
        .delta("thp_split_page", 1)
        .delta("2048kB/split", 1)
        .delta("2048kB/nr_anon", -1)
        .delta("nr_anon_transparent_hugepages", -1)
        .unchanged(&["thp_split_page_failed", "thp_deferred_split_page"])
        .check(&counters);
    assert_eq!(
        pagemap::entries(&region, 0, PAGES_PER_PMD),
        before,
        "pagemap entries"
    );
    assert_eq!(
        write_each(&region, 0..512),
        0,
        "page faults of writes to own pages"
    );
    FIRST.check_all(&region);
}

/// Soft-dirty and write-protection go through the migration entries of a folio
/// split.
#[test_case(true; "set")]
#[test_case(false; "clear")]
fn split_keeps_soft_dirty(written: bool) {
    enter!();
    let region = filled(1);
    clear_soft_dirty(&region);
    if written {
        FIRST.fill(&region, 9..10);
        region.madvise(region.all(), Advice::Free).expect("madvise");
    }
    let before = pagemap::entries(&region, 0, PAGES_PER_PMD);
    split_folios(&region);
    assert_eq!(
        pagemap::entries(&region, 0, PAGES_PER_PMD),
        before,
        "pagemap entries"
    );
    FIRST.fill(&region, 300..301);
    let after = pagemap::entries(&region, 0, PAGES_PER_PMD);
    for (number, entry) in after.iter().enumerate() {
        assert_eq!(
            entry.soft_dirty(),
            written || number == 300,
            "soft-dirty of page {number}"
        );
    }
}

/// userfaultfd's protection goes through a folio split as well.
#[test]
fn split_keeps_uffd_wp() {
    enter!();
    let region = filled(1);
    let uffd = Uffd::open(feature::WP | feature::WP_ASYNC | feature::WP_UNPOPULATED);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    uffd.write_protect(&region, &region.all(), true)
        .expect("write-protect");
    split_folios(&region);
    let after = pagemap::entries(&region, 0, PAGES_PER_PMD);
    for (number, entry) in after.iter().enumerate() {
        assert!(
            entry.uffd_wp(),
            "page {number} lost its protection: {entry:?}"
        );
    }
    assert_eq!(
        write_each(&region, 0..512),
        512,
        "page faults of writes to protected pages"
    );
}

/// A read-only huge page stays read-only through a folio split.
#[test]
fn split_keeps_read_only() {
    enter!();
    let region = filled(1);
    region.mprotect(region.all(), Prot::READ).expect("mprotect");
    split_folios(&region);
    assert_read_only(&region, 0..512);
    FIRST.check_all(&region);
}

/// A shared folio is split for both: content, and copies on write.
#[test]
fn split_of_a_shared_folio() {
    enter!();
    let other = Stamp::of(2);
    let region = filled(1);
    let child = child::start(|parent| {
        parent.receive();
        FIRST.check_all(&region);
        other.fill_all(&region);
        parent.send(0);
        parent.receive();
        other.check_all(&region);
    });
    let before = Snapshot::take();
    split_folios(&region);
    Expect::new()
        .delta("thp_split_pmd", 2)
        .delta("thp_split_page", 1)
        .delta("2048kB/nr_anon", -1)
        .check(&before);
    assert_eq!(
        write_each(&region, 0..512),
        512,
        "page faults of writes to shared pages"
    );
    FIRST.next().fill_all(&region);
    child.line().send(0);
    child.line().receive();
    FIRST.next().check_all(&region);
    child.line().send(0);
    child.join();
}

/// A folio whose PMD entry is split already is split without another count.
#[test_case(Cut::Munmap; "munmap")]
#[test_case(Cut::Mprotect; "mprotect")]
#[test_case(Cut::DontNeed; "dontneed")]
fn split_after_pmd_split(cut: Cut) {
    enter!();
    let mut region = filled(1);
    let _moved = cut.apply(&mut region);
    let before = pagemap::entries(&region, 0, PAGES_PER_PMD);
    let counters = Snapshot::take();
    split_folios(&region);
    Expect::new()
        .delta("thp_split_page", 1)
        .delta("2048kB/nr_anon", -1)
        .unchanged(&["thp_split_pmd", "thp_split_page_failed"])
        .check(&counters);
    let after = pagemap::entries(&region, 0, PAGES_PER_PMD);
    for number in cut.untouched() {
        assert_eq!(
            after[number], before[number],
            "pagemap entry of page {number}"
        );
        FIRST.check(&region, number..number + 1);
    }
}

/// Partially unmapped pages are given back when the folio is split.
#[test]
fn split_frees_what_is_unmapped() {
    enter!();
    let before = Snapshot::take();
    let mut region = filled(1);
    region.munmap(pages(100..400)).expect("munmap");
    Expect::new()
        .delta("2048kB/nr_anon_partially_mapped", 1)
        .check(&before);
    split_folios(&region);
    Expect::new()
        .unchanged(&["2048kB/nr_anon_partially_mapped", "2048kB/nr_anon"])
        .check(&before);
    check_others(&region, &(100..400));
    assert_unmapped(&region, 100..400);
}

/// Needs swap, else skips.
#[track_caller]
fn need_swap() {
    let free = Snapshot::take().get("meminfo/SwapFree").unwrap_or(0);
    if free < 4096 {
        skip!("no swap ({free} kB free; the guest needs zram or a swap device)");
    }
}

/// `MADV_PAGEOUT` of a huge page, whole or split: every page comes back as it
/// was, once from swap.
#[test_case(None; "whole")]
#[test_case(Some(Cut::Munmap); "after_munmap")]
#[test_case(Some(Cut::Mprotect); "after_mprotect")]
#[test_case(Some(Cut::DontNeed); "after_dontneed")]
#[test_case(Some(Cut::Mremap); "after_mremap")]
fn swapped_out(cut: Option<Cut>) {
    enter!();
    need_swap();
    let mut region = filled(1);
    let _moved = cut.and_then(|cut| cut.apply(&mut region));
    for vma in smaps::vmas(&region, &region.all()) {
        let range = vma.range.start - region.addr()..vma.range.end - region.addr();
        if vma.perms.starts_with('r') {
            region.madvise(range, Advice::PageOut).expect("madvise");
        }
    }
    let swapped = smaps::kib(&region, &region.all(), "Swap");
    assert!(swapped > 0, "nothing was swapped out");
    let untouched = cut.map_or_else(|| (0..512).collect(), Cut::untouched);
    for number in untouched {
        FIRST.check(&region, number..number + 1);
    }
    Expect::new()
        .unchanged(&["2048kB/nr_anon_partially_mapped"])
        .check_settled(&Snapshot::take());
}

/// Written again after it came back from swap: nothing stale remains.
#[test]
fn swapped_out_twice() {
    enter!();
    need_swap();
    let region = filled(1);
    region.mprotect(pages(5..6), Prot::READ).expect("mprotect");
    region
        .mprotect(pages(5..6), Prot::READ_WRITE)
        .expect("mprotect");
    for stamp in [FIRST.next(), FIRST.next().next()] {
        region
            .madvise(region.all(), Advice::PageOut)
            .expect("madvise");
        stamp.fill(&region, 0..256);
        region
            .madvise(region.all(), Advice::PageOut)
            .expect("madvise");
        stamp.check(&region, 0..256);
        FIRST.check(&region, 256..512);
    }
}
