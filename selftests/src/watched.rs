// SPDX-License-Identifier: GPL-2.0-only
//! A fork that userfaultfd is told of (`UFFD_FEATURE_EVENT_FORK`): somebody must read of it, or it
//! never ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::child::{self, Child, Line};
use crate::uffd::Uffd;

/// Long enough for a process to fork.
const SOON: Duration = Duration::from_secs(30);
/// `UFFD_EVENT_FORK`.
const FORK: u8 = 0x13;

/// As [`child::start`], while another thread reads the event, and checks that it is one of a fork.
/// The userfaultfd of the child stays open until this process ends.
///
/// # Panics
/// When there is no such event.
#[track_caller]
pub fn start(uffd: &Uffd, body: impl FnOnce(&Line)) -> Child {
    let reads = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            reads.store(true, Ordering::Release);
            uffd.event(SOON)
        });
        // During a fork the allocator is locked, which a thread needs that has not yet begun.
        while !reads.load(Ordering::Acquire) {
            thread::yield_now();
        }
        let child = child::start(body);
        let event = reader.join().expect("a thread that reads does not panic");
        let event = event.expect("a userfaultfd can be read");
        let kind = event.map(|event| event.kind);
        assert_eq!(kind, Some(FORK), "what userfaultfd is told of a fork");
        child
    })
}
