// SPDX-License-Identifier: GPL-2.0-only
//! Reports. Each is a function of the events alone (and of `run.json`, which
//! says how they came about), so that `hugeprobe report` can make them again.

pub mod events;
mod files;
mod html;
mod json;
mod junit;
pub mod ktap;
mod matrix;
mod meaning;
mod model;
mod quote;
mod repeat;
mod summary;
mod terminal;

#[cfg(test)]
pub mod tests;

pub use files::{RUN_INFO, splat_path, write_all, write_matrix};
pub use matrix::{Column, Matrix};
pub use model::{Outcome, OutputLine, Report, RunInfo, TestReport};
pub use repeat::shell_word;
pub use summary::summary;
pub use terminal::Terminal;
