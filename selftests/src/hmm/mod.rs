// SPDX-License-Identifier: GPL-2.0-only
//! The HMM test driver (`lib/test_hmm.c`) as a device: pages move to it and
//! back, it reads and writes memory through a page table of its own, and it
//! shows how the CPU's page table looks to it.
//!
//! Used by the target `hmm`, by the benchmark and by the fuzzer.
//!
//! The driver is a test vehicle with hazards of its own: sequences that make
//! *the driver* oops, hang or corrupt the next test although core mm did
//! nothing wrong. [`Dmirror`] refuses them (see `hazards`), so that whatever a
//! test sees is the kernel's behaviour under test:
//!
//! - the device reads or writes its own private pages without knowing them:
//!   the driver would touch a `struct page` without memory behind it;
//! - a close or RELEASE while pages are out and memory is short: the driver
//!   locks a page it did not get;
//! - RELEASE while a page is pinned: it waits for ever;
//! - a failing allocation that nothing consumed: see [`FailAlloc`];
//! - a huge page for a coherent device that has only small ones: see
//!   [`coherent`].

pub mod coherent;
mod device;
mod failalloc;
mod hazards;
mod node;
mod snapshot;
mod uapi;

pub use device::{Dmirror, Refusal, Reply, Span};
pub use failalloc::FailAlloc;
pub use node::{Memory, Node};
pub use snapshot::{Access, Level, PageState, Place, UnknownState, runs};
pub use uapi::Op;
