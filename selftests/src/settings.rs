// SPDX-License-Identifier: GPL-2.0-only
//! Values in sysfs, procfs and debugfs that restore themselves: when the guard
//! is dropped, when the test panics, and when it ends by `skip!`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::mapping::{Advice, PMD, Region};
use crate::{guard, kthread, outcome, skip, text};

/// Settings that are in force, oldest first: what [`restore_all`] undoes.
static IN_FORCE: Mutex<Vec<Saved>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

struct Saved {
    number: u64,
    path: PathBuf,
    old: String,
}

impl Saved {
    fn restore(&self) {
        // Some files act on every write, whatever the value: a write to
        // khugepaged's wakes it.
        if current(&self.path).is_ok_and(|now| same_value(&now, &self.old)) {
            return;
        }
        if let Err(error) = fs::write(&self.path, &self.old) {
            eprintln!("cannot restore {}: {error}", self.path.display());
        }
    }
}

/// A changed setting; its old value returns when this is dropped.
#[derive(Debug)]
#[must_use = "the setting is restored as soon as this is dropped"]
pub struct Setting {
    number: u64,
}

impl Setting {
    /// Writes `value`, unless it is there already, and remembers what was there.
    ///
    /// # Errors
    /// The file's own errors; [`io::ErrorKind::InvalidInput`] when the kernel
    /// took the value and then shows another one; `PermissionDenied` where
    /// tests must not change the machine (see [`outcome::may_change_machine`]).
    pub fn try_set(path: impl AsRef<Path>, value: &str) -> io::Result<Self> {
        let path = path.as_ref();
        if !outcome::may_change_machine() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "not in a guest",
            ));
        }
        let old = current(path)?;
        let is_there = same_value(&old, value);
        if !is_there {
            fs::write(path, value)?;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let saved = Saved {
            number,
            path: path.to_path_buf(),
            old,
        };
        IN_FORCE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(saved);
        let setting = Self { number };
        if is_there {
            return Ok(setting);
        }
        let now = current(path)?;
        if same_value(&now, value) {
            return Ok(setting);
        }
        let what = format!("wrote `{value}` to {}, it shows `{now}`", path.display());
        Err(io::Error::new(io::ErrorKind::InvalidInput, what))
    }

    /// As [`Self::try_set`], and skips the test when the file is missing.
    ///
    /// # Panics
    /// When the file is there and refuses the value.
    #[track_caller]
    pub fn set(path: impl AsRef<Path>, value: &str) -> Self {
        let path = path.as_ref();
        match Self::try_set(path, value) {
            Ok(setting) => setting,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                skip!("no {}", path.display())
            }
            Err(error) => panic!("cannot set {} to `{value}`: {error}", path.display()),
        }
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let mut in_force = IN_FORCE.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = in_force.iter().position(|s| s.number == self.number) else {
            return;
        };
        let saved = in_force.remove(at);
        // A vector drops its oldest element first: whoever has changed the same
        // file since then has to bring back what was there before both.
        match in_force[at..].iter_mut().find(|s| s.path == saved.path) {
            Some(newer) => newer.old = saved.old,
            None => saved.restore(),
        }
    }
}

/// Restores every setting in force, newest first.
pub fn restore_all() {
    let mut in_force = IN_FORCE.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(saved) = in_force.pop() {
        saved.restore();
    }
}

/// The value of a setting: the chosen word where the file lists its choices.
///
/// # Errors
/// Those of reading the file.
pub fn current(path: impl AsRef<Path>) -> io::Result<String> {
    let text = text::read(path)?;
    let text = text.trim();
    Ok(choice(text).unwrap_or(text).to_string())
}

/// The bracketed word of `always [madvise] never`.
pub fn choice(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('[')?;
    let (word, _) = rest.split_once(']')?;
    Some(word)
}

/// debugfs shows booleans as `Y` and `N`, whatever was written.
fn same_value(shown: &str, written: &str) -> bool {
    let plain = |text: &str| match text.trim() {
        "Y" => "1".to_string(),
        "N" => "0".to_string(),
        other => other.to_string(),
    };
    plain(shown) == plain(written)
}

/// Folder of the settings of transparent huge pages.
pub const THP: &str = "/sys/kernel/mm/transparent_hugepage";

/// Size in KiB of a THP that a PMD entry maps.
const PMD_KIB: u32 = 2048;

/// THP of PMD size by `MADV_HUGEPAGE` only, every other size never, and
/// nothing in the background that could move a counter: khugepaged, KSM, NUMA
/// balancing and proactive compaction rest.
pub fn quiet() -> Vec<Setting> {
    let mut settings = quiet_background();
    settings.push(Setting::set(format!("{THP}/enabled"), "madvise"));
    settings.push(Setting::set(format!("{THP}/defrag"), "madvise"));
    for kib in crate::counters::thp_sizes_kib() {
        let value = if kib == PMD_KIB { "inherit" } else { "never" };
        let path = format!("{THP}/hugepages-{kib}kB/enabled");
        match Setting::try_set(&path, value) {
            Ok(setting) => settings.push(setting),
            // 8 kB exists for shmem only.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => panic!("cannot set {path} to `{value}`: {error}"),
        }
    }
    settings
}

/// The part of [`quiet`] that stops background work and leaves sizes alone.
pub fn quiet_background() -> Vec<Setting> {
    let mut settings: Vec<Setting> = [
        ("/sys/kernel/mm/ksm/run", "0"),
        ("/proc/sys/kernel/numa_balancing", "0"),
        ("/proc/sys/vm/compaction_proactiveness", "0"),
    ]
    .into_iter()
    .filter(|(path, _)| Path::new(path).exists())
    .map(|(path, value)| Setting::set(path, value))
    .collect();
    settings.extend(rest_khugepaged());
    settings
}

/// How long khugepaged sleeps when it is to rest.
const HOUR_MS: &str = "3600000";

/// Sends khugepaged to sleep for an hour.
///
/// It wakes when the first process asks for huge pages, which would be the
/// test's own, and scans right into it. In a guest of hugeprobe the first
/// process has asked already and the hour has begun; elsewhere khugepaged gets
/// a process to scan now, and time to end that scan.
fn rest_khugepaged() -> Vec<Setting> {
    let knob = |name: &str| format!("{THP}/khugepaged/{name}");
    let rests = |name: &str| current(knob(name)).is_ok_and(|value| value == HOUR_MS);
    let deadline = Instant::now() + Duration::from_millis(300);
    if outcome::is_guest() && rests("scan_sleep_millisecs") && rests("alloc_sleep_millisecs") {
        // Whoever restored the hour has woken it once more.
        if let Some(khugepaged) = kthread::find("khugepaged") {
            while kthread::state(khugepaged) != Some('S') && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        return Vec::new();
    }
    let mut settings = vec![
        Setting::set(knob("pages_to_scan"), "1000000"),
        Setting::set(knob("alloc_sleep_millisecs"), HOUR_MS),
    ];
    if let Ok(region) = Region::private(PMD) {
        // Without huge pages there is nothing that could be scanned. The touch
        // puts this process on the list.
        let _ = region.madvise(region.all(), Advice::HugePage);
        let _ = guard::store(region.addr(), 1);
    }
    let scans = || current(knob("full_scans")).unwrap_or_default();
    let before = scans();
    settings.push(Setting::set(knob("scan_sleep_millisecs"), HOUR_MS));
    while scans() == before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    // A scan may begin a second round before it ends.
    let mut last = String::new();
    while last != scans() && Instant::now() < deadline {
        last = scans();
        std::thread::sleep(Duration::from_millis(5));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_value_returns_in_whatever_order_guards_go() {
        let file = std::env::temp_dir().join(format!("hugeprobe-setting-{}", std::process::id()));
        for oldest_first in [true, false] {
            fs::write(&file, "3").unwrap();
            let guard = |old: &str| {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                IN_FORCE.lock().unwrap().push(Saved {
                    number,
                    path: file.clone(),
                    old: old.into(),
                });
                Setting { number }
            };
            let mut guards = vec![guard("1"), guard("2")];
            if !oldest_first {
                guards.reverse();
            }
            drop(guards);
            assert_eq!(fs::read_to_string(&file).unwrap(), "1");
        }
        fs::remove_file(&file).unwrap();
    }

    #[test]
    fn the_bracketed_choice_is_found() {
        assert_eq!(choice("always [madvise] never"), Some("madvise"));
        assert_eq!(choice("always defer [never]\n"), Some("never"));
        assert_eq!(choice("4096"), None);
    }

    #[test]
    fn booleans_compare_across_their_spellings() {
        assert!(same_value("Y", "1"));
        assert!(same_value("N\n", "0"));
        assert!(!same_value("Y", "0"));
        assert!(same_value("4096", "4096"));
    }
}
