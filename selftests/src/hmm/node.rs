// SPDX-License-Identifier: GPL-2.0-only
//! The device nodes of the driver: two devices with private memory, and two
//! with coherent memory where the boot arguments set memory aside for them.

use std::fmt;
use std::path::PathBuf;

/// What kind of memory a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Memory {
    /// The CPU cannot reach it: an access faults and brings the page back.
    Private,
    /// The CPU reaches it like any other memory.
    Coherent,
}

/// One of the driver's devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// What kind of memory it has.
    pub memory: Memory,
    /// 0 or 1: which of the two with that kind.
    pub index: u8,
}

impl Node {
    /// The first device with `memory`.
    pub const fn first(memory: Memory) -> Self {
        Self { memory, index: 0 }
    }

    /// The second device with `memory`.
    pub const fn second(memory: Memory) -> Self {
        Self { memory, index: 1 }
    }

    /// Its file.
    pub fn path(self) -> PathBuf {
        let base = match self.memory {
            Memory::Private => 0,
            Memory::Coherent => 2,
        };
        PathBuf::from(format!("/dev/hmm_dmirror{}", base + self.index))
    }

    /// Why it may be missing, and what would provide it.
    pub fn missing(self) -> String {
        let path = self.path().display().to_string();
        match self.memory {
            Memory::Private => format!(
                "no {path}: the kernel needs CONFIG_TEST_HMM and CONFIG_DEVICE_PRIVATE \
                 (or the module test_hmm loaded)"
            ),
            Memory::Coherent => format!(
                "no {path}: boot with memmap=512M$0x100000000 memmap=512M$0x130000000 \
                 test_hmm.spm_addr_dev0=0x100000000 test_hmm.spm_addr_dev1=0x130000000"
            ),
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_numbered_private_first() {
        let path = |node: Node| node.path().display().to_string();
        assert_eq!(path(Node::first(Memory::Private)), "/dev/hmm_dmirror0");
        assert_eq!(path(Node::second(Memory::Coherent)), "/dev/hmm_dmirror3");
    }
}
