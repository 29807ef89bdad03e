// SPDX-License-Identifier: GPL-2.0-only
//! The guest side: everything that `hugeprobe-guest`, the first process of the
//! guest, does. One thread, one poll loop: it must go on when tests misbehave.

mod channel;
mod coverage;
mod exec;
mod initramfs;
mod kmsg;
mod lines;
mod log;
mod programs;
mod rest;
mod settings;
mod setup;
pub mod shared_memory;
mod supervise;
mod swap;
mod sys;
mod tests;
mod verdict;

use std::fs;
use std::path::PathBuf;

use nix::sys::reboot::{RebootMode, reboot};

use self::channel::Channel;
use self::coverage::Coverage;
use self::log::Log;
use self::programs::Programs;
use self::settings::Settings;
use crate::event::Event;
use crate::plan::{Job, Plan};

pub use self::supervise::End;
pub use self::verdict::Words;
pub(crate) use self::verdict::known_bug;
use crate::words::split_kernel;

/// What the guest works with: its way out and the kernel's log.
struct Guest {
    channel: Channel,
    log: Log,
    /// What the plan adds to the environment of tests.
    env: Vec<(String, String)>,
    /// What the kernel does for tests, when the plan asks for it.
    coverage: Option<Coverage>,
}

/// Runs the guest to its end; process 1 must not return.
pub fn main() -> ! {
    if std::process::id() != 1 {
        eprintln!("hugeprobe-guest is the first process of a guest; `hugeprobe run` starts it");
        std::process::exit(2);
    }
    // Without a channel there is only the console.
    if let Err(reason) = work() {
        eprintln!("hugeprobe-guest: {reason}");
    }
    nix::unistd::sync();
    // QEMU runs with -no-reboot: this ends it, also on kernels without ACPI.
    let _ = reboot(RebootMode::RB_AUTOBOOT);
    // The host's limits take care of a machine that cannot reboot.
    loop {
        nix::unistd::pause();
    }
}

fn work() -> Result<(), String> {
    initramfs::leave()?;
    setup::mount_basics()?;
    let mut guest = Guest {
        channel: Channel::open()?,
        log: Log::open()?,
        env: Vec::new(),
        coverage: None,
    };
    let result = guest.follow_plan();
    match &result {
        Ok(()) => guest.channel.send(&Event::GuestDone),
        Err(reason) => guest.channel.send(&Event::GuestFails {
            reason: reason.clone(),
        }),
    }
    result
}

impl Guest {
    fn follow_plan(&mut self) -> Result<(), String> {
        self.channel.send(&Self::ready()?);
        let plan = read_plan()?;
        setup::prepare(&plan.setup)?;
        self.env = plan.setup.env;
        self.coverage = plan
            .setup
            .coverage
            .as_deref()
            .map(Coverage::open)
            .transpose()?;
        self.report_stray();
        self.work_on(plan.job)
    }

    fn work_on(&mut self, job: Job) -> Result<(), String> {
        match job {
            Job::Tests(tests) => {
                rest::begin();
                self.run_tests(&tests, &mut Settings::remember(), &mut Programs::default());
                Ok(())
            }
            Job::Exec(command) => self.run_command(&command),
            Job::Wait(warm) => self.wait_for_work(warm.as_ref()),
            Job::Feed(_) => Err("no command waits for input".into()),
        }
    }

    fn ready() -> Result<Event, String> {
        let uname = nix::sys::utsname::uname().map_err(|error| format!("uname: {error}"))?;
        Ok(Event::GuestReady {
            release: uname.release().to_string_lossy().into_owned(),
            version: uname.version().to_string_lossy().into_owned(),
        })
    }
}

/// Reads the plan that the kernel's command line names; before anything is
/// mounted over the place where it lies.
fn read_plan() -> Result<Plan, String> {
    let line = read("/proc/cmdline")?;
    let path = split_kernel(&line)
        .iter()
        .rev()
        .find_map(|word| Some(PathBuf::from(plan_path(word)?)))
        .ok_or("the kernel command line has no hugeprobe.plan=")?;
    let json = read(&path)?;
    serde_json::from_str(&json).map_err(|error| format!("{}: {error}", path.display()))
}

fn plan_path(word: &str) -> Option<&str> {
    word.trim_matches('"').strip_prefix("hugeprobe.plan=")
}

fn read(path: impl AsRef<std::path::Path>) -> Result<String, String> {
    let path = path.as_ref();
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// The whole environment of whatever runs in a guest. Without `TERM`: libtest would look for a
/// description of the terminal each time, in files of the host.
fn environment() -> [(&'static str, &'static str); 4] {
    [
        ("HUGEPROBE_GUEST", "1"),
        ("HOME", "/root"),
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ),
        ("TMPDIR", "/tmp"),
    ]
}
