// SPDX-License-Identifier: GPL-2.0-only
//! Whether guests really run under KVM here.
//!
//! That `/dev/kvm` exists, opens and makes a virtual machine proves nothing:
//! where virtualisation is nested or filtered, a guest may hang in its first
//! instructions all the same. So one is booted, once.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::machine::{Accel, Machine, MachineConfig, Next, StartError};
use crate::plan::{self, Job, Plan, Setup};

/// How long the trial may take; a working KVM needs two seconds.
const LIMIT: Duration = Duration::from_secs(15);

/// The file that keeps the answer.
const ANSWER: &str = "kvm.json";

/// The answer, and what it holds for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    /// The host may run another kernel after its next boot.
    boot_id: String,
    /// First line of `qemu-system-x86_64 --version`.
    qemu: String,
    kvm_works: bool,
}

/// Who should execute guests like `config`: KVM if a trial boot under it has
/// worked, else emulation. The answer is kept in `folder`, which must exist, and
/// asked for again only after a reboot or with another QEMU.
///
/// # Errors
/// When virtme-ng or QEMU cannot be run at all, or `folder` not be written.
pub fn accel(config: &MachineConfig, folder: &Path) -> Result<Accel, StartError> {
    if fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(Accel::Tcg);
    }
    if let Some(kvm_works) = known(folder) {
        return Ok(choice(kvm_works));
    }
    let kvm_works = boots_under_kvm(config, folder)?;
    let answer = Answer {
        boot_id: boot_id(),
        qemu: qemu_version(),
        kvm_works,
    };
    let json = serde_json::to_vec_pretty(&answer).expect("an answer is always serialisable");
    // Not to remember it only costs time.
    let _ = fs::write(folder.join(ANSWER), json);
    Ok(choice(kvm_works))
}

/// Whether KVM works, if a trial boot since the host's last one has shown it;
/// `folder` is where [`accel`] keeps its answer.
pub fn known(folder: &Path) -> Option<bool> {
    let json = fs::read(folder.join(ANSWER)).ok()?;
    let answer: Answer = serde_json::from_slice(&json).ok()?;
    let holds = answer.boot_id == boot_id() && answer.qemu == qemu_version();
    holds.then_some(answer.kvm_works)
}

fn choice(kvm_works: bool) -> Accel {
    if kvm_works { Accel::Kvm } else { Accel::Tcg }
}

/// Boots a small guest and runs a program in it.
fn boots_under_kvm(config: &MachineConfig, folder: &Path) -> Result<bool, StartError> {
    let config = MachineConfig {
        accel: Accel::Kvm,
        cpus: 1,
        memory_mib: 512,
        numa_nodes: 1,
        boot_limit: LIMIT,
        silence_limit: LIMIT,
        append: Vec::new(),
        qemu_args: Vec::new(),
        shared_memory: None,
        ..config.clone()
    };
    let plan = Plan {
        setup: Setup::default(),
        job: Job::Exec(plan::Command {
            argv: vec!["/bin/true".into()],
            env: Vec::new(),
            cwd: "/".into(),
        }),
    };
    let mut machine = Machine::start(&config, &plan, folder, 0)?;
    loop {
        match machine.next(LIMIT) {
            Next::Event(Event::CommandEnds { code }) => return Ok(code == 0),
            Next::Event(_) => {}
            Next::Nothing | Next::Ended(_) => return Ok(false),
        }
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

fn qemu_version() -> String {
    let output = Command::new("qemu-system-x86_64").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Answer, accel, boot_id, qemu_version};
    use crate::machine::{Accel, MachineConfig};

    /// A machine that cannot be started: no trial can have taken place.
    fn impossible() -> MachineConfig {
        MachineConfig::new(PathBuf::from("/nonexistent/vng"), "/k".into(), "/g".into())
    }

    #[test]
    fn a_remembered_answer_needs_no_trial() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let answer = Answer {
            boot_id: boot_id(),
            qemu: qemu_version(),
            kvm_works: false,
        };
        let json = serde_json::to_vec(&answer).expect("serialisable");
        std::fs::write(folder.path().join("kvm.json"), json).expect("written");
        let chosen = accel(&impossible(), folder.path()).expect("no machine is started");
        assert_eq!(chosen, Accel::Tcg);
    }

    #[test]
    fn an_answer_from_before_a_reboot_is_void() {
        if !std::path::Path::new("/dev/kvm").exists() {
            eprintln!("NOT RUN: this host has no /dev/kvm");
            return;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let answer = Answer {
            boot_id: "another".into(),
            qemu: qemu_version(),
            kvm_works: true,
        };
        let json = serde_json::to_vec(&answer).expect("serialisable");
        std::fs::write(folder.path().join("kvm.json"), json).expect("written");
        // The trial is attempted, which fails for want of a vng.
        assert!(accel(&impossible(), folder.path()).is_err());
    }
}
