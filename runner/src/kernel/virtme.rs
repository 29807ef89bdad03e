// SPDX-License-Identifier: GPL-2.0-only
//! virtme-ng: the system's if it is new enough, else one in a private Python
//! environment in the cache, pinned with hashes.

use std::path::{Path, PathBuf};

use super::cache::{Cache, digest, write_whole};
use super::error::KernelError;
use super::process::{command, failure, output_of, stdout_of};
use super::progress::Ui;
use super::source::remove_if_there;
use super::tools;

const REQUIREMENTS: &str = include_str!("../../requirements.txt");

/// The oldest version that is used: older ones lack options that we pass.
const OLDEST: (u32, u32) = (1, 42);

/// Where `vng` is; makes it available if it is not. Its folder must come first
/// in `PATH` when it is run, as it calls its relatives by name.
///
/// # Errors
/// [`KernelError::MissingTool`] without Python's venv, [`KernelError::Download`]
/// without a network.
pub fn find_or_install(cache: &Cache, ui: &Ui) -> Result<PathBuf, KernelError> {
    if let Some(system) = tools::in_path("vng").filter(|vng| is_new_enough(vng)) {
        return Ok(system);
    }
    let name = format!("virtme-ng-{}", digest(&[REQUIREMENTS]));
    let dir = cache.root().join(&name);
    let vng = dir.join("bin/vng");
    // A virtual environment cannot be renamed into place: it has its own path
    // in its scripts. Hence a mark that is written last.
    let complete = dir.join("hugeprobe-complete");
    if complete.exists() {
        return Ok(vng);
    }
    let _lock = cache.lock(&name, ui)?;
    if complete.exists() {
        return Ok(vng);
    }
    tools::require_guest_tools(ui)?;
    ui.step("installing virtme-ng into the cache");
    remove_if_there(&dir)?;
    stdout_of(command("python3").args(["-m", "venv"]).arg(&dir))?;
    let requirements = dir.join("requirements.txt");
    write_whole(&requirements, REQUIREMENTS.as_bytes())?;
    let mut pip = command(dir.join("bin/pip"));
    pip.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--require-hashes",
    ]);
    let output = output_of(pip.arg("-r").arg(&requirements))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let why = super::process::tail(&errors, 3);
        return Err(KernelError::Download {
            what: "virtme-ng".to_owned(),
            why,
        });
    }
    if !is_new_enough(&vng) {
        return Err(failure(
            command(&vng).arg("--version"),
            output.status,
            &errors,
        ));
    }
    write_whole(&complete, b"")?;
    Ok(vng)
}

/// Asks a `vng` for its version; anything unreadable is too old.
fn is_new_enough(vng: &Path) -> bool {
    let text = stdout_of(command(vng).arg("--version"));
    text.ok()
        .and_then(|text| parse_version(&text))
        .is_some_and(|version| version >= OLDEST)
}

/// Parses `virtme-ng 1.42`, with or without more numbers or a suffix.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let number = text.split_whitespace().nth(1)?.trim_start_matches('v');
    let mut parts = number.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(parse_version("virtme-ng 1.42\n"), Some((1, 42)));
        assert_eq!(parse_version("virtme-ng v1.8+dirty"), Some((1, 8)));
        assert!(parse_version("virtme-ng 1.8").unwrap() < OLDEST);
        assert!(parse_version("virtme-ng 2.0.1").unwrap() >= OLDEST);
        assert_eq!(parse_version("command not found"), None);
    }

    #[test]
    fn every_requirement_is_pinned_with_a_hash() {
        let lines = REQUIREMENTS.lines().filter(|line| !line.starts_with('#'));
        let pinned = lines.inspect(|line| {
            assert!(
                line.contains("==") && line.contains("--hash=sha256:"),
                "{line}"
            );
        });
        assert_eq!(pinned.count(), 7);
    }
}
