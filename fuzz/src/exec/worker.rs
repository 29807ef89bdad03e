// SPDX-License-Identifier: GPL-2.0-only
//! The worker: a small process that forks the first process of each program,
//! reaps all of them, and sees that everything ends in time.
//!
//! The fuzzer's own process grows; forking it for each program would cost more
//! than the program.

use std::io;
use std::time::{Duration, Instant};

use super::board::{Duty, STOP};
use super::limit;
use super::process::{self, Setup, name_of};
use super::sys;
use super::violation::{Oracle, Violation};
use crate::program::PROCESSES;
use crate::text;

/// A step that takes longer is a violation of liveness; emulated machines that
/// share a busy host are slow.
const STEP_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at a program that goes on. The limit is counted in looks: where the host
/// stops the whole machine for a while, no process of it could have gone on.
const LOOK: Duration = Duration::from_millis(500);
/// A killed process that is still there after this cannot be killed.
const KILL_LIMIT: Duration = Duration::from_secs(20);

/// Runs the loaded program to its end: all its processes are gone afterwards.
pub fn run_program(setup: &Setup) {
    let board = &setup.board;
    let forked = Instant::now();
    // SAFETY: plain fork of a process with one thread.
    match unsafe { libc::fork() } {
        0 => {
            board.set_pid(0, std::process::id() as i32);
            process::run(setup, forked)
        }
        pid if pid > 0 => board.set_pid(0, pid),
        _ => {
            board.stop();
            return;
        }
    }
    if !reap_all(setup) {
        kill_all(setup);
    }
}

/// Reaps until no child is left. False if that takes too long or the program
/// has to be ended.
fn reap_all(setup: &Setup) -> bool {
    let mut turn = setup.board.turn();
    let mut looks = 0;
    loop {
        match reap_one(setup) {
            Reaped::One => continue,
            Reaped::NoneLeft => return true,
            Reaped::Stopped => return false,
            Reaped::NotYet => {}
        }
        wait_child(LOOK);
        let now = setup.board.turn();
        looks = if now == turn { looks + 1 } else { 0 };
        turn = now;
        if LOOK * looks > STEP_LIMIT {
            report_hang(setup, turn);
            return false;
        }
    }
}

enum Reaped {
    /// A child was reaped.
    One,
    /// No child has ended.
    NotYet,
    /// There are no children.
    NoneLeft,
    /// A child ended as it must not.
    Stopped,
}

fn reap_one(setup: &Setup) -> Reaped {
    let mut status = 0;
    // SAFETY: status is ours.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    match pid {
        0 => return Reaped::NotYet,
        -1 => return Reaped::NoneLeft,
        _ => {}
    }
    let board = &setup.board;
    let Some(process) = (0..PROCESSES).find(|&p| board.pid(p) == pid) else {
        return Reaped::One;
    };
    let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
    let doomed = killed && board.take_doomed(process);
    board.set_pid(process, 0);
    if doomed || board.turn() == STOP {
        return Reaped::One;
    }
    if setup.rally.is_doomed(process) && matches!(board.duty(board.turn()), Duty::Run(_)) {
        setup.rally.bury(board, process, board.turn());
        return Reaped::One;
    }
    if board.leaving() == Some(process) && status == 0 {
        board.set_leaving(-1);
        board.pass(board.turn());
        return Reaped::One;
    }
    if killed && board.limits() && limit::has_killed() {
        board.stop();
        return Reaped::Stopped;
    }
    let turn = board.turn();
    let Doing { step, name, text } = Doing::now(setup, turn);
    board.report(&Violation {
        oracle: Oracle::Content,
        step,
        title: format!("process died in {name}"),
        detail: format!("p{process} ended with wait status {status:#x} during: {text}"),
    });
    Reaped::Stopped
}

/// What a process is at.
struct Doing {
    step: Option<usize>,
    /// What it is called in titles.
    name: String,
    /// In full.
    text: String,
}

impl Doing {
    /// The step that has the turn.
    fn now(setup: &Setup, turn: u32) -> Self {
        let (index, what) = match setup.board.duty(turn) {
            Duty::Step(index) => (index, None),
            Duty::Plan(index) | Duty::Run(index) => (index, Some("racing block at")),
            Duty::Look(index) => (index, Some("look behind racing block at")),
            Duty::Check(_) => {
                return Self {
                    step: None,
                    name: "checks".into(),
                    text: "the checks at the end".into(),
                };
            }
        };
        let step = setup.board.step(index);
        let text = step.map_or(String::new(), |step| text::step(&step));
        let (name, text) = match (what, step) {
            (Some(what), _) => ("race".into(), format!("the race: {what} {text}")),
            (None, step) => (step.map_or("a step".into(), |step| name_of(&step.op)), text),
        };
        Self {
            step: Some(index),
            name,
            text,
        }
    }
}

fn report_hang(setup: &Setup, turn: u32) {
    if turn == STOP {
        return;
    }
    let doing = Doing::now(setup, turn);
    let wchan = match setup.board.duty(turn) {
        Duty::Run(_) => (0..PROCESSES)
            .map(|process| stacks(setup, process))
            .collect(),
        _ => stacks(setup, setup.board.owner(turn)),
    };
    setup.board.report(&Violation {
        oracle: Oracle::Liveness,
        step: doing.step,
        title: format!("no end of {}", doing.name),
        detail: format!(
            "not done after {} s: {}\n{wchan}",
            STEP_LIMIT.as_secs(),
            doing.text
        ),
    });
}

/// Where the threads of a process are in the kernel.
fn stacks(setup: &Setup, process: usize) -> String {
    let pid = setup.board.pid(process);
    let mut text = String::new();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    for task in tasks.into_iter().flatten().flatten() {
        let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let status = read("status");
        let state = status.lines().find_map(|line| line.strip_prefix("State:"));
        let state = state.unwrap_or_default().trim();
        text.push_str(&format!("p{process} {state}\n{}", read("stack")));
    }
    text
}

/// Kills and reaps every process of the program.
fn kill_all(setup: &Setup) {
    setup.board.stop();
    let start = Instant::now();
    while !matches!(reap_one(setup), Reaped::NoneLeft) {
        for process in 0..PROCESSES {
            let pid = setup.board.pid(process);
            if pid > 0 {
                // SAFETY: a child of ours that is not reaped yet.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
        wait_child(Duration::from_millis(100));
        if start.elapsed() > KILL_LIMIT {
            setup.board.report(&Violation {
                oracle: Oracle::Liveness,
                step: None,
                title: "process cannot be killed".into(),
                detail: format!("SIGKILL without effect for {} s", KILL_LIMIT.as_secs()),
            });
            sys::exit(1);
        }
    }
}

/// Blocks SIGCHLD, so that `wait_child` gets it.
pub fn block_sigchld() -> io::Result<()> {
    // SAFETY: a local set.
    let result = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Waits until a child ends, for at most `limit`.
fn wait_child(limit: Duration) {
    let time = libc::timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    // SAFETY: local set and time.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const time);
    }
}
