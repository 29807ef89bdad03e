// SPDX-License-Identifier: GPL-2.0-only
//! How a machine ended, from what its channel, its console and QEMU's exit
//! status say. Pure.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use crate::event::{Fate, Splat};
use crate::splat;

/// Console lines kept; a panic with its traces has some hundred.
const TAIL: usize = 500;

/// Console lines shown when a kernel did not boot.
const SHOWN: usize = 12;

/// What is known about a machine.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The guest's first process has reported.
    pub ready: bool,
    /// The guest has run its plan to the end.
    pub done: bool,
    /// The guest asked for a new machine, and why.
    pub replace: Option<String>,
    /// The guest could not prepare itself, and why.
    pub failed: Option<String>,
    /// How much has arrived on the console.
    pub console_bytes: usize,
    partial: Vec<u8>,
    tail: Vec<String>,
}

impl Evidence {
    /// Adds what arrived on the console.
    pub fn add_console(&mut self, bytes: &[u8]) {
        self.console_bytes += bytes.len();
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            self.tail.push(splat::without_stamp(&line).to_owned());
        }
        if self.tail.len() > 2 * TAIL {
            self.tail.drain(..self.tail.len() - TAIL);
        }
    }

    /// The last console lines, oldest first, without time stamps.
    pub fn console_tail(&self) -> &[String] {
        &self.tail[self.tail.len().saturating_sub(TAIL)..]
    }

    /// What the kernel reported on the console since the last test began; a
    /// panic that no report preceded is one itself.
    pub fn splats(&self) -> Vec<Splat> {
        splat::parse(splat::since_last_test(self.console_tail()))
    }

    /// The fate of a machine whose QEMU has ended; `status` in words.
    pub fn qemu_ended(&self, status: String, stderr: &str) -> Fate {
        if let Some(fate) = self.as_the_guest_said() {
            return fate;
        }
        let panic = splat::panic_title(self.console_tail());
        match (self.ready, panic) {
            (true, Some(title)) => Fate::Panic { title },
            (true, None) => Fate::Lost { detail: status },
            (false, Some(title)) => self.no_boot(&format!("the kernel panicked: {title}")),
            (false, None) if self.console_bytes == 0 => {
                let said = stderr.trim().lines().last().unwrap_or("it said nothing");
                Fate::Infrastructure {
                    detail: format!("{status}; {said}"),
                }
            }
            (false, None) => self.no_boot(&status),
        }
    }

    /// The fate of a machine that was not ready within `limit`.
    pub fn boot_timed_out(&self, limit: Duration) -> Fate {
        self.no_boot(&format!("not ready after {} s", limit.as_secs()))
    }

    /// The fate of a machine that sent nothing for `limit`.
    pub fn silent(&self, limit: Duration) -> Fate {
        self.as_the_guest_said()
            .unwrap_or_else(|| match splat::panic_title(self.console_tail()) {
                Some(title) => Fate::Panic { title },
                None => Fate::Hang {
                    detail: format!("no sign of life for {} s", limit.as_secs()),
                },
            })
    }

    /// The fate of a machine that sent nothing for `limit` and was then given
    /// an NMI, to which its kernel answers with a panic.
    pub fn hung(&self, limit: Duration) -> Fate {
        let silence = format!("no sign of life for {} s", limit.as_secs());
        let detail = match splat::panicked_in(self.console_tail()) {
            Some(place) => format!("{silence}; a CPU was in {place}"),
            None => format!("{silence}; its CPUs do not even take an NMI"),
        };
        Fate::Hang { detail }
    }

    /// The fate that the guest announced, if it did.
    pub fn as_the_guest_said(&self) -> Option<Fate> {
        if self.done {
            return Some(Fate::Clean);
        }
        let failed = self.failed.clone();
        let failed = failed.map(|detail| Fate::Infrastructure { detail });
        failed.or_else(|| {
            let detail = self.replace.clone()?;
            Some(Fate::Replaced { detail })
        })
    }

    fn no_boot(&self, what: &str) -> Fate {
        if self.tail.is_empty() {
            let detail = format!("the kernel did not boot: {what}; it printed nothing");
            return Fate::Infrastructure { detail };
        }
        let from = self.tail.len().saturating_sub(SHOWN);
        let last = self.tail[from..].join("\n  ");
        Fate::Infrastructure {
            detail: format!(
                "the kernel did not boot: {what}; see console.log, which ends:\n  {last}"
            ),
        }
    }
}

/// Begins the words for a QEMU that a signal ended.
const KILLED: &str = "QEMU was killed by";

/// Whether a machine that was lost says nothing about its kernel: QEMU, whose end
/// [`describe`] has put into these words, was killed.
pub fn is_hosts_doing(detail: &str) -> bool {
    detail.starts_with(KILLED)
}

/// QEMU's exit status in words.
pub fn describe(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Err(error) => format!("QEMU's end could not be read: {error}"),
        Ok(status) => match (status.code(), status.signal()) {
            (_, Some(signal)) => {
                let name = nix::sys::signal::Signal::try_from(signal)
                    .map_or_else(|_| signal.to_string(), |name| name.as_str().to_owned());
                format!("{KILLED} {name}")
            }
            (Some(0), None) => "QEMU ended although the guest had not finished".to_owned(),
            (code, None) => format!("QEMU exited with {}", code.unwrap_or(-1)),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Evidence;
    use crate::event::Fate;

    const PANIC: &[u8] = b"[    1.5] hugeprobe: begin a::b\r\n\
        [    2.000001] Kernel panic - not syncing: sysrq triggered crash\r\n";

    fn lost() -> String {
        "QEMU was killed by SIGKILL".to_owned()
    }

    #[test]
    fn a_panic_explains_the_end_of_a_ready_guest() {
        let mut evidence = Evidence {
            ready: true,
            ..Evidence::default()
        };
        assert_eq!(
            evidence.qemu_ended(lost(), ""),
            Fate::Lost { detail: lost() }
        );
        evidence.add_console(&PANIC[..50]);
        evidence.add_console(&PANIC[50..]);
        let title = "kernel panic: sysrq triggered crash".to_owned();
        assert_eq!(
            evidence.qemu_ended(lost(), ""),
            Fate::Panic {
                title: title.clone()
            }
        );
        assert_eq!(
            evidence.silent(Duration::from_secs(9)),
            Fate::Panic { title }
        );
        assert_eq!(evidence.splats().len(), 1);
    }

    #[test]
    fn what_happens_before_the_guest_is_ready_is_no_verdict() {
        let mut evidence = Evidence::default();
        let Fate::Infrastructure { detail } = evidence.qemu_ended(lost(), "no such drive\n") else {
            panic!("not the machine's fault");
        };
        assert_eq!(detail, "QEMU was killed by SIGKILL; no such drive");
        evidence.add_console(PANIC);
        let Fate::Infrastructure { detail } = evidence.qemu_ended(lost(), "") else {
            panic!("not the machine's fault");
        };
        assert!(detail.starts_with("the kernel did not boot: the kernel panicked: "));
    }

    #[test]
    fn the_guests_own_word_comes_first() {
        let mut evidence = Evidence {
            ready: true,
            replace: Some("an oops".into()),
            ..Evidence::default()
        };
        let replaced = Fate::Replaced {
            detail: "an oops".into(),
        };
        assert_eq!(evidence.qemu_ended(lost(), ""), replaced);
        assert_eq!(evidence.silent(Duration::from_secs(1)), replaced);
        evidence.done = true;
        assert_eq!(evidence.qemu_ended(lost(), ""), Fate::Clean);
    }
}
