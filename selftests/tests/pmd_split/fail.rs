// SPDX-License-Identifier: GPL-2.0-only
//! Allocation failures at every call that splits: each allocation of the call is
//! made to fail in turn. The call fails as documented and has done nothing, or
//! it succeeds and has done everything; nothing in between, and no leak.

use nix::errno::Errno;
use selftests::counters::{Expect, Snapshot};
use selftests::failnth::{Injected, Injection};
use selftests::gup;
use selftests::hmm::{Dmirror, Memory, Span};
use selftests::mapping::{Advice, PAGE, PMD, Prot, Region, Source, pages};
use selftests::pagemap::scan;
use selftests::pattern::{Content, FIRST, Stamp};
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{child, enter, guard, settings, skip, thp};

use crate::fixture::*;

/// More allocations than any of the calls makes.
const MOST: u32 = 400;

/// Runs `operation` on a new filled huge page for each allocation that can
/// fail. `done` checks the effect of a success; after a failure with one of
/// `documented`, the region must be as before.
#[track_caller]
fn each_failure(
    documented: &[Errno],
    mut operation: impl FnMut(&mut Region) -> Result<(), Errno>,
    mut done: impl FnMut(&Region, Injected),
) {
    let _quiet = settings::quiet();
    let injection = Injection::of_all_allocations();
    let baseline = Snapshot::take();
    for nth in 1..=MOST {
        let mut region = thp::obtain(1);
        FIRST.fill_all(&region);
        let (result, injected) = injection.call(nth, || operation(&mut region));
        match result {
            Ok(()) => done(&region, injected),
            Err(errno) if injected == Injected::Yes && documented.contains(&errno) => {
                assert_as_before(&region, nth);
            }
            Err(errno) => panic!("allocation {nth} ({injected:?}): undocumented {errno}"),
        }
        drop(region);
        if injected == Injected::No {
            Expect::new()
                .unchanged(&[
                    "2048kB/nr_anon",
                    "2048kB/nr_anon_partially_mapped",
                    "nr_anon_transparent_hugepages",
                ])
                .check_settled(&baseline);
            println!("{} allocations failed in turn", nth - 1);
            return;
        }
    }
    panic!("more than {MOST} allocations in one call");
}

/// Every page has its content and can be written without a fault.
#[track_caller]
fn assert_as_before(region: &Region, nth: u32) {
    let wrong = Content::Stamped(FIRST).mismatches(region.addr(), 0..512);
    assert!(
        wrong.is_empty(),
        "after failure of allocation {nth}: {:?}",
        wrong[0]
    );
    assert_eq!(
        write_each(region, 0..512),
        0,
        "faults after failure of allocation {nth}"
    );
}

/// munmap: `ENOMEM`, and nothing is unmapped.
#[test]
fn munmap() {
    enter!();
    each_failure(
        &[Errno::ENOMEM],
        |region| region.munmap(pages(9..10)),
        |region, _| {
            assert_unmapped(region, 9..10);
            check_others(region, &(9..10));
        },
    );
}

/// mprotect: `ENOMEM`, and every page is still writable.
#[test]
fn mprotect() {
    enter!();
    each_failure(
        &[Errno::ENOMEM],
        |region| region.mprotect(pages(9..10), Prot::READ),
        |region, _| {
            assert_read_only(region, 9..10);
            FIRST.check_all(region);
        },
    );
}

/// mlock: `ENOMEM` or `EAGAIN`.
#[test]
fn mlock() {
    enter!();
    each_failure(
        &[Errno::ENOMEM, Errno::EAGAIN],
        |region| region.mlock(pages(9..10)),
        |region, _| FIRST.check_all(region),
    );
}

/// madvise that divides the mapping: `ENOMEM` or `EAGAIN`.
#[test]
fn madvise() {
    enter!();
    each_failure(
        &[Errno::ENOMEM, Errno::EAGAIN],
        |region| region.madvise(pages(9..10), Advice::DontFork),
        |region, _| FIRST.check_all(region),
    );
}

/// `MADV_DONTNEED` of a part: either the page is zero or it is as before.
#[test]
fn madv_dontneed() {
    enter!();
    each_failure(
        &[Errno::ENOMEM],
        |region| region.madvise(pages(9..10), Advice::DontNeed),
        |region, _| {
            selftests::pattern::check_zero(region, 9..10);
            check_others(region, &(9..10));
        },
    );
}

/// mremap of a part: `ENOMEM`, and every page is where it was.
#[test]
fn mremap() {
    enter!();
    let target = std::cell::RefCell::new(Region::reserved(PMD).expect("address space"));
    each_failure(
        &[Errno::ENOMEM],
        |region| {
            region.mremap_into(
                pages(9..11),
                &mut target.borrow_mut(),
                9 * PAGE,
                Source::Goes,
            )
        },
        |region, injected| {
            FIRST.check(&target.borrow(), 9..11);
            if injected == Injected::No || guard::load(region.page_addr(9)).is_err() {
                assert_unmapped(region, 9..11);
            } else {
                // When the old place cannot be unmapped for lack of memory, it
                // stays, empty: mremap does not undo the move for that.
                selftests::pattern::check_zero(region, 9..11);
            }
            check_others(region, &(9..11));
            let emptied = target.borrow().madvise(pages(9..11), Advice::DontNeed);
            emptied.expect("madvise");
        },
    );
}

/// A write fault that has to split a shared huge page: the fault is repeated,
/// the copy is the writer's own, and the other side sees nothing.
#[test]
fn cow_fault() {
    enter!();
    let _quiet = settings::quiet();
    let injection = Injection::of_all_allocations();
    let baseline = Snapshot::take();
    for nth in 1..=MOST {
        let region = thp::obtain(1);
        FIRST.fill_all(&region);
        let child = child::start(|parent| {
            parent.receive();
            FIRST.check_all(&region);
        });
        let at = region.page_addr(9);
        let (stored, injected) = injection.call(nth, || guard::store(at, 0xa5));
        assert_eq!(stored, Ok(()), "store with allocation {nth} failing");
        assert_eq!(
            guard::load(at),
            Ok(0xa5),
            "page 9 with allocation {nth} failing"
        );
        check_others(&region, &(9..10));
        child.line().send(0);
        child.join();
        drop(region);
        if injected == Injected::No {
            Expect::new()
                .unchanged(&["2048kB/nr_anon"])
                .check_settled(&baseline);
            return;
        }
    }
    panic!("more than {MOST} allocations in one fault");
}

/// get_user_pages() that splits: `ENOMEM` or nothing got, and all is as before.
#[test]
fn gup() {
    enter!();
    let file = gup::open();
    each_failure(
        &[Errno::ENOMEM, Errno::EFAULT],
        |region| gup::get_once_split(&file, region, &pages(9..10), 0),
        |region, _| FIRST.check_all(region),
    );
}

/// UFFDIO_MOVE of a part: an error, and the page is still in its place.
#[test]
fn uffd_move() {
    enter!();
    let uffd = Uffd::open(feature::MOVE);
    let target = std::cell::RefCell::new(Region::private(PMD).expect("address space"));
    uffd.register(&target.borrow(), &(0..PMD), Mode::MISSING)
        .expect("register");
    each_failure(
        &[Errno::ENOMEM, Errno::EAGAIN, Errno::EBUSY],
        |region| {
            let moved = uffd.move_pages(region, &pages(9..10), &target.borrow(), 9 * PAGE);
            moved.map(drop)
        },
        |region, _| {
            FIRST.check(&target.borrow(), 9..10);
            selftests::pattern::check_zero(region, 9..10);
            check_others(region, &(9..10));
            let emptied = target.borrow().madvise(0..PMD, Advice::DontNeed);
            emptied.expect("madvise");
        },
    );
}

/// PAGEMAP_SCAN that protects a part: `ENOMEM`, and nothing is protected.
#[test]
fn pagemap_scan() {
    enter!();
    let uffd = Uffd::open(feature::WP | feature::WP_ASYNC | feature::WP_UNPOPULATED);
    let probe = Region::private(PAGE).expect("address space");
    if scan::runs(&probe, &probe.all(), scan::Is::default()) == Err(Errno::ENOTTY) {
        skip!("no PAGEMAP_SCAN (since 6.7)");
    }
    let _quiet = settings::quiet();
    let injection = Injection::of_all_allocations();
    for nth in 1..=MOST {
        let region = thp::obtain(1);
        FIRST.fill_all(&region);
        uffd.register(&region, &region.all(), Mode::WP)
            .expect("register");
        let (found, injected) = injection.call(nth, || {
            scan::write_protect(&region, &pages(9..10), scan::Is::WRITTEN)
        });
        let entry = selftests::pagemap::entries(&region, 9, 1)[0];
        match found {
            Ok(runs) => {
                assert_eq!(runs.len(), 1, "runs with allocation {nth} failing");
                assert!(entry.uffd_wp(), "page 9 was reported and is not protected");
                assert_eq!(write_each(&region, [9]), 1, "faults of the protected page");
            }
            Err(Errno::ENOMEM) if injected == Injected::Yes => {
                assert!(
                    !entry.uffd_wp(),
                    "page 9 is protected though the call failed"
                );
            }
            Err(errno) => panic!("allocation {nth} ({injected:?}): undocumented {errno}"),
        }
        assert_as_before(&region, nth);
        if injected == Injected::No {
            return;
        }
    }
    panic!("more than {MOST} allocations in one scan");
}

/// fork of a pinned huge page: no child and all as before, or a child with its
/// own copy of everything.
#[test]
fn fork() {
    enter!();
    let _quiet = settings::quiet();
    // Only page tables and pages: the many small objects of a new process
    // have nothing to do with huge pages.
    let injection = Injection::of_pages(0);
    let pin_file = gup::open();
    let region = thp::obtain(1);
    FIRST.fill_all(&region);
    let pinned = pages(33..34);
    let pin = gup::Pin::take_on(pin_file, &region, &pinned, gup::Way::Write).expect("pin");
    let baseline = Snapshot::take();
    // Page tables come first; then each of the 512 pages is copied.
    let each_table_some_pages = (1..24).chain((24..3000).step_by(97));
    for nth in each_table_some_pages {
        let (child, injected) = child::try_fork_by(
            |fork| injection.call(nth, fork),
            |_| {
                FIRST.check_all(&region);
                Stamp::of(2).fill(&region, 30..40);
            },
        );
        match child {
            Ok(child) => child.join(),
            Err(Errno::ENOMEM | Errno::EAGAIN) if injected == Injected::Yes => {}
            Err(errno) => panic!("allocation {nth} ({injected:?}): undocumented {errno}"),
        }
        FIRST.check_all(&region);
        pin.assert_coherent(&region, &pinned);
        if injected == Injected::No {
            Expect::new()
                .unchanged(&["2048kB/nr_anon", "thp_split_page"])
                .check_settled(&baseline);
            return;
        }
    }
    panic!("more than 3000 page allocations in one fork");
}

/// Migration of a part of a huge page to device memory: whatever fails, every
/// page is readable with its content afterwards.
#[test]
fn dev_migrate() {
    enter!();
    let _quiet = settings::quiet();
    let injection = Injection::of_pages(0);
    let device = Dmirror::open(Memory::Private);
    // The driver's first use sets up its memory; that is not what shall fail.
    let warm = thp::obtain(1);
    device.to_dev(Span::of(&warm, 16..32)).expect("a migration");
    drop(warm);
    let baseline = Snapshot::take();
    for nth in 1..=MOST {
        let region = thp::obtain(1);
        FIRST.fill_all(&region);
        let span = Span::of(&region, 16..32);
        let (moved, injected) = injection.call(nth, || device.to_dev(span));
        if let Err(refusal) = moved {
            let expected = matches!(refusal.errno, Errno::ENOENT | Errno::ENOMEM);
            assert!(
                expected && injected == Injected::Yes,
                "allocation {nth} ({injected:?}): {refusal}"
            );
        }
        FIRST.check_all(&region);
        FIRST.next().fill_all(&region);
        FIRST.next().check_all(&region);
        drop(region);
        if injected == Injected::No {
            Expect::new()
                .unchanged(&["2048kB/nr_anon", "2048kB/nr_anon_partially_mapped"])
                .check_settled(&baseline);
            return;
        }
    }
    panic!("more than {MOST} page allocations in one migration");
}
