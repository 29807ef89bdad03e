// SPDX-License-Identifier: GPL-2.0-only
//! The files that a [`super::Snapshot`] reads. They stay open, and are read whole at once: a
//! test takes some snapshots of some thirty files, and to find a file in sysfs costs more than to
//! read it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::{settings, text};

/// The files of one thread; a child that it forks goes on with them.
pub struct Sources {
    refresh: Option<File>,
    vmstat: Option<File>,
    meminfo: Option<File>,
    sizes: BTreeMap<u32, Vec<Stat>>,
}

/// A file of a THP size's statistics.
struct Stat {
    name: Arc<str>,
    file: File,
}

impl Sources {
    /// Opens what is the same for each snapshot.
    pub fn open() -> Self {
        let write = |path| File::options().write(true).open(path).ok();
        Self {
            refresh: write("/proc/sys/vm/stat_refresh"),
            vmstat: File::open("/proc/vmstat").ok(),
            meminfo: File::open("/proc/meminfo").ok(),
            sizes: BTreeMap::new(),
        }
    }

    /// Folds the counters that are kept per CPU into those of nodes and zones. Absent without
    /// CONFIG_SMP, where nothing needs it.
    pub fn fold(&self) {
        if let Some(file) = &self.refresh {
            let _ = file.write_at(b"1", 0);
        }
    }

    /// `/proc/vmstat`.
    pub fn vmstat(&self) -> String {
        whole(self.vmstat.as_ref())
    }

    /// `/proc/meminfo`.
    pub fn meminfo(&self) -> String {
        whole(self.meminfo.as_ref())
    }

    /// Names and values of the statistics of THPs of `kib` KiB.
    pub fn thp(&mut self, kib: u32) -> super::Stats {
        let files = self.sizes.entry(kib).or_insert_with(|| stats(kib));
        let value = |stat: &Stat| {
            // The longest number has 20 digits.
            let mut bytes = [0; 32];
            let length = stat.file.read_at(&mut bytes, 0).ok()?;
            let text = std::str::from_utf8(&bytes[..length]).ok()?;
            Some((Arc::clone(&stat.name), super::number(text.trim())?))
        };
        files.iter().filter_map(value).collect()
    }
}

fn stats(kib: u32) -> Vec<Stat> {
    let folder = format!("{}/hugepages-{kib}kB/stats", settings::THP);
    let open = |name: &str| {
        let file = File::open(Path::new(&folder).join(name)).ok()?;
        let name = name.into();
        Some(Stat { name, file })
    };
    let Ok(entries) = fs::read_dir(&folder) else {
        return Vec::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    names.filter_map(|name| open(name.to_str()?)).collect()
}

/// The whole of a file; nothing of one that is not there.
fn whole(file: Option<&File>) -> String {
    let text = file.map(text::read_open).transpose();
    text.ok().flatten().unwrap_or_default()
}
