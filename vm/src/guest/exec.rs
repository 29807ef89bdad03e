// SPDX-License-Identifier: GPL-2.0-only
//! Runs the one command of a [`crate::plan::Job::Exec`].

use std::process::Command;

use super::supervise::{self, End};
use super::{Guest, environment};
use crate::event::Event;
use crate::plan;

impl Guest {
    /// Runs `planned`, passing on what it writes and what the kernel logs, and
    /// sends its exit code.
    pub(super) fn run_command(&mut self, planned: &plan::Command) -> Result<(), String> {
        let (program, arguments) = planned.argv.split_first().ok_or("the command is empty")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&planned.cwd)
            .env_clear()
            .envs(environment())
            .envs(planned.env.iter().cloned());
        let outcome = supervise::run(self, &mut command, None, &mut |guest, stream, line| {
            guest.channel.send(&Event::TestOutput { stream, line });
        })
        .map_err(|error| format!("cannot run {program}: {error}"))?;
        let code = match outcome.end {
            End::Exited(code) => code,
            End::Signaled(signal) => 128 + signal as i32,
            End::TimedOut => return Err("a command without a time limit timed out".into()),
        };
        self.report_stray();
        self.channel.send(&Event::CommandEnds { code });
        Ok(())
    }
}
