// SPDX-License-Identifier: GPL-2.0-only
//! Where the programs are that a guest runs: built by cargo from the checkout
//! that this command was built in, or beside this command after an install.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

/// Name of the guest's first process.
const GUEST: &str = "hugeprobe-guest";
/// Package whose integration tests are the targets.
const SELFTESTS: &str = "selftests";
/// Folder of an installation that holds the test programs.
const INSTALLED_PROGRAMS: &str = "programs";

/// Where hugeprobe lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A source checkout: programs are built when they are needed.
    Checkout(PathBuf),
    /// An installation: this folder holds the command and the programs.
    Installed(PathBuf),
}

/// The programs that were found.
#[derive(Debug)]
pub struct Found {
    /// The first process of the guest.
    pub guest: PathBuf,
    /// Name and path of each test program.
    pub tests: Vec<(String, PathBuf)>,
}

/// Why programs could not be found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a checkout nor an installation.
    #[error("found no test programs beside {0}; run `make install`, or build in a checkout")]
    NoPrograms(PathBuf),
    /// Cargo could not be started.
    #[error("cannot start {program}; install Rust from https://rustup.rs")]
    NoCargo {
        /// What was started.
        program: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The programs do not compile.
    #[error("build the test programs: cargo ended with {0}; its messages are above")]
    Build(std::process::ExitStatus),
    /// A line of cargo's is not what was expected.
    #[error("read cargo's messages: {0}")]
    Messages(String),
    /// A folder could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl Layout {
    /// The layout that the running command belongs to.
    pub fn detect() -> Result<Self, Error> {
        let exe = std::env::current_exe().map_err(|source| Error::Read {
            path: "/proc/self/exe".into(),
            source,
        })?;
        let folder = exe.parent().unwrap_or(Path::new("/"));
        if folder.join(INSTALLED_PROGRAMS).is_dir() {
            return Ok(Self::Installed(folder.to_owned()));
        }
        let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        match built_in {
            Some(checkout) if checkout.join("selftests/Cargo.toml").is_file() => {
                Ok(Self::Checkout(checkout.to_owned()))
            }
            _ => Err(Error::NoPrograms(exe)),
        }
    }

    /// Data that comes with hugeprobe: `kconfigs`, `vm/modules` and so on.
    pub fn data(&self) -> &Path {
        match self {
            Self::Checkout(folder) | Self::Installed(folder) => folder,
        }
    }

    /// The programs; in a checkout they are brought up to date first.
    pub fn programs(&self) -> Result<Found, Error> {
        match self {
            Self::Checkout(folder) => build(folder),
            Self::Installed(folder) => installed(folder),
        }
    }
}

fn installed(folder: &Path) -> Result<Found, Error> {
    let programs = folder.join(INSTALLED_PROGRAMS);
    let read = |source| Error::Read {
        path: programs.clone(),
        source,
    };
    let mut tests = Vec::new();
    for entry in std::fs::read_dir(&programs).map_err(read)? {
        let path = entry.map_err(read)?.path();
        match path.file_name().and_then(|name| name.to_str()) {
            Some(GUEST) | None => {}
            Some(name) => tests.push((name.to_owned(), path.clone())),
        }
    }
    Ok(Found {
        guest: programs.join(GUEST),
        tests,
    })
}

/// One line of `cargo build --message-format=json`, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    package_id: Option<String>,
    target: Option<CargoTarget>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct CargoTarget {
    kind: Vec<String>,
    name: String,
}

fn build(checkout: &Path) -> Result<Found, Error> {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut child = Command::new(&program)
        .current_dir(checkout)
        .args([
            "build",
            "--quiet",
            "--package",
            SELFTESTS,
            "--package",
            "hugeprobe-vm",
        ])
        .args([
            "--test",
            "*",
            "--bins",
            "--message-format=json-render-diagnostics",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| Error::NoCargo { program, source })?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let artifacts = BufReader::new(stdout)
        .lines()
        .map(|line| artifact(&line.map_err(|error| Error::Messages(error.to_string()))?))
        .collect::<Result<Vec<_>, _>>();
    let status = child
        .wait()
        .map_err(|error| Error::Messages(error.to_string()))?;
    if !status.success() {
        return Err(Error::Build(status));
    }
    let mut guest = None;
    let mut tests = Vec::new();
    for artifact in artifacts?.into_iter().flatten() {
        match artifact {
            Artifact::Guest(path) => guest = Some(path),
            Artifact::Test(name, path) => tests.push((name, path)),
        }
    }
    let guest = guest.ok_or_else(|| Error::Messages(format!("no {GUEST} among them")))?;
    Ok(Found { guest, tests })
}

/// What cargo built.
#[derive(Debug, PartialEq, Eq)]
enum Artifact {
    Guest(PathBuf),
    Test(String, PathBuf),
}

/// The artifact that a line of cargo's tells about, if it is one of ours.
fn artifact(line: &str) -> Result<Option<Artifact>, Error> {
    let message: Message =
        serde_json::from_str(line).map_err(|error| Error::Messages(format!("{error}: {line}")))?;
    let Message {
        reason,
        package_id,
        target: Some(target),
        executable: Some(path),
    } = message
    else {
        return Ok(None);
    };
    if reason != "compiler-artifact" {
        return Ok(None);
    }
    let of_selftests = package_id.is_some_and(|id| id.contains(SELFTESTS));
    Ok(match target.kind.first().map(String::as_str) {
        Some("bin") if target.name == GUEST => Some(Artifact::Guest(path)),
        Some("test") if of_selftests => Some(Artifact::Test(target.name, path)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_told_from_other_artifacts() {
        let line = |package: &str, kind: &str, name: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///x/{package}#0.1.0","target":{{"kind":["{kind}"],"name":"{name}"}},"executable":"/t/{name}-1"}}"#
            )
        };
        let of = |line: String| artifact(&line).unwrap();
        assert_eq!(
            of(line("selftests", "test", "hmm")),
            Some(Artifact::Test("hmm".into(), "/t/hmm-1".into()))
        );
        assert_eq!(
            of(line("vm", "bin", GUEST)),
            Some(Artifact::Guest("/t/hugeprobe-guest-1".into()))
        );
        assert_eq!(of(line("vm", "test", "session")), None);
        assert_eq!(of(line("vm", "bin", "other")), None);
        assert_eq!(
            of(r#"{"reason":"build-finished","success":true}"#.into()),
            None
        );
    }
}
