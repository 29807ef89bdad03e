// SPDX-License-Identifier: GPL-2.0-only
//! Memory mapped by page frame number.
#![no_main]

hugeprobe_fuzz::libfuzzer_target!(hugeprobe_fuzz::program::Target::Pfnmap);
