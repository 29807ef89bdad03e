// SPDX-License-Identifier: GPL-2.0-only
//! What the tests in real machines share. They need a kernel and virtme-ng,
//! which `make test` names in the environment.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hugeprobe_vm::event::{Event, Fate, Stamped, TestId, Verdict};
use hugeprobe_vm::machine::MachineConfig;
use hugeprobe_vm::plan::{Job, Plan, PlannedTest, Setup};
use hugeprobe_vm::session::{self, SessionConfig, Summary};

/// The kernel image, from `HUGEPROBE_TEST_KERNEL`; without it the caller
/// returns at once, having said so.
pub fn kernel() -> Option<PathBuf> {
    let kernel = std::env::var_os("HUGEPROBE_TEST_KERNEL").map(PathBuf::from);
    if kernel.is_none() {
        eprintln!("NOT RUN: HUGEPROBE_TEST_KERNEL names no kernel; use `make test`");
    }
    kernel
}

/// A small machine for tests: two CPUs, two nodes.
pub fn machine(kernel: PathBuf) -> MachineConfig {
    let vng = std::env::var_os("HUGEPROBE_TEST_VNG").map_or_else(|| "vng".into(), PathBuf::from);
    let guest = PathBuf::from(env!("CARGO_BIN_EXE_hugeprobe-guest"));
    let mut config = MachineConfig::new(vng, kernel, guest);
    config.memory_mib = 2048;
    config
}

/// A run whose files go to `folder`.
pub fn session(machine: MachineConfig, folder: &Path) -> SessionConfig {
    SessionConfig {
        machine,
        folder: folder.to_owned(),
        limit: Some(Duration::from_secs(600)),
        fail_fast: false,
        patience: None,
        interrupted: Arc::new(AtomicBool::new(false)),
    }
}

/// A plan that runs a shell command.
pub fn shell(script: &str) -> Plan {
    Plan {
        setup: Setup {
            swap_mib: 256,
            ..Setup::default()
        },
        job: Job::Exec(hugeprobe_vm::plan::Command {
            argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
            env: vec![("GREETING".into(), "hello".into())],
            cwd: "/".into(),
        }),
    }
}

/// Runs `plan`; returns all events and the summary.
pub fn run(plan: &Plan, config: &SessionConfig) -> (Vec<Stamped>, Summary) {
    let mut events = Vec::new();
    let summary = session::run(plan, config, |stamped| {
        if std::env::var_os("HUGEPROBE_TEST_VERBOSE").is_some() {
            eprintln!("{} {:?}", stamped.ms, stamped.event);
        }
        events.push(stamped);
    })
    .expect("the machine starts");
    (events, summary)
}

/// All lines that tests or commands wrote.
pub fn output(events: &[Stamped]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|stamped| match &stamped.event {
            Event::TestOutput { line, .. } => Some(line.as_str()),
            _ => None,
        })
        .collect()
}

/// The test program `faults`, whose tests misbehave on purpose.
pub fn faults_program() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args([
            "test",
            "--offline",
            "-q",
            "-p",
            "selftests",
            "--test",
            "faults",
        ])
        .args(["--no-run", "--message-format=json"])
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "faults")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the program")
}

/// A plan that runs `tests` of `faults`, each with its time limit in seconds.
pub fn faults(program: &Path, tests: &[(&str, u32)]) -> Plan {
    let planned = |&(name, timeout_s): &(&str, u32)| PlannedTest {
        id: TestId {
            target: "faults".into(),
            name: name.into(),
        },
        program: program.to_owned(),
        raw_name: name.into(),
        timeout_s,
    };
    Plan {
        setup: Setup {
            swap_mib: 64,
            ..Setup::default()
        },
        job: Job::Tests(tests.iter().map(planned).collect()),
    }
}

/// The verdict and reason that `name` got; it must be exactly one.
pub fn verdict<'a>(events: &'a [Stamped], name: &str) -> (Verdict, &'a str) {
    let mut found = events.iter().filter_map(|stamped| match &stamped.event {
        Event::TestEnds {
            test,
            verdict,
            reason,
            ..
        } if test.name == name => Some((*verdict, reason.as_str())),
        _ => None,
    });
    let first = found
        .next()
        .unwrap_or_else(|| panic!("no verdict on {name}"));
    assert_eq!(found.next(), None, "a second verdict on {name}");
    first
}

/// How the machines of the run ended, in order.
pub fn fates(events: &[Stamped]) -> Vec<&Fate> {
    events
        .iter()
        .filter_map(|stamped| match &stamped.event {
            Event::VmEnds { fate, .. } => Some(fate),
            _ => None,
        })
        .collect()
}
