// SPDX-License-Identifier: GPL-2.0-only
//! Runs one process of the guest: streams what it writes, watches the kernel
//! log and the clock meanwhile, and leaves no process behind.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::lines::LineBuffer;
use super::{Guest, coverage, sys};
use crate::event::Stream;

/// How long orphans of a finished process may take to end by themselves. A
/// killed process with gigabytes to give back needs a while on emulated CPUs.
const ORPHAN_GRACE: Duration = Duration::from_millis(500);

/// How long a process may go on after the kernel has reported lasting damage: its
/// own part in it may be stuck for ever, with locks held.
const AFTERMATH: Duration = Duration::from_secs(5);

/// How long a process may take to die of SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(20);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this exit code.
    Exited(i32),
    /// Of this signal.
    Signaled(Signal),
    /// It was killed at its time limit.
    TimedOut,
}

/// What was found when a process had ended.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// Processes that it left behind, which were killed.
    pub left_behind: usize,
    /// Whether some process cannot be killed.
    pub unkillable: bool,
}

/// A started process with its output.
pub struct Running {
    pid: Pid,
    stdin: Option<ChildStdin>,
    pidfd: OwnedFd,
    stdout: Output<ChildStdout>,
    stderr: Output<ChildStderr>,
    status: Option<End>,
}

/// Runs `command` in a session of its own until it ends or `limit` is over;
/// passes each line it writes to `on_line`.
///
/// # Errors
/// When it cannot be started.
pub fn run(
    guest: &mut Guest,
    command: &mut Command,
    limit: Option<Duration>,
    on_line: &mut OnLine,
) -> io::Result<Outcome> {
    Ok(Running::start(command, Stdio::null())?.attend(guest, limit, on_line))
}

/// What is done with each line of a process.
pub type OnLine<'a> = dyn FnMut(&mut Guest, Stream, String) + 'a;

impl Running {
    /// Starts a process in a session of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, stdin: Stdio) -> io::Result<Self> {
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let new_session = || {
            nix::unistd::setsid()?;
            Ok(())
        };
        // SAFETY: setsid() is async-signal-safe.
        unsafe { command.pre_exec(new_session) };
        let mut child = command.spawn()?;
        let pid = Pid::from_raw(child.id().cast_signed());
        // `child` is not waited for by itself: `reap` collects every process.
        Ok(Self {
            pid,
            pidfd: sys::pidfd(pid)?,
            stdin: child.stdin.take(),
            stdout: Output::new(child.stdout.take())?,
            stderr: Output::new(child.stderr.take())?,
            status: None,
        })
    }

    /// Follows the process until it ends or `limit` is over, and ends whatever
    /// it left behind.
    pub fn attend(
        mut self,
        guest: &mut Guest,
        limit: Option<Duration>,
        on_line: &mut OnLine,
    ) -> Outcome {
        let mut deadline = limit.map(|limit| Instant::now() + limit);
        let mut timed_out = false;
        while self.status.is_none() {
            let mut wait = guest.channel.heartbeat();
            if let Some(deadline) = deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                timed_out = left.is_zero();
                wait = wait.min(left);
            }
            if timed_out {
                break;
            }
            if self.step(guest, wait, on_line) {
                let soon = Instant::now() + AFTERMATH;
                deadline = deadline.map(|deadline| deadline.min(soon));
            }
        }
        if timed_out {
            describe_stuck(guest);
        }
        let (left_behind, unkillable) = self.clean_up(guest, timed_out);
        self.read_all(guest, on_line);
        self.finish(guest, on_line);
        Outcome {
            end: self.status.filter(|_| !timed_out).unwrap_or(End::TimedOut),
            left_behind,
            unkillable,
        }
    }

    /// Follows the process until it writes the line `wanted`; false when it
    /// ended before.
    pub fn attend_until(&mut self, guest: &mut Guest, wanted: &str, on_line: &mut OnLine) -> bool {
        let mut seen = false;
        while !seen && self.status.is_none() {
            let wait = guest.channel.heartbeat();
            self.step(guest, wait, &mut |guest, stream, line| {
                seen |= line == wanted;
                on_line(guest, stream, line);
            });
        }
        seen
    }

    /// Writes all its standard input, and closes it.
    ///
    /// # Errors
    /// When it does not read it.
    pub fn feed(&mut self, text: &str) -> io::Result<()> {
        match self.stdin.take() {
            Some(mut stdin) => stdin.write_all(text.as_bytes()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Ends it, and every other process but us.
    pub fn end(mut self, guest: &mut Guest) {
        self.clean_up(guest, true);
    }

    /// Waits for something to happen, at most for `limit`, and takes note of it.
    /// Returns whether the kernel has reported lasting damage.
    fn step(&mut self, guest: &mut Guest, mut limit: Duration, on_line: &mut OnLine) -> bool {
        if let Some(coverage) = &mut guest.coverage {
            coverage.drain();
            limit = limit.min(coverage::PERIOD);
        }
        self.wait(guest, limit);
        self.read_all(guest, on_line);
        let damaged = guest.follow_log();
        self.reap();
        damaged
    }

    fn wait(&self, guest: &Guest, limit: Duration) {
        let log = guest.log.fd();
        let fds = [
            Some(self.pidfd.as_fd()),
            Some(log),
            self.stdout.fd(),
            self.stderr.fd(),
        ];
        let mut fds: Vec<PollFd> = fds
            .into_iter()
            .flatten()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        // Rounded up: rounding down would spin through the last millisecond.
        let limit = limit + Duration::from_millis(1);
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut fds, timeout);
    }

    /// Collects every process that has ended. Returns how many there were
    /// besides the one we run; `None` when no child is left at all.
    fn reap(&mut self) -> Option<usize> {
        let mut others = 0;
        loop {
            let end = match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, End::Exited(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, End::Signaled(signal)),
                Ok(WaitStatus::StillAlive) => return Some(others),
                Err(Errno::ECHILD) => return None,
                Ok(_) | Err(_) => continue,
            };
            if end.0 == self.pid {
                self.status = Some(end.1);
            } else {
                others += 1;
            }
        }
    }

    /// Ends every process but us. Returns how many had outlived the grace, and
    /// whether one outlived even SIGKILL.
    fn clean_up(&mut self, guest: &mut Guest, at_once: bool) -> (usize, bool) {
        if !at_once {
            let deadline = Instant::now() + ORPHAN_GRACE;
            loop {
                if self.reap().is_none() {
                    return (0, false);
                }
                if Instant::now() > deadline {
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let left = if at_once { Vec::new() } else { processes() };
        for name in &left {
            guest.log.note(&format!("hugeprobe: left behind: {name}"));
        }
        let deadline = Instant::now() + KILL_LIMIT;
        loop {
            // From process 1, -1 means every process but itself.
            let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
            if self.reap().is_none() {
                return (left.len(), false);
            }
            if Instant::now() > deadline {
                return (left.len(), true);
            }
            guest.channel.heartbeat();
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn read_all(&mut self, guest: &mut Guest, on_line: &mut OnLine) {
        for line in self.stdout.read() {
            on_line(guest, Stream::Stdout, line);
        }
        for line in self.stderr.read() {
            on_line(guest, Stream::Stderr, line);
        }
    }

    fn finish(&mut self, guest: &mut Guest, on_line: &mut OnLine) {
        if let Some(line) = self.stdout.lines.finish() {
            on_line(guest, Stream::Stdout, line);
        }
        if let Some(line) = self.stderr.lines.finish() {
            on_line(guest, Stream::Stderr, line);
        }
    }
}

/// One output pipe of a process.
struct Output<P> {
    pipe: Option<P>,
    lines: LineBuffer,
}

impl<P: Read + AsFd> Output<P> {
    fn new(pipe: Option<P>) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self {
            pipe,
            lines: LineBuffer::default(),
        })
    }

    fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads what is there; closes the pipe at its end.
    fn read(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut buffer = [0; 16384];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(n) => lines.extend(self.lines.add(&buffer[..n])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.pipe = None;
                    }
                    break;
                }
            }
        }
        lines
    }
}

/// Names every process but us and the kernel's threads.
fn processes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&pid| pid != 1)
        .filter_map(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            is_left_behind(&stat).then(|| {
                let name = stat.split_once(')').map_or("", |(name, _)| name);
                format!("{pid} {})", name.split_once(' ').map_or("", |(_, n)| n))
            })
        })
        .collect()
}

/// Whether the process of this `/proc/PID/stat` is one that runs on: no thread
/// of the kernel and not ending already.
fn is_left_behind(stat: &str) -> bool {
    const PF_EXITING: u64 = 0x4;
    const PF_KTHREAD: u64 = 0x0020_0000;
    let Some((_, rest)) = stat.rsplit_once(") ") else {
        return false;
    };
    let mut fields = rest.split(' ');
    let state = fields.next().unwrap_or("Z");
    // state ppid pgrp session tty_nr tpgid flags
    let flags = fields.nth(5).and_then(|flags| flags.parse::<u64>().ok());
    state != "Z" && flags.is_some_and(|flags| flags & (PF_EXITING | PF_KTHREAD) == 0)
}

/// Writes into the kernel's log where each process is stuck.
fn describe_stuck(guest: &mut Guest) {
    for process in processes() {
        let pid = process.split(' ').next().unwrap_or_default();
        let read = |file: &str| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"));
            text.unwrap_or_default().replace('\n', " ")
        };
        let (call, stack) = (read("syscall"), read("stack"));
        let note = format!("hugeprobe: at its time limit: {process}: syscall {call}stack {stack}");
        guest.log.note(&note[..note.floor_char_boundary(900)]);
    }
    guest.follow_log();
}

#[cfg(test)]
mod tests {
    use super::is_left_behind;

    #[test]
    fn kernel_threads_and_the_dying_do_not_count() {
        let kthread = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0";
        let user = "77 (a) b (c) S 1 77 77 0 -1 4194560 100 0";
        let exiting = "78 (x) R 1 77 77 0 -1 4194564 100 0";
        let zombie = "79 (x) Z 1 77 77 0 -1 4194560 100 0";
        assert!(is_left_behind(user));
        assert!(!is_left_behind(kthread));
        assert!(!is_left_behind(exiting));
        assert!(!is_left_behind(zombie));
    }
}
