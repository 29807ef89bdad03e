// SPDX-License-Identifier: GPL-2.0-only
//! What a machine consists of and how patient we are with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::template::Template;

/// Who executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accel {
    /// The processor. Only after [`crate::probe`] has seen it work.
    Kvm,
    /// QEMU's emulation; works everywhere, about ten times slower.
    Tcg,
}

impl Accel {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Memory that host and guest share: a PCI device (`ivshmem-plain`) whose
/// BAR 2 is a file of the host. [`crate::guest::shared_memory`] finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedMemory {
    /// The file; created or resized to `size_mib`.
    pub path: PathBuf,
    /// Size in MiB, a power of two.
    pub size_mib: u64,
}

/// What a machine consists of and how patient we are with it.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// The `vng` program.
    pub vng: PathBuf,
    /// The kernel image to boot.
    pub kernel: PathBuf,
    /// The `hugeprobe-guest` program, static, readable through the guest's root.
    pub guest_program: PathBuf,
    /// Who executes.
    pub accel: Accel,
    /// Number of virtual CPUs, at least 1.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// NUMA nodes that share CPUs and memory evenly, at least 1.
    pub numa_nodes: u32,
    /// The kernel's `lib/modules/RELEASE` with `modules.dep`, when it has 9p or
    /// virtio as modules: the guest then begins in an initramfs.
    pub modules_dir: Option<PathBuf>,
    /// Further words for the kernel's command line.
    pub append: Vec<String>,
    /// Further QEMU options, for instance drives.
    pub qemu_args: Vec<String>,
    /// Memory to share with the guest.
    pub shared_memory: Option<SharedMemory>,
    /// A machine of this kind that was stopped where its work begins: others
    /// begin there instead of with a boot.
    pub template: Option<Arc<Template>>,
    /// From start to the first event after [`crate::event::Event::GuestReady`]:
    /// the boot and what the guest prepares, which a busy host's disk may delay.
    pub boot_limit: Duration,
    /// Longest time without any event after that; the guest sends a heartbeat
    /// each second. Longer than the kernel's own lockup detectors
    /// need, so that they can tell why.
    pub silence_limit: Duration,
}

impl MachineConfig {
    /// A machine with the defaults: 2 CPUs, 6 GiB in two NUMA nodes, emulated.
    pub fn new(vng: PathBuf, kernel: PathBuf, guest_program: PathBuf) -> Self {
        Self {
            vng,
            kernel,
            guest_program,
            accel: Accel::Tcg,
            cpus: 2,
            memory_mib: 6144,
            numa_nodes: 2,
            modules_dir: None,
            append: Vec::new(),
            qemu_args: Vec::new(),
            shared_memory: None,
            template: None,
            boot_limit: Duration::from_secs(120),
            silence_limit: Duration::from_secs(90),
        }
    }
}
