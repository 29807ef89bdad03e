// SPDX-License-Identifier: GPL-2.0-only
//! Runs the one command of a [`crate::plan::Job::Exec`].

use std::process::Command;
use std::process::Stdio;

use super::supervise::{self, End, Outcome, Running};
use super::{Guest, environment, setup};
use crate::event::{Event, Stream};
use crate::plan::{self, Job, Plan, READY};

impl Guest {
    /// Runs `planned`, passing on what it writes and what the kernel logs, and
    /// sends its exit code.
    pub(super) fn run_command(&mut self, planned: &plan::Command) -> Result<(), String> {
        let (program, mut command) = command(planned)?;
        let outcome = supervise::run(self, &mut command, None, &mut pass_on)
            .map_err(|error| format!("cannot run {program}: {error}"))?;
        self.command_ended(&outcome)
    }

    /// Starts `warm`, waits until it is ready, and then for the host, which
    /// keeps this state of the machine and begins with it as often as it likes:
    /// see [`crate::template`]. Does the work that the host then gives.
    pub(super) fn wait_for_work(&mut self, warm: Option<&plan::Command>) -> Result<(), String> {
        let mut running = warm.map(|planned| self.start_warm(planned)).transpose()?;
        self.report_stray();
        self.channel.send(&Event::GuestWaits);
        let line = self.channel.receive();
        let line = line.map_err(|error| format!("cannot read from the host: {error}"))?;
        let plan: Plan =
            serde_json::from_str(&line).map_err(|error| format!("the host's plan: {error}"))?;
        self.channel.send(&Self::ready()?);
        for share in &plan.setup.shares {
            setup::mount_share(share)?;
        }
        match (plan.job, running.take()) {
            (Job::Feed(text), Some(mut running)) => {
                let fed = running.feed(&text);
                fed.map_err(|error| format!("the command does not read its input: {error}"))?;
                let outcome = running.attend(self, None, &mut pass_on);
                self.command_ended(&outcome)
            }
            (job, running) => {
                if let Some(running) = running {
                    running.end(self);
                }
                self.work_on(job)
            }
        }
    }

    fn start_warm(&mut self, planned: &plan::Command) -> Result<Running, String> {
        let (program, mut command) = command(planned)?;
        let mut running = Running::start(&mut command, Stdio::piped())
            .map_err(|error| format!("cannot run {program}: {error}"))?;
        if !running.attend_until(self, READY, &mut pass_on) {
            return Err(format!("{program} ended before it was ready"));
        }
        Ok(running)
    }

    fn command_ended(&mut self, outcome: &Outcome) -> Result<(), String> {
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

fn pass_on(guest: &mut Guest, stream: Stream, line: String) {
    guest.channel.send(&Event::TestOutput { stream, line });
}

fn command(planned: &plan::Command) -> Result<(&str, Command), String> {
    let (program, arguments) = planned.argv.split_first().ok_or("the command is empty")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(&planned.cwd)
        .env_clear()
        .envs(environment())
        .envs(planned.env.iter().cloned());
    Ok((program, command))
}
