// SPDX-License-Identifier: GPL-2.0-only
//! What the tests in real machines share. They need a kernel and virtme-ng,
//! which `make test` names in the environment.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hugeprobe_vm::event::{Event, Stamped};
use hugeprobe_vm::machine::MachineConfig;
use hugeprobe_vm::plan::{Job, Plan, Setup};
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
