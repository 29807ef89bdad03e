// SPDX-License-Identifier: GPL-2.0-only
//! Runs the tests of a plan, each in a process of its own, and reports them.

use std::process::Command;
use std::time::{Duration, Instant};

use super::supervise::{self, Outcome};
use super::verdict::Words;
use super::{Guest, kmsg::Record};
use crate::event::{Event, Stream, Verdict};
use crate::plan::PlannedTest;

/// Output kept of one test, in bytes: the channel is a serial line.
const OUTPUT_LIMIT: usize = 256 << 10;

impl Guest {
    /// Runs `tests` in order; stops early, having told the host, when the guest
    /// cannot be trusted any longer.
    pub(super) fn run_tests(&mut self, tests: &[PlannedTest]) -> Result<(), String> {
        for test in tests {
            if let Some(reason) = self.run_test(test) {
                self.channel.send(&Event::NeedsNewMachine { reason });
                break;
            }
        }
        Ok(())
    }

    /// Runs one test; returns why the guest should be replaced, if it should.
    fn run_test(&mut self, test: &PlannedTest) -> Option<String> {
        self.channel.send(&Event::TestBegins {
            test: test.id.clone(),
        });
        let began = Instant::now();
        let name = format!("{}::{}", test.id.target, test.id.name);
        self.log.note(&format!("hugeprobe: begin {name}"));
        self.read_log();
        let mut words = Words::new(&test.raw_name);
        let mut room = OUTPUT_LIMIT;
        let outcome = supervise::run(
            self,
            &mut command(test),
            Some(Duration::from_secs(test.timeout_s.into())),
            &mut |guest, stream, line| {
                words.hear(&line);
                guest.test_output(stream, line, &mut room);
            },
        );
        self.log.note(&format!("hugeprobe: end {name}"));
        self.read_log();
        let (verdict, reason) = match &outcome {
            Ok(outcome) => judge(&words, outcome, test.timeout_s),
            Err(error) => (
                Verdict::Fail,
                format!("cannot run {}: {error}", test.program.display()),
            ),
        };
        self.channel.send(&Event::TestEnds {
            test: test.id.clone(),
            verdict,
            reason,
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            splats: Vec::new(),
        });
        let stuck = outcome.is_ok_and(|outcome| outcome.unkillable);
        stuck.then(|| format!("a process of {name} cannot be killed"))
    }

    fn test_output(&mut self, stream: Stream, line: String, room: &mut usize) {
        if *room == 0 {
            return;
        }
        *room = room.saturating_sub(line.len() + 1);
        self.channel.send(&Event::TestOutput { stream, line });
        if *room == 0 {
            self.channel.send(&Event::TestOutput {
                stream: Stream::Stderr,
                line: format!("(further output left out: more than {OUTPUT_LIMIT} bytes)"),
            });
        }
    }

    /// Runs the one command of a [`crate::plan::Job::Exec`].
    pub(super) fn run_command(&mut self, planned: &crate::plan::Command) -> Result<(), String> {
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
            supervise::End::Exited(code) => code,
            supervise::End::Signaled(signal) => 128 + signal as i32,
            supervise::End::TimedOut => unreachable!("a command has no time limit"),
        };
        self.channel.send(&Event::CommandEnds { code });
        Ok(())
    }

    /// Passes on what the kernel has logged since the last call.
    pub(super) fn read_log(&mut self) {
        while let Some(record) = self.log.next() {
            let line = match record {
                Record::Line(line) => line,
                Record::Lost => "hugeprobe: kernel log lines were lost".into(),
            };
            self.channel.send(&Event::KernelLine { line });
        }
    }
}

fn judge(words: &Words, outcome: &Outcome, timeout_s: u32) -> (Verdict, String) {
    let (verdict, reason) = words.verdict(outcome.end, timeout_s);
    if outcome.left_behind > 0 && !verdict.is_failure() {
        let reason = format!("left {} process(es) behind", outcome.left_behind);
        return (Verdict::Fail, reason);
    }
    (verdict, reason)
}

fn command(test: &PlannedTest) -> Command {
    let mut command = Command::new(&test.program);
    command
        .arg(&test.raw_name)
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .current_dir("/")
        .env_clear()
        .envs(environment());
    command
}

/// The whole environment of whatever runs in a guest.
fn environment() -> [(&'static str, &'static str); 5] {
    [
        ("HUGEPROBE_GUEST", "1"),
        ("HOME", "/root"),
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ),
        ("TERM", "dumb"),
        ("TMPDIR", "/tmp"),
    ]
}
