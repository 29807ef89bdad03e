// SPDX-License-Identifier: GPL-2.0-only
//! Small pages and folios of a middle size that move to another NUMA node: what was known of each
//! page is known of it there.

use selftests::counters::{Expect, Snapshot, minor_faults, status_kib};
use selftests::folios::{Page, census};
use selftests::mapping::{Advice, PAGES_PER_PMD, Prot, Region, pages};
use selftests::pattern::FIRST;
use selftests::swap::page_out;
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{child, enter, guard, numa, outcome, pagemap, skip};
use test_case::test_case;

use crate::dirty::CLEAN_IN_BOTH;
use crate::files::{Cached, Kind};
use crate::sizes::{OneSize, found};

/// Moves everything to the node where it is not, and proves that it went.
#[track_caller]
fn move_away(region: &Region, size: &OneSize) {
    let (one, other) = numa::two_nodes();
    let nodes = numa::nodes_of(region, &region.all()).expect("move_pages");
    let away = if nodes[0] == Ok(one) { other } else { one };
    numa::bind(region, &region.all(), away).expect("mbind");
    let nodes = numa::nodes_of(region, &region.all()).expect("move_pages");
    let left = nodes.iter().position(|node| *node != Ok(away));
    assert_eq!(left, None, "a page that did not move");
    let folios = found(region);
    assert!(
        folios.iter().all(|folio| folio.order == size.order),
        "folios of other sizes after the move: {folios:?}"
    );
}

/// Memory that moved has its content, also after it went to swap from its new place, and its end
/// gives all of it back.
#[test_case(0; "small")]
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn moved_memory_goes_through_swap(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    move_away(&region, &size);
    FIRST.check_all(&region);
    page_out(&region, 0..PAGES_PER_PMD);
    FIRST.check_all(&region);
    FIRST.next().fill_all(&region);
    page_out(&region, 0..PAGES_PER_PMD);
    FIRST.next().check_all(&region);
}

/// Read-only pages of a process alone stay its own: writable again, they take stores without a
/// fault, at their new place.
#[test_case(0; "small")]
#[test_case(4; "order_4")]
fn moved_read_only_pages_stay_ours(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    region.mprotect(region.all(), Prot::READ).expect("mprotect");
    move_away(&region, &size);
    region
        .mprotect(region.all(), Prot::READ_WRITE)
        .expect("mprotect");
    let bytes: Vec<u8> = (0..PAGES_PER_PMD)
        .map(|number| FIRST.page(number)[0] as u8)
        .collect();
    let faults = minor_faults();
    for (number, byte) in bytes.iter().enumerate() {
        guard::store(region.page_addr(number), *byte).expect("a store to our own memory");
    }
    assert_eq!(minor_faults() - faults, 0, "faults of a store to each page");
    FIRST.check_all(&region);
}

/// userfaultfd's write-protection moves along, page by page.
#[test_case(0; "small")]
#[test_case(4; "order_4")]
fn moved_pages_keep_write_protection(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    let uffd = Uffd::open(feature::WP | feature::WP_ASYNC);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    uffd.write_protect(&region, &pages(64..256), true)
        .expect("write-protect");
    move_away(&region, &size);
    let entries = pagemap::entries(&region, 0, PAGES_PER_PMD);
    for (number, entry) in entries.iter().enumerate() {
        let protected = (64..256).contains(&number);
        assert_eq!(entry.uffd_wp(), protected, "page {number} is {entry:?}");
    }
    FIRST.next().fill_all(&region);
    let left = pagemap::entries(&region, 0, PAGES_PER_PMD)
        .iter()
        .position(|entry| entry.uffd_wp());
    assert_eq!(left, None, "a page that was written and is still protected");
    FIRST.next().check_all(&region);
}

/// What was given free and then written is needed, and moves as such: reclaim keeps it.
#[test_case(0; "small")]
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn moved_pages_stay_dirty(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    region
        .madvise(region.all(), Advice::Free)
        .expect("MADV_FREE");
    FIRST.next().fill_all(&region);
    move_away(&region, &size);
    selftests::collapse::drain_lru();
    region
        .madvise(region.all(), Advice::PageOut)
        .expect("MADV_PAGEOUT");
    FIRST.next().check_all(&region);
}

/// What is given free and not written is dropped, moved or not; of a folio that a child shares
/// nothing is.
#[test_case(0, false; "small")]
#[test_case(4, false; "order_4")]
#[test_case(0, true; "small_shared")]
#[test_case(4, true; "order_4_shared")]
fn freed_pages_are_dropped_unless_shared(order: u8, shared: bool) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    let child = shared.then(|| {
        child::start(|parent| {
            parent.receive();
            FIRST.check_all(&region);
        })
    });
    let rss = status_kib("RssAnon");
    region
        .madvise(region.all(), Advice::Free)
        .expect("MADV_FREE");
    selftests::collapse::drain_lru();
    region
        .madvise(region.all(), Advice::PageOut)
        .expect("MADV_PAGEOUT");
    let Some(child) = child else {
        let left = pagemap::entries(&region, 0, PAGES_PER_PMD)
            .iter()
            .position(|entry| entry.present() || entry.swapped());
        assert_eq!(left, None, "a page that is still there");
        let freed = rss - status_kib("RssAnon");
        assert!((1900..=2200).contains(&freed), "{freed} kB freed");
        return;
    };
    FIRST.check_all(&region);
    child.line().send(0);
    child.join();
    FIRST.check_all(&region);
}

/// Where [`kept_flags`] has these.
const DIRTY: usize = 3;
const UNEVICTABLE: usize = 4;

/// Flags of each page's folio that must be at its new place what they were.
#[track_caller]
fn kept_flags(region: &Region) -> Vec<[bool; 5]> {
    let entries = pagemap::entries(region, 0, PAGES_PER_PMD);
    let pages = census(&entries).expect("root may read kpageflags");
    let of_folio = |page: Option<Page>| {
        let head = page.expect("a page that is there").head;
        [
            head.uptodate(),
            head.swapbacked(),
            head.anon(),
            head.dirty(),
            head.unevictable(),
        ]
    };
    pages.into_iter().map(of_folio).collect()
}

/// What a test does to memory before it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Filled,
    Locked,
    Free,
    FromSwap,
}

/// Flags and counters of folios are at their new place what they were: valid, dirty, going to swap
/// or free to drop, locked.
#[test_case(0, State::Filled; "small")]
#[test_case(4, State::Filled; "order_4")]
#[test_case(9, State::Filled; "huge")]
#[test_case(0, State::Locked; "small_locked")]
#[test_case(4, State::Locked; "order_4_locked")]
#[test_case(9, State::Locked; "huge_locked")]
#[test_case(0, State::Free; "small_free")]
#[test_case(4, State::Free; "order_4_free")]
#[test_case(0, State::FromSwap; "small_from_swap")]
#[test_case(4, State::FromSwap; "order_4_from_swap")]
fn moved_folios_keep_their_flags(order: u8, state: State) {
    enter!();
    match (order, state) {
        (_, State::FromSwap) => outcome::known_bug((6, 12), CLEAN_IN_BOTH),
        (9, State::Locked) => outcome::known_bug(
            (6, 12),
            "remove_migration_pmd() does not count a locked huge page",
        ),
        _ => {}
    }
    numa::two_nodes();
    let size = OneSize::of(order);
    let region = size.filled();
    match state {
        State::Filled => {}
        State::Locked => region
            .mlock(region.all())
            .unwrap_or_else(|errno| skip!("mlock of 2 MiB: {errno} (RLIMIT_MEMLOCK)")),
        State::Free => region
            .madvise(region.all(), Advice::Free)
            .expect("MADV_FREE"),
        State::FromSwap => {
            page_out(&region, 0..PAGES_PER_PMD);
            FIRST.check_all(&region);
        }
    }
    selftests::collapse::drain_lru();
    let flags = kept_flags(&region);
    let mut expect = Expect::new();
    // Pages of a middle-sized folio are mapped again one by one, and reclaim has to find out
    // that it is locked.
    let found_later = state == State::Locked && order == 4;
    if !found_later {
        expect = expect.unchanged(&["nr_mlock"]);
    }
    if order > 0 {
        expect = expect.unchanged(&[&size.counter("nr_anon")]);
    }
    let before = Snapshot::all_sizes();
    move_away(&region, &size);
    selftests::collapse::drain_lru();
    expect.check(&before);
    for (number, (before, after)) in flags.iter().zip(kept_flags(&region)).enumerate() {
        let mut wanted = *before;
        // What page tables know of stores the folio knows when they are gone.
        wanted[DIRTY] |= state != State::Free;
        wanted[UNEVICTABLE] &= !found_later;
        assert_eq!(
            after, wanted,
            "uptodate, swapbacked, anon, dirty, unevictable of page {number}"
        );
    }
    FIRST.check_all(&region);
}

/// Pages of files move with what they hold and with what is to be written.
#[test_case(Kind::Shmem(0); "shmem_small")]
#[test_case(Kind::Shmem(4); "shmem_order_4")]
#[test_case(Kind::Shmem(9); "shmem_huge")]
#[test_case(Kind::Ext4; "ext4")]
fn moved_pages_of_files_are_kept(kind: Kind) {
    enter!();
    let (one, other) = numa::two_nodes();
    let cached = Cached::new(kind);
    let region = cached.map();
    FIRST.fill_all(&region);
    for node in [one, other, one] {
        numa::bind(&region, &region.all(), node).expect("mbind");
        let nodes = numa::nodes_of(&region, &region.all()).expect("move_pages");
        let left = nodes.iter().position(|found| *found != Ok(node));
        assert_eq!(left, None, "a page that did not move to node {node}");
        FIRST.check_all(&region);
        cached.check(FIRST);
    }
    drop(region);
    cached.reclaim();
    cached.check(FIRST);
}
