// SPDX-License-Identifier: GPL-2.0-only
//! Harm that a fuzzer does to its own machine, so that tests of the host's side
//! see it die in the middle of a program. `HUGEPROBE_HARM` asks for it.

use std::time::Duration;

use nix::sys::ptrace;
use nix::unistd::Pid;

/// Programs that run before.
const AFTER: u64 = 20;

/// What shall happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// The kernel panics.
    Panic,
    /// The guest's first process is stopped: the kernel lives, the machine hangs.
    Hang,
}

impl Harm {
    /// What the environment asks for.
    pub fn wanted() -> Option<Self> {
        match std::env::var("HUGEPROBE_HARM").ok()?.as_str() {
            "panic" => Some(Self::Panic),
            "hang" => Some(Self::Hang),
            _ => None,
        }
    }

    /// Strikes when so many programs have run.
    pub fn strike(self, programs: u64) {
        if programs < AFTER {
            return;
        }
        match self {
            Self::Panic => {
                let _ = std::fs::write("/proc/sysrq-trigger", "c");
            }
            Self::Hang => {
                let first = Pid::from_raw(1);
                let stopped = ptrace::seize(first, ptrace::Options::empty())
                    .and_then(|()| ptrace::interrupt(first));
                if let Err(error) = stopped {
                    eprintln!("failed to stop process 1: {error}");
                }
            }
        }
        std::thread::sleep(Duration::from_secs(3600));
    }
}
