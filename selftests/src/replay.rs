// SPDX-License-Identifier: GPL-2.0-only
//! Programs of the fuzzers as tests: steps of several processes, one at a time,
//! and checks of what must hold after each. `hugeprobe fuzz` writes such tests
//! (`repro.rs`); they read
//!
//! ```text
//! // p0 munmap at=0.5 len=1
//! 2 => {
//!     p.munmap(5, 1);
//!     p.refuses(5, 1, 0, 11);
//! }
//! ```
//!
//! Pages are numbers in an arena of four huge pages at a fixed address, the same
//! in every process. A *stamp* tells what stands in a page: four words that
//! differ by place; 0 is a page of zeros. What a step does is in
//! `replay/{map,track,hold,device,transfer,others,inject}.rs`, the checks are in `replay/check.rs`.

mod board;
mod check;
mod device;
mod hold;
mod inject;
mod map;
mod others;
mod track;
mod transfer;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::CpuSet;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use self::board::Board;
use crate::failnth::Injection;
use crate::fixed_buffer::FixedBuffer;
use crate::gup::Pin;
use crate::mapping::Region;
use crate::outcome;
use crate::settings::{self, Setting};
use crate::{coverage, skip, watch};

pub use self::check::Stored;
pub use self::map::{Backing, Move};
pub use self::track::Fill;
pub use self::transfer::Pfn;

/// Processes of a program.
pub const PROCESSES: usize = 4;
/// Pages of the arena.
pub const PAGES: usize = 2048;
/// Pages under one PMD entry.
pub const SLOT: usize = 512;
/// Where the arena lies.
const ARENA: usize = 0x40_0000_0000;
/// How long one step may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a process looks whether it is its turn.
const TICK: Duration = Duration::from_micros(100);
/// Exit code of a process that has left its message on the board.
const EXIT_BAD: i32 = 77;

/// May read as zero.
pub const LAZY: u32 = 1;
/// Written since the soft-dirty bits were cleared.
pub const DIRTY: u32 = 2;
/// Write-protected by userfaultfd.
pub const WP: u32 = 4;
/// Whether it is write-protected by userfaultfd is not determined.
pub const WP_ANY: u32 = 8;
/// May be loaded from.
pub const READABLE: u32 = 16;

/// A program: whose the steps are, what they do, and what each process checks
/// before it ends.
#[derive(Clone, Copy)]
pub struct Program {
    /// The process of each step.
    pub owners: &'static [usize],
    /// Carries out the step of that number.
    pub step: fn(&mut Process, usize),
    /// Checks everything once more, in the process of that number.
    pub last: fn(&mut Process, usize),
    /// What devices store, if they get as far.
    pub stored: &'static [Stored],
    /// Whether allocations are made to fail.
    pub injects: bool,
    /// Whether counters of all memory and of each size are back at the end.
    pub baseline: bool,
}

/// One process of a program, as it sees itself.
pub struct Process {
    board: &'static Board,
    program: Program,
    /// Its number.
    me: usize,
    /// The step that has the turn.
    now: usize,
    /// Whether what it did last failed.
    failed: bool,
    arena: Region,
    stamped: Option<File>,
    uffd: Option<File>,
    pin: Option<Pin>,
    /// A fixed buffer of io_uring, and a file to exchange data with.
    fixed: Option<FixedBuffer>,
    exchange: Option<File>,
    mirrors: [Option<File>; 3],
    pipe: Option<transfer::Pipe>,
    /// A loop device, and the memory behind it.
    disk: Option<(File, File)>,
    /// Files of module hugeprobe_pfnmap, by mode.
    pfn: [Option<File>; 4],
    /// What the device returned last.
    buffer: Vec<u64>,
    injection: Option<Injection>,
    /// Which allocation of the next call fails; 0 for none.
    nth: u32,
}

/// Runs a program; the test fails with everything that was wrong.
///
/// # Panics
/// When anything was.
#[track_caller]
pub fn run(program: Program) {
    let _settings = settings();
    let board = Board::new();
    // Allocated before the fork: children have it, too.
    let injection = program.injects.then(Injection::of_all_allocations);
    let baseline = program.baseline.then(check::baseline);
    match fork(0) {
        Ok(None) => {
            let mut process = Process::first(board, program, injection);
            process.live();
        }
        Ok(Some(pid)) => board.born(0, pid),
        Err(errno) => panic!("fork: {errno}"),
    }
    let ended = reap(board, program.owners.len());
    let told = board.text();
    if let Err(how) = ended {
        if let Some(reason) = told.strip_prefix(SKIP) {
            skip!("{}", reason.trim_end());
        }
        panic!("{how}\n{told}");
    }
    assert!(told.is_empty(), "{told}");
    if let Some((before, same)) = baseline {
        same.check_settled(&before);
    }
}

/// What the first words on the board are when the test cannot run here.
const SKIP: &str = "SKIP: ";

/// What a fuzzer's guest is set to.
fn settings() -> Vec<Setting> {
    let mut set = settings::quiet();
    for (file, value) in [
        ("shmem_enabled", "advise"),
        ("hugepages-64kB/enabled", "madvise"),
        ("hugepages-512kB/enabled", "madvise"),
    ] {
        let path = format!("{}/{file}", settings::THP);
        set.extend(Setting::try_set(path, value));
    }
    set
}

/// Reaps every process; those that end as they should pass the turn on.
fn reap(board: &Board, steps: usize) -> Result<(), String> {
    let (mut turn, mut since) = (board.turn(), Instant::now());
    loop {
        let (pid, wrong) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {
                std::thread::sleep(TICK);
                if board.turn() != turn {
                    (turn, since) = (board.turn(), Instant::now());
                }
                if since.elapsed() > PATIENCE {
                    end_all(board);
                    return Err(format!("step {turn} of {steps} does not end"));
                }
                continue;
            }
            Err(Errno::ECHILD) => return Ok(()),
            Ok(WaitStatus::Exited(pid, code)) => (pid, (code != 0).then(|| format!("exit {code}"))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Some(signal.to_string())),
            Ok(_) | Err(_) => continue,
        };
        if let Some(wrong) = wrong.filter(|_| !board.is_doomed(pid.as_raw())) {
            end_all(board);
            return Err(format!(
                "step {}: a process ended with {wrong}",
                board.turn()
            ));
        }
        let passes = board.buried(pid.as_raw());
        if passes {
            board.pass(board.turn());
        }
    }
}

fn end_all(board: &Board) {
    for pid in board.living() {
        // Fails for one that has just ended by itself.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let deadline = Instant::now() + PATIENCE;
    while waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) != Err(Errno::ECHILD) {
        if Instant::now() > deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// fork(2) with more flags; all processes become children of the test's own.
fn fork(flags: i32) -> Result<Option<i32>, Errno> {
    // SAFETY: without CLONE_VM this is fork. No thread of the test program
    // holds a lock that the child takes: libtest's waits for the test.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
    match Errno::result(pid)? {
        0 => {
            coverage::trace();
            Ok(None)
        }
        pid => Ok(Some(pid as i32)),
    }
}

impl Process {
    fn first(board: &'static Board, program: Program, injection: Option<Injection>) -> Self {
        // on its node pages are taken from, so that to place them elsewhere moves them
        let mut first = CpuSet::new();
        first.set(0).expect("a set has room for one CPU");
        watch::bind_to(&first);
        let mut arena = Region::reserved_at(ARENA, PAGES * crate::mapping::PAGE)
            .unwrap_or_else(|errno| panic!("nothing else lies at {ARENA:#x}: {errno}"));
        let all = arena.all();
        arena.munmap(all).expect("what is mapped can be unmapped");
        Self {
            board,
            program,
            me: 0,
            now: 0,
            failed: false,
            arena,
            stamped: None,
            uffd: None,
            pin: None,
            fixed: None,
            exchange: None,
            mirrors: [const { None }; 3],
            pipe: None,
            disk: None,
            pfn: [const { None }; 4],
            buffer: Vec::new(),
            injection,
            nth: 0,
        }
    }

    /// Takes its turns until it leaves. Never returns into the test.
    fn live(&mut self) -> ! {
        let lived = catch_unwind(AssertUnwindSafe(|| self.turns()));
        if let Err(panic) = lived {
            let text = outcome::panic_message(&*panic);
            self.board
                .write(&format!("p{}, step {}: {text}\n", self.me, self.now));
        }
        exit(EXIT_BAD)
    }

    fn turns(&mut self) {
        let steps = self.program.owners.len();
        loop {
            self.now = self.board.turn();
            let who = match self.program.owners.get(self.now) {
                Some(who) => *who,
                None => self.now - steps,
            };
            if who != self.me {
                if who < PROCESSES && !self.board.lives(who) {
                    self.board.pass(self.now);
                } else {
                    std::thread::sleep(TICK);
                }
            } else if self.now >= steps {
                (self.program.last)(self, who);
                self.leave();
            } else {
                (self.program.step)(self, self.now);
                self.board.pass(self.now);
            }
        }
    }

    /// Forks; the child is process `child`, and goes on with its own steps.
    pub fn spawn(&mut self, child: usize) {
        let forked = self.injected(|_| fork(libc::CLONE_PARENT));
        match forked {
            Ok(None) => {
                let parent = std::mem::replace(&mut self.me, child);
                self.board.copy_doubts(parent, child);
                self.disown();
                self.board.born(child, std::process::id() as i32);
                let forked_in = self.now;
                while self.board.turn() == forked_in {
                    std::thread::sleep(TICK);
                }
                self.live();
            }
            Ok(Some(_)) => {
                self.say(Ok(()));
                while !self.board.lives(child) {
                    std::thread::sleep(TICK);
                }
            }
            Err(errno) => self.say(Err(errno)),
        }
    }

    /// What belongs to the memory of the parent is not the child's.
    fn disown(&mut self) {
        self.uffd = None;
        self.pipe = None;
        // Dropping it would release the parent's.
        std::mem::forget(self.pin.take());
        std::mem::forget(self.fixed.take());
        for file in &mut self.mirrors {
            // Closing it would take the parent's pages back from the device.
            std::mem::forget(file.take());
        }
    }

    /// Ends this process; who reaps it passes the turn on, when all of its
    /// memory is gone.
    pub fn leave(&self) -> ! {
        exit(0)
    }

    /// Notes how a call ended.
    fn say(&mut self, result: Result<(), Errno>) {
        self.failed = result.is_err();
        if let Err(errno) = result {
            eprintln!("step {}: {errno}", self.now);
        }
    }

    /// As [`Self::say`], where the rest of the program shows nothing without it.
    pub(crate) fn need(&mut self, result: Result<(), Errno>) {
        if let Err(errno) = result {
            let (me, now) = (self.me, self.now);
            self.board.write(&format!(
                "{SKIP}p{me}, step {now} cannot be done here: {errno}\n"
            ));
            exit(EXIT_BAD);
        }
        self.failed = false;
    }

    /// Something is not as it must be.
    fn bad(&self, what: &str, page: usize, found: u64) {
        let (me, now, slot) = (self.me, self.now, page / SLOT);
        let page = page % SLOT;
        self.board.write(&format!(
            "p{me}, step {now}: page {slot}.{page}: {what} ({found:#x})\n"
        ));
    }
}

fn exit(code: i32) -> ! {
    // SAFETY: ends this process at once, without the test's exit handlers.
    unsafe { libc::_exit(code) }
}
