// SPDX-License-Identifier: GPL-2.0-only
//! The first process of a hugeprobe guest.
fn main() {}
