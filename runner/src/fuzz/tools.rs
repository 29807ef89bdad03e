// SPDX-License-Identifier: GPL-2.0-only
//! The guest's fuzzing programs, and what they do on the host: turn programs
//! into other forms.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// The exit code of `hugeprobe-exec reduce` when there is no such variant.
const NO_SUCH_VARIANT: i32 = 4;

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Tools {
    /// `hugeprobe-exec`.
    pub exec: PathBuf,
    /// The fuzz target.
    pub fuzzer: PathBuf,
    /// Programs to start from, in text form; need not exist.
    pub seeds: PathBuf,
    /// Bugs of mainline that are known; need not exist.
    pub known: PathBuf,
}

impl Tools {
    /// The `index`-th simpler variant of a program, if there are as many.
    pub fn variant(&self, file: &Path, index: usize) -> anyhow::Result<Option<String>> {
        let index = index.to_string();
        let output = self.output("reduce", &[file.as_os_str(), OsStr::new(&index)])?;
        match output.status.code() {
            Some(0) => Ok(Some(String::from_utf8(output.stdout)?)),
            Some(NO_SUCH_VARIANT) => Ok(None),
            _ => bail!("hugeprobe-exec reduce: {}", output.status),
        }
    }

    /// What `hugeprobe-exec VERB FILE MORE...` prints.
    pub fn convert(&self, verb: &str, file: &Path, more: &[&str]) -> anyhow::Result<Vec<u8>> {
        let mut arguments = vec![file.as_os_str()];
        arguments.extend(more.iter().map(OsStr::new));
        let output = self.output(verb, &arguments)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("hugeprobe-exec {verb}: {}: {}", output.status, said.trim());
        }
        Ok(output.stdout)
    }

    fn output(&self, verb: &str, arguments: &[&OsStr]) -> anyhow::Result<std::process::Output> {
        Command::new(&self.exec)
            .arg(verb)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run {}", self.exec.display()))
    }
}
