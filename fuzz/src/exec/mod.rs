// SPDX-License-Identifier: GPL-2.0-only
//! Runs programs on the kernel and checks them against the model.
//!
//! `Session::start` forks the worker. For each program the worker forks its
//! first process; the others come from its fork operations. All of them share
//! the `board`: exactly one works at a time, carries out the next step, tells
//! the model what it returned and checks what the step touched.

mod access;
mod accounts;
mod bare;
mod baseline;
mod board;
mod check;
pub mod cover;
mod depart;
mod entry;
mod fixed;
mod hold;
mod huge;
mod klog;
mod lane;
mod lane_access;
mod leaks;
mod limit;
mod look;
mod mirror;
mod observe;
mod perform;
mod pfn;
mod phases;
mod pipe;
mod poke;
mod process;
mod race;
mod rally;
mod serve;
mod session;
mod sweep;
mod sys;
mod system;
mod track;
mod violation;
mod watch;
mod worker;

pub use board::Stats;
pub use leaks::NAMES as LEAKS;
pub use mirror::index as mirror_file;
pub use phases::{Phase, Phases};
pub use process::name_of;
pub use session::{Session, SessionError};
pub use sys::advice_number;
pub use violation::{Oracle, Violation};
