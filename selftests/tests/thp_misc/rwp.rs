// SPDX-License-Identifier: GPL-2.0-only
//! userfaultfd's protection against every access (RWP, since 7.3) of folios of every size: it
//! stays with each page through whatever happens to it, and the next access is noticed.

use std::ops::Range;
use std::time::Duration;

use selftests::collapse::drain_lru;
use selftests::counters::minor_faults;
use selftests::gup::{Pin, Way};
use selftests::mapping::{Advice, PAGES_PER_PMD, PMD, Prot, Region, Source, pages};
use selftests::pagemap::{self, scan};
use selftests::pattern::FIRST;
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{child, enter, guard, numa, settings, skip, swap, thp, usermem, watched};
use test_case::test_case;

use crate::sizes::OneSize;

/// Long enough for another thread to get somewhere.
const SOON: Duration = Duration::from_secs(30);
/// Pages that stand for all.
const SOME: [usize; 7] = [0, 1, 63, 255, 256, 510, 511];
/// Accesses end the protection of their page.
const ASYNC: u64 = feature::RWP | feature::RWP_ASYNC;

/// Protects all of a region.
#[track_caller]
fn protect(region: &Region, features: u64) -> Uffd {
    let uffd = Uffd::open(features);
    uffd.register(region, &region.all(), Mode::RWP)
        .unwrap_or_else(|errno| skip!("UFFDIO_REGISTER_MODE_RWP: {errno}"));
    uffd.rw_protect(region, &region.all(), true)
        .expect("UFFDIO_RWPROTECT");
    uffd
}

/// The pages that are marked as protected.
fn marked(region: &Region) -> Vec<usize> {
    let entries = pagemap::entries(region, 0, PAGES_PER_PMD);
    let is = |number: &usize| entries[*number].uffd_wp();
    (0..PAGES_PER_PMD).filter(is).collect()
}

#[track_caller]
fn assert_marked(region: &Region, numbers: impl IntoIterator<Item = usize>, when: &str) {
    let wanted: Vec<usize> = numbers.into_iter().collect();
    let found = marked(region);
    let wrong = (0..PAGES_PER_PMD).find(|n| found.contains(n) != wanted.contains(n));
    assert_eq!(wrong, None, "{when}: a page that is or is not protected");
}

/// Checks that one load of each page of [`SOME`] ends its protection: so it was more than a mark.
/// A huge page is one entry, and one load is enough for all of it.
#[track_caller]
fn assert_loads_are_noticed(region: &Region, when: &str) {
    let mut left = marked(region);
    let looked_at: Vec<usize> = SOME.into_iter().filter(|n| left.contains(n)).collect();
    for number in looked_at {
        let huge = thp::is_pmd_mapped(region, 0);
        guard::load(region.page_addr(number)).expect("our own memory");
        left.retain(|other| !huge && *other != number);
        assert_marked(
            region,
            left.clone(),
            &format!("{when}, page {number} loaded"),
        );
        if huge {
            break;
        }
    }
}

/// A load or a store ends the protection of what its entry maps, and of nothing else.
#[test_case(0; "small")]
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn access_ends_protection(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    let uffd = protect(&region, ASYNC);
    assert_marked(&region, 0..PAGES_PER_PMD, "protected");
    assert_loads_are_noticed(&region, "protected");
    uffd.rw_protect(&region, &region.all(), true)
        .expect("UFFDIO_RWPROTECT");
    FIRST.next().fill(&region, 100..101);
    let left = (0..PAGES_PER_PMD).filter(|number| order < 9 && *number != 100);
    assert_marked(&region, left, "stored");
    FIRST.check(&region, 0..100);
    FIRST.next().check(&region, 100..101);
    FIRST.check(&region, 101..PAGES_PER_PMD);
    assert_marked(&region, [], "all loaded");
}

/// PAGEMAP_SCAN finds exactly the pages that were used.
#[test_case(0; "small")]
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn scan_finds_what_was_used(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    let _uffd = protect(&region, ASYNC);
    let used = || {
        let found = scan::runs(&region, &region.all(), scan::Is::ACCESSED);
        found.expect("PAGEMAP_SCAN knows what userfaultfd can do")
    };
    assert_eq!(used(), [], "nothing was used");
    guard::load(region.page_addr(77)).expect("our own memory");
    let runs: Vec<Range<usize>> = used().into_iter().map(|(run, _)| run).collect();
    let wanted = if order == 9 {
        region.all()
    } else {
        pages(77..78)
    };
    assert_eq!(runs, [wanted], "used");
}

/// A part of a huge page is protected, or not any more: the entry is split, and the others are as
/// they were.
#[test]
fn part_of_a_huge_page_is_protected() {
    enter!();
    let size = OneSize::of(9);
    let region = size.filled();
    let uffd = protect(&region, ASYNC);
    uffd.rw_protect(&region, &pages(100..300), false)
        .expect("end of protection");
    thp::assert_split(&region, 0);
    assert_marked(&region, (0..100).chain(300..512), "a part freed");
    assert_loads_are_noticed(&region, "a part freed");
    FIRST.check_all(&region);
    uffd.rw_protect(&region, &pages(7..9), true)
        .expect("UFFDIO_RWPROTECT");
    assert_marked(&region, 7..9, "a part protected");
    FIRST.check_all(&region);
}

/// What else splits the entry of a huge page, or of the huge zero page, leaves each page protected.
#[test_case(false; "huge")]
#[test_case(true; "huge_zero")]
fn split_keeps_protection(zero: bool) {
    enter!();
    let _quiet = settings::quiet();
    let region = if zero {
        thp::obtain_huge_zero(1)
    } else {
        thp::obtain(1)
    };
    if !zero {
        FIRST.fill_all(&region);
    }
    let _uffd = protect(&region, ASYNC);
    region
        .madvise(pages(5..6), Advice::DontFork)
        .expect("MADV_DONTFORK");
    thp::assert_split(&region, 0);
    assert_marked(&region, 0..PAGES_PER_PMD, "split");
    assert_loads_are_noticed(&region, "split");
    if !zero {
        FIRST.check_all(&region);
    }
}

/// mprotect, there and back, leaves pages protected.
#[test_case(0; "small")]
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn mprotect_keeps_protection(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    let _uffd = protect(&region, ASYNC);
    for prot in [Prot::READ, Prot::NONE, Prot::READ_WRITE] {
        region.mprotect(region.all(), prot).expect("mprotect");
        assert_marked(&region, 0..PAGES_PER_PMD, &format!("{prot:?}"));
    }
    assert_loads_are_noticed(&region, "writable again");
    FIRST.next().fill_all(&region);
    FIRST.next().check_all(&region);
}

/// Pages that went to swap, or to another node, come back protected.
#[test_case(0, false; "small_swap")]
#[test_case(4, false; "order_4_swap")]
#[test_case(9, false; "huge_swap")]
#[test_case(0, true; "small_move")]
#[test_case(4, true; "order_4_move")]
#[test_case(9, true; "huge_move")]
fn absence_keeps_protection(order: u8, moves: bool) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    let _uffd = protect(&region, ASYNC);
    drain_lru();
    if moves {
        let (one, other) = numa::two_nodes();
        for node in [other, one] {
            numa::bind(&region, &region.all(), node).expect("mbind");
            assert_marked(&region, 0..PAGES_PER_PMD, "moved");
        }
    } else {
        swap::page_out(&region, 0..PAGES_PER_PMD);
        assert_marked(&region, 0..PAGES_PER_PMD, "in swap");
    }
    assert_loads_are_noticed(&region, "back");
    FIRST.check_all(&region);
    FIRST.next().fill_all(&region);
    FIRST.next().check_all(&region);
}

/// Page faults of a load from each address.
fn loads_and_faults(addresses: [usize; SOME.len()]) -> i64 {
    let before = minor_faults();
    for address in addresses {
        guard::load(address).expect("our own memory");
    }
    minor_faults() - before
}

/// A child that nobody told userfaultfd of is free to access its memory, without a fault for loads;
/// the parent's stays protected.
#[test_case(0; "small")]
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn child_is_not_protected(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    let _uffd = protect(&region, ASYNC);
    let child = child::start(|parent| {
        assert_marked(&region, [], "in the child");
        let own = 0_u8;
        // The stack and this code are touched for the first time in this process.
        loads_and_faults([&raw const own as usize; 7]);
        let faults = loads_and_faults(SOME.map(|number| region.page_addr(number)));
        assert_eq!(faults, 0, "faults of loads from 7 pages");
        FIRST.check_all(&region);
        FIRST.next().fill_all(&region);
        parent.send(0);
        parent.receive();
        FIRST.next().check_all(&region);
    });
    child.line().receive();
    assert_marked(&region, 0..PAGES_PER_PMD, "in the parent");
    assert_loads_are_noticed(&region, "in the parent");
    FIRST.check_all(&region);
    FIRST.next().next().fill_all(&region);
    child.line().send(0);
    child.join();
    FIRST.next().next().check_all(&region);
}

/// A child of which userfaultfd is told is protected like its parent, also where it got copies of
/// pinned pages.
#[test_case(0, false; "small")]
#[test_case(9, false; "huge")]
#[test_case(0, true; "small_pinned")]
#[test_case(9, true; "huge_pinned")]
fn child_with_the_event_is_protected(order: u8, pinned: bool) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    let part = pages(70..72);
    let pin = pinned.then(|| Pin::take(&region, &part, Way::Write).expect("pin"));
    let uffd = protect(&region, ASYNC | feature::EVENT_FORK);
    let child = watched::start(&uffd, |_| {
        assert_marked(&region, 0..PAGES_PER_PMD, "in the child");
        assert_loads_are_noticed(&region, "in the child");
        FIRST.check_all(&region);
    });
    child.join();
    assert_marked(&region, 0..PAGES_PER_PMD, "in the parent");
    assert_loads_are_noticed(&region, "in the parent");
    FIRST.check_all(&region);
    if let Some(pin) = pin {
        pin.assert_coherent(&region, &part);
    }
}

/// Moved by mremap, memory is not protected any more and needs no fault; moved by UFFDIO_MOVE to
/// where userfaultfd protects, it is.
#[test_case(0; "small")]
#[test_case(9; "huge")]
fn moved_memory_is_as_its_new_place(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let mut region = size.filled();
    let uffd = protect(&region, ASYNC);
    let mut target = Region::reserved(PMD).expect("address space");
    region
        .mremap_into(0..PMD, &mut target, 0, Source::Goes)
        .expect("mremap");
    assert_marked(&target, [], "after mremap");
    let faults = loads_and_faults(SOME.map(|number| target.page_addr(number)));
    assert_eq!(faults, 0, "faults of loads");
    FIRST.check_all(&target);
    drop(uffd);
    let again = size.untouched();
    let uffd = Uffd::open(ASYNC | feature::MOVE);
    uffd.register(&again, &again.all(), Mode::MISSING_AND_RWP)
        .expect("register");
    let moved = uffd.move_pages(&target, &target.all(), &again, 0);
    assert_eq!(moved, Ok(PMD), "bytes moved");
    assert_marked(&again, 0..PAGES_PER_PMD, "after UFFDIO_MOVE");
    assert_loads_are_noticed(&again, "after UFFDIO_MOVE");
    FIRST.check_all(&again);
}

/// Who waits for an access is told of it, with its address, and it happens when the protection has
/// ended; what the kernel takes for somebody counts as an access.
#[test_case(0; "small")]
#[test_case(9; "huge")]
fn access_waits_for_an_answer(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    let uffd = protect(&region, feature::RWP);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| guard::load(region.page_addr(300) + 8));
        let event = uffd.event(SOON).expect("read").expect("an event");
        assert!(event.rwp && !event.wp, "{event:?}");
        assert_eq!(event.address, region.page_addr(300));
        assert_marked(&region, 0..PAGES_PER_PMD, "before the answer");
        uffd.rw_protect(&region, &region.all(), false)
            .expect("end of protection");
        let loaded = reader.join().expect("a thread that loads");
        assert_eq!(loaded, Ok(FIRST.page(300)[1] as u8), "what was loaded");
    });
    assert_marked(&region, [], "after the answer");
    drop(uffd);
    let _uffd = protect(&region, ASYNC);
    let content = usermem::splice_page(region.page_addr(300)).expect("vmsplice");
    assert!(content == FIRST.page(300).map(u64::to_ne_bytes).concat());
    assert!(!marked(&region).contains(&300), "vmsplice was not noticed");
    FIRST.check_all(&region);
}

/// The end of userfaultfd is the end of protection, and pages that were protected are written in
/// place.
#[test_case(0; "small")]
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn end_of_userfaultfd_ends_protection(order: u8) {
    enter!();
    let size = OneSize::of(order);
    let region = size.filled();
    let frames = thp::frames(&region, 0);
    let uffd = protect(&region, feature::RWP);
    drop(uffd);
    assert_marked(&region, [], "closed");
    FIRST.check_all(&region);
    FIRST.next().fill_all(&region);
    FIRST.next().check_all(&region);
    assert_eq!(thp::frames(&region, 0), frames, "stores made copies");
}

/// Protected small pages are not made a huge page, which would lose their marks.
#[test]
fn protected_pages_are_not_collapsed() {
    enter!();
    let size = OneSize::of(0);
    let region = size.filled();
    let _uffd = protect(&region, ASYNC);
    let refused = region.madvise(region.all(), Advice::Collapse);
    assert!(refused.is_err(), "MADV_COLLAPSE of protected pages");
    assert_marked(&region, 0..PAGES_PER_PMD, "not collapsed");
    assert_loads_are_noticed(&region, "not collapsed");
    FIRST.check_all(&region);
}
