// SPDX-License-Identifier: GPL-2.0-only
//! One module for each verb. Each has a `run` that `main` calls.

pub mod bisect;
pub mod boot;
pub mod completions;
pub mod doctor;
pub mod kernel;
pub mod list;
pub mod man;
pub mod matrix;
pub mod report;
pub mod run;
