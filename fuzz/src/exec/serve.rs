// SPDX-License-Identifier: GPL-2.0-only
//! The worker's side of a session: gets requests, runs programs, and looks at the whole system
//! after them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::baseline::Baseline;
use super::klog::KernelLog;
use super::leaks::Leaks;
use super::limit;
use super::phases::Phase;
use super::process::Setup;
use super::system;
use super::violation::{Oracle, Violation};
use super::worker;
use crate::model::page::WORDS;
use crate::program::PAGE;

/// Requests to the worker: run the program, and compare counters afterwards or not.
pub const RUN: u8 = 1;
pub const RUN_AND_COMPARE: u8 = 2;
/// The same for the last of a row, where a counter that only may be wrong is enough.
pub const RUN_AND_SUSPECT: u8 = 4;
/// Run the program only: nothing of the machine is looked at afterwards.
pub const RUN_BARE: u8 = 3;
/// Title of a violation that says no more than that counters have grown.
pub const SUSPICION: &str = "counters grow";
/// Programs after which the devices give their memory back.
const RELEASE_EACH: u32 = 100;

/// The worker's loop: a request in, one program, one byte out. Counters of the
/// whole system and the kernel log only mean something if nobody else is there.
pub fn serve(setup: &Setup, mut requests: UnixStream) -> ! {
    // SAFETY: two prctls on ourselves: die with the parent, reap orphans.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
    }
    stay_on_one_cpu();
    if setup.alone {
        system::enter_group();
        dirty_free_memory();
    }
    let mut programs = 0u32;
    let ready = worker::block_sigchld();
    let mut log = KernelLog::open();
    let mut baseline = Baseline::take();
    let mut leaks = Leaks::take();
    let mut request = [0];
    while ready.is_ok() && requests.read_exact(&mut request).is_ok() {
        let mut clock = Instant::now();
        run_once(setup);
        if request == [RUN_BARE] {
            if requests.write_all(&[1]).is_err() {
                break;
            }
            continue;
        }
        setup.board.spent(Phase::Program, &mut clock);
        programs += 1;
        if programs.is_multiple_of(RELEASE_EACH) {
            super::mirror::release_devices();
        }
        let found = if setup.alone {
            let compare = request != [RUN];
            let differs = || compare.then(|| baseline.violation()).flatten();
            let leaked = || match request {
                [RUN] => None,
                [RUN_AND_SUSPECT] => leaks.grown().then(suspicion),
                _ => leaks
                    .grown()
                    .then(|| convicted(setup, &mut leaks))
                    .flatten(),
            };
            let complaint = log.complaint().or_else(differs);
            if setup.board.violation().is_some() {
                complaint
            } else {
                complaint.or_else(leaked)
            }
        } else {
            None
        };
        setup.board.spent(Phase::System, &mut clock);
        if let Some(violation) = found {
            setup.board.report(&violation);
        }
        if requests.write_all(&[1]).is_err() {
            break;
        }
    }
    super::sys::exit(0)
}

/// Runs the program that is loaded; the system is as before then, as far as
/// programs change it on purpose.
fn run_once(setup: &Setup) {
    if setup.board.maps_device() {
        setup.pfn.clear();
    }
    worker::run_program(setup);
    if setup.alone && setup.board.turns_knobs() {
        system::turn_back();
    }
    if setup.board.limits()
        && let Some(violation) = limit::throw_away()
    {
        setup.board.report(&violation);
    }
}

/// Counters that have grown, which may come from anywhere.
fn suspicion() -> Violation {
    Violation {
        oracle: Oracle::Resources,
        step: None,
        title: SUSPICION.into(),
        detail: String::new(),
    }
}

/// Whether the program makes a counter grow each time that it runs.
fn convicted(setup: &Setup, leaks: &mut Leaks) -> Option<Violation> {
    let others = (setup.board.uses_devices(), setup.board.reclaims());
    leaks.violation(others, || {
        setup.board.rewind();
        run_once(setup);
        setup.board.violation().is_none()
    })
}

/// Keeps the worker and its processes on the last CPU. Only one of them works at
/// a time; on several they would spend their time on waking and TLB flushes.
fn stay_on_one_cpu() {
    // SAFETY: a local set, read by the second call.
    unsafe {
        let mut set = std::mem::zeroed();
        let count = libc::sysconf(libc::_SC_NPROCESSORS_ONLN).max(1);
        libc::CPU_SET(count as usize - 1, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// Leaves marks in memory that is free. What the kernel forgets to clear would else
/// be zero by chance, as most memory is after a boot.
fn dirty_free_memory() {
    const BYTES: usize = 256 << 20;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, written inside its bounds and unmapped again.
    unsafe {
        let base = libc::mmap(std::ptr::null_mut(), BYTES, access, flags, -1, 0);
        if base == libc::MAP_FAILED {
            return;
        }
        libc::madvise(base, BYTES, libc::MADV_HUGEPAGE);
        for page in (0..BYTES).step_by(PAGE) {
            for offset in WORDS {
                base.cast::<u8>()
                    .add(page + offset)
                    .cast::<u64>()
                    .write_volatile(u64::MAX);
            }
        }
        libc::munmap(base, BYTES);
    }
}
