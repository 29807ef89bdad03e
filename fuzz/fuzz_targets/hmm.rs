// SPDX-License-Identifier: GPL-2.0-only
//! Memory operations and the dmirror devices.
#![no_main]

hugeprobe_fuzz::libfuzzer_target!(hugeprobe_fuzz::program::Target::Hmm);
