// SPDX-License-Identifier: GPL-2.0-only
//! Programs of memory-management operations, the shadow model that knows what
//! must come of them, and the executor that runs them under KCOV.
//!
//! What runs in the guest, and how it and the host understand each other, is in
//! docs/fuzzing.md. In short: `fuzz-mm`, `fuzz-hmm`, `fuzz-collapse` and `fuzz-pfnmap`
//! (built with `--features libfuzzer`) are libFuzzer programs whose inputs are
//! programs in text form; `hugeprobe-exec` replays such programs, draws random ones,
//! and turns them into other forms.
//!
//! Both refuse to work unless `HUGEPROBE_GUEST=1` says that this is a guest made for
//! it. `HUGEPROBE_YES_FUZZ_THIS_KERNEL=1` or `--yes-fuzz-this-kernel` lets them work
//! elsewhere; then neither counters of the whole system nor the kernel log are
//! checked, because others use the machine too. Exit status 75: the executor could not start.
//!
//! The guest needs root, `/proc`, `/sys`, debugfs, and swap (zram). The settings of
//! huge pages and of fault injection are made by the executor when it starts.

pub mod avoid;
pub mod decode;
mod draw_race;
pub mod emit;
pub mod exec;
pub mod harm;
pub mod kcov;
#[cfg(feature = "libfuzzer")]
pub mod libfuzzer;
pub mod lines;
pub mod mailbox;
pub mod model;
pub mod mutate;
pub mod outcomes;
pub mod program;
pub mod recall;
pub mod reduce;
pub mod signal;
pub mod text;
