// SPDX-License-Identifier: GPL-2.0-only
//! What the user and the host do to a run: QEMU killed in the middle, Ctrl-C,
//! kernels that are none. Nothing is lost and nothing is left running.

mod support;

use std::fs;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hugeprobe_vm::event::{Event, Fate, Stamped, Verdict};
use hugeprobe_vm::session;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{fates, verdict};

/// The QEMUs that this process has started and that still run.
fn machines() -> Vec<Pid> {
    let me = std::process::id().to_string();
    let entries = fs::read_dir("/proc").expect("there is a /proc").flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let (name, rest) = stat.split_once(") ")?;
            let mut fields = rest.split(' ');
            let alive = fields.next() != Some("Z");
            let ours = fields.next() == Some(me.as_str());
            (alive && ours && name.contains("(qemu")).then(|| Pid::from_raw(pid))
        })
        .collect()
}

/// Runs `sleeps_for_ever` and `passes`, and does `action` when the first
/// begins; returns the events and when the action took place.
fn run_and(
    kernel: std::path::PathBuf,
    mut action: impl FnMut(&session::SessionConfig),
) -> (Vec<Stamped>, Instant) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut machine = support::machine(kernel);
    machine.memory_mib = 1024;
    let config = support::session(machine, folder.path());
    let tests = [("sleeps_for_ever", 300), ("passes", 60)];
    let plan = support::faults(&support::faults_program(), &tests);
    let mut events = Vec::new();
    let mut acted = Instant::now();
    session::run(&plan, &config, |stamped| {
        if let Event::TestBegins { test } = &stamped.event
            && test.name == "sleeps_for_ever"
        {
            action(&config);
            acted = Instant::now();
        }
        events.push(stamped);
    })
    .expect("the machine starts");
    (events, acted)
}

/// The tests count and kill the machines of this process: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // A test that failed has said so itself.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn killed_qemu_costs_one_test_only() {
    let _alone = alone();
    let Some(kernel) = support::kernel() else {
        return;
    };
    let (events, _) = run_and(kernel, |_| {
        for pid in machines() {
            kill(pid, Signal::SIGKILL).expect("it is ours");
        }
    });
    let (guilty, reason) = verdict(&events, "sleeps_for_ever");
    assert_eq!(guilty, Verdict::Crashed);
    assert_eq!(reason, "the machine was lost: QEMU was killed by SIGKILL");
    assert_eq!(verdict(&events, "passes").0, Verdict::Pass);
    assert_eq!(fates(&events).last(), Some(&&Fate::Clean));
    assert_eq!(machines(), []);
}

#[test]
fn interruption_ends_the_run_at_once() {
    let _alone = alone();
    let Some(kernel) = support::kernel() else {
        return;
    };
    let (events, acted) = run_and(kernel, |config| {
        Arc::clone(&config.interrupted).store(true, Ordering::Relaxed);
    });
    let took = acted.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    assert_eq!(verdict(&events, "sleeps_for_ever").0, Verdict::Skip);
    assert_eq!(verdict(&events, "passes").0, Verdict::Skip);
    assert_eq!(fates(&events), [&Fate::Interrupted]);
    let last = events.last().map(|stamped| &stamped.event);
    assert_eq!(last, Some(&Event::RunEnds { interrupted: true }));
    assert_eq!(machines(), []);
}

#[test]
fn an_image_that_does_not_boot_is_no_test_failure() {
    let _alone = alone();
    if support::kernel().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = folder.path().join("bzImage");
    fs::write(&image, vec![0; 1 << 16]).expect("written");
    let mut machine = support::machine(image);
    machine.memory_mib = 512;
    machine.numa_nodes = 1;
    machine.boot_limit = Duration::from_secs(20);
    let config = support::session(machine, folder.path());
    let plan = support::faults(&support::faults_program(), &[("passes", 60)]);
    let (events, summary) = support::run(&plan, &config);
    assert!(
        matches!(summary.fate, Fate::Infrastructure { .. }),
        "{:?}",
        summary.fate
    );
    let (skipped, reason) = verdict(&events, "passes");
    assert_eq!(skipped, Verdict::Skip);
    assert!(reason.starts_with("not run: "), "{reason}");
    assert_eq!(summary.machines, 1);
}

#[test]
fn a_run_that_fails_fast_ends_with_the_first_failure() {
    let _alone = alone();
    let Some(kernel) = support::kernel() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut machine = support::machine(kernel);
    machine.memory_mib = 1024;
    let mut config = support::session(machine, folder.path());
    config.fail_fast = true;
    let tests = [("passes", 60), ("fails", 60), ("skips", 60)];
    let plan = support::faults(&support::faults_program(), &tests);
    let (events, summary) = support::run(&plan, &config);
    assert_eq!(verdict(&events, "passes").0, Verdict::Pass);
    assert_eq!(verdict(&events, "fails").0, Verdict::Fail);
    let not_run = (Verdict::Skip, "not run: faults.fails failed first");
    assert_eq!(verdict(&events, "skips"), not_run);
    assert_eq!(fates(&events), [&Fate::Clean]);
    assert_eq!(summary.machines, 1);
    assert_eq!(machines(), []);
}
