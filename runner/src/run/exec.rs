// SPDX-License-Identifier: GPL-2.0-only
//! One command in a guest: `hugeprobe boot --exec`.

use std::io::Write;
use std::path::PathBuf;

use hugeprobe_vm::event::{Event, Fate, Stamped, Stream};
use hugeprobe_vm::plan::{Command, Job, Plan};
use hugeprobe_vm::session::{self, SessionConfig};

use super::{guest, interrupt};
use crate::cli::BootArgs;
use crate::exit::{Exit, Failure, OrExit, Outcome};
use crate::kernel::Kernel;
use crate::kernel::cache::Cache;
use crate::kernel::progress::Ui;
use crate::programs::{self, AllNeeds, Layout};

/// Runs `command` by the shell of a guest with `kernel` and passes on what it
/// writes. The guest's own exit code is told, not passed on.
///
/// # Errors
/// Anything that keeps the command from ending, with its exit code.
pub fn exec(
    args: &BootArgs,
    command: &str,
    cache: &Cache,
    kernel: &Kernel,
    vng: PathBuf,
    ui: &Ui,
) -> Outcome {
    let layout = Layout::detect()?;
    let programs = programs::find(&layout)?;
    let guest = guest::Builder {
        args: &args.guest,
        known_bugs: false,
        layout: &layout,
        cache,
        kernel,
        needs: &AllNeeds::load()?,
        ui,
    }
    .build(vng, &programs.guest, &[])?;
    let plan = Plan {
        setup: guest.setup,
        job: Job::Exec(Command {
            argv: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
            env: Vec::new(),
            cwd: "/".into(),
        }),
    };
    let folder = tempfile::tempdir().or_exit(Exit::Infrastructure)?;
    let config = SessionConfig {
        machine: guest.machine,
        folder: folder.path().to_owned(),
        limit: None,
        fail_fast: false,
        patience: None,
        interrupted: interrupt::flag()?,
    };
    let summary = session::run(&plan, &config, show).or_exit(Exit::Infrastructure)?;
    match (summary.command, summary.fate) {
        (Some(0), _) => Ok(Exit::Passed),
        (Some(code), _) => Err(Failure::new(
            Exit::Failed,
            format!("the command ended with {code} in the guest"),
        )),
        (None, Fate::Interrupted) => Ok(Exit::Interrupted),
        (None, Fate::Infrastructure { detail }) => Err(Failure::new(Exit::Infrastructure, detail)),
        (None, fate) => Err(Failure::new(
            Exit::Failed,
            format!("the guest ended before the command: {fate:?}"),
        )),
    }
}

/// What the command writes goes where it would go here; what the kernel reports
/// goes to standard error.
fn show(stamped: Stamped) {
    // Whoever read our output may have gone; the command shall end all the same.
    let _ = match stamped.event {
        Event::TestOutput {
            stream: Stream::Stdout,
            line,
        } => writeln!(std::io::stdout(), "{line}"),
        Event::TestOutput { line, .. } => writeln!(std::io::stderr(), "{line}"),
        Event::StraySplat { splat } if splat.allowed.is_none() => {
            writeln!(std::io::stderr(), "{}", splat.lines.join("\n"))
        }
        _ => Ok(()),
    };
}
