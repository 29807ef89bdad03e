// SPDX-License-Identifier: GPL-2.0-only
//! Everything that can go wrong on the way from a version number to a
//! bootable kernel. Messages fit after "failed to ..." or stand alone, and name
//! the user's next step.

use std::path::PathBuf;

use thiserror::Error;

use crate::exit::{Exit, Failure};

/// Why there is no kernel.
#[derive(Debug, Error)]
pub enum KernelError {
    /// A file or folder could not be read or written.
    #[error("{0}")]
    Io(std::io::Error),
    /// The disk is full.
    #[error(
        "disk full while writing below {path}; free some space (about 3 GiB per kernel) and run the same command again, it resumes"
    )]
    DiskFull {
        /// Where.
        path: PathBuf,
    },
    /// `KDIR` does not exist or is not a kernel tree.
    #[error(
        "{path} is not a kernel source tree ({missing} is missing); set KDIR to the top of one"
    )]
    NotATree {
        /// The folder given.
        path: PathBuf,
        /// The file that any kernel tree has.
        missing: &'static str,
    },
    /// `KERNEL` is not a bzImage.
    #[error(
        "{path} is not a bootable x86 kernel image: {why}; set KERNEL to an arch/x86/boot/bzImage"
    )]
    NotAnImage {
        /// The file given.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The archive does not have the wanted version.
    #[error("no kernel {wanted} in the archive; it has: {available}")]
    UnknownVersion {
        /// As the user wrote it.
        wanted: String,
        /// The versions there are.
        available: String,
    },
    /// Something is not a kernel version.
    #[error("{0:?} is not a kernel version; write one like 7.3, 6.12.95 or 7.4-rc1")]
    BadVersion(String),
    /// Nothing could be downloaded.
    #[error(
        "{what} could not be downloaded: {why}; check the network, then run the same command again (a partial download resumes)"
    )]
    Download {
        /// What was wanted.
        what: String,
        /// The last message of the downloader.
        why: String,
    },
    /// A downloaded file is not what its publisher signed.
    #[error(
        "{what} does not match its published checksum; it was removed, run the same command again"
    )]
    Checksum {
        /// What was downloaded.
        what: String,
    },
    /// A profile that does not exist.
    #[error("no profile {name:?}; there are: {known}")]
    UnknownProfile {
        /// As the user wrote it.
        name: String,
        /// The profiles there are.
        known: String,
    },
    /// `profiles.toml` cannot be used.
    #[error("kconfigs/profiles.toml: {0}")]
    BadProfiles(String),
    /// Wanted options are missing from the final configuration.
    #[error(
        "this kernel cannot be configured as profile {profile} needs it; the source has no such option, or an option that keeps it off:\n{report}\n\
         choose another kernel (6.12 is the oldest that was tried with success), or mark a line \"# optional\" in kconfigs/ if the tests can do without it"
    )]
    LostOptions {
        /// The profile.
        profile: String,
        /// One line for each option, with its unmet dependency.
        report: String,
    },
    /// `make` of a configuration step failed.
    #[error("configuring the kernel failed ({what}):\n{output}")]
    Configure {
        /// The command.
        what: String,
        /// The end of its output.
        output: String,
    },
    /// The kernel did not compile.
    #[error("the kernel did not build:\n{excerpt}\nthe whole log is {log}")]
    Build {
        /// The compiler's words.
        excerpt: String,
        /// Where all of it is.
        log: PathBuf,
    },
    /// A program that is needed is not there.
    #[error("{what}; {next}")]
    MissingTool {
        /// What is missing.
        what: String,
        /// The command that brings it.
        next: String,
    },
    /// A program that was started failed in an unexpected way.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// What was run.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of its output.
        output: String,
    },
    /// The user pressed Ctrl-C.
    #[error("interrupted; run the same command again to go on where it stopped")]
    Interrupted,
}

// Not a `source`: messages of `fs_err` quote the system's words already, and a
// chain of errors would print them twice.
impl From<std::io::Error> for KernelError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl KernelError {
    /// The failure of a command that this error ends.
    pub fn into_failure(self) -> Failure {
        Failure {
            exit: self.exit(),
            error: self.into(),
        }
    }

    /// The exit code that this error ends the command with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NotATree { .. }
            | Self::NotAnImage { .. }
            | Self::UnknownVersion { .. }
            | Self::BadVersion(_)
            | Self::UnknownProfile { .. }
            | Self::BadProfiles(_)
            | Self::LostOptions { .. } => Exit::Usage,
            Self::Configure { .. } | Self::Build { .. } => Exit::KernelBuild,
            Self::Interrupted => Exit::Interrupted,
            Self::Io(_)
            | Self::DiskFull { .. }
            | Self::Download { .. }
            | Self::Checksum { .. }
            | Self::MissingTool { .. }
            | Self::Command { .. } => Exit::Infrastructure,
        }
    }
}
