// SPDX-License-Identifier: GPL-2.0-only
//! The files of a results folder that are made from its events.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use fs_err::File;
use hugeprobe_vm::event::TestId;

use super::html::{self, Decoded};
use super::ktap::{self, Form};
use super::matrix::Matrix;
use super::model::Report;
use super::{events, json, junit};

/// Name of the file that says how a run was run.
pub const RUN_INFO: &str = "run.json";

/// Makes every report of the results folder `dir` from what it holds.
pub fn write_all(dir: &Path) -> io::Result<Report> {
    let mut report = Report::from_events(&events::read(dir)?);
    report.run = match fs_err::read_to_string(dir.join(RUN_INFO)) {
        Ok(text) => Some(serde_json::from_str(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let decoded = decoded(dir, &report);
    file(dir, "results.ktap", |out| {
        ktap::write(&report, Form::Ktap, out)
    })?;
    file(dir, "results.tap", |out| {
        ktap::write(&report, Form::Kselftest, out)
    })?;
    file(dir, "junit.xml", |out| junit::write(&report, out))?;
    file(dir, "results.json", |out| json::write(&report, out))?;
    file(dir, "report.html", |out| {
        html::write(&report, &decoded, out)
    })?;
    Ok(report)
}

/// Writes the matrix of several runs into `dir`.
pub fn write_matrix(matrix: &Matrix, dir: &Path) -> io::Result<()> {
    let page = matrix.html().map_err(io::Error::other)?;
    file(dir, "matrix.md", |out| {
        out.write_all(matrix.markdown().as_bytes())
    })?;
    file(dir, "matrix.html", |out| out.write_all(page.as_bytes()))?;
    file(dir, "matrix.json", |out| {
        Ok(serde_json::to_writer_pretty(out, matrix)?)
    })
}

/// Writes a file as a whole or not at all.
fn file(
    dir: &Path,
    name: &str,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let unfinished = dir.join(format!(".{name}.tmp"));
    let mut out = BufWriter::new(File::create(&unfinished)?);
    write(&mut out)?;
    out.flush()?;
    fs_err::rename(unfinished, dir.join(name))
}

/// Where the decoded kernel reports of a test stand.
pub fn splat_path(dir: &Path, test: &TestId) -> PathBuf {
    let name = test.name.replace("::", ".");
    dir.join("splats")
        .join(format!("{}.{name}.txt", test.target))
}

/// The decoded kernel reports that the folder holds.
fn decoded(dir: &Path, report: &Report) -> Decoded {
    let with_splats = report.tests.iter().filter(|test| !test.splats.is_empty());
    with_splats
        .filter_map(|test| {
            let text = fs_err::read_to_string(splat_path(dir, &test.id)).ok()?;
            Some((test.id.clone(), text))
        })
        .collect()
}
