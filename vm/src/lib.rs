// SPDX-License-Identifier: GPL-2.0-only
//! Boots a kernel in a virtual machine, runs a plan in it and tells what
//! happened as one stream of events.
//!
//! The host side asks virtme-ng for the QEMU command, starts QEMU itself so
//! that nothing outlives the runner, and reads events from a side channel. The
//! guest side is `hugeprobe-guest`, the first process of the guest.
//!
//! Nothing in this crate knows a report format.

mod config;
pub mod event;
pub mod fate;
pub mod guest;
mod initramfs;
mod launch;
pub mod machine;
mod monitor;
pub mod plan;
pub mod probe;
mod qemu;
pub mod session;
pub mod splat;
pub mod template;
mod tsc;
mod vng;
mod words;
