// SPDX-License-Identifier: GPL-2.0-only
//! What fuzzing needs: a kernel, a guest, and the fuzzing programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{guest, interrupt};
use crate::cli::{FuzzArgs, FuzzTarget, KernelArgs, Profile};
use crate::commands::kernel::requests;
use crate::exit::{Exit, Failure, OrExit};
use crate::fuzz::lab::Lab;
use crate::fuzz::tools::Tools;
use crate::kernel::cache::Cache;
use crate::kernel::progress::Ui;
use crate::kernel::{self, Kernel, KernelError, tools, virtme};
use crate::programs::{self, AllNeeds, Layout};

/// Package of the fuzzing programs.
const PACKAGE: &str = "hugeprobe-fuzz";

/// A lab and the kernel in it.
pub struct FuzzLab {
    /// The lab.
    pub lab: Lab,
    /// The kernel that its machines boot.
    pub kernel: Kernel,
}

/// Builds whatever is missing and sets up the lab; files that are not kept go
/// to `scratch`.
///
/// # Errors
/// Anything that keeps a machine from being described, with its exit code.
pub fn lab(args: &FuzzArgs, scratch: &Path) -> Result<FuzzLab, Failure> {
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
    let wanted = KernelArgs {
        profile: profile(args),
        ..args.kernel.clone()
    };
    let [request] = &requests(&wanted)[..] else {
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
        args: &args.guest,
        known_bugs: false,
        layout: &layout,
        cache: &cache,
        kernel: &kernel,
        needs: &AllNeeds::load()?,
        ui: &ui,
    }
    .build(vng, &programs.guest, &selected)?;
    let lab = Lab {
        machine: guest.machine,
        setup: guest.setup,
        tools: programs_of_guest,
        scratch: scratch.to_owned(),
        interrupted: interrupt::flag()?,
    };
    Ok(FuzzLab { lab, kernel })
}

/// The profile: with coverage, unless the user asked for another.
fn profile(args: &FuzzArgs) -> Profile {
    match args.kernel.profile {
        Profile::Selftest => Profile::Kcov,
        other => other,
    }
}

fn fuzzers(layout: &Layout, target: FuzzTarget) -> Result<Tools, Failure> {
    let folder = match layout {
        Layout::Checkout(checkout) => build(checkout)?,
        Layout::Installed(folder) => folder.join("fuzz"),
    };
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

/// Brings the fuzzing programs up to date; returns their folder, which is
/// that of this command, too.
fn build(checkout: &Path) -> Result<PathBuf, Failure> {
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
    if !status.success() {
        return Err(Failure::new(
            Exit::Infrastructure,
            format!("build the fuzzers: cargo ended with {status}; its messages are above"),
        ));
    }
    let exe = std::env::current_exe()?;
    Ok(exe.parent().unwrap_or(Path::new("/")).to_owned())
}
