// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe here TARGET`: runs a target on the kernel that runs now, each
//! test in a process of its own, and prints TAP. The kernel's `runner.sh` runs
//! this through the wrappers that `hugeprobe install` makes; its exit codes are
//! kselftest's, of which ours are a superset.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use hugeprobe_vm::event::{Stream, TestId};
use hugeprobe_vm::guest::{End, Words};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::exit::{Exit, OrExit, Outcome};
use crate::programs::{self, AllNeeds, Layout, Target, Test};
use crate::report::ktap::{Detail, Form, KtapWriter};
use crate::report::{OutputLine, Report, TestReport};

/// How often a silent test is looked at.
const TICK: Duration = Duration::from_millis(20);

/// Runs all tests of `target`.
pub fn run(target: &str) -> Outcome {
    let programs = programs::find(&Layout::detect()?)?;
    let selected =
        programs::select(&programs.targets, &[target.to_owned()], None).or_exit(Exit::Usage)?;
    let chosen = &selected[0];
    let limit = AllNeeds::load()?.of(target).timeout_s.unwrap_or(60);
    let ids = chosen
        .tests
        .iter()
        .map(|test| id(chosen.target, test))
        .collect::<Vec<_>>();
    let mut report = Report::default();
    let mut tap = KtapWriter::begin(std::io::stdout(), Form::Flat, Detail::Brief, &ids)?;
    for test in &chosen.tests {
        let ended = run_test(chosen.target, test, limit)?;
        tap.test(ended.clone())?;
        report.tests.push(ended);
    }
    tap.end(&report)?;
    Ok(report.exit())
}

fn id(target: &Target, test: &Test) -> TestId {
    TestId {
        target: target.name.clone(),
        name: test.name.clone(),
    }
}

fn run_test(target: &Target, test: &Test, limit_s: u32) -> std::io::Result<TestReport> {
    let began = Instant::now();
    let mut child = Command::new(&target.program)
        .arg(&test.raw_name)
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .env("HUGEPROBE_GUEST", "1")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (sender, lines) = mpsc::channel();
    read(
        child.stdout.take().expect("stdout is piped"),
        Stream::Stdout,
        sender.clone(),
    );
    read(
        child.stderr.take().expect("stderr is piped"),
        Stream::Stderr,
        sender,
    );
    let end = wait(&mut child, began + Duration::from_secs(limit_s.into()))?;
    // Whatever the test left behind holds the pipes open.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    let output: Vec<OutputLine> = lines.iter().collect();
    let mut words = Words::new(&test.raw_name);
    output.iter().for_each(|line| words.hear(&line.line));
    let (verdict, reason) = words.verdict(end, limit_s);
    Ok(TestReport {
        outcome: verdict.into(),
        reason,
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        output,
        ..TestReport::not_run(id(target, test))
    })
}

/// Sends each line of `pipe` until it is closed.
fn read(pipe: impl Read + Send + 'static, stream: Stream, sender: Sender<OutputLine>) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if sender.send(OutputLine { stream, line }).is_err() {
                break;
            }
        }
    });
}

fn wait(child: &mut Child, deadline: Instant) -> std::io::Result<End> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(end(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(End::TimedOut);
        }
        std::thread::sleep(TICK);
    }
}

fn end(status: ExitStatus) -> End {
    let signal = status
        .signal()
        .and_then(|number| Signal::try_from(number).ok());
    signal.map_or_else(|| End::Exited(status.code().unwrap_or(-1)), End::Signaled)
}
