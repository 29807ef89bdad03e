// SPDX-License-Identifier: GPL-2.0-only
//! The exit codes of `hugeprobe`. They are a contract: CI and `git bisect`
//! scripts rely on them. A guest's own exit code is never passed through.

use std::process::ExitCode;

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
