// SPDX-License-Identifier: GPL-2.0-only
//! The whole command in real virtual machines, with the targets' tests that
//! misbehave on purpose: every test gets one verdict, in every report.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// More than any of these runs needs, under emulation and load.
const LIMIT: Duration = Duration::from_secs(300);

/// The kernel that `make test` names; without it these tests cannot run.
fn kernel() -> Option<PathBuf> {
    let kernel = std::env::var_os("HUGEPROBE_TEST_KERNEL").map(PathBuf::from);
    if kernel.is_none() {
        eprintln!("NOT RUN: HUGEPROBE_TEST_KERNEL names no kernel; use `make test`");
    }
    kernel
}

/// `hugeprobe run faults --tests REGEX` with results in `dir`.
fn run_faults(kernel: &Path, regex: &str, dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hugeprobe"));
    command
        .args(["run", "faults", "--mem", "1G", "--tests", regex])
        .arg("--output")
        .arg(dir);
    command.arg("--kernel").arg(kernel);
    if let Some(folder) = std::env::var_os("HUGEPROBE_TEST_VNG")
        .and_then(|vng| Path::new(&vng).parent().map(Path::to_owned))
    {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(folder).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(folders).unwrap());
    }
    command
}

/// Test and outcome, from results.json.
fn outcomes(dir: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(dir.join("results.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let tests = json["tests"].as_array().unwrap();
    let outcomes: BTreeMap<_, _> = tests
        .iter()
        .map(|test| {
            let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            (word(&test["id"]["name"]), word(&test["outcome"]))
        })
        .collect();
    assert_eq!(outcomes.len(), tests.len(), "two verdicts on one test");
    outcomes
}

fn expect(dir: &Path, expected: &[(&str, &str)]) {
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|&(name, outcome)| (name.to_owned(), outcome.to_owned()))
        .collect();
    assert_eq!(outcomes(dir), expected);
}

/// Waits until the run in `dir` has begun the test `name`.
fn wait_for(dir: &Path, name: &str, child: &mut Child) {
    let deadline = Instant::now() + LIMIT;
    let wanted = format!("\"name\":\"{name}\"");
    loop {
        let events = std::fs::read_to_string(dir.join("events.jsonl")).unwrap_or_default();
        let begun = |line: &str| line.contains("\"test_begins\"") && line.contains(&wanted);
        if events.lines().any(begun) {
            return;
        }
        assert_eq!(child.try_wait().unwrap(), None, "the run ended too early");
        assert!(Instant::now() < deadline, "{name} did not begin");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn end_within(child: &mut Child, limit: Duration) -> ExitStatus {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("still running after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// QEMUs that run a plan of `dir`.
fn machines(dir: &Path) -> Vec<Pid> {
    let dir = dir.to_string_lossy();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let arguments = String::from_utf8_lossy(&arguments);
        let is_ours = arguments.starts_with("/usr/bin/qemu") || arguments.contains("qemu-system");
        (is_ours && arguments.contains(&*dir)).then_some(Pid::from_raw(pid))
    });
    processes.collect()
}

#[test]
fn every_report_has_the_same_verdicts() {
    let Some(kernel) = kernel() else { return };
    let dir = tempfile::tempdir().unwrap();
    let regex =
        r"\.(passes|fails|skips|writes_ktap_lines|kernel_warns|kernel_panics|machine_resets)$";
    let output = run_faults(&kernel, regex, dir.path()).output().unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(1), "{stdout}\n{stderr}");
    expect(
        dir.path(),
        &[
            ("passes", "pass"),
            ("fails", "fail"),
            ("skips", "skip"),
            ("writes_ktap_lines", "pass"),
            ("kernel_warns", "fail"),
            ("kernel_panics", "crashed"),
            ("machine_resets", "crashed"),
        ],
    );
    assert!(stdout.starts_with("KTAP version 1\n1..1\n"), "{stdout}");
    for needed in [
        "faults.kernel_warns: failed: the kernel reported `WARNING in __split_huge_pmd_locked`",
        r"--tests '^faults\.fails$'",
        "2 passed, 2 failed, 2 crashed the kernel, 1 skipped",
    ] {
        assert!(stderr.contains(needed), "no {needed:?} in {stderr}");
    }
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert!(read("splats/faults.kernel_warns.txt").contains("__split_huge_pmd_locked"));
    assert!(read("kernel.config").contains("CONFIG_TRANSPARENT_HUGEPAGE=y"));
    assert!(read("junit.xml").contains("tests=\"7\" skipped=\"1\" failures=\"4\""));
    let results = |text: &str, indent: &str| {
        let (ok, not_ok) = (format!("{indent}ok "), format!("{indent}not ok "));
        text.lines()
            .filter(|line| line.starts_with(&ok) || line.starts_with(&not_ok))
            .count()
    };
    assert_eq!(results(&read("results.ktap"), "  "), 7);
    assert_eq!(results(&read("results.tap"), "# "), 7);
    kunit_agrees(dir.path(), "Ran 7 tests: passed: 2, failed: 4, skipped: 1");
}

/// The kernel's own parser must count the same.
fn kunit_agrees(dir: &Path, counts: &str) {
    let Some(tree) = std::env::var_os("HUGEPROBE_TEST_TREE") else {
        eprintln!("NOT RUN: HUGEPROBE_TEST_TREE names no kernel tree; use `make test`");
        return;
    };
    let output = Command::new("python3")
        .arg(Path::new(&tree).join("tools/testing/kunit/kunit.py"))
        .arg("parse")
        .arg(dir.join("results.ktap"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(dir)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(counts), "{text}");
}

#[test]
fn a_known_bug_may_stop_the_kernel_and_may_not_be_gone() {
    let Some(kernel) = kernel() else { return };
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = run_faults(&kernel, r"\.(known_bug_.*|passes)$", dir.path());
        command.args(arguments).output().unwrap().status.code()
    };
    assert_eq!(run(&["--known-bugs"]), Some(1));
    expect(
        dir.path(),
        &[
            ("passes", "pass"),
            ("known_bug_panics", "xfail"),
            ("known_bug_is_gone", "fail"),
        ],
    );
    assert_eq!(run(&[]), Some(0));
    expect(
        dir.path(),
        &[
            ("passes", "pass"),
            ("known_bug_panics", "skip"),
            ("known_bug_is_gone", "skip"),
        ],
    );
}

#[test]
fn a_killed_machine_costs_one_test() {
    let Some(kernel) = kernel() else { return };
    let dir = tempfile::tempdir().unwrap();
    let regex = r"\.(passes|sleeps_for_ever|writes_ktap_lines)$";
    let mut child = run_faults(&kernel, regex, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(dir.path(), "sleeps_for_ever", &mut child);
    let machines = machines(dir.path());
    assert_eq!(machines.len(), 1);
    kill(machines[0], Signal::SIGKILL).unwrap();
    assert_eq!(end_within(&mut child, LIMIT).code(), Some(1));
    expect(
        dir.path(),
        &[
            ("passes", "pass"),
            ("sleeps_for_ever", "crashed"),
            ("writes_ktap_lines", "pass"),
        ],
    );
    let json = std::fs::read_to_string(dir.path().join("results.json")).unwrap();
    assert!(json.contains("QEMU was killed by SIGKILL"), "{json}");
}

#[test]
fn ctrl_c_ends_everything_and_keeps_what_is_known() {
    let Some(kernel) = kernel() else { return };
    let dir = tempfile::tempdir().unwrap();
    let regex = r"\.(passes|sleeps_for_ever|writes_ktap_lines)$";
    let mut child = run_faults(&kernel, regex, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(dir.path(), "sleeps_for_ever", &mut child);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let status = end_within(&mut child, Duration::from_secs(5));
    assert_eq!(status.code(), Some(130));
    assert_eq!(machines(dir.path()), []);
    let outcomes = outcomes(dir.path());
    assert_eq!(outcomes["passes"], "pass");
    assert_eq!(outcomes["writes_ktap_lines"], "not_run");
    assert_eq!(outcomes.len(), 3);
}
