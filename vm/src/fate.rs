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
        let from = self.tail.len().saturating_sub(SHOWN);
        let last = self.tail[from..].join("\n  ");
        Fate::Infrastructure {
            detail: format!(
                "the kernel did not boot: {what}; its last lines (see console.log):\n  {last}"
            ),
        }
    }
}

/// QEMU's exit status in words.
pub fn describe(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Err(error) => format!("QEMU's end could not be read: {error}"),
        Ok(status) => match (status.code(), status.signal()) {
            (_, Some(signal)) => {
                let name = nix::sys::signal::Signal::try_from(signal)
                    .map_or_else(|_| signal.to_string(), |name| name.as_str().to_owned());
                format!("QEMU was killed by {name}")
            }
            (Some(0), None) => "QEMU ended although the guest had not finished".to_owned(),
            (code, None) => format!("QEMU exited with {}", code.unwrap_or(-1)),
        },
    }
}
