// SPDX-License-Identifier: GPL-2.0-only
//! The host side of fuzzing: machines are replaced as they die, findings are
//! confirmed, minimised and written down. `hugeprobe fuzz` and `hugeprobe
//! repro` call it. What host and guest agree on: docs/fuzzing.md, "Between
//! host and guest".

pub mod campaign;
pub mod corpus;
pub mod finding;
pub mod known;
pub mod lab;
mod lines;
mod minimise;
mod pattern;
pub mod report;
mod shared;
pub mod stats;
pub mod store;
mod svg;
pub mod tools;
pub mod triage;
mod worker;
