// SPDX-License-Identifier: GPL-2.0-only
//! Another CPU that keeps writing while the entry changes: once the call has
//! returned, a translation that this CPU still holds must not be used.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use selftests::mapping::{Advice, PMD, Prot, Region, Source, pages};
use selftests::pagemap::{self, scan};
use selftests::pattern::FIRST;
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{child, enter, guard, settings, skip, thp};
use test_case::test_case;

use crate::fixture::*;

/// The page that is written.
const PAGE: usize = 9;

/// Two CPUs of this process: for the call, and for the writer.
fn two_cpus() -> [CpuSet; 2] {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("our own CPUs");
    let mut single = (0..CpuSet::count())
        .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .map(|cpu| {
            let mut set = CpuSet::new();
            set.set(cpu).expect("a CPU within the set");
            set
        });
    match (single.next(), single.next()) {
        (Some(a), Some(b)) => [a, b],
        _ => skip!("only one CPU (give the guest two)"),
    }
}

/// Runs on this thread only there.
fn bind_to(cpu: &CpuSet) {
    sched_setaffinity(Pid::from_raw(0), cpu).expect("a CPU that we may use");
}

/// What a writer shares with who watches it.
#[derive(Default)]
struct Watch {
    /// Stores so far.
    stores: AtomicU64,
    /// The call has returned.
    returned: AtomicBool,
    /// The writer shall end.
    end: AtomicBool,
}

impl Watch {
    /// Stores to `at` until one faults; `true` when none did after the call had
    /// returned.
    fn write(&self, at: usize) -> bool {
        // A watcher that panicked tells nobody to end.
        let deadline = Instant::now() + child::PATIENCE;
        loop {
            let returned = self.returned.load(Ordering::SeqCst);
            let number = self.stores.fetch_add(1, Ordering::SeqCst);
            if guard::store(at, number as u8).is_err() {
                return false;
            }
            let late = number.is_multiple_of(4096) && Instant::now() > deadline;
            if returned || late || self.end.load(Ordering::SeqCst) {
                return true;
            }
        }
    }

    /// Loads from `at` until the call has returned and once more after that;
    /// what it found last.
    fn read(&self, at: usize) -> u8 {
        let deadline = Instant::now() + child::PATIENCE;
        loop {
            let returned = self.returned.load(Ordering::SeqCst);
            let number = self.stores.fetch_add(1, Ordering::SeqCst);
            let found = guard::load(at).expect("a load from our own memory");
            let late = number.is_multiple_of(4096) && Instant::now() > deadline;
            if returned || late || self.end.load(Ordering::SeqCst) {
                return found;
            }
        }
    }

    /// Waits until the writer, or reader, has run for a while.
    #[track_caller]
    fn wait_for_stores(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let enough = self.stores.load(Ordering::SeqCst) + 1000;
        while self.stores.load(Ordering::SeqCst) < enough {
            assert!(Instant::now() < deadline, "the writer does not run");
            std::thread::yield_now();
        }
    }
}

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
