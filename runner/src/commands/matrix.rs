// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe run --kver A,B,C`: one kernel after another, one report.

use crate::cli::RunArgs;
use crate::exit::{Exit, Failure, Outcome};
use crate::kernel::{Origin, Request};
use crate::report::{self, Column, Matrix};
use crate::run::{self, Chosen, Results};

/// Runs all kernels; one that cannot be had does not keep the others waiting.
pub fn run(args: &RunArgs, requests: &[Request], chosen: &Chosen, results: &Results) -> Outcome {
    let mut columns = Vec::new();
    let mut worst = Exit::Passed;
    for request in requests {
        let label = label(&request.origin);
        eprintln!("hugeprobe: kernel {label}");
        let finished = results
            .inner(&label)
            .map_err(Failure::from)
            .and_then(|inner| run::run(args, request, chosen, &inner));
        let (exit, column) = match finished {
            Ok(finished) => {
                eprint!("{}", report::summary(&finished.report, &finished.dir));
                (
                    finished.report.exit(),
                    Column::ran(&label, &finished.report),
                )
            }
            Err(Failure { exit, error }) => {
                eprintln!("hugeprobe: kernel {label}: {error:#}");
                (exit, Column::failed(&label, &format!("{error:#}")))
            }
        };
        columns.push(column);
        worst = worst.worse(exit);
        if exit == Exit::Interrupted {
            break;
        }
    }
    finish(&Matrix { columns }, results.dir())?;
    results.point()?;
    Ok(worst)
}

/// Writes the matrix into `dir` and shows its short form.
pub fn finish(matrix: &Matrix, dir: &std::path::Path) -> std::io::Result<()> {
    report::write_matrix(matrix, dir)?;
    eprint!("{}", matrix.markdown_summary());
    eprintln!("report: {}", dir.join("matrix.html").display());
    Ok(())
}

/// What the column is called, also as a folder.
fn label(origin: &Origin) -> String {
    match origin {
        Origin::Version(Some(version)) => version.clone(),
        Origin::Version(None) => "newest".into(),
        Origin::DebianImage => "debian".into(),
        Origin::Tree(path) | Origin::Image(path) => path
            .file_name()
            .map_or("kernel".into(), |name| name.to_string_lossy().into_owned()),
    }
}
