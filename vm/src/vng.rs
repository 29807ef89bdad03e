// SPDX-License-Identifier: GPL-2.0-only
//! Asks virtme-ng which QEMU command boots a kernel with the host's root as
//! the guest's root, without starting it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::machine::{Accel, MachineConfig};
use crate::qemu::QemuCommand;

/// Why there is no QEMU command.
#[derive(Debug, thiserror::Error)]
pub enum VngError {
    /// The program cannot be run.
    #[error("cannot run {}; run `hugeprobe doctor`", path.display())]
    Spawn {
        /// Where virtme-ng was expected.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ran and refused.
    #[error("virtme-ng refused to boot {}: {message}", kernel.display())]
    Refused {
        /// The kernel image.
        kernel: PathBuf,
        /// The last line of what it wrote.
        message: String,
    },
    /// It printed something else than a QEMU command.
    #[error("virtme-ng printed no usable QEMU command ({0}); is it version 1.42 or newer?")]
    Unusable(String),
}

/// The QEMU command for `config`, stripped of what only virtme-ng's own guest
/// tools need. Takes about half a second.
///
/// # Errors
/// When virtme-ng is missing, refuses, or prints something unknown.
pub fn qemu_command(config: &MachineConfig) -> Result<QemuCommand, VngError> {
    let output = Command::new(&config.vng)
        .args(arguments(config))
        .env("PATH", path_with(&config.vng))
        .stdin(Stdio::null())
        .output()
        .map_err(|source| VngError::Spawn {
            path: config.vng.clone(),
            source,
        })?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let line = stdout.lines().rfind(|line| line.contains("-append"));
    let (true, Some(line)) = (output.status.success(), line) else {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let message = stderr.lines().rfind(|line| !line.trim().is_empty());
        return Err(VngError::Refused {
            kernel: config.kernel.clone(),
            message: message.unwrap_or("it said nothing").to_owned(),
        });
    };
    let mut command = QemuCommand::parse(line).map_err(VngError::Unusable)?;
    command.strip_virtme();
    Ok(command)
}

/// virtme-ng's arguments: 9p instead of virtiofs, whose daemon is too old in
/// many distributions; no modules, since we bring our own initramfs to kernels
/// which need it.
fn arguments(config: &MachineConfig) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["--dry-run", "-v", "--force-9p", "--skip-modules", "-r"]
        .map(OsString::from)
        .to_vec();
    arguments.push(config.kernel.clone().into_os_string());
    if config.accel == Accel::Tcg {
        arguments.push("--disable-kvm".into());
    }
    arguments.push("--cpus".into());
    arguments.push(config.cpus.to_string().into());
    arguments.push("--memory".into());
    arguments.push(format!("{}M", config.memory_mib).into());
    for node in numa_nodes(config.cpus, config.memory_mib, config.numa_nodes) {
        arguments.push("--numa".into());
        arguments.push(node.into());
    }
    arguments.extend(["--", "true"].map(OsString::from));
    arguments
}

/// virtme-ng's descriptions of `nodes` NUMA nodes that share memory and CPUs
/// evenly; the first takes what is left over. One node is none.
fn numa_nodes(cpus: u32, memory_mib: u64, nodes: u32) -> Vec<String> {
    if nodes < 2 {
        return Vec::new();
    }
    let share = memory_mib / u64::from(nodes);
    (0..nodes)
        .map(|node| {
            let size = if node == 0 {
                memory_mib - share * u64::from(nodes - 1)
            } else {
                share
            };
            let cpus: String = (0..cpus)
                .filter(|cpu| cpu % nodes == node)
                .map(|cpu| format!(",cpus={cpu}"))
                .collect();
            format!("{size}M{cpus}")
        })
        .collect()
}

/// `PATH` with the folder of `vng` in front: it starts `virtme-run` by name.
fn path_with(vng: &Path) -> OsString {
    let old = env::var_os("PATH").unwrap_or_default();
    let folder = vng.parent().map(Path::to_owned);
    let folders = folder.into_iter().chain(env::split_paths(&old));
    env::join_paths(folders).unwrap_or(old)
}

#[cfg(test)]
mod tests {
    use super::numa_nodes;

    #[test]
    fn nodes_share_everything_evenly() {
        assert_eq!(numa_nodes(2, 6144, 2), ["3072M,cpus=0", "3072M,cpus=1"]);
        assert_eq!(
            numa_nodes(3, 4097, 2),
            ["2049M,cpus=0,cpus=2", "2048M,cpus=1"]
        );
        assert_eq!(numa_nodes(1, 4096, 2), ["2048M,cpus=0", "2048M"]);
        assert!(numa_nodes(2, 4096, 1).is_empty());
    }
}
