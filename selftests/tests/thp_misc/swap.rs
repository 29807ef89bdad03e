// SPDX-License-Identifier: GPL-2.0-only
//! Folios of every size through swap: what is counted while they are out, and what they still
//! are when they come back.

use selftests::counters::{Expect, Snapshot, minor_faults, status_kib};
use selftests::mapping::{Advice, PAGES_PER_PMD, Prot, Region, pages};
use selftests::pagemap::{self, kpage};
use selftests::pattern::{FIRST, check_zero};
use selftests::release::release;
use selftests::swap::page_out;
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{child, enter, guard, skip, thp};
use test_case::test_case;

use crate::sizes::OneSize;

/// Kilobytes that other parts of this process may change a counter by meanwhile.
const OWN_KIB: i64 = 200;

#[track_caller]
fn near(name: &str, found: i64, wanted: i64) {
    assert!(
        (wanted - OWN_KIB..=wanted + OWN_KIB).contains(&found),
        "{name} changed by {found} kB, expected about {wanted}"
    );
}

/// Swapped out and in again, memory has its content, and `VmSwap` and `RssAnon` tell where it is:
/// exactly as much moves from one to the other and back.
#[test_case(0; "small")]
#[test_case(2; "order_2")]
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn memory_moves_to_swap_and_back(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    let (rss, swap) = (status_kib("RssAnon"), status_kib("VmSwap"));
    page_out(&region, 0..PAGES_PER_PMD);
    near("VmSwap", status_kib("VmSwap") - swap, 2048);
    near("RssAnon", status_kib("RssAnon") - rss, -2048);
    FIRST.check_all(&region);
    near("VmSwap", status_kib("VmSwap") - swap, 0);
    near("RssAnon", status_kib("RssAnon") - rss, 0);
    // Of a process alone, pages are its own again: writable without a fault or a copy.
    let frames = thp::frames(&region, 0);
    let faults = minor_faults();
    for number in 0..PAGES_PER_PMD {
        guard::store(region.page_addr(number), 0).expect("a store to our own memory");
    }
    assert_eq!(minor_faults() - faults, 0, "faults of stores to 512 pages");
    FIRST.next().fill_all(&region);
    assert_eq!(thp::frames(&region, 0), frames, "stores made copies");
    FIRST.next().check_all(&region);
}

/// Memory that was not written since soft-dirty was cleared stays clean in swap and after it,
/// and written memory stays soft-dirty. (A dirty huge page becomes soft-dirty by being split.)
#[test_case(2, false; "order_2_clean")]
#[test_case(2, true; "order_2_written")]
#[test_case(0, false; "small_clean")]
#[test_case(9, true; "huge_written")]
fn swap_keeps_soft_dirty(order: u8, written: bool) {
    enter!();
    if !pagemap::soft_dirty_supported() {
        skip!("no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)");
    }
    let size = OneSize::of(order);
    let region = size.filled();
    pagemap::clear_soft_dirty();
    if written {
        FIRST.fill_all(&region);
    }
    let all = |when: &str| {
        let entries = pagemap::entries(&region, 0, PAGES_PER_PMD);
        let wrong = entries.iter().position(|e| e.soft_dirty() != written);
        assert_eq!(
            wrong.map(|at| (at, entries[at])),
            None,
            "{when}: soft-dirty must be {written}"
        );
    };
    all("before");
    page_out(&region, 0..PAGES_PER_PMD);
    all("in swap");
    FIRST.check_all(&region);
    all("after it");
}

/// Write-protected by userfaultfd, memory is so in swap and after it, and each write there still
/// makes an event.
#[test_case(2; "order_2")]
#[test_case(9; "huge")]
fn swap_keeps_write_protection(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    let uffd = Uffd::open(feature::WP);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    let protected = pages(64..256);
    uffd.write_protect(&region, &protected, true)
        .expect("write-protect");
    let check = |when: &str| {
        for (number, entry) in pagemap::entries(&region, 0, PAGES_PER_PMD)
            .iter()
            .enumerate()
        {
            assert_eq!(
                entry.uffd_wp(),
                (64..256).contains(&number),
                "{when}: page {number} is {entry:?}"
            );
        }
    };
    check("before");
    page_out(&region, 0..PAGES_PER_PMD);
    check("in swap");
    FIRST.check_all(&region);
    check("after it");
    uffd.write_protect(&region, &protected, false)
        .expect("end of write-protection");
    FIRST.next().fill_all(&region);
    FIRST.next().check_all(&region);
}

/// Memory in swap that a child shared and shares no more: the first store to any page brings
/// that page back, with its neighbours.
#[test_case(0; "small")]
#[test_case(2; "order_2")]
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn store_brings_the_right_page_from_swap(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    page_out(&region, 0..PAGES_PER_PMD);
    child::run_to_end(|_| ());
    let wrote = FIRST.next();
    let stored = |number: usize| number % size.pages() == size.pages() / 2;
    for number in (0..PAGES_PER_PMD).filter(|number| stored(*number)) {
        let words = wrote.page(number);
        guard::write_words(region.page_addr(number), &words).expect("our own memory");
    }
    for number in 0..PAGES_PER_PMD {
        let stamp = if stored(number) { wrote } else { FIRST };
        stamp.check(&region, number..number + 1);
    }
}

/// Of memory in swap that a child shares, each side writes its own copy: the right page of it,
/// whichever page is touched first.
#[test_case(2, true; "order_2_child_writes")]
#[test_case(2, false; "order_2_parent_writes")]
#[test_case(4, true; "order_4_child_writes")]
#[test_case(4, false; "order_4_parent_writes")]
#[test_case(9, true; "huge_child_writes")]
#[test_case(9, false; "huge_parent_writes")]
fn fork_shares_what_is_in_swap(order: u8, child_writes: bool) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    page_out(&region, 0..PAGES_PER_PMD);
    // One byte of a page in the middle of each folio, which brings the folio in for a write.
    let scribble = || {
        for number in (size.pages() / 2 + 1..PAGES_PER_PMD).step_by(size.pages()) {
            guard::store(region.page_addr(number) + 8, 0xee).expect("our own memory");
        }
    };
    let scribbled = |number: usize| number % size.pages() == size.pages() / 2 + 1;
    let check = |wrote: bool| {
        for number in 0..PAGES_PER_PMD {
            let mut page = FIRST.page(number);
            if wrote && scribbled(number) {
                page[1] = page[1] & !0xff | 0xee;
            }
            let mut found = page;
            guard::read_words(region.page_addr(number), &mut found).expect("our own memory");
            assert!(found == page, "page {number} has other content");
        }
    };
    let child = child::start(|parent| {
        if child_writes {
            scribble();
        }
        parent.send(0);
        parent.receive();
        check(child_writes);
    });
    child.line().receive();
    if !child_writes {
        scribble();
    }
    check(!child_writes);
    child.line().send(0);
    child.join();
    check(!child_writes);
}

/// A part of a huge page that is asked out leaves the rest in memory, untouched.
#[test_case(0..1; "first_page")]
#[test_case(100..356; "half")]
fn page_out_of_a_part_leaves_the_rest(part: std::ops::Range<usize>) {
    enter!();
    let size = OneSize::of(9);
    let region = size.filled();
    page_out(&region, part.clone());
    for (number, entry) in pagemap::entries(&region, 0, PAGES_PER_PMD)
        .iter()
        .enumerate()
    {
        assert_eq!(
            entry.swapped(),
            part.contains(&number),
            "page {number} is {entry:?}"
        );
    }
    FIRST.check_all(&region);
}

/// A huge page that a child shares is nobody's to page out or to age: it stays where it is.
#[test]
fn shared_huge_page_is_not_paged_out() {
    enter!();
    let size = OneSize::of(9);
    let region = size.filled();
    let child = child::start(|parent| {
        parent.receive();
        FIRST.check_all(&region);
    });
    for advice in [Advice::Cold, Advice::PageOut] {
        region.madvise(region.all(), advice).expect("madvise");
        thp::assert_huge(&region, 0..1);
    }
    child.line().send(0);
    child.join();
    FIRST.check_all(&region);
}

/// MADV_FREE of a part makes that part free, and nothing else: after reclaim it may be zero, the
/// rest has its content.
#[test_case(0..1; "first_page")]
#[test_case(100..356; "half")]
fn free_of_a_part_spares_the_rest(part: std::ops::Range<usize>) {
    enter!();
    let size = OneSize::of(9);
    let region = size.filled();
    region
        .madvise(pages(part.clone()), Advice::Free)
        .expect("MADV_FREE");
    region
        .madvise(region.all(), Advice::PageOut)
        .expect("MADV_PAGEOUT");
    FIRST.check(&region, 0..part.start);
    FIRST.check(&region, part.end..PAGES_PER_PMD);
    for number in part {
        let zero = guard::load(region.page_addr(number)) == Ok(0);
        if zero {
            check_zero(&region, number..number + 1);
        } else {
            FIRST.check(&region, number..number + 1);
        }
    }
}

/// A huge page that was freed lazily is dropped whole by reclaim: its memory is counted no more,
/// its page table is gone, and zeros are read there.
#[test]
fn lazily_freed_huge_page_is_dropped() {
    enter!();
    let size = OneSize::of(9);
    let region = size.filled();
    let rss = status_kib("RssAnon");
    let before = Snapshot::take();
    region
        .madvise(region.all(), Advice::Free)
        .expect("MADV_FREE");
    assert_eq!(
        selftests::pagemap::smaps::kib(&region, &region.all(), "LazyFree"),
        2048
    );
    selftests::collapse::drain_lru();
    region
        .madvise(region.all(), Advice::PageOut)
        .expect("MADV_PAGEOUT");
    let entries = pagemap::entries(&region, 0, PAGES_PER_PMD);
    let left = entries
        .iter()
        .filter(|e| e.present() || e.swapped())
        .count();
    assert_eq!(left, 0, "pages that are still there");
    near("RssAnon", status_kib("RssAnon") - rss, -2048);
    Expect::new()
        .delta("2048kB/nr_anon", -1)
        .delta("nr_anon_transparent_hugepages", -1)
        .unchanged(&["thp_split_page"])
        .check_settled(&before);
    check_zero(&region, 0..PAGES_PER_PMD);
}

/// What was freed lazily and written again is kept: the folio that was written, all of it.
#[test_case(0; "small")]
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn memory_written_after_free_is_kept(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    region
        .madvise(region.all(), Advice::Free)
        .expect("MADV_FREE");
    FIRST.fill(&region, 9..10);
    selftests::collapse::drain_lru();
    region
        .madvise(region.all(), Advice::PageOut)
        .expect("MADV_PAGEOUT");
    let first = 9 / size.pages() * size.pages();
    let kept = if release() <= (6, 12) && order < 9 {
        // Of a folio that is mapped page by page, each is looked at for itself.
        9..10
    } else {
        first..first + size.pages()
    };
    FIRST.check(&region, kept);
}

/// MADV_COLD makes a huge page old: its accessed bit is gone, its content is not.
#[test]
fn cold_huge_page_is_old() {
    enter!();
    let size = OneSize::of(9);
    let region = size.filled();
    let referenced = |r: &Region| selftests::pagemap::smaps::kib(r, &r.all(), "Referenced");
    assert_eq!(referenced(&region), 2048, "just written");
    selftests::collapse::drain_lru();
    region
        .madvise(region.all(), Advice::Cold)
        .expect("MADV_COLD");
    assert_eq!(referenced(&region), 0, "after MADV_COLD");
    thp::assert_huge(&region, 0..1);
    FIRST.check_all(&region);
}

/// Memory locked as huge pages is counted whole in `Mlocked` and `VmLck`, is not split by a
/// request to, and its end of locking counts it off again.
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn locked_folios_are_counted_whole(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    let before = Snapshot::take();
    region
        .mlock(region.all())
        .unwrap_or_else(|errno| skip!("mlock of 2 MiB: {errno} (RLIMIT_MEMLOCK)"));
    Expect::new()
        .delta("nr_mlock", 512)
        .delta("VmLck", 2048)
        .check(&before);
    let flags = |number: usize| {
        let pfn = pagemap::entries(&region, number, 1)[0].pfn();
        kpage::flags(pfn.expect("a locked page is present"), 1).expect("root may read kpageflags")
    };
    assert!(flags(0)[0].unevictable(), "a locked folio is evictable");
    let _ = region.madvise(region.all(), Advice::PageOut);
    FIRST.check_all(&region);
    region.munlock(region.all()).expect("munlock");
    Expect::new()
        .unchanged(&["nr_mlock", "VmLck"])
        .check(&before);
    FIRST.check_all(&region);
    // Unmapped while locked, they are counted off as well.
    region.mlock(region.all()).expect("mlock");
    drop(region);
    Expect::new()
        .unchanged(&["nr_mlock", "VmLck"])
        .check_settled(&before);
}

/// Read-only memory that came back from swap refuses stores, and writable again takes them.
#[test_case(2; "order_2")]
#[test_case(9; "huge")]
fn swap_keeps_read_only_memory_read_only(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    page_out(&region, 0..PAGES_PER_PMD);
    region.mprotect(region.all(), Prot::READ).expect("mprotect");
    FIRST.check_all(&region);
    for number in [0, 7, 511] {
        assert!(
            guard::store(region.page_addr(number), 1).is_err(),
            "a store to page {number} of read-only memory"
        );
    }
    region
        .mprotect(region.all(), Prot::READ_WRITE)
        .expect("mprotect");
    let faults = minor_faults();
    FIRST.next().fill(&region, 0..1);
    assert!(minor_faults() - faults <= 1, "faults of one page");
    FIRST.next().check(&region, 0..1);
    FIRST.check(&region, 1..PAGES_PER_PMD);
}
