// SPDX-License-Identifier: GPL-2.0-only
//! A memory cgroup of a test's own (cgroup v2).

use std::fs;
use std::path::{Path, PathBuf};

use crate::skip;

/// Where cgroup2 is mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// A memory cgroup; it is removed when this is dropped, and must be empty then.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// Whether the root had the controller on before.
    was_on: bool,
}

impl Cgroup {
    /// Makes one without processes; skips the test where that cannot be.
    ///
    /// # Panics
    /// When the group cannot be made although there is a controller.
    pub fn create() -> Self {
        let control = Path::new(CGROUPS).join("cgroup.subtree_control");
        let was_on = fs::read_to_string(&control).is_ok_and(|text| text.contains("memory"));
        if !was_on && fs::write(&control, "+memory").is_err() {
            skip!("no memory controller at {CGROUPS} (CONFIG_MEMCG, cgroup2 mounted)");
        }
        let path = Path::new(CGROUPS).join(format!("hugeprobe-{}", std::process::id()));
        fs::create_dir(&path).expect("a group of our own can be made");
        Self { path, was_on }
    }

    /// Puts this process into the group.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn enter(&self) {
        self.set("cgroup.procs", "0");
    }

    /// Writes `value` to a file of the group, such as `memory.max`.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[track_caller]
    pub fn set(&self, file: &str, value: &str) {
        let path = self.path.join(file);
        fs::write(&path, value)
            .unwrap_or_else(|error| panic!("{value} to {}: {error}", path.display()));
    }

    /// Bytes of anonymous memory that the group's processes map.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn anon(&self) -> i64 {
        let text = self.read("memory.stat");
        let anon = text.lines().find_map(|line| line.strip_prefix("anon "));
        let anon = anon.expect("memory.stat has anon");
        anon.parse().expect("a number of bytes")
    }

    /// Bytes charged to the group, mapped or not; each CPU may have charged
    /// some in advance.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn charged(&self) -> i64 {
        let text = self.read("memory.current");
        text.trim().parse().expect("a number of bytes")
    }

    fn read(&self, file: &str) -> String {
        let path = self.path.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let mut gone = fs::remove_dir(&self.path);
        if !self.was_on {
            gone = gone.and(fs::write(
                Path::new(CGROUPS).join("cgroup.subtree_control"),
                "-memory",
            ));
        }
        if let Err(error) = gone {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}
