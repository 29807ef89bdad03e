// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe docs`: docs/targets.md from the tests' doc comments.

use crate::exit::{Exit, Failure, OrExit, Outcome};
use crate::programs::{self, Docs, Layout};

/// Writes the file, or with `check` only compares it.
pub fn run(check: bool) -> Outcome {
    let layout = Layout::detect()?;
    let programs = programs::find(&layout)?;
    let docs = Docs::read(&layout.data().join("selftests/tests"))?;
    let text = docs.markdown(&programs.targets).or_exit(Exit::Failed)?;
    let path = layout.data().join("docs/targets.md");
    if !check {
        fs_err::write(path, text)?;
    } else if fs_err::read_to_string(&path)? != text {
        let message = format!("{} is out of date; run `hugeprobe docs`", path.display());
        return Err(Failure::new(Exit::Failed, message));
    }
    Ok(Exit::Passed)
}
