// SPDX-License-Identifier: GPL-2.0-only
//! The exit codes of `hugeprobe`. They are a contract: CI and `git bisect`
//! scripts rely on them. A guest's own exit code is never passed through.

use std::process::ExitCode;

use anyhow::Error;

/// How the command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything passed; skips are allowed.
    Passed,
    /// A test failed, the kernel misbehaved, or a fuzzer found something.
    Failed,
    /// Wrong usage or configuration.
    Usage,
    /// Nothing ran.
    NothingRan,
    /// The host or the network failed: trying again may help.
    Infrastructure,
    /// The kernel did not build.
    KernelBuild,
    /// Interrupted by the user.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NothingRan => 4,
            Self::Infrastructure => 75,
            Self::KernelBuild => 76,
            Self::Interrupted => 130,
        }
    }

    /// The one of two that a user must hear of first.
    pub fn worse(self, other: Self) -> Self {
        let rank = |exit| match exit {
            Self::Interrupted => 6,
            Self::Failed => 5,
            Self::KernelBuild => 4,
            Self::Usage => 3,
            Self::Infrastructure => 2,
            Self::NothingRan => 1,
            Self::Passed => 0,
        };
        if rank(other) > rank(self) {
            other
        } else {
            self
        }
    }

    /// The number for `git bisect run`: what says nothing about the kernel
    /// becomes 125, which means "skip this commit".
    pub fn bisect_code(self) -> u8 {
        match self {
            Self::Usage | Self::NothingRan | Self::Infrastructure | Self::KernelBuild => 125,
            other => other.code(),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error that knows how the command must end. Errors that nobody gave a
/// code to count as [`Exit::Infrastructure`]: they say nothing about the kernel.
#[derive(Debug)]
pub struct Failure {
    /// How the command ends.
    pub exit: Exit,
    /// What to print.
    pub error: Error,
}

impl Failure {
    /// A failure with a message of its own.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            error: Error::msg(message.into()),
        }
    }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            exit: Exit::Infrastructure,
            error: error.into(),
        }
    }
}

/// Gives an error its exit code.
pub trait OrExit<T> {
    /// Turns any error into a [`Failure`] with this code.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            exit,
            error: error.into(),
        })
    }
}

/// What every command returns.
pub type Outcome = Result<Exit, Failure>;
