// SPDX-License-Identifier: GPL-2.0-only
//! Pages of which only a page table knows that they were written, or only the page itself: reclaim
//! and MADV_FREE must ask both.

use selftests::collapse::drain_lru;
use selftests::mapping::{Advice, PAGES_PER_PMD, pages};
use selftests::pattern::{FIRST, check_zero};
use selftests::swap;
use selftests::usermem::HeldPage;
use selftests::{child, enter, outcome, pagemap, skip};
use test_case::test_case;

use crate::files::{Cached, Kind, page_out};
use crate::sizes::OneSize;

/// What takes the page table's entries away after a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// munmap of all.
    Munmap,
    /// munmap page by page.
    Pages,
    /// MADV_DONTNEED.
    DontNeed,
    /// Reclaim, while it is mapped.
    Reclaim,
}

/// A page of shmem that was loaded first, when it was a hole, is mapped writable and clean, so that
/// a store to it shows in the page table alone. It is kept when that goes and memory gets short.
#[test_case(Kind::Shmem(0), Ends::Munmap; "small_munmap")]
#[test_case(Kind::Shmem(4), Ends::Munmap; "order_4_munmap")]
#[test_case(Kind::Shmem(9), Ends::Munmap; "huge_munmap")]
#[test_case(Kind::Shmem(4), Ends::Pages; "order_4_munmap_of_pages")]
#[test_case(Kind::Shmem(9), Ends::Pages; "huge_munmap_of_pages")]
#[test_case(Kind::Shmem(0), Ends::DontNeed; "small_dontneed")]
#[test_case(Kind::Shmem(4), Ends::DontNeed; "order_4_dontneed")]
#[test_case(Kind::Shmem(9), Ends::DontNeed; "huge_dontneed")]
#[test_case(Kind::Shmem(0), Ends::Reclaim; "small_reclaim")]
#[test_case(Kind::Shmem(4), Ends::Reclaim; "order_4_reclaim")]
#[test_case(Kind::Shmem(9), Ends::Reclaim; "huge_reclaim")]
fn store_after_load_is_kept(kind: Kind, ends: Ends) {
    enter!();
    if kind == Kind::Shmem(9) && matches!(ends, Ends::Munmap | Ends::DontNeed) {
        outcome::known_bug(
            (6, 12),
            "zap_huge_pmd() forgets that a huge page of shmem was written",
        );
    }
    let cached = Cached::new(kind);
    let mut region = cached.map();
    check_zero(&region, 0..PAGES_PER_PMD);
    FIRST.fill_all(&region);
    match ends {
        Ends::Munmap => drop(region),
        Ends::Pages => {
            for number in (0..PAGES_PER_PMD).rev() {
                region.munmap(pages(number..number + 1)).expect("munmap");
            }
        }
        Ends::DontNeed => region
            .madvise(region.all(), Advice::DontNeed)
            .expect("MADV_DONTNEED"),
        Ends::Reclaim => page_out(&region),
    }
    cached.reclaim();
    cached.check(FIRST);
}

/// Why memory of several processes gets lost after swap.
pub const CLEAN_IN_BOTH: &str =
    "what a synchronous device swaps in is clean in page table and page";

/// Memory that came back from swap by loads is clean in the page table, and only the page itself
/// knows that it has no other place. A child that gives its share free takes nothing from its parent.
#[test_case(0; "small")]
#[test_case(2; "order_2")]
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn free_by_a_child_spares_the_parent(order: u8) {
    enter!();
    outcome::known_bug((6, 12), CLEAN_IN_BOTH);
    if !swap::is_on() {
        skip!("no swap: the guest needs CONFIG_ZRAM or a swap device");
    }
    let size = OneSize::of(order);
    let region = size.filled();
    swap::page_out(&region, 0..PAGES_PER_PMD);
    FIRST.check_all(&region);
    child::run_to_end(|_| {
        region
            .madvise(region.all(), Advice::Free)
            .expect("MADV_FREE");
        FIRST.check_all(&region);
    });
    drain_lru();
    region
        .madvise(region.all(), Advice::PageOut)
        .expect("MADV_PAGEOUT");
    FIRST.check_all(&region);
}

/// The same, given free by the parent: the child keeps what it shares.
#[test_case(0; "small")]
#[test_case(4; "order_4")]
fn free_by_the_parent_spares_a_child(order: u8) {
    enter!();
    outcome::known_bug((6, 12), CLEAN_IN_BOTH);
    let size = OneSize::of(order);
    let region = size.filled();
    swap::page_out(&region, 0..PAGES_PER_PMD);
    FIRST.check_all(&region);
    let child = child::start(|parent| {
        parent.receive();
        drain_lru();
        region
            .madvise(region.all(), Advice::PageOut)
            .expect("MADV_PAGEOUT");
        FIRST.check_all(&region);
    });
    region
        .madvise(region.all(), Advice::Free)
        .expect("MADV_FREE");
    region
        .madvise(region.all(), Advice::DontNeed)
        .expect("MADV_DONTNEED");
    child.line().send(0);
    child.join();
}

/// What was given free is not dropped while somebody refers to the page: what a pipe holds may
/// yet be written by who maps it.
#[test_case(0; "small")]
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn free_page_with_a_reference_is_kept(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    let held = HeldPage::take(region.page_addr(77)).expect("vmsplice");
    region
        .madvise(region.all(), Advice::Free)
        .expect("MADV_FREE");
    drain_lru();
    region
        .madvise(region.all(), Advice::PageOut)
        .expect("MADV_PAGEOUT");
    let entry = pagemap::entries(&region, 77, 1)[0];
    assert!(entry.present(), "the page in the pipe is {entry:?} now");
    FIRST.check(&region, 77..78);
    let bytes = FIRST.page(77).map(u64::to_ne_bytes).concat();
    assert!(held.content() == bytes, "what came out of the pipe");
}
