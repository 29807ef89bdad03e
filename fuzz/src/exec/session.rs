// SPDX-License-Identifier: GPL-2.0-only
//! The executor as its users see it: start it once, run programs.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use selftests::program_break::Start;

use super::board::{Board, Stats};
use super::cover::Cover;
use super::entry::Features;
use super::pfn::PfnFiles;
use super::pipe::Disk;
use super::process::Setup;
use super::rally::Rally;
use super::serve::{RUN, RUN_AND_COMPARE, RUN_AND_SUSPECT, RUN_BARE, SUSPICION, serve};
use super::system;
use super::violation::{Oracle, Violation};
use crate::kcov::{self, Kcov};
use crate::model::history::THREADS;
use crate::model::page::{WORDS, file_stamp, word};
use crate::model::{FILE_PAGES, MAX_BUFFERED};
use crate::program::{Op, PAGE, PROCESSES, Program};

/// No answer of the worker for this long: the kernel does not let it go on.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// Programs that run before counters are compared, in a row of programs.
const COMPARE_EACH: usize = 16;

/// Why programs cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// This is not a guest, and nobody said that it may be fuzzed.
    #[error(
        "refusing to fuzz the running kernel: start it in a guest (`hugeprobe fuzz`), or give --yes-fuzz-this-kernel"
    )]
    NotAGuest,
    /// A system call failed.
    #[error("failed to {doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// The error.
        source: io::Error,
    },
    /// The worker is gone or does not answer.
    #[error("the worker process does not answer: {0}")]
    Worker(io::Error),
}

/// A running executor. Dropping it ends the worker.
pub struct Session {
    board: Board,
    worker: UnixStream,
    pid: i32,
    kcov: bool,
    /// Programs since the counters were compared.
    unsure: Vec<Program>,
}

impl Session {
    /// Starts the worker. Programs may do harm to the kernel, so this refuses
    /// unless `HUGEPROBE_GUEST=1` is set (our guest does) or `consent` is given.
    pub fn start(consent: bool) -> Result<Self, SessionError> {
        let guest = std::env::var_os("HUGEPROBE_GUEST").is_some_and(|value| value == "1");
        if !consent && !guest {
            return Err(SessionError::NotAGuest);
        }
        if guest {
            system::prepare_guest();
        }
        let board = Board::new().map_err(failed("map shared memory"))?;
        board.cover().text = kcov::text_start().unwrap_or(0xffff_ffff_8100_0000);
        let (ours, theirs) = UnixStream::pair().map_err(failed("make a socket pair"))?;
        let file = stamped_file().map_err(failed("make the stamped file"))?;
        let exchange = selftests::mapping::memfd("exchange", MAX_BUFFERED * PAGE)
            .map_err(|errno| failed("make a file in memory")(errno.into()))?;
        let bell = super::sys::bell().map_err(failed("make an eventfd"))?;
        let kcov: Vec<Kcov> = (0..PROCESSES).map_while(|_| Kcov::open().ok()).collect();
        let traced = kcov.len() == PROCESSES;
        let lane_kcov = (0..THREADS).map_while(|_| Kcov::open().ok()).collect();
        let rally = Rally::new().map_err(failed("map shared memory"))?;
        let features = features();
        // SAFETY: plain fork; the child only runs `serve`.
        let pid = unsafe { libc::fork() };
        match pid {
            0 => {
                drop(ours);
                serve(
                    &Setup {
                        board,
                        file,
                        bell,
                        rally,
                        kcov,
                        lane_kcov,
                        alone: guest,
                        disk: guest.then(Disk::open).flatten(),
                        exchange,
                        pfn: PfnFiles::open(),
                        heap: Start::of_this_process().ok(),
                        nothing: super::depart::nothing_file(),
                        features,
                    },
                    theirs,
                )
            }
            -1 => return Err(failed("fork")(io::Error::last_os_error())),
            _ => {}
        }
        ours.set_read_timeout(Some(ANSWER_LIMIT))
            .map_err(failed("set a time limit"))?;
        Ok(Self {
            board,
            worker: ours,
            pid,
            kcov: traced,
            unsure: Vec::new(),
        })
    }

    /// Whether the kernel reports coverage.
    pub fn has_kcov(&self) -> bool {
        self.kcov
    }

    /// Runs a program. The violation it showed, if any.
    pub fn run(&mut self, program: &Program) -> Result<Option<Violation>, SessionError> {
        self.request(program, RUN_AND_COMPARE)
    }

    /// Runs one of a row of programs; gives the violation that was found with
    /// the program that showed it. Comparing counters costs as much as a small
    /// program, so it is done once for several; if they differ, those run
    /// again one by one, and a difference that none of them makes again is passed
    /// over: it may come from anywhere.
    pub fn run_in_row(
        &mut self,
        program: &Program,
    ) -> Result<Option<(Violation, Program)>, SessionError> {
        self.unsure.push(program.clone());
        if self.unsure.len() < COMPARE_EACH {
            let found = self.request(program, RUN)?;
            return Ok(found.map(|violation| (violation, program.clone())));
        }
        let found = self.request(program, RUN_AND_SUSPECT)?;
        let suspects = std::mem::take(&mut self.unsure);
        match found {
            // once is chance; a leak grows again when all of them run again
            Some(violation) if violation.title.starts_with(SUSPICION) => {
                match self.run_again(&suspects)? {
                    true => self.convict(&suspects),
                    false => Ok(None),
                }
            }
            Some(violation) if violation.oracle == Oracle::Resources => self.convict(&suspects),
            found => Ok(found.map(|violation| (violation, program.clone()))),
        }
    }

    /// Whether programs make counters grow that run again in a row.
    fn run_again(&mut self, programs: &[Program]) -> Result<bool, SessionError> {
        let mut found = None;
        for (index, program) in programs.iter().enumerate() {
            let last = index + 1 == programs.len();
            found = self.request(program, if last { RUN_AND_SUSPECT } else { RUN })?;
        }
        Ok(found.is_some_and(|violation| violation.oracle == Oracle::Resources))
    }

    /// Runs programs again, until one shows a violation.
    fn convict(
        &mut self,
        suspects: &[Program],
    ) -> Result<Option<(Violation, Program)>, SessionError> {
        // what a race leaks it does not leak each time
        const RACING_RUNS: usize = 5;
        for program in suspects {
            for _ in 0..if program.races() { RACING_RUNS } else { 1 } {
                if let Some(violation) = self.run(program)? {
                    return Ok(Some((violation, program.clone())));
                }
            }
        }
        Ok(None)
    }

    /// Runs the system calls and accesses of a program and nothing else: no model,
    /// no coverage, no checks. Each step runs; see `carried_out`. For measuring.
    pub fn run_bare(&mut self, program: &Program) -> Result<(), SessionError> {
        self.board.load_bare(program);
        self.ask(RUN_BARE).map(drop)
    }

    /// The steps of a program that its last run carried out, as opposed to those
    /// that did not suit the state that they met; without those that only check.
    pub fn carried_out(&self, program: &Program) -> Program {
        let steps = program.steps.iter().enumerate();
        let done = steps.filter(|(index, step)| match self.board.result(*index) {
            None => false,
            Some(errno) => !step.op.is_left_out(errno) && step.op != Op::Verify {},
        });
        Program {
            steps: done.map(|(_, step)| *step).collect(),
        }
    }

    fn request(&mut self, program: &Program, what: u8) -> Result<Option<Violation>, SessionError> {
        self.board.cover().clear();
        self.board.load(program);
        self.ask(what)
    }

    fn ask(&mut self, what: u8) -> Result<Option<Violation>, SessionError> {
        let asked = self.worker.write_all(&[what]);
        let answered = asked.and_then(|()| self.worker.read_exact(&mut [0]));
        match (self.board.violation(), answered) {
            // what a worker has seen before it came to its end counts all the same
            (Some(violation), _) => Ok(Some(violation)),
            (None, Ok(())) => Ok(None),
            (None, Err(error)) => Err(SessionError::Worker(error)),
        }
    }

    /// Coverage of the last program.
    pub fn cover(&self) -> &Cover {
        self.board.cover()
    }

    /// Counts since the start.
    pub fn stats(&self) -> Stats {
        *self.board.stats()
    }

    /// What each step of the last program returned: 0 or an errno; 0 for those
    /// that were not carried out.
    pub fn results(&self) -> Vec<i32> {
        (0..self.board.count())
            .map(|index| self.board.result(index).unwrap_or(0))
            .collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: our child, not reaped yet.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> SessionError {
    move |source| SessionError::System { doing, source }
}

/// An unlinked file of `FILE_PAGES` stamped pages, never written again.
fn stamped_file() -> io::Result<i32> {
    let file = selftests::mapping::memfd("stamped", FILE_PAGES * PAGE).map_err(io::Error::other)?;
    let mut page = [0u8; PAGE];
    for offset in 0..FILE_PAGES {
        for (index, at) in WORDS.iter().enumerate() {
            let value = word(file_stamp(offset as u16), index);
            page[*at..at + 8].copy_from_slice(&value.to_ne_bytes());
        }
        std::os::unix::fs::FileExt::write_all_at(&file, &page, (offset * PAGE) as u64)?;
    }
    Ok(std::os::fd::IntoRawFd::into_raw_fd(file))
}

/// Finds out what the kernel's page map tells.
fn features() -> Features {
    Features {
        soft_dirty: selftests::pagemap::soft_dirty_supported(),
        guard: super::entry::guard_bit_supported(),
    }
}
