// SPDX-License-Identifier: GPL-2.0-only
//! What the guest prepares: file systems, network, swap, modules and the
//! kernel's own watchdogs.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};

use super::{swap, sys};
use crate::plan::{Module, Setup, Share};

/// Values under `/proc/sys`. Those that a kernel lacks are left out silently:
/// each only makes a report more likely or more legible.
const SYSCTLS: [(&str, &str); 10] = [
    // A request for a module that nobody has would start modprobe over 9p, for
    // seconds; what a guest needs is loaded by name.
    ("kernel/modprobe", "\n"),
    // A test that ends in an oops fails alone; the rest goes on elsewhere.
    ("kernel/panic_on_oops", "0"),
    ("kernel/panic_on_warn", "0"),
    // Emulated CPUs of a busy host stall for seconds without being locked up.
    ("kernel/watchdog_thresh", "20"),
    ("kernel/hung_task_timeout_secs", "60"),
    ("kernel/hung_task_warnings", "-1"),
    ("kernel/softlockup_all_cpu_backtrace", "1"),
    ("kernel/printk_devkmsg", "on"),
    ("kernel/printk_ratelimit", "0"),
    ("kernel/sysrq", "1"),
];

/// Mounts what the channel and the plan need.
///
/// # Errors
/// When one of these cannot be mounted.
pub fn mount_basics() -> Result<(), String> {
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        match mount_fs(kind, place, "") {
            // The kernel has mounted /dev itself (CONFIG_DEVTMPFS_MOUNT).
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => return Err(format!("cannot mount {kind} at {place}: {error}")),
        }
    }
    Ok(())
}

/// Prepares everything else.
///
/// # Errors
/// Says what could not be prepared and what it would need.
pub fn prepare(setup: &Setup) -> Result<(), String> {
    for (name, value) in SYSCTLS {
        let _ = fs::write(Path::new("/proc/sys").join(name), value);
    }
    if setup.oops_ends {
        let _ = fs::write("/proc/sys/kernel/panic_on_oops", "1");
    }
    mount_rest();
    // Kernels without network run tests that need none.
    let _ = sys::raise_loopback();
    let _ = nix::unistd::sethostname("hugeprobe");
    for share in &setup.shares {
        mount_share(share)?;
    }
    for module in &setup.modules {
        match load_module(module) {
            Err(error) if !module.optional => return Err(error),
            _ => {}
        }
    }
    if setup.swap_mib > 0 {
        swap::enable(setup.swap_mib)?;
    }
    Ok(())
}

/// Mounts what tests may want. What a kernel lacks stays unmounted: the test
/// that needs it says so.
fn mount_rest() {
    for place in ["/dev/pts", "/dev/shm", "/dev/hugepages"] {
        let _ = fs::create_dir_all(place);
    }
    let _ = mount_fs("devpts", "/dev/pts", "mode=620,ptmxmode=666");
    let _ = mount_fs("tmpfs", "/dev/shm", "mode=1777");
    let _ = mount_fs("hugetlbfs", "/dev/hugepages", "");
    let _ = mount_fs("tmpfs", "/run", "mode=755");
    // Unlike tmpfs, ramfs is never swapped out under a test.
    let _ = fs::create_dir_all(super::programs::FOLDER);
    let _ = mount_fs("ramfs", super::programs::FOLDER, "mode=755");
    let _ = mount_fs("debugfs", "/sys/kernel/debug", "");
    let _ = mount_fs("tracefs", "/sys/kernel/tracing", "");
    let _ = mount_fs("cgroup2", "/sys/fs/cgroup", "");
    let _ = mount_fs("configfs", "/sys/kernel/config", "");
    mount_tmp();
}

/// Makes `/tmp` writable without hiding the host's: the plan may name programs
/// in there.
fn mount_tmp() {
    let _ = fs::create_dir_all("/run/tmp/upper");
    let _ = fs::create_dir_all("/run/tmp/work");
    let options = "lowerdir=/tmp,upperdir=/run/tmp/upper,workdir=/run/tmp/work";
    if mount_fs("overlay", "/tmp", options).is_err() {
        let _ = mount_fs("tmpfs", "/tmp", "mode=1777");
    }
}

fn mount_fs(kind: &str, place: &str, options: &str) -> nix::Result<()> {
    mount(
        Some(kind),
        place,
        Some(kind),
        MsFlags::empty(),
        Some(options),
    )
}

/// Mounts a folder of the host at the same path.
///
/// # Errors
/// When the host does not share it.
pub fn mount_share(share: &Share) -> Result<(), String> {
    let path = share.path.as_path();
    // Fails where the root is the host's, read-only; there it exists.
    let _ = fs::create_dir_all(path);
    mount(
        Some(share.tag.as_str()),
        path,
        Some("9p"),
        MsFlags::empty(),
        Some("trans=virtio,version=9p2000.L,msize=524288,access=any"),
    )
    .map_err(|error| format!("cannot mount the share {}: {error}", path.display()))
}

fn load_module(module: &Module) -> Result<(), String> {
    let failed =
        |error: &dyn std::fmt::Display| format!("cannot load {}: {error}", module.path.display());
    let parameters = CString::new(module.parameters.as_str()).map_err(|e| failed(&e))?;
    let file = File::open(&module.path).map_err(|e| failed(&e))?;
    match finit_module(&file, &parameters, ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(failed(&error)),
    }
}
