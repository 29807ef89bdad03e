// SPDX-License-Identifier: GPL-2.0-only
//! Programs of memory-management operations, the shadow model that knows what
//! must come of them, and the executor that runs them under KCOV.
//!
//! # What runs in the guest
//!
//! **`fuzz-mm`, `fuzz-hmm`, `fuzz-collapse`, `fuzz-pfnmap`** (built with
//! `--features libfuzzer`): libFuzzer programs, `fuzz-mm [libFuzzer options]
//! CORPUS.. [SEEDS..]`. Inputs, corpus and crash files are programs in text form
//! (see [`text`]); an input that is not text is decoded as bytes. The environment:
//!
//! | variable | meaning |
//! |---|---|
//! | `HUGEPROBE_GUEST=1` | this is a guest made for it: counters of the whole system and the kernel log are checked |
//! | `HUGEPROBE_YES_FUZZ_THIS_KERNEL=1` | run elsewhere, without those checks |
//! | `HUGEPROBE_MAILBOX=PATH` | shared memory for the host, below |
//! | `HUGEPROBE_AVOID=PATH` | patterns of programs to pass over, see [`avoid`] |
//!
//! A violation is printed on standard error between `== hugeprobe violation ==` and
//! `== end ==` (the violation, `== program ==`, the program), written to the mailbox,
//! and ends the process with `abort`, so that libFuzzer keeps the input. Exit status 75:
//! the executor could not start or its worker died.
//!
//! **`hugeprobe-exec`**: the same without libFuzzer, see `--help`. `hugeprobe-exec FILE..`
//! replays programs (`--repeat N`), `--random COUNT --seed S` draws them, `--pcs FILE`
//! writes the kernel call sites reached. One JSON line per program:
//! `{"program": name, "ok": bool, "violation": null | {"oracle", "step", "title",
//! "detail"}, "calls": steps, "results": [errno..], "pcs": call sites}`; with `--stats`
//! only violations, and one summary line at the end. Exit status 0, 1 (violation), 2, 75.
//!
//! # The guest
//!
//! Root, `/proc`, `/sys` and debugfs mounted, swap on (zram), `HUGEPROBE_GUEST=1`. The
//! settings of huge pages are set by the executor itself when it starts in a guest.
//!
//! # The mailbox
//!
//! 64 KiB of memory that outlives the guest: a PCI resource (ivshmem) or a file on shared
//! memory. Little-endian words of 8 bytes, then two texts in UTF-8:
//!
//! | offset | content |
//! |---|---|
//! | 0 | magic, `HPFUZZ01` |
//! | 8 | number of programs begun |
//! | 16 | state: 0 idle, 1 the program is running, 2 it has ended |
//! | 24 | bytes of the program |
//! | 32 | bytes of the report, 0 if the program showed no violation |
//! | 40 | operations carried out since the start |
//! | 48 | those that returned success |
//! | 56 | KCOV overflows |
//! | 64 | kernel call sites covered |
//! | 72 | programs that reached new ones |
//! | 80 | programs passed over by the avoid-list |
//! | 4096 | the program about to run, running, or last run; complete before the state is 1 |
//! | 32768 | the report: lines `oracle: ..`, `step: ..` (number or `end`), `title: ..`, then the detail |
//!
//! When the guest dies in state 1, the program in the mailbox is the one that ran.

pub mod avoid;
pub mod decode;
pub mod exec;
pub mod kcov;
#[cfg(feature = "libfuzzer")]
pub mod libfuzzer;
pub mod mailbox;
pub mod model;
pub mod mutate;
pub mod program;
pub mod text;
