// SPDX-License-Identifier: GPL-2.0-only
//! Runs the tests of a plan, each in a process of its own, and reports them.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::programs::Programs;
use super::settings::Settings;
use super::supervise::{Outcome, Running};
use super::verdict::{self, Findings, Words};
use super::{Guest, log, sys};
use crate::event::{Event, Stream};
use crate::plan::PlannedTest;
use crate::splat;

/// Output kept of one test, in bytes: the channel is a serial line.
const OUTPUT_LIMIT: usize = 256 << 10;

impl Guest {
    /// Runs `tests` in order; stops early, having told the host, when the guest
    /// cannot be trusted any longer.
    pub(super) fn run_tests(
        &mut self,
        tests: &[PlannedTest],
        settings: &mut Settings,
        programs: &mut Programs,
    ) {
        for (at, test) in tests.iter().enumerate() {
            let reason = self.run_test(test, settings, programs);
            if let Some(reason) = reason.filter(|_| at + 1 < tests.len()) {
                self.channel.send(&Event::NeedsNewMachine { reason });
                return;
            }
        }
        self.report_stray();
    }

    /// Runs one test; returns why the guest should be replaced, if it should.
    fn run_test(
        &mut self,
        test: &PlannedTest,
        settings: &mut Settings,
        programs: &mut Programs,
    ) -> Option<String> {
        let name = format!("{}::{}", test.id.target, test.id.name);
        let program = programs.local(&test.program, &mut self.channel);
        let taint = self.begin_mark(&name);
        self.channel.send(&Event::TestBegins {
            test: test.id.clone(),
        });
        let began = Instant::now();
        let mut words = Words::new(&test.raw_name);
        let outcome = self.run_program(test, program, &mut words);
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.write_coverage(&name);
        let kernel = self.end_mark(&name, taint);
        if !kernel.splats.is_empty() {
            log::rearm_warnings();
        }
        let findings = Findings {
            outcome: outcome
                .as_ref()
                .map_err(|error| format!("cannot run {}: {error}", program.display())),
            settings: settings.restore(),
            kernel: &kernel,
        };
        let (verdict, reason) = findings.judge(&words, test.timeout_s);
        let replace = why_replace(&name, &findings);
        self.channel.send(&Event::TestEnds {
            test: test.id.clone(),
            verdict,
            reason,
            duration_ms,
            splats: kernel.splats.clone(),
        });
        replace
    }

    fn run_program(
        &mut self,
        test: &PlannedTest,
        program: &Path,
        words: &mut Words,
    ) -> io::Result<Outcome> {
        let mut command = Command::new(program);
        command
            .arg(&test.raw_name)
            .args(["--exact", "--nocapture", "--test-threads=1"])
            .current_dir("/")
            .env_clear()
            .envs(super::environment())
            .envs(self.env.iter().cloned());
        if let Some(coverage) = &self.coverage {
            coverage.attach(&mut command);
        }
        let limit = Duration::from_secs(test.timeout_s.into());
        let mut room = OUTPUT_LIMIT;
        let mut on_line = |guest: &mut Self, stream, line: String| {
            words.hear(&line);
            // A serial line is slow, and most of what tests write is this.
            if !words.is_idle(&line) {
                let last = verdict::known_bug(&line).is_some();
                guest.test_output(stream, line, &mut room);
                if last {
                    // The test waits for this, and may then stop the kernel.
                    guest.channel.drain();
                }
            }
        };
        let near = sys::OnLastCpu::new();
        let running = Running::start(&mut command, Stdio::null())?;
        drop(near);
        Ok(running.attend(self, Some(limit), &mut on_line))
    }

    /// Writes down what the test reached; one that cannot be is told in its output.
    fn write_coverage(&mut self, name: &str) {
        let Some(coverage) = &mut self.coverage else {
            return;
        };
        if let Err(error) = coverage.test_ends(name) {
            let line = format!("hugeprobe: coverage cannot be written: {error}");
            let stream = Stream::Stderr;
            self.channel.send(&Event::TestOutput { stream, line });
        }
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
}

/// Why nothing after the test `name` could be trusted in this guest.
fn why_replace(name: &str, findings: &Findings) -> Option<String> {
    if findings.outcome.as_ref().is_ok_and(|o| o.unkillable) {
        return Some(format!("a process of {name} cannot be killed"));
    }
    let splats = &findings.kernel.splats;
    if let Some(splat) = splats.iter().find(|splat| splat::is_lasting(splat)) {
        return Some(format!("{name} made the kernel report `{}`", splat.title));
    }
    let stuck = findings
        .settings
        .iter()
        .find(|s| s.contains(", and cannot be"));
    stuck.map(|setting| format!("{name} left {setting}"))
}
