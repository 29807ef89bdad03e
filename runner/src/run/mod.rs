// SPDX-License-Identifier: GPL-2.0-only
//! One run from beginning to end: plan, kernel, virtual machines, events,
//! reports. `run`, `bisect`, `plan cell` and the matrix all end here.

pub mod cover;
pub mod decode;
mod exec;
mod guest;
mod interrupt;
mod lab;
mod memory;
mod modules;
pub mod repeat;
mod results;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use hugeprobe_vm::event::{Stamped, TestId};
use hugeprobe_vm::plan::{Job, Plan, PlannedTest, Setup, Share};
use hugeprobe_vm::session::{self, SessionConfig};

use crate::cli::{RunArgs, SelectArgs};
use crate::exit::{Exit, Failure, OrExit};
use crate::kernel::cache::Cache;
use crate::kernel::progress::Ui;
use crate::kernel::{self, KernelError, Request, tools, virtme};
use crate::programs::{self, AllNeeds, Layout, Programs, Selected};
use crate::report::{Report, Terminal, events::Recorder};

pub use exec::exec;
pub use lab::{fuzz_kernel, fuzzers_folder, lab, machines};
pub use results::Results;

/// What a run left behind.
#[derive(Debug)]
pub struct Finished {
    /// What it amounts to.
    pub report: Report,
    /// The results folder.
    pub dir: PathBuf,
}

/// What is to be run, found and checked before anything expensive happens.
#[derive(Clone, Debug)]
pub struct Chosen<'a> {
    /// Where hugeprobe lives.
    pub layout: &'a Layout,
    /// The first process of the guest.
    pub guest: &'a Path,
    /// The tests.
    pub selected: Vec<Selected<'a>>,
    /// File that the kernel call sites reached are appended to; it is there.
    pub coverage: Option<PathBuf>,
}

impl<'a> Chosen<'a> {
    /// The tests of `programs` that the user asks for.
    ///
    /// # Errors
    /// When there is no such target or test.
    pub fn of(
        layout: &'a Layout,
        programs: &'a Programs,
        select: &SelectArgs,
    ) -> Result<Self, Failure> {
        let selected =
            programs::select(&programs.targets, &select.targets, select.tests.as_deref())
                .or_exit(Exit::Usage)?;
        Ok(Self {
            layout,
            guest: &programs.guest,
            selected,
            coverage: None,
        })
    }
}

/// Runs what `args` ask for on the kernel of `request`, into `results`.
///
/// # Errors
/// Anything that keeps the run from starting, with its exit code. Once
/// machines run, what happens is in the report.
pub fn run(
    args: &RunArgs,
    request: &Request,
    chosen: &Chosen,
    results: &Results,
) -> Result<Finished, Failure> {
    let ui = Ui::stderr(args.verbose);
    let cache = Cache::open().map_err(KernelError::into_failure)?;
    let kernel = kernel::prepare(&cache, request, &ui).map_err(KernelError::into_failure)?;
    tools::require_guest_tools(&ui).map_err(KernelError::into_failure)?;
    let vng = virtme::find_or_install(&cache, &ui).map_err(KernelError::into_failure)?;
    let needs = AllNeeds::load()?;
    let plan = |guest: &guest::Guest| Plan {
        setup: covered(guest.setup.clone(), chosen.coverage.as_deref()),
        job: Job::Tests(planned(args, &chosen.selected, &needs)),
    };
    let guest = guest::Builder {
        args: &args.guest,
        known_bugs: args.known_bugs,
        layout: chosen.layout,
        cache: &cache,
        kernel: &kernel,
        needs: &needs,
        ui: &ui,
    }
    .build(vng, chosen.guest, &chosen.selected)?;
    results.describe(args, request, &kernel, &guest)?;
    let config = SessionConfig {
        machine: guest.machine.clone(),
        folder: results.dir().to_owned(),
        limit: None,
        fail_fast: args.fail_fast,
        patience: Some(args.patience),
        interrupted: interrupt::flag()?,
    };
    let terminal = follow(args, results, &plan(&guest), &config)?;
    decode::splats(results.dir(), &kernel)?;
    let report = crate::report::write_all(results.dir())?;
    // Standard output may be gone by now (`hugeprobe run | head`); the files are there.
    let _ = terminal.end(&report);
    Ok(Finished {
        report,
        dir: results.dir().to_owned(),
    })
}

/// `setup` for a guest that writes what tests reach to `file`.
fn covered(mut setup: Setup, file: Option<&Path>) -> Setup {
    if let Some((file, folder)) = file.and_then(|file| Some((file, file.parent()?))) {
        setup.shares.push(Share {
            tag: "hugeprobe-cov".into(),
            path: folder.to_owned(),
        });
        setup.coverage = Some(file.to_owned());
    }
    setup
}

/// Runs the machines, recording and showing every event.
fn follow(
    args: &RunArgs,
    results: &Results,
    plan: &Plan,
    config: &SessionConfig,
) -> Result<Terminal, Failure> {
    let mut recorder = Recorder::create(results.dir())?;
    let mut terminal = Terminal::new(args.verbose);
    let mut unrecorded = None;
    let sink = |stamped: Stamped| {
        if let Err(error) = recorder.record(&stamped) {
            // What is not recorded did not happen: end the run.
            config.interrupted.store(true, Ordering::Relaxed);
            unrecorded.get_or_insert(error);
        }
        // Whoever read our output may have gone; the files matter more.
        let _ = terminal.event(&stamped);
    };
    // A machine that could not be started is in the events, too.
    let started = session::run(plan, config, sink);
    if let Some(error) = unrecorded {
        return Err(error.into());
    }
    if let Err(error) = started {
        eprintln!("hugeprobe: {:#}", anyhow::Error::from(error));
    }
    Ok(terminal)
}

/// The chosen tests as the guest runs them.
fn planned(args: &RunArgs, selected: &[Selected], needs: &AllNeeds) -> Vec<PlannedTest> {
    let mut planned = Vec::new();
    for chosen in selected {
        let limit = args.timeout.or(needs.of(&chosen.target.name).timeout_s);
        planned.extend(chosen.tests.iter().map(|test| PlannedTest {
            id: TestId {
                target: chosen.target.name.clone(),
                name: test.name.clone(),
            },
            program: chosen.target.program.clone(),
            raw_name: test.raw_name.clone(),
            timeout_s: limit.unwrap_or(60),
        }));
    }
    planned
}
