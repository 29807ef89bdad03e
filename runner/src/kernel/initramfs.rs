// SPDX-License-Identifier: GPL-2.0-only
//! An initramfs for kernels that have 9p, the guest's root file system, as
//! modules: busybox, the modules, and a script that loads them, mounts the host's
//! root and hands over to the `init=` of the command line.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::cache::write_whole;
use super::error::KernelError;
use super::process::{command, stdout_of};
use super::tools::in_path;

/// What a guest needs before it has a root (9p), and what it can not load
/// afterwards because the host's `/lib/modules` is for another kernel.
const MODULES: &[&str] = &["9pnet_virtio", "9p", "zram", "loop", "ext4"];

/// The first program. Applets are named in full: not every busybox shell finds
/// its own.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
while read -r module; do
    /bin/busybox insmod "/modules/$module" || echo "initramfs: $module does not load"
done < /modules/order
for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in
    init=*) init=${word#init=} ;;
    rootflags=*) flags=${word#rootflags=} ;;
    esac
done
/bin/busybox mount -t 9p -o "ro,$flags" /dev/root /root
/bin/busybox umount /proc
exec /bin/busybox switch_root /root "$init" "$@"
"#;

/// Writes `initramfs.cpio` for the kernel that is unpacked below `root`.
///
/// # Errors
/// [`KernelError::MissingTool`] without busybox, kmod or cpio; when the modules
/// cannot be read.
pub fn make(root: &Path, release: &str) -> Result<PathBuf, KernelError> {
    let busybox = in_path("busybox").ok_or_else(|| KernelError::MissingTool {
        what: "`busybox` is not installed".to_owned(),
        next: "run `hugeprobe doctor`".to_owned(),
    })?;
    let stage = tempfile::tempdir_in(root)?;
    for dir in ["bin", "dev", "proc", "root", "modules"] {
        fs::create_dir_all(stage.path().join(dir))?;
    }
    fs::copy(busybox, stage.path().join("bin/busybox"))?;
    let mut order = String::new();
    for module in modules(root, release)? {
        let name = plain_name(&module);
        write_whole(
            &stage.path().join("modules").join(&name),
            &unpacked(&module)?,
        )?;
        order.push_str(&name);
        order.push('\n');
    }
    write_whole(&stage.path().join("modules/order"), order.as_bytes())?;
    let init = stage.path().join("init");
    write_whole(&init, INIT.as_bytes())?;
    fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755))?;
    let image = root.join("initramfs.cpio");
    let script =
        r#"set -o pipefail; cd "$1" && find . -print0 | cpio --null -o -H newc --quiet > "$2""#;
    stdout_of(
        command("bash")
            .args(["-c", script, "pack"])
            .arg(stage.path())
            .arg(&image),
    )?;
    Ok(image)
}

/// The files of [`MODULES`] and of what they depend on, in the order to load.
fn modules(root: &Path, release: &str) -> Result<Vec<PathBuf>, KernelError> {
    let mut files = Vec::new();
    for module in MODULES {
        let mut modprobe = command(in_path("modprobe").unwrap_or_else(|| "modprobe".into()));
        modprobe
            .arg("-d")
            .arg(root)
            .args(["-S", release, "--show-depends", module]);
        for file in parse_depends(&stdout_of(&mut modprobe)?) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

/// The files in `modprobe --show-depends`; what is built in needs none.
fn parse_depends(text: &str) -> Vec<PathBuf> {
    let files = text.lines().filter_map(|line| line.strip_prefix("insmod "));
    files
        .filter_map(|rest| rest.split_whitespace().next())
        .map(PathBuf::from)
        .collect()
}

/// The name without what packed it: `9p.ko` for `9p.ko.xz`.
fn plain_name(module: &Path) -> String {
    let name = module
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    name.split_once(".ko")
        .map_or(name.clone(), |(stem, _)| format!("{stem}.ko"))
}

fn unpacked(module: &Path) -> Result<Vec<u8>, KernelError> {
    let unpacker = match module.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return Ok(fs::read(module)?),
    };
    let mut unpack = command(unpacker);
    let output = super::process::output_of(unpack.arg("-dc").arg(module))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(super::process::failure(&unpack, output.status, &errors));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_read_in_the_order_to_load() {
        let text = "insmod /r/lib/modules/7.2/kernel/net/9p/9pnet.ko.xz \n\
            builtin virtio\ninsmod /r/lib/modules/7.2/kernel/net/9p/9pnet_virtio.ko.xz opt=1\n";
        let files = parse_depends(text);
        let names: Vec<String> = files.iter().map(|file| plain_name(file)).collect();
        assert_eq!(names, ["9pnet.ko", "9pnet_virtio.ko"]);
    }

    #[test]
    fn packed_modules_are_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let module = dir.path().join("9p.ko");
        fs::write(&module, b"ELF").unwrap();
        assert_eq!(unpacked(&module).unwrap(), b"ELF");
        stdout_of(command("gzip").arg(&module)).unwrap();
        assert_eq!(unpacked(&dir.path().join("9p.ko.gz")).unwrap(), b"ELF");
    }
}
