// SPDX-License-Identifier: GPL-2.0-only
//! Another CPU that keeps writing while the entry changes: once the call has
//! returned, a translation that this CPU still holds must not be used.

use std::sync::atomic::Ordering;

use selftests::mapping::{Advice, PMD, Prot, Region, Source, pages};
use selftests::pagemap::{self, scan};
use selftests::pattern::FIRST;
use selftests::uffd::{Mode, Uffd, feature};
use selftests::watch::{Watch, bind_to, two_cpus};
use selftests::{child, enter, guard, settings, skip, thp};
use test_case::test_case;

use crate::fixture::*;
use crate::shared::Mapped;

/// The page that is written.
const PAGE: usize = 9;

/// Takes the permission or the mapping away while another CPU writes.
#[test_case(|r| r.mprotect(0..PMD, Prot::READ).map(nothing).expect("mprotect"); "mprotect_whole")]
#[test_case(|r| r.mprotect(pages(PAGE..PAGE + 1), Prot::READ).map(nothing).expect("mprotect"); "mprotect_part")]
#[test_case(|r| r.munmap(0..PMD).map(nothing).expect("munmap"); "munmap_whole")]
#[test_case(|r| r.munmap(pages(PAGE..PAGE + 1)).map(nothing).expect("munmap"); "munmap_part")]
#[test_case(|r| move_away(r, 0..PMD); "mremap_whole")]
#[test_case(|r| move_away(r, pages(PAGE..PAGE + 1)); "mremap_part")]
fn no_store_after(operation: fn(&mut Region) -> Kept) {
    enter!();
    no_store_to(filled(1), operation);
}

/// The same with small pages, whose table may be moved as a whole.
#[test_case(|r| r.mprotect(0..PMD, Prot::READ).map(nothing).expect("mprotect"); "mprotect_all")]
#[test_case(|r| r.munmap(0..PMD).map(nothing).expect("munmap"); "munmap_all")]
#[test_case(|r| move_away(r, 0..PMD); "mremap_of_the_table")]
#[test_case(|r| move_away(r, pages(PAGE..PAGE + 1)); "mremap_of_one_page")]
fn no_store_to_small_pages_after(operation: fn(&mut Region) -> Kept) {
    enter!();
    no_store_to(filled_small(1), operation);
}

/// The same with the pages of a huge page that was split, which are changed in one go.
#[test_case(|r| r.mprotect(0..PMD, Prot::READ).map(nothing).expect("mprotect"); "mprotect_all")]
#[test_case(|r| r.munmap(0..PMD).map(nothing).expect("munmap"); "munmap_all")]
#[test_case(|r| move_away(r, 0..PMD); "mremap_of_the_table")]
fn no_store_to_split_pages_after(operation: fn(&mut Region) -> Kept) {
    enter!();
    no_store_to(Mapped::Split.memory(), operation);
}

#[track_caller]
fn no_store_to(mut region: Filled, operation: fn(&mut Region) -> Kept) {
    let [here, there] = two_cpus();
    bind_to(&here);
    let at = region.page_addr(PAGE);
    let watch = Watch::default();
    let went_through = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            bind_to(&there);
            watch.write(at)
        });
        watch.wait_for_stores();
        let kept = operation(&mut region);
        watch.returned.store(true, Ordering::SeqCst);
        let went_through = writer.join().expect("the writer does not panic");
        drop(kept);
        went_through
    });
    assert!(
        !went_through,
        "another CPU could still write after the call had returned"
    );
}

/// What must stay mapped until the writer has ended: unmapping it would flush
/// what the operation forgot.
type Kept = Option<Region>;

fn nothing((): ()) -> Kept {
    None
}

/// Moves a part elsewhere.
fn move_away(region: &mut Region, part: std::ops::Range<usize>) -> Kept {
    let mut target = Region::reserved(PMD).expect("address space");
    region
        .mremap_into(part, &mut target, 0, Source::Goes)
        .expect("mremap");
    Some(target)
}

/// fork while another CPU writes: the child's copy stands still.
#[test_case(false; "huge")]
#[test_case(true; "split")]
fn no_store_reaches_the_child(split: bool) {
    enter!();
    let [here, there] = two_cpus();
    let region = filled(1);
    if split {
        region.mprotect(pages(5..6), Prot::READ).expect("mprotect");
        thp::assert_split(&region, 0);
    }
    bind_to(&here);
    let at = region.page_addr(PAGE);
    let watch = Watch::default();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            bind_to(&there);
            watch.write(at)
        });
        watch.wait_for_stores();
        let child = child::start(|parent| {
            let first = guard::load(at);
            parent.send(0);
            parent.receive();
            assert_eq!(
                guard::load(at),
                first,
                "the parent's stores reach the child"
            );
            FIRST.check(&region, PAGE + 1..512);
        });
        child.line().receive();
        watch.wait_for_stores();
        child.line().send(0);
        let end = child.wait();
        watch.end.store(true, Ordering::SeqCst);
        assert!(
            writer.join().expect("the writer does not panic"),
            "a store faulted"
        );
        assert_eq!(end, child::End::Returned);
    });
}

/// Stores of another CPU that come after the call are tracked: it starts a new
/// round of soft-dirty or write tracking for the whole huge page, or for one
/// page of it.
#[test_case(Tracking::SoftDirty, 0..PMD; "clear_refs")]
#[test_case(Tracking::Written, 0..PMD; "pagemap_scan_whole")]
#[test_case(Tracking::Written, pages(PAGE..PAGE + 1); "pagemap_scan_part")]
fn stores_after_are_tracked(tracking: Tracking, part: std::ops::Range<usize>) {
    enter!();
    let [here, there] = two_cpus();
    let region = filled(1);
    let _uffd = tracking.register(&region);
    bind_to(&here);
    let at = region.page_addr(PAGE);
    let watch = Watch::default();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            bind_to(&there);
            watch.write(at)
        });
        watch.wait_for_stores();
        tracking.start(&region, &part);
        watch.wait_for_stores();
        watch.end.store(true, Ordering::SeqCst);
        assert!(
            writer.join().expect("the writer does not panic"),
            "a store faulted"
        );
    });
    assert!(
        tracking.has(&region, PAGE),
        "stores of another CPU after the call were not noticed"
    );
    // A huge page has one soft-dirty bit.
    let alone = matches!(tracking, Tracking::Written) && part.len() == PMD;
    assert_eq!(
        tracking.has(&region, PAGE + 1),
        !alone,
        "a page without stores since"
    );
}

/// What can track stores.
#[derive(Clone, Copy)]
enum Tracking {
    SoftDirty,
    Written,
}

impl Tracking {
    fn register(self, region: &Region) -> Option<Uffd> {
        match self {
            Self::SoftDirty if !pagemap::soft_dirty_supported() => {
                skip!("no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)")
            }
            Self::SoftDirty => None,
            Self::Written => {
                let uffd = Uffd::open(feature::WP | feature::WP_ASYNC | feature::WP_UNPOPULATED);
                uffd.register(region, &region.all(), Mode::WP)
                    .expect("register");
                Some(uffd)
            }
        }
    }

    fn start(self, region: &Region, part: &std::ops::Range<usize>) {
        match self {
            Self::SoftDirty => pagemap::clear_soft_dirty(),
            Self::Written => match scan::write_protect(region, part, scan::Is::WRITTEN) {
                Err(nix::errno::Errno::ENOTTY) => skip!("no PAGEMAP_SCAN (since 6.7)"),
                found => drop(found.expect("PAGEMAP_SCAN")),
            },
        }
    }

    /// Whether page `number` was written since the start.
    fn has(self, region: &Region, number: usize) -> bool {
        match self {
            Self::SoftDirty => pagemap::entries(region, number, 1)[0].soft_dirty(),
            Self::Written => scan::per_page(region, &pages(number..number + 1))
                .expect("PAGEMAP_SCAN")[0]
                .contains(scan::Is::WRITTEN),
        }
    }
}

/// Another CPU that reads sees what this one writes into a copy, as soon as the
/// store is done: nothing reads the page that was mapped before.
#[test_case(thp::obtain_huge_zero; "huge_zero_page")]
#[test_case(thp::obtain; "shared_huge_page")]
#[test_case(|count| small(count, |at| guard::load(at).map(drop)); "zero_page")]
#[test_case(|count| small(count, |at| guard::store(at, 0)); "shared_page")]
fn no_load_of_the_old_page_after(obtain: fn(usize) -> Region) {
    enter!();
    let [here, there] = two_cpus();
    let _quiet = settings::quiet();
    let region = obtain(1);
    // Makes the page shared, so that the store below copies it; a child has no
    // zero page to share that was not shared before.
    let child = child::start(|parent| {
        parent.receive();
        assert_eq!(
            guard::load(region.page_addr(PAGE)),
            Ok(0),
            "the child's page"
        );
    });
    bind_to(&here);
    let at = region.page_addr(PAGE);
    let watch = Watch::default();
    let found = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            bind_to(&there);
            watch.read(at)
        });
        watch.wait_for_stores();
        guard::store(at, 0x5a).expect("a store to our own memory");
        watch.returned.store(true, Ordering::SeqCst);
        reader.join().expect("the reader does not panic")
    });
    child.line().send(0);
    child.join();
    assert_eq!(found, 0x5a, "what another CPU reads after a store");
}

/// Memory of small pages, each touched.
fn small(count: usize, touch: fn(usize) -> Result<(), guard::Fault>) -> Region {
    let region = Region::private(count * PMD).expect("address space");
    // Without huge pages in the kernel there is nothing to forbid.
    let _ = region.madvise(region.all(), Advice::NoHugePage);
    for number in 0..count * 512 {
        touch(region.page_addr(number)).expect("our own memory");
    }
    region
}

/// Stores of another CPU that come after MADV_DONTNEED reach the new page.
#[test_case(0..PMD; "whole")]
#[test_case(pages(PAGE..PAGE + 1); "part")]
fn stores_after_dontneed_stay(part: std::ops::Range<usize>) {
    enter!();
    let [here, there] = two_cpus();
    let region = filled(1);
    bind_to(&here);
    let at = region.page_addr(PAGE);
    let watch = Watch::default();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            bind_to(&there);
            watch.write(at)
        });
        watch.wait_for_stores();
        region
            .madvise(part.clone(), Advice::DontNeed)
            .expect("MADV_DONTNEED");
        watch.wait_for_stores();
        watch.end.store(true, Ordering::SeqCst);
        assert!(
            writer.join().expect("the writer does not panic"),
            "a store faulted"
        );
    });
    let last = watch.stores.load(Ordering::SeqCst) - 1;
    assert_eq!(
        guard::load(at),
        Ok(last as u8),
        "the last store of another CPU"
    );
}
