// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe boot`: an interactive shell in the guest, by virtme-ng unchanged, or
//! one command in a guest as tests have it.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use crate::cli::{AccelArg, BootArgs};
use crate::commands::kernel::requests;
use crate::exit::{Exit, Failure, OrExit, Outcome};
use crate::kernel::cache::Cache;
use crate::kernel::progress::Ui;
use crate::kernel::{self, Kernel, KernelError, tools, virtme};

/// Runs the verb.
pub fn run(args: &BootArgs) -> Outcome {
    let ui = Ui::stderr(false);
    let cache = Cache::open().map_err(KernelError::into_failure)?;
    let [request] = &requests(&args.kernel)[..] else {
        return Err(Failure::new(
            Exit::Usage,
            "boot takes one kernel; give one version",
        ));
    };
    tools::require_guest_tools(&ui).map_err(KernelError::into_failure)?;
    let kernel = kernel::prepare(&cache, request, &ui).map_err(KernelError::into_failure)?;
    let vng = virtme::find_or_install(&cache, &ui).map_err(KernelError::into_failure)?;
    if let Some(command) = &args.exec {
        return crate::run::exec(args, command, &cache, &kernel, vng, &ui);
    }
    let status = vng_command(&vng, &kernel, args)
        .status()
        .or_exit(Exit::Infrastructure)?;
    if status.signal() == Some(nix::sys::signal::Signal::SIGINT as i32) {
        return Ok(Exit::Interrupted);
    }
    // The guest's own code is never passed through; virtme-ng gives it on.
    Ok(if status.success() {
        Exit::Passed
    } else {
        Exit::Failed
    })
}

fn vng_command(vng: &Path, kernel: &Kernel, args: &BootArgs) -> Command {
    let mut command = Command::new(vng);
    // vng calls its relatives by name.
    let own = vng.parent().into_iter().map(Path::to_path_buf);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(own.chain(std::env::split_paths(&path)));
    command.env("PATH", path.unwrap_or_default());
    command.arg("--run").arg(&kernel.bzimage).arg("--force-9p");
    command.arg("--cpus").arg(args.guest.cpus().to_string());
    let memory = args
        .guest
        .mem
        .clone()
        .unwrap_or_else(|| format!("{}M", kernel.memory_mib));
    command.arg("--memory").arg(memory);
    if args.guest.accel != AccelArg::Kvm {
        command.arg("--disable-kvm");
    }
    for argument in kernel.boot_args.iter().chain(&args.guest.append) {
        command.arg("--append").arg(argument);
    }
    command
}
