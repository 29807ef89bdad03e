// SPDX-License-Identifier: GPL-2.0-only
//! Collapse, swap and reclaim of huge pages.
#![no_main]

hugeprobe_fuzz::libfuzzer_target!(hugeprobe_fuzz::program::Target::Collapse);
