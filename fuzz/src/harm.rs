// SPDX-License-Identifier: GPL-2.0-only
//! Harm that a fuzzer does to its own machine, and a lie that the executor tells, so
//! that tests of the host's side see a machine die in the middle of a program, and a
//! finding where the kernel has no bug. `HUGEPROBE_HARM` asks for it.

use std::time::Duration;

use nix::sys::ptrace;
use nix::unistd::Pid;

use crate::exec::{Oracle, Violation};
use crate::program::Program;

/// Programs that run before.
const AFTER: u64 = 20;

/// What shall happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// The kernel panics.
    Panic,
    /// The guest's first process is stopped: the kernel lives, the machine hangs.
    Hang,
    /// A program that looks at everything after a fork is said to show a violation.
    Lie,
}

impl Harm {
    /// What the environment asks for.
    pub fn wanted() -> Option<Self> {
        match std::env::var("HUGEPROBE_HARM").ok()?.as_str() {
            "panic" => Some(Self::Panic),
            "hang" => Some(Self::Hang),
            "lie" => Some(Self::Lie),
            _ => None,
        }
    }

    /// Strikes when so many programs have run.
    pub fn strike(self, programs: u64) {
        if programs < AFTER || self == Self::Lie {
            return;
        }
        match self {
            Self::Lie => {}
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

    /// The violation that a program is said to show.
    pub fn claim(self, program: &Program) -> Option<Violation> {
        let names = || program.steps.iter().map(|step| step.op.name());
        let fork = names().position(|name| name == "fork")?;
        let verify = fork + names().skip(fork).position(|name| name == "verify")?;
        (self == Self::Lie).then(|| Violation {
            oracle: Oracle::Content,
            step: Some(verify),
            title: "claimed after fork".into(),
            detail: format!("claimed of {} steps", program.steps.len()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Harm;
    use crate::text;

    #[test]
    fn a_lie_needs_a_look_after_a_fork() {
        let claims = |source: &str, harm: Harm| harm.claim(&text::parse(source).unwrap()).is_some();
        let (fork, verify) = ("p0 fork child=p1\n", "p0 verify\n");
        assert!(claims(&[fork, verify].concat(), Harm::Lie));
        assert!(!claims(&[verify, fork].concat(), Harm::Lie));
        assert!(!claims(&[fork, verify].concat(), Harm::Panic));
    }
}
