// SPDX-License-Identifier: GPL-2.0-only
//! What the test programs share: mappings, counters, page state, faults.
//!
//! One noun per module. A test reads: [`enter!`], settings, mapping, proof of
//! the precondition, snapshot, operation, checks.

pub mod cgroup;
pub mod child;
pub mod collapse;
pub mod collapse_model;
pub mod counters;
pub mod coverage;
pub mod damon;
pub mod dax;
pub mod failnth;
pub mod filesystem;
pub mod fixed_buffer;
pub mod folios;
pub mod guard;
pub mod gup;
pub mod hinting;
pub mod hmm;
pub mod iomem;
pub mod ksm;
pub mod kthread;
pub mod loopdev;
pub mod mapping;
pub mod membench;
pub mod memory_failure;
pub mod memtype;
pub mod numa;
pub mod outcome;
pub mod pagemap;
pub mod pagetable;
pub mod pattern;
pub mod pfndev;
pub mod program_break;
pub mod release;
pub mod replay;
pub mod settings;
pub mod swap;
pub mod text;
pub mod thp;
pub mod uffd;
pub mod usermem;
pub mod watch;
pub mod watched;
