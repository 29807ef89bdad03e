// SPDX-License-Identifier: GPL-2.0-only
//! Migration of memory to devices and back, and what a device sees of it: all
//! tests of the kernel's `hmm-tests.c` under their own names, for
//! device-private and device-coherent memory, and tests of huge pages in
//! device memory that go beyond it (`dpthp_*`, `dcthp`).
//!
//! Every test starts with a [`scene::Baseline`], which sets up transparent huge
//! pages and, at the end of the test, checks that all counters are back.

#![expect(
    clippy::unwrap_used,
    reason = "a test may panic; helpers are part of it"
)]

mod access;
mod aging;
mod alloc_fail;
mod anon_huge;
mod counts;
mod dcthp;
mod devices;
mod differential;
mod exclusive;
mod fork;
mod large;
mod migrate;
mod mirror;
mod pins;
mod protect;
mod scene;
mod two_devices;
mod uffd;
mod unmap;
