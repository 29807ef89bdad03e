// SPDX-License-Identifier: GPL-2.0-only
//! The first process of the guest.

fn main() {
    hugeprobe_vm::guest::main();
}
