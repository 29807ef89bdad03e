// SPDX-License-Identifier: GPL-2.0-only
//! Measurements for `hugeprobe bench`: each test prints lines `BENCH {json}`
//! and checks what it measured. No time decides a result. Hidden: runs only
//! when it is named.

#![expect(
    clippy::unwrap_used,
    reason = "a test may panic; helpers are part of it"
)]

mod hmm;
mod pfnmap;
mod vs_c;
