// SPDX-License-Identifier: GPL-2.0-only
//! From the initramfs of [`crate::initramfs`] to the guest's root. Nothing is
//! executed anew: this process goes on there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};

use crate::initramfs::MODULES;

/// Where the root is mounted before we move there.
const NEW_ROOT: &str = "/newroot";

/// Loads the modules of the initramfs, mounts the root over 9p and moves there.
/// Does nothing when the kernel mounted the root itself, and stays where the
/// initramfs is all that there is: that of a [`crate::template::Template`].
///
/// # Errors
/// When the root cannot be mounted.
pub fn leave() -> Result<(), String> {
    let modules = Path::new("/").join(MODULES);
    if !modules.exists() || !Path::new("/init").exists() {
        return Ok(());
    }
    for module in in_order(&modules) {
        // A module that is not needed on this machine may refuse.
        if let Ok(file) = File::open(&module) {
            let _ = finit_module(&file, c"", ModuleInitFlags::empty());
        }
        let _ = fs::remove_file(&module);
    }
    let _ = fs::remove_file("/init");
    if !Path::new(NEW_ROOT).exists() {
        return Ok(());
    }
    let options = "trans=virtio,version=9p2000.L,msize=512000,access=any";
    mount(
        Some("/dev/root"),
        NEW_ROOT,
        Some("9p"),
        MsFlags::MS_RDONLY,
        Some(options),
    )
    .map_err(|error| format!("cannot mount the root: {error}; the kernel needs 9p over virtio"))?;
    move_root().map_err(|error| format!("cannot move to the root: {error}"))
}

fn move_root() -> nix::Result<()> {
    chdir(NEW_ROOT)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")
}

fn in_order(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut modules: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    modules.sort();
    modules
}
