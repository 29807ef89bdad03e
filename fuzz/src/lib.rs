// SPDX-License-Identifier: GPL-2.0-only
//! Programs of memory-management operations, the shadow model that knows what
//! must come of them, and the executor that runs them under KCOV.

pub mod decode;
pub mod exec;
pub mod kcov;
pub mod mailbox;
pub mod model;
pub mod mutate;
pub mod program;
pub mod text;
