// SPDX-License-Identifier: GPL-2.0-only
//! The files that `hugeprobe cov` leaves.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::coverage::Coverage;
use super::pcs::Pcs;
use super::{Map, compare, html, lcov, table};
use crate::kernel::Kernel;

/// What was counted, and what it came to: `cov.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// What `uname -r` says, and where the kernel came from.
    pub kernel: String,
    /// What was run, by name.
    pub facts: Vec<(String, String)>,
    /// What it covered.
    pub coverage: Coverage,
}

/// Reads the `cov.json` of a folder, or of that name.
///
/// # Errors
/// When there is none.
pub fn read(path: &Path) -> anyhow::Result<Counted> {
    let file = if path.is_dir() {
        path.join("cov.json")
    } else {
        path.to_owned()
    };
    let text = fs::read_to_string(&file)?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not what `hugeprobe cov` writes", file.display()))
}

/// Writes all reports into `folder`; returns what a terminal shows.
///
/// # Errors
/// When files cannot be written.
pub fn write(
    folder: &Path,
    counted: &Counted,
    pcs: &Pcs,
    kernel: &Kernel,
    old: Option<&Counted>,
) -> anyhow::Result<String> {
    let coverage = &counted.coverage;
    fs::write(folder.join("pcs.txt"), pcs.to_text())?;
    fs::write(folder.join("cov.json"), serde_json::to_string(counted)?)?;
    let source = kernel.source.clone().unwrap_or_default();
    let tracefile = folder.join("cov.info");
    fs::write(&tracefile, lcov::write(coverage, &source))?;
    let page = html::write(coverage, &counted.kernel, &counted.facts)?;
    fs::write(folder.join("cov.html"), page)?;
    let mut text = table::write(coverage);
    if pcs.full > 0 {
        text.push_str(&format!(
            "buffers were full {} times: there may be more\n",
            pcs.full
        ));
    }
    if let Some(old) = old {
        let difference = compare::write(&old.coverage, coverage);
        fs::write(folder.join("compare.txt"), &difference)?;
        text.push('\n');
        text.push_str(&difference);
    }
    text.push_str(&format!("\n{}\n", folder.join("cov.html").display()));
    if let Some(page) = genhtml(&tracefile, &source, &folder.join("lines")) {
        text.push_str(&format!("{}\n", page.display()));
    }
    Ok(text)
}

/// Files whose share a campaign's summary states.
const STATED: [&str; 4] = [
    "mm/huge_memory.c",
    "mm/migrate_device.c",
    "mm/khugepaged.c",
    "lib/test_hmm.c",
];

/// What the addresses in `pcs` cover of a kernel, in one line.
///
/// # Errors
/// When there are none, or the kernel cannot tell.
pub fn line(vmlinux: &Path, pcs: &Path) -> anyhow::Result<String> {
    let mut reached = Pcs::default();
    reached.read(pcs)?;
    let coverage = Coverage::of(&Map::of(vmlinux)?, &reached.reached);
    let (all, core) = (coverage.sites, coverage.huge_core());
    let mut text = format!(
        "coverage: {} of {} call sites, {} of {} ({:.1} %) in the huge-page files",
        all.hit,
        all.all,
        core.hit,
        core.all,
        core.percent()
    );
    for name in STATED {
        let share = coverage.file(name).percent();
        text.push_str(&format!(
            ", {} {share:.1} %",
            name.rsplit('/').next().unwrap_or(name)
        ));
    }
    text.push('\n');
    Ok(text)
}

/// The source with its lines marked, where lcov's `genhtml` is installed and
/// the source is at hand.
fn genhtml(tracefile: &Path, source: &Path, folder: &Path) -> Option<PathBuf> {
    let status = Command::new("genhtml")
        .args(["--quiet", "--ignore-errors", "source", "--prefix"])
        .args([source, Path::new("--output-directory"), folder, tracefile])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let page = folder.join("index.html");
    (status.is_ok_and(|status| status.success()) && page.is_file()).then_some(page)
}
