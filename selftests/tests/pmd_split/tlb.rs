// SPDX-License-Identifier: GPL-2.0-only
//! Another CPU that keeps writing while the entry changes: once the call has
//! returned, a translation that this CPU still holds must not be used.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use selftests::mapping::{PMD, Prot, Region, Source, pages};
use selftests::pattern::FIRST;
use selftests::{child, enter, guard, skip, thp};
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

    /// Waits until the writer has run for a while.
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
#[test_case(|r| r.mprotect(0..PMD, Prot::READ).expect("mprotect"); "mprotect_whole")]
#[test_case(|r| r.mprotect(pages(PAGE..PAGE + 1), Prot::READ).expect("mprotect"); "mprotect_part")]
#[test_case(|r| r.munmap(0..PMD).expect("munmap"); "munmap_whole")]
#[test_case(|r| r.munmap(pages(PAGE..PAGE + 1)).expect("munmap"); "munmap_part")]
#[test_case(|r| move_away(r, 0..PMD); "mremap_whole")]
#[test_case(|r| move_away(r, pages(PAGE..PAGE + 1)); "mremap_part")]
fn no_store_after(operation: fn(&mut Region)) {
    enter!();
    let [here, there] = two_cpus();
    let mut region = filled(1);
    bind_to(&here);
    let at = region.page_addr(PAGE);
    let watch = Watch::default();
    let went_through = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            bind_to(&there);
            watch.write(at)
        });
        watch.wait_for_stores();
        operation(&mut region);
        watch.returned.store(true, Ordering::SeqCst);
        writer.join().expect("the writer does not panic")
    });
    assert!(
        !went_through,
        "another CPU could still write after the call had returned"
    );
}

/// Moves a part to a place that is then forgotten.
fn move_away(region: &mut Region, part: std::ops::Range<usize>) {
    let mut target = Region::reserved(PMD).expect("address space");
    region
        .mremap_into(part, &mut target, 0, Source::Goes)
        .expect("mremap");
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
