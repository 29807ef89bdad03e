// SPDX-License-Identifier: GPL-2.0-only
//! The kernel settings that tests may change: remembered at the start, compared
//! after each test, restored when they differ.
//!
//! Every file stays open, so that a comparison costs one `pread` per setting.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Folders whose writable files are all settings, with their subfolders.
const TREES: [&str; 6] = [
    "/sys/kernel/mm/transparent_hugepage",
    "/sys/kernel/mm/hugepages",
    "/sys/kernel/mm/ksm",
    "/sys/kernel/mm/lru_gen",
    "/sys/kernel/mm/numa",
    "/sys/kernel/mm/swap",
];

/// Single settings of memory management under `/proc/sys`. Not
/// `min_free_kbytes`: the kernel itself changes it with THP's.
const SYSCTLS: [&str; 12] = [
    "kernel/numa_balancing",
    "vm/compact_unevictable_allowed",
    "vm/compaction_proactiveness",
    "vm/enable_soft_offline",
    "vm/max_map_count",
    "vm/overcommit_memory",
    "vm/overcommit_ratio",
    "vm/page-cluster",
    "vm/swappiness",
    "vm/unprivileged_userfaultfd",
    "vm/watermark_scale_factor",
    "vm/zone_reclaim_mode",
];

/// Fault injection in debugfs. Not `times` and `space`: injecting changes them.
const INJECTION: [&str; 2] = ["fail_page_alloc", "failslab"];
const INJECTION_FILES: [&str; 7] = [
    "probability",
    "interval",
    "verbose",
    "task-filter",
    "ignore-gfp-wait",
    "ignore-gfp-highmem",
    "min-order",
];

/// All settings with the values they had at the start.
pub struct Settings {
    settings: Vec<Setting>,
    swaps: Option<File>,
    swap_areas: Vec<String>,
}

struct Setting {
    path: PathBuf,
    file: File,
    value: String,
}

impl Settings {
    /// Remembers what is set now.
    pub fn remember() -> Self {
        let mut settings = Vec::new();
        for tree in TREES {
            collect(Path::new(tree), &mut settings);
        }
        for name in SYSCTLS {
            settings.extend(Setting::open(&Path::new("/proc/sys").join(name)));
        }
        for (kind, file) in INJECTION
            .iter()
            .flat_map(|kind| INJECTION_FILES.iter().map(move |file| (kind, file)))
        {
            let path = Path::new("/sys/kernel/debug").join(kind).join(file);
            settings.extend(Setting::open(&path));
        }
        let swaps = File::open("/proc/swaps").ok();
        let swap_areas = swaps.as_ref().map(areas).unwrap_or_default();
        Self {
            settings,
            swaps,
            swap_areas,
        }
    }

    /// Restores what differs; says what it was, one line for each.
    pub fn restore(&mut self) -> Vec<String> {
        let changed = self.settings.iter_mut().filter_map(Setting::restore);
        let mut changes: Vec<String> = changed.collect();
        let now = self.swaps.as_ref().map(areas).unwrap_or_default();
        for area in self.swap_areas.iter().filter(|area| !now.contains(area)) {
            changes.push(match super::sys::swapon(Path::new(area)) {
                Ok(()) => format!("swap area {area}: turned off"),
                Err(error) => {
                    format!("swap area {area}: turned off, and cannot be turned on: {error}")
                }
            });
        }
        changes
    }
}

impl Setting {
    /// Opens a setting that can be read and written; `None` for anything else.
    fn open(path: &Path) -> Option<Self> {
        let mode = fs::metadata(path).ok()?.permissions().mode();
        if mode & 0o200 == 0 {
            return None;
        }
        let file = File::open(path).ok()?;
        let value = read(&file)?;
        Some(Self {
            path: path.to_owned(),
            file,
            value,
        })
    }

    fn restore(&mut self) -> Option<String> {
        let now = read(&self.file)?;
        if now == self.value {
            return None;
        }
        let path = self.path.display();
        let change = format!("{path}: {} became {now}", self.value);
        Some(match fs::write(&self.path, &self.value) {
            Ok(()) => change,
            Err(error) => format!("{change}, and cannot be restored: {error}"),
        })
    }
}

fn collect(folder: &Path, settings: &mut Vec<Setting>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            // Statistics are many, and none can be set.
            Ok(kind) if kind.is_dir() && entry.file_name() == "stats" => {}
            Ok(kind) if kind.is_dir() => collect(&path, settings),
            Ok(kind) if kind.is_file() => settings.extend(Setting::open(&path)),
            _ => {}
        }
    }
}

/// The value as it would be written: of `always [madvise] never`, `madvise`.
fn read(file: &File) -> Option<String> {
    let mut buffer = [0; 512];
    let n = file.read_at(&mut buffer, 0).ok()?;
    Some(chosen(std::str::from_utf8(&buffer[..n]).ok()?).to_owned())
}

fn chosen(text: &str) -> &str {
    let text = text.trim();
    let choice = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    choice.map_or(text, |(choice, _)| choice)
}

/// The swap areas that are on.
fn areas(swaps: &File) -> Vec<String> {
    let mut buffer = [0; 1024];
    let n = swaps.read_at(&mut buffer, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&buffer[..n]);
    let names = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::{Setting, chosen};

    #[test]
    fn the_choice_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(chosen("511\n"), "511");
        assert_eq!(chosen("0 1 2"), "0 1 2");
    }

    #[test]
    fn a_changed_setting_is_named_and_restored() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "511\n").expect("written");
        let mut setting = Setting::open(file.path()).expect("it can be read and written");
        assert_eq!(setting.restore(), None);
        std::fs::write(file.path(), "0\n").expect("written");
        let change = setting.restore().expect("it differs");
        assert!(change.ends_with(": 511 became 0"), "{change}");
        assert_eq!(std::fs::read_to_string(file.path()).expect("read"), "511");
    }
}
