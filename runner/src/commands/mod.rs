// SPDX-License-Identifier: GPL-2.0-only
//! One module for each verb. Each has a `run` that `main` calls.

pub mod bench;
pub mod boot;
pub mod completions;
pub mod cov;
pub mod docs;
pub mod doctor;
pub mod fuzz;
pub mod here;
pub mod install;
pub mod kernel;
pub mod list;
pub mod man;
pub mod matrix;
pub mod plan;
pub mod report;
pub mod run;
pub mod self_test;
