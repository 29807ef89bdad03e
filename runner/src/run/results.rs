// SPDX-License-Identifier: GPL-2.0-only
//! The results folder: made before anything expensive is done, described when
//! the kernel is known, pointed to by `results/latest`.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::guest::Guest;
use super::repeat;
use crate::cli::RunArgs;
use crate::kernel::{Kernel, Request};
use crate::report::{RUN_INFO, RunInfo};

/// Where results go by default.
const RESULTS: &str = "results";
/// Marks a folder as ours, so that it may be emptied.
const MARK: &str = ".hugeprobe";
/// The kernel's configuration in a results folder.
const CONFIG: &str = "kernel.config";

/// A folder that takes the results of one run.
#[derive(Debug)]
pub struct Results {
    dir: PathBuf,
    /// Whether `latest` beside it shall point to it.
    dated: bool,
}

impl Drop for Results {
    /// A folder in which nothing was run must not look like a result.
    fn drop(&mut self) {
        let is_mark = |entry: std::fs::DirEntry| entry.file_name() == MARK;
        let unused = std::fs::read_dir(&self.dir)
            .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(is_mark)));
        if unused {
            // It stays when it cannot be removed; nobody is there to be told.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Why there is no results folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be written.
    #[error(
        "results folder {} cannot be written; choose another with O= (--output)",
        dir.display()
    )]
    Unwritable {
        /// The folder.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Writing into it would mix results with something else.
    #[error(
        "results folder {} holds other files; choose an empty or a new one with O= (--output)",
        dir.display()
    )]
    Foreign {
        /// The folder.
        dir: PathBuf,
    },
}

impl Results {
    /// The folder that the user names, or a new one below `results`. A folder
    /// of an earlier run is emptied.
    ///
    /// # Errors
    /// When it cannot be written or holds something else.
    pub fn create(output: Option<&Path>) -> Result<Self, Error> {
        match output {
            Some(dir) => Self::named(dir),
            None => Self::dated(Path::new(RESULTS)),
        }
    }

    /// The folder with an absolute path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn named(dir: &Path) -> Result<Self, Error> {
        let unwritable = |source| Error::Unwritable {
            dir: dir.to_owned(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(unwritable)?;
        let is_ours = dir.join(MARK).exists();
        for entry in std::fs::read_dir(dir).map_err(unwritable)? {
            if !is_ours {
                return Err(Error::Foreign {
                    dir: dir.to_owned(),
                });
            }
            let path = entry.map_err(unwritable)?.path();
            let removed = if path.is_dir() {
                std::fs::remove_dir_all(path)
            } else {
                std::fs::remove_file(path)
            };
            removed.map_err(unwritable)?;
        }
        Self::open(dir, false)
    }

    fn dated(parent: &Path) -> Result<Self, Error> {
        let unwritable = |source| Error::Unwritable {
            dir: parent.to_owned(),
            source,
        };
        std::fs::create_dir_all(parent).map_err(unwritable)?;
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let name = now.replace(':', "-");
        // Two runs may begin within one second.
        for number in 1.. {
            let name = if number == 1 {
                name.clone()
            } else {
                format!("{name}-{number}")
            };
            match std::fs::create_dir(parent.join(&name)) {
                Ok(()) => return Self::open(&parent.join(name), true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(unwritable(error)),
            }
        }
        unreachable!("some number is free")
    }

    /// Proves that a file can be written, so that no kernel is built in vain.
    fn open(dir: &Path, dated: bool) -> Result<Self, Error> {
        let unwritable = |source| Error::Unwritable {
            dir: dir.to_owned(),
            source,
        };
        std::fs::write(dir.join(MARK), "").map_err(unwritable)?;
        let dir = std::fs::canonicalize(dir).map_err(unwritable)?;
        Ok(Self { dir, dated })
    }

    /// A folder in this one, for one run of several.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn inner(&self, name: &str) -> Result<Self, Error> {
        Self::named(&self.dir.join(name))
    }

    /// Keeps what makes the run repeatable: the kernel's identity and
    /// configuration, and the arguments that choose kernel and guest again.
    /// From now on `results/latest` points here.
    pub fn describe(
        &self,
        args: &RunArgs,
        request: &Request,
        kernel: &Kernel,
        guest: &Guest,
    ) -> io::Result<()> {
        if let Some(config) = &kernel.config {
            fs_err::copy(config, self.dir.join(CONFIG))?;
        }
        let digest = Sha256::digest(fs_err::read(&kernel.bzimage)?);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let identity = &kernel.identity;
        let facts = [
            ("release", kernel.release.clone()),
            ("source", identity.source.clone()),
            ("profile", identity.profile.clone()),
            ("compiler", identity.compiler.clone()),
            ("image", kernel.bzimage.display().to_string()),
            ("image sha256", digest),
            ("config digest", identity.config.clone()),
            (
                "guest",
                format!(
                    "{} CPUs, {} MiB",
                    guest.machine.cpus, guest.machine.memory_mib
                ),
            ),
            ("command line", guest.machine.append.join(" ")),
        ];
        let info = RunInfo {
            arguments: repeat::run(args, &request.origin),
            kernel: facts
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        };
        fs_err::write(self.dir.join(RUN_INFO), serde_json::to_vec_pretty(&info)?)?;
        self.point()
    }

    /// Makes `latest` point to this folder, in one step.
    ///
    /// # Errors
    /// When the link cannot be made.
    pub fn point(&self) -> io::Result<()> {
        let (true, Some(parent), Some(name)) =
            (self.dated, self.dir.parent(), self.dir.file_name())
        else {
            return Ok(());
        };
        let unfinished = parent.join(format!(".latest-{}", std::process::id()));
        symlink(name, &unfinished)?;
        fs_err::rename(unfinished, parent.join("latest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_other_files_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("thesis.tex");
        std::fs::write(&file, "years of work").unwrap();
        assert!(matches!(
            Results::create(Some(dir.path())),
            Err(Error::Foreign { .. })
        ));
        assert!(file.exists());
    }

    #[test]
    fn a_folder_of_an_earlier_run_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("deep/out");
        let first = Results::create(Some(&out)).unwrap();
        std::fs::create_dir(out.join("splats")).unwrap();
        std::fs::write(out.join("splats/old.txt"), "old").unwrap();
        drop(first);
        let second = Results::create(Some(&out)).unwrap();
        assert!(!out.join("splats").exists());
        drop(second);
        assert!(!out.exists(), "nothing was run in it");
    }

    #[test]
    fn runs_of_one_second_get_folders_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let first = Results::dated(dir.path()).unwrap();
        let second = Results::dated(dir.path()).unwrap();
        assert_ne!(first.dir(), second.dir());
        second.point().unwrap();
        let latest = std::fs::canonicalize(dir.path().join("latest")).unwrap();
        assert_eq!(latest, second.dir());
    }
}
