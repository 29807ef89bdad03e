// SPDX-License-Identifier: GPL-2.0-only
//! Another CPU that keeps using a page while this one changes how it is mapped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::child::PATIENCE;
use crate::{guard, skip};

/// Two CPUs of this process: for the call, and for the writer.
pub fn two_cpus() -> [CpuSet; 2] {
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
pub fn bind_to(cpu: &CpuSet) {
    sched_setaffinity(Pid::from_raw(0), cpu).expect("a CPU that we may use");
}

/// What a writer shares with who watches it.
#[derive(Default)]
pub struct Watch {
    /// Stores, or loads, so far.
    pub stores: AtomicU64,
    /// The call has returned.
    pub returned: AtomicBool,
    /// The writer shall end.
    pub end: AtomicBool,
}

impl Watch {
    /// Stores to `at` until one faults; `true` when none did after the call had
    /// returned.
    pub fn write(&self, at: usize) -> bool {
        // A watcher that panicked tells nobody to end.
        let deadline = Instant::now() + PATIENCE;
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
    pub fn read(&self, at: usize) -> u8 {
        let deadline = Instant::now() + PATIENCE;
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
    pub fn wait_for_stores(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let enough = self.stores.load(Ordering::SeqCst) + 1000;
        while self.stores.load(Ordering::SeqCst) < enough {
            assert!(Instant::now() < deadline, "the writer does not run");
            std::thread::yield_now();
        }
    }
}
