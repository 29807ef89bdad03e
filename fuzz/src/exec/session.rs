// SPDX-License-Identifier: GPL-2.0-only
//! The executor as its users see it: start it once, run programs.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::baseline::Baseline;
use super::board::{Board, Stats};
use super::check::Features;
use super::cover::Cover;
use super::klog::KernelLog;
use super::leaks::Leaks;
use super::pfn::PfnFiles;
use super::phases::Phase;
use super::pipe::Disk;
use super::process::Setup;
use super::rally::Rally;
use super::system;
use super::violation::{Oracle, Violation};
use super::worker;
use crate::kcov::{self, Kcov};
use crate::model::FILE_PAGES;
use crate::model::history::THREADS;
use crate::model::page::{WORDS, file_stamp, word};
use crate::program::{Op, PAGE, PROCESSES, Program};

/// No answer of the worker for this long: the kernel does not let it go on.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// Requests to the worker: run the program, and compare counters afterwards or not.
const RUN: u8 = 1;
const RUN_AND_COMPARE: u8 = 2;
/// The same for the last of a row, where a counter that only may be wrong is enough.
const RUN_AND_SUSPECT: u8 = 4;
/// Run the program only: nothing of the machine is looked at afterwards.
const RUN_BARE: u8 = 3;
/// Title of a violation that says no more than that counters have grown.
const SUSPICION: &str = "counters grow";
/// Programs that run before counters are compared, in a row of programs.
const COMPARE_EACH: usize = 16;

/// Programs after which the devices give their memory back.
const RELEASE_EACH: u32 = 100;

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
                        pfn: PfnFiles::open(),
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

/// The worker's loop: a request in, one program, one byte out. Counters of the
/// whole system and the kernel log only mean something if nobody else is there.
fn serve(setup: &Setup, mut requests: UnixStream) -> ! {
    // SAFETY: two prctls on ourselves: die with the parent, reap orphans.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
    }
    stay_on_one_cpu();
    if setup.alone {
        system::enter_group();
        dirty_free_memory();
    }
    let mut programs = 0u32;
    let ready = worker::block_sigchld();
    let mut log = KernelLog::open();
    let mut baseline = Baseline::take();
    let mut leaks = Leaks::take();
    let mut request = [0];
    while ready.is_ok() && requests.read_exact(&mut request).is_ok() {
        let mut clock = Instant::now();
        run_once(setup);
        if request == [RUN_BARE] {
            if requests.write_all(&[1]).is_err() {
                break;
            }
            continue;
        }
        setup.board.spent(Phase::Program, &mut clock);
        programs += 1;
        if programs.is_multiple_of(RELEASE_EACH) {
            super::mirror::release_devices();
        }
        let found = if setup.alone {
            let compare = request != [RUN];
            let differs = || compare.then(|| baseline.violation()).flatten();
            let leaked = || match request {
                [RUN] => None,
                [RUN_AND_SUSPECT] => leaks.grown().then(suspicion),
                _ => leaks
                    .grown()
                    .then(|| convicted(setup, &mut leaks))
                    .flatten(),
            };
            let complaint = log.complaint().or_else(differs);
            if setup.board.violation().is_some() {
                complaint
            } else {
                complaint.or_else(leaked)
            }
        } else {
            None
        };
        setup.board.spent(Phase::System, &mut clock);
        if let Some(violation) = found {
            setup.board.report(&violation);
        }
        if requests.write_all(&[1]).is_err() {
            break;
        }
    }
    super::sys::exit(0)
}

/// Runs the program that is loaded; the system is as before then, as far as
/// programs change it on purpose.
fn run_once(setup: &Setup) {
    if setup.board.maps_device() {
        setup.pfn.clear();
    }
    worker::run_program(setup);
    if setup.alone && setup.board.turns_knobs() {
        system::turn_back();
    }
}

/// Counters that have grown, which may come from anywhere.
fn suspicion() -> Violation {
    Violation {
        oracle: Oracle::Resources,
        step: None,
        title: SUSPICION.into(),
        detail: String::new(),
    }
}

/// Whether the program makes a counter grow each time that it runs.
fn convicted(setup: &Setup, leaks: &mut Leaks) -> Option<Violation> {
    let others = (setup.board.uses_devices(), setup.board.reclaims());
    leaks.violation(others, || {
        setup.board.rewind();
        run_once(setup);
        setup.board.violation().is_none()
    })
}

/// Keeps the worker and its processes on the last CPU. Only one of them works at
/// a time; on several they would spend their time on waking and TLB flushes.
fn stay_on_one_cpu() {
    // SAFETY: a local set, read by the second call.
    unsafe {
        let mut set = std::mem::zeroed();
        let count = libc::sysconf(libc::_SC_NPROCESSORS_ONLN).max(1);
        libc::CPU_SET(count as usize - 1, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// Leaves marks in memory that is free. What the kernel forgets to clear would else
/// be zero by chance, as most memory is after a boot.
fn dirty_free_memory() {
    const BYTES: usize = 256 << 20;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, written inside its bounds and unmapped again.
    unsafe {
        let base = libc::mmap(std::ptr::null_mut(), BYTES, access, flags, -1, 0);
        if base == libc::MAP_FAILED {
            return;
        }
        libc::madvise(base, BYTES, libc::MADV_HUGEPAGE);
        for page in (0..BYTES).step_by(PAGE) {
            for offset in WORDS {
                base.cast::<u8>()
                    .add(page + offset)
                    .cast::<u64>()
                    .write_volatile(u64::MAX);
            }
        }
        libc::munmap(base, BYTES);
    }
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
        guard: super::check::guard_bit_supported(),
    }
}
