// SPDX-License-Identifier: GPL-2.0-only
//! What a guest shall do: plain data that the host writes to `plan.json` and
//! `hugeprobe-guest` reads through the guest's root.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::event::TestId;

/// The whole plan of one guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What to prepare before the job.
    pub setup: Setup,
    /// What to do.
    pub job: Job,
}

/// What the guest prepares before it starts its job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Size of the zram swap device in MiB; 0 for none.
    pub swap_mib: u64,
    /// Kernel modules to load, in order: absolute paths of `.ko` files, each
    /// with its parameters.
    pub modules: Vec<Module>,
    /// Host directories to mount read-write at the same path (9p).
    pub shares: Vec<Share>,
    /// Environment variables for tests, added to the guest's few.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// File, on one of the shares, that the kernel call sites reached by tests
    /// are appended to. Needs a kernel with KCOV.
    #[serde(default)]
    pub coverage: Option<PathBuf>,
    /// Whether an oops ends the guest. Where it does not, what the kernel did last
    /// holds its locks for ever, and everything after it hangs.
    #[serde(default)]
    pub oops_ends: bool,
}

/// A kernel module and its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Module {
    /// Absolute path of the `.ko` file.
    pub path: PathBuf,
    /// Parameters as `insmod` takes them, space separated.
    #[serde(default)]
    pub parameters: String,
    /// Whether the guest goes on without it when it cannot be loaded.
    #[serde(default)]
    pub optional: bool,
}

/// A host directory that the guest may write to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// 9p mount tag.
    pub tag: String,
    /// Where it is on the host, and where the guest mounts it.
    pub path: PathBuf,
}

/// The work of a guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Run tests one after another, each in a process of its own. No two have
    /// the same id.
    Tests(Vec<PlannedTest>),
    /// Run one command to its end.
    Exec(Command),
    /// Start a command, which says [`READY`], and wait for another plan from the
    /// host: for a [`crate::template::Template`].
    Wait(Option<Command>),
    /// Give this text to the command that waits, as its standard input, and
    /// follow it to its end.
    Feed(String),
}

/// The line by which the command of a [`Job::Wait`] says that it waits.
pub const READY: &str = "hugeprobe: ready";

/// One test as the guest runs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedTest {
    /// What reports call it.
    pub id: TestId,
    /// The test program: absolute path, readable in the guest.
    pub program: PathBuf,
    /// The name that the test program itself knows it by.
    pub raw_name: String,
    /// Time limit in seconds.
    pub timeout_s: u32,
}

/// A command to run in the guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment variables, added to the guest's few.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: PathBuf,
}
