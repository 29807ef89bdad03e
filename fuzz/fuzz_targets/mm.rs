// SPDX-License-Identifier: GPL-2.0-only
//! Memory and process operations.
#![no_main]

hugeprobe_fuzz::libfuzzer_target!(hugeprobe_fuzz::program::Target::Mm);
