// SPDX-License-Identifier: GPL-2.0-only
//! What fuzzing needs: a kernel, a guest, and the fuzzing programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hugeprobe_vm::plan::Setup;

use super::{guest, interrupt, memory};
use crate::cli::{FuzzArgs, FuzzTarget, KernelArgs, Profile};
use crate::commands::kernel::requests;
use crate::exit::{Exit, Failure, OrExit};
use crate::fuzz::lab::Lab;
use crate::fuzz::tools::Tools;
use crate::kernel::cache::Cache;
use crate::kernel::progress::Ui;
use crate::kernel::{self, KernelError, tools, virtme};
use crate::programs::{self, AllNeeds, Layout};

/// Package of the fuzzing programs.
const PACKAGE: &str = "hugeprobe-fuzz";

/// Builds whatever is missing and sets up the lab; files that are not kept go
/// to `scratch`.
///
/// # Errors
/// Anything that keeps a machine from being described, with its exit code.
pub fn lab(args: &FuzzArgs, scratch: &Path) -> Result<Lab, Failure> {
    let ui = Ui::stderr(args.verbose);
    let layout = Layout::detect()?;
    let programs_of_guest = fuzzers(&layout, args.target)?;
    let programs = programs::find(&layout)?;
    // The fuzzers need of a guest what the test targets of the same name need.
    let needing: Vec<String> = args
        .target
        .tested_by()
        .iter()
        .map(|name| (*name).to_owned())
        .collect();
    let selected = if needing.is_empty() {
        Vec::new()
    } else {
        programs::select(&programs.targets, &needing, None).or_exit(Exit::Usage)?
    };
    let [request] = &requests(&fuzz_kernel(args))[..] else {
        return Err(Failure::new(
            Exit::Usage,
            "fuzzing takes one kernel; give one version",
        ));
    };
    let cache = Cache::open().map_err(KernelError::into_failure)?;
    let kernel = kernel::prepare(&cache, request, &ui).map_err(KernelError::into_failure)?;
    tools::require_guest_tools(&ui).map_err(KernelError::into_failure)?;
    let vng = virtme::find_or_install(&cache, &ui).map_err(KernelError::into_failure)?;
    let guest = guest::Builder {
        args: &args.guest(),
        known_bugs: false,
        layout: &layout,
        cache: &cache,
        kernel: &kernel,
        needs: &AllNeeds::load()?,
        ui: &ui,
    }
    .build(vng, &programs.guest, &selected)?;
    Ok(Lab {
        machine: guest.machine,
        kernel,
        setup: Setup {
            oops_ends: true,
            ..guest.setup
        },
        tools: programs_of_guest,
        scratch: scratch.to_owned(),
        interrupted: interrupt::flag()?,
        harm: args.harm,
    })
}

/// Memory that a fuzzing machine comes to use, in MiB, measured after ten minutes of `mm`
/// with room to spare; what a guest is given it uses only in part.
const MACHINE_USES_MIB: u64 = 2048;
/// More machines than this gain little from one corpus.
const MOST_MACHINES: usize = 8;

/// How many machines with so many CPUs the host can run at a time, at least one.
pub fn machines(cpus: u32) -> u32 {
    let by_cpus = std::thread::available_parallelism().map_or(1, usize::from) / cpus as usize;
    let by_memory = memory::of_host().map_or(1, |mib| (mib / MACHINE_USES_MIB) as usize);
    by_cpus.min(by_memory).clamp(1, MOST_MACHINES) as u32
}

/// The kernel to fuzz: with coverage, unless the user asked for another profile.
pub fn fuzz_kernel(args: &FuzzArgs) -> KernelArgs {
    let profile = match args.kernel.profile {
        Profile::Selftest => Profile::Kcov,
        other => other,
    };
    KernelArgs {
        profile,
        ..args.kernel.clone()
    }
}

fn fuzzers(layout: &Layout, target: FuzzTarget) -> Result<Tools, Failure> {
    let folder = fuzzers_folder(layout).or_exit(Exit::Infrastructure)?;
    let tools = Tools {
        exec: folder.join("hugeprobe-exec"),
        fuzzer: folder.join(format!("fuzz-{}", target.name())),
        seeds: layout.data().join("fuzz/seeds").join(target.name()),
        known: layout.data().join("fuzz/known.tsv"),
    };
    for program in [&tools.exec, &tools.fuzzer] {
        if !program.is_file() {
            return Err(Failure::new(
                Exit::Infrastructure,
                format!(
                    "no {}; build in a checkout, or `make install`",
                    program.display()
                ),
            ));
        }
    }
    Ok(tools)
}

/// The folder of the fuzzing programs; in a checkout they are brought up to
/// date first.
///
/// # Errors
/// When they cannot be built.
pub fn fuzzers_folder(layout: &Layout) -> anyhow::Result<PathBuf> {
    match layout {
        Layout::Checkout(checkout) => build(checkout),
        Layout::Installed(folder) => Ok(folder.join("fuzz")),
    }
}

/// Builds the fuzzing programs into the folder of this command.
fn build(checkout: &Path) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let status = Command::new(&cargo)
        .current_dir(checkout)
        .args([
            "build",
            "--quiet",
            "--package",
            PACKAGE,
            "--features",
            "libfuzzer",
            "--bins",
        ])
        .stdin(Stdio::null())
        .status()?;
    anyhow::ensure!(
        status.success(),
        "build the fuzzers: cargo ended with {status}; its messages are above"
    );
    let exe = std::env::current_exe()?;
    Ok(exe.parent().unwrap_or(Path::new("/")).to_owned())
}
