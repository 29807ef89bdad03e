// SPDX-License-Identifier: GPL-2.0-only
//! NUMA hinting: entries that a scan closes, so that the next access tells on which node the page is wanted
//! (`task_numa_work()` in kernel/sched/fair.c, `do_huge_pmd_numa_page()` in mm/huge_memory.c).
//!
//! The scan is the work of a task that has used a CPU for some time. Of memory that is private to a process
//! of one thread it passes over what is on that task's node, so a second task that shares the memory does it.

use std::io;
use std::time::Duration;

use nix::errno::Errno;

use crate::counters::Snapshot;
use crate::settings::Setting;
use crate::skip;

const KNOBS: &str = "/sys/kernel/debug/sched/numa_balancing";
/// CPU time of one scanning task. Scans begin at its third tick, one with each tick, of 8 MiB each.
const TURN: Duration = Duration::from_millis(24);
/// Turns after which nothing more is expected.
const TURNS: usize = 40;
/// Stack of the scanning task, in words.
const STACK: usize = 2048;

/// Lets scans take place until the settings are dropped.
///
/// # Errors
/// Those of [`Setting::try_set`], of which `NotFound` is a kernel without NUMA balancing.
fn enable() -> io::Result<[Setting; 4]> {
    Ok([
        Setting::try_set(format!("{KNOBS}/scan_period_min_ms"), "1")?,
        Setting::try_set(format!("{KNOBS}/scan_size_mb"), "8")?,
        Setting::try_set(format!("{KNOBS}/scan_delay_ms"), "0")?,
        Setting::try_set("/proc/sys/kernel/numa_balancing", "1")?,
    ])
}

/// Skips the test without NUMA balancing.
#[track_caller]
pub fn required() {
    drop(enable_or_skip());
}

#[track_caller]
fn enable_or_skip() -> [Setting; 4] {
    enable().unwrap_or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => skip!("no NUMA balancing (CONFIG_NUMA_BALANCING, debugfs)"),
        _ => panic!("the settings of NUMA balancing: {error}"),
    })
}

/// Closes entries of this process, those of what it has used among them, and nothing scans any more after that.
///
/// # Errors
/// `ENOENT` without NUMA balancing; those of clone(2) and waitpid(2).
pub fn pass() -> Result<(), Errno> {
    let _settings = enable().map_err(|_| Errno::ENOENT)?;
    scan()
}

/// One turn of a task that shares the memory of this process and scans it, if NUMA balancing is enabled.
///
/// # Errors
/// Those of clone(2) and waitpid(2); `ECHILD` when the task ended otherwise than by itself.
fn scan() -> Result<(), Errno> {
    let mut stack = vec![0_u128; STACK];
    // The stack grows down, from an address that is a multiple of 16.
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: the task has a stack of its own, makes system calls only and ends; this thread rests until
    // then (CLONE_VFORK), so `stack` outlives it.
    let pid = unsafe {
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        libc::clone(use_the_cpu, top.cast(), flags, std::ptr::null_mut())
    };
    Errno::result(pid)?;
    let mut status = 0;
    // SAFETY: our child; status is ours.
    Errno::result(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) })?;
    if status == 0 {
        Ok(())
    } else {
        Err(Errno::ECHILD)
    }
}

/// Enters and leaves the kernel until [`TURN`] of CPU time has gone. Scans run on the way back.
extern "C" fn use_the_cpu(_: *mut libc::c_void) -> i32 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    while time.tv_sec == 0 && time.tv_nsec < i64::from(TURN.subsec_nanos()) {
        // SAFETY: time is ours. Not through libc, whose errno the task shares.
        unsafe {
            libc::syscall(
                libc::SYS_clock_gettime,
                libc::CLOCK_THREAD_CPUTIME_ID,
                &raw mut time,
            )
        };
    }
    0
}

/// Scans until so many more entries are closed: of huge pages (`numa_huge_pte_updates`), or of small ones
/// (`numa_pte_updates`), which those of this program are part of. Nothing scans any more after that. Skips
/// the test without NUMA balancing.
///
/// # Panics
/// When that does not happen.
#[track_caller]
pub fn close(huge: i64, small: i64) {
    let _settings = enable_or_skip();
    let before = Snapshot::take();
    let grown = |name: &str| before.delta(&Snapshot::take(), name).unwrap_or_default();
    for _ in 0..TURNS {
        scan().expect("a task that shares our memory");
        let closed = (grown("numa_huge_pte_updates"), grown("numa_pte_updates"));
        if closed.0 >= huge && closed.1 >= small {
            return;
        }
    }
    panic!("NUMA hinting did not close {huge} huge and {small} small pages");
}
