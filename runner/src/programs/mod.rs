// SPDX-License-Identifier: GPL-2.0-only
//! The test programs: where they are, which tests they hold, and which of
//! those the user asked for.

mod docs;
mod locate;
mod names;
mod needs;
mod select;

use std::path::{Path, PathBuf};
use std::process::Command;

pub use docs::Docs;
pub use locate::{Error as LocateError, Layout};
pub use names::{Error as NameError, Test};
pub use needs::{AllNeeds, Needs};
pub use select::{Selected, select};

/// Targets that say nothing about a kernel: one checks hugeprobe itself, one
/// measures. They run when they are named.
const HIDDEN: [&str; 2] = ["bench", "faults"];

/// One test program and its tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// File name of the program, for instance `pmd_split`.
    pub name: String,
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Its tests, in the order in which it lists them.
    pub tests: Vec<Test>,
}

impl Target {
    /// Whether it must be named to be run.
    pub fn is_hidden(&self) -> bool {
        HIDDEN.contains(&self.name.as_str())
    }
}

/// Everything a guest can be asked to run.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The first process of the guest.
    pub guest: PathBuf,
    /// All targets, sorted by name, hidden ones included.
    pub targets: Vec<Target>,
}

/// Why the test programs could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// They were not found or did not build.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// A program did not list its tests.
    #[error("list the tests of {program}: {detail}")]
    List {
        /// The program.
        program: PathBuf,
        /// What went wrong.
        detail: String,
    },
    /// The names in a program cannot be told apart.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// Builds the test programs of a checkout, or finds the installed ones, and
/// asks each for its tests.
pub fn find(layout: &Layout) -> Result<Programs, Error> {
    let found = layout.programs()?;
    let mut targets = Vec::new();
    for (name, program) in found.tests {
        let tests = names::parse(&name, &list(&program)?)?;
        targets.push(Target {
            name,
            program,
            tests,
        });
    }
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Programs {
        guest: found.guest,
        targets,
    })
}

/// What `PROGRAM --list --format terse` prints.
fn list(program: &Path) -> Result<String, Error> {
    let failed = |detail: String| Error::List {
        program: program.to_owned(),
        detail,
    };
    let output = Command::new(program)
        .args(["--list", "--format", "terse"])
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    String::from_utf8(output.stdout).map_err(|_| failed("output is not UTF-8".into()))
}
