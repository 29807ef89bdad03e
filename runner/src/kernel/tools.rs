// SPDX-License-Identifier: GPL-2.0-only
//! The programs and headers that must be on the machine. On Debian, root gets
//! what is missing installed, with an announcement; everybody else gets the
//! command to type.

use std::path::{Path, PathBuf};

use super::error::KernelError;
use super::process::{command, describe, output_of, stream, tail};
use super::progress::Ui;

/// Set to `1`, nothing is ever installed.
const REFUSAL: &str = "HUGEPROBE_NO_INSTALL";

/// Something that must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// How it is called.
    pub name: &'static str,
    /// What it is for.
    pub purpose: Purpose,
    /// Debian's package.
    pub package: &'static str,
    how: How,
}

/// What a need is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Fetching and building kernels.
    Build,
    /// Running guests.
    Guest,
}

/// How to find out whether it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// A program in `PATH`.
    Program,
    /// A C header below `/usr/include`.
    Header(&'static str),
    /// A Python statement that succeeds.
    Python(&'static str),
}

const fn program(name: &'static str, package: &'static str, purpose: Purpose) -> Need {
    Need {
        name,
        purpose,
        package,
        how: How::Program,
    }
}

/// Everything that is needed.
pub const NEEDS: &[Need] = &[
    program("gcc", "gcc", Purpose::Build),
    program("make", "make", Purpose::Build),
    program("flex", "flex", Purpose::Build),
    program("bison", "bison", Purpose::Build),
    program("bc", "bc", Purpose::Build),
    program("perl", "perl", Purpose::Build),
    program("git", "git", Purpose::Build),
    program("tar", "tar", Purpose::Build),
    program("xz", "xz-utils", Purpose::Build),
    Need {
        name: "C library headers",
        purpose: Purpose::Build,
        package: "libc6-dev",
        how: How::Header("stdio.h"),
    },
    Need {
        name: "libelf headers",
        purpose: Purpose::Build,
        package: "libelf-dev",
        how: How::Header("gelf.h"),
    },
    Need {
        name: "OpenSSL headers",
        purpose: Purpose::Build,
        package: "libssl-dev",
        how: How::Header("openssl/opensslv.h"),
    },
    program("qemu-system-x86_64", "qemu-system-x86", Purpose::Guest),
    program("python3", "python3", Purpose::Guest),
    Need {
        name: "Python's venv",
        purpose: Purpose::Guest,
        package: "python3-venv",
        how: How::Python("import venv, ensurepip"),
    },
    program("depmod", "kmod", Purpose::Guest),
    program("mkfs.ext4", "e2fsprogs", Purpose::Guest),
];

impl Need {
    /// Whether it is there.
    pub fn is_met(&self) -> bool {
        match self.how {
            How::Program => in_path(self.name).is_some(),
            How::Header(path) => [
                "/usr/include",
                "/usr/include/x86_64-linux-gnu",
                "/usr/local/include",
            ]
            .iter()
            .any(|dir| Path::new(dir).join(path).exists()),
            How::Python(statement) => output_of(command("python3").args(["-c", statement]))
                .is_ok_and(|output| output.status.success()),
        }
    }
}

/// The full path of a program, also where system administrators' programs are,
/// which is not in every user's `PATH`.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(extra)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Makes sure that kernels can be built.
///
/// # Errors
/// [`KernelError::MissingTool`] with the command to type.
pub fn require_build_tools(ui: &Ui) -> Result<(), KernelError> {
    require(Purpose::Build, ui)
}

/// Makes sure that guests can be run.
///
/// # Errors
/// [`KernelError::MissingTool`] with the command to type.
pub fn require_guest_tools(ui: &Ui) -> Result<(), KernelError> {
    require(Purpose::Guest, ui)
}

fn require(purpose: Purpose, ui: &Ui) -> Result<(), KernelError> {
    let missing = |purpose: Option<Purpose>| -> Vec<&Need> {
        let wanted = |need: &&Need| purpose.is_none_or(|purpose| need.purpose == purpose);
        NEEDS
            .iter()
            .filter(wanted)
            .filter(|need| !need.is_met())
            .collect()
    };
    if missing(Some(purpose)).is_empty() {
        return Ok(());
    }
    // Who lacks a compiler will lack QEMU: one installation for both.
    if may_install() {
        install(&packages(&missing(None)), ui)?;
    }
    let left = missing(Some(purpose));
    if left.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = left.iter().map(|need| need.name).collect();
    Err(KernelError::MissingTool {
        what: format!("not installed: {}", names.join(", ")),
        next: how_to_get(&left),
    })
}

/// The packages of some needs, each once.
fn packages(needs: &[&Need]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = needs.iter().map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// What a user types to get what is missing.
pub fn how_to_get(needs: &[&Need]) -> String {
    let packages = packages(needs).join(" ");
    if in_path("apt-get").is_some() {
        return format!("run `sudo apt-get install {packages}`");
    }
    format!("install the equivalents of Debian's packages {packages}")
}

/// Whether what is missing gets installed: only by root on a Debian-like system,
/// and only unless refused.
pub fn may_install() -> bool {
    let refused = std::env::var_os(REFUSAL).is_some_and(|value| value == "1");
    !refused && nix::unistd::geteuid().is_root() && in_path("apt-get").is_some()
}

fn install(packages: &[&str], ui: &Ui) -> Result<(), KernelError> {
    ui.step(&format!(
        "installing {} (set {REFUSAL}=1 to refuse)",
        packages.join(" ")
    ));
    // What is installed already should stay; only if apt finds no such way are
    // removals accepted, and told.
    if run_apt(&["install", "--no-remove"], packages, ui).is_ok() {
        return Ok(());
    }
    // A fresh machine or container has no package lists, or old ones.
    run_apt(&["update"], &[], ui)?;
    if run_apt(&["install", "--no-remove"], packages, ui).is_ok() {
        return Ok(());
    }
    for removed in would_remove(packages)? {
        ui.step(&format!(
            "apt removes {removed}, which conflicts with what is installed"
        ));
    }
    run_apt(&["install"], packages, ui)
}

fn apt_get(verb: &[&str], packages: &[&str]) -> std::process::Command {
    let mut apt = command("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt.args(["-q", "-y", "-o", "Acquire::Retries=3"])
        .args(verb);
    if !packages.is_empty() {
        apt.arg("--no-install-recommends").args(packages);
    }
    apt
}

fn run_apt(verb: &[&str], packages: &[&str], ui: &Ui) -> Result<(), KernelError> {
    let mut apt = apt_get(verb, packages);
    let mut output = String::new();
    let status = stream(&mut apt, |line| {
        let Some(line) = line else { return };
        if ui.verbose {
            eprintln!("{line}");
        }
        output.push_str(line);
        output.push('\n');
    })?;
    if status.success() {
        return Ok(());
    }
    Err(KernelError::MissingTool {
        what: format!("`{}` failed: {}", describe(&apt), tail(&output, 4)),
        next: "run it by hand and see".to_owned(),
    })
}

/// The packages that an installation would remove.
fn would_remove(packages: &[&str]) -> Result<Vec<String>, KernelError> {
    let output = output_of(&mut apt_get(&["install", "-s"], packages))?;
    Ok(parse_removals(&String::from_utf8_lossy(&output.stdout)))
}

/// Lines like `Remv qemu-utils [1:10.0.2]` of a simulation.
fn parse_removals(simulation: &str) -> Vec<String> {
    let removed = simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Remv "));
    removed
        .filter_map(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_and_absent_ones_are_not() {
        assert!(in_path("sh").is_some());
        assert_eq!(in_path("hugeprobe-no-such-program"), None);
    }

    #[test]
    fn packages_are_named_once() {
        let twice = [&NEEDS[0], &NEEDS[1], &NEEDS[0]];
        assert_eq!(packages(&twice), ["gcc", "make"]);
        assert!(how_to_get(&twice).contains("gcc make"));
    }

    #[test]
    fn unmet_needs_are_noticed() {
        let absent = [
            Need {
                how: How::Header("hugeprobe/none.h"),
                ..NEEDS[0]
            },
            Need {
                how: How::Python("import hugeprobe_none"),
                ..NEEDS[0]
            },
            Need {
                name: "hugeprobe-no-such-program",
                ..NEEDS[0]
            },
        ];
        assert!(absent.iter().all(|need| !need.is_met()));
    }

    #[test]
    fn removals_are_read_from_a_simulation() {
        let text = "Reading package lists...\nRemv qemu-utils [1:10.0.2]\nInst bison (2:3.8)\n";
        assert_eq!(parse_removals(text), ["qemu-utils"]);
    }
}
