// SPDX-License-Identifier: GPL-2.0-only
//! Tests that misbehave, in real machines: each gets the verdict it deserves,
//! exactly one, and the tests after it still run.

mod support;

use std::time::Duration;

use hugeprobe_vm::event::{Event, Fate, Verdict};
use support::{fates, verdict};

/// What a test of `faults` must be given.
struct Expected {
    name: &'static str,
    timeout_s: u32,
    verdict: Verdict,
    /// Occurs in the reason.
    reason: &'static str,
}

const fn expect(name: &'static str, verdict: Verdict, reason: &'static str) -> Expected {
    Expected {
        name,
        timeout_s: 60,
        verdict,
        reason,
    }
}

/// Runs the tests in this order and checks every verdict; returns the fates of
/// the machines it took.
fn check(expected: &[Expected], silence_limit: Duration) -> Option<Vec<Fate>> {
    let kernel = support::kernel()?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut machine = support::machine(kernel);
    machine.memory_mib = 1024;
    machine.silence_limit = silence_limit;
    let config = support::session(machine, folder.path());
    let tests: Vec<_> = expected.iter().map(|e| (e.name, e.timeout_s)).collect();
    let plan = support::faults(&support::faults_program(), &tests);
    let (events, _) = support::run(&plan, &config);
    for e in expected {
        let (verdict, reason) = verdict(&events, e.name);
        if reason == "the kernel needs CONFIG_LKDTM" {
            eprintln!("NOT RUN: {}: {reason}", e.name);
            continue;
        }
        assert_eq!((e.name, verdict), (e.name, e.verdict), "{reason}");
        assert!(reason.contains(e.reason), "{}: {reason}", e.name);
    }
    Some(fates(&events).into_iter().cloned().collect())
}

const PATIENT: Duration = Duration::from_secs(90);

#[test]
fn misbehaving_processes_take_only_themselves_down() {
    let expected = [
        expect(
            "fails",
            Verdict::Fail,
            "page 3 lost its dirty bit (selftests/tests/faults.rs:",
        ),
        expect("passes", Verdict::Pass, ""),
        expect("skips", Verdict::Skip, "there is nothing to see"),
        expect("writes_ktap_lines", Verdict::Pass, ""),
        expect("writes_much", Verdict::Pass, ""),
        expect("crashes", Verdict::Fail, "killed by SIGSEGV"),
        Expected {
            timeout_s: 2,
            ..expect(
                "sleeps_for_ever",
                Verdict::Timeout,
                "did not end within 2 s",
            )
        },
        expect("leaks_a_child", Verdict::Fail, "left 1 process(es) behind"),
        expect(
            "changes_a_setting",
            Verdict::Fail,
            "max_ptes_none: 511 became 17",
        ),
        expect("finds_the_setting_restored", Verdict::Pass, ""),
        expect("exhausts_memory", Verdict::Fail, "killed by SIGKILL"),
        expect("no_such_test", Verdict::Fail, "no test ran"),
        expect(
            "kernel_warns",
            Verdict::Fail,
            "WARNING in __split_huge_pmd_locked",
        ),
        expect(
            "kernel_warns_in_earnest",
            Verdict::Fail,
            "WARNING in lkdtm_WARNING",
        ),
    ];
    if let Some(fates) = check(&expected, PATIENT) {
        assert_eq!(fates, [Fate::Clean]);
    }
}

#[test]
fn dead_machines_are_replaced_and_the_guilty_named() {
    let expected = [
        expect(
            "kernel_panics",
            Verdict::Crashed,
            "kernel panic: sysrq triggered crash",
        ),
        expect(
            "kernel_finds_a_bad_page",
            Verdict::Fail,
            "Bad page state (nonzero mapcount)",
        ),
        expect("passes", Verdict::Pass, ""),
        expect("machine_resets", Verdict::Crashed, "QEMU ended although"),
        expect("kernel_oopses", Verdict::Fail, "in lkdtm_EXCEPTION"),
        Expected {
            timeout_s: 3,
            ..expect(
                "cannot_be_killed",
                Verdict::Timeout,
                "did not end within 3 s",
            )
        },
        expect("skips", Verdict::Skip, "there is nothing to see"),
    ];
    if let Some(fates) = check(&expected, PATIENT) {
        assert!(matches!(fates[0], Fate::Panic { .. }), "{fates:?}");
        assert!(matches!(fates[1], Fate::Replaced { .. }), "{fates:?}");
        assert!(matches!(fates[2], Fate::Lost { .. }), "{fates:?}");
        assert_eq!(fates.last(), Some(&Fate::Clean));
    }
}

#[test]
fn a_hanging_machine_is_noticed_and_replaced() {
    let expected = [
        expect("machine_hangs", Verdict::Crashed, "hung"),
        expect("passes", Verdict::Pass, ""),
    ];
    if let Some(fates) = check(&expected, Duration::from_secs(15)) {
        let Fate::Hang { detail } = &fates[0] else {
            panic!("{fates:?}");
        };
        assert!(detail.contains("; a CPU was in "), "{detail}");
        assert_eq!(fates[1..], [Fate::Clean]);
    }
}

#[test]
fn forged_results_and_floods_stay_output() {
    let Some(kernel) = support::kernel() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = support::session(support::machine(kernel), folder.path());
    let tests = [("writes_ktap_lines", 60), ("writes_much", 60)];
    let plan = support::faults(&support::faults_program(), &tests);
    let (events, _) = support::run(&plan, &config);
    let output = support::output(&events);
    assert!(output.contains(&"not ok 2 forged"));
    let size: usize = output.iter().map(|line| line.len() + 1).sum();
    assert!((200_000..300_000).contains(&size), "{size} bytes of output");
    let begun = events
        .iter()
        .filter(|stamped| matches!(stamped.event, Event::TestBegins { .. }));
    assert_eq!(begun.count(), 2);
}

#[test]
fn a_run_of_crashes_ends_when_patience_does() {
    let Some(kernel) = support::kernel() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut machine = support::machine(kernel);
    machine.memory_mib = 1024;
    let mut config = support::session(machine, folder.path());
    config.patience = Some(1);
    let tests = [("machine_resets", 60), ("passes", 60)];
    let plan = support::faults(&support::faults_program(), &tests);
    let (events, _) = support::run(&plan, &config);
    assert_eq!(verdict(&events, "machine_resets").0, Verdict::Crashed);
    let (rest, reason) = verdict(&events, "passes");
    assert_eq!(rest, Verdict::Skip);
    assert!(reason.contains("crashed the kernel"), "{reason}");
    assert_eq!(fates(&events).len(), 1, "a second machine was started");
}
