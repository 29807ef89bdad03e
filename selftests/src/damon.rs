// SPDX-License-Identifier: GPL-2.0-only
//! DAMON watches memory of this process and acts on it
//! (Documentation/admin-guide/mm/damon/usage.rst).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::mapping::Region;
use crate::settings::Setting;
use crate::skip;

const KDAMONDS: &str = "/sys/kernel/mm/damon/admin/kdamonds";
/// How often DAMON looks whether a page was used, in microseconds.
const SAMPLE_US: u64 = 1_000;
/// How often it sums up what it saw, and acts.
const SUM_UP_US: u64 = 20_000;
/// How long it may take to have acted: under emulation a round takes tens of milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// What DAMON does with the memory it watches, used or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing but counting.
    Stat,
    /// Page it out.
    PageOut,
    /// Move it to this node.
    MigrateTo(u32),
}

/// What DAMON has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// How many pieces of memory it acted on.
    pub tried: u64,
    /// How many bytes the action says it changed; [`Action::PageOut`] says all that it was asked for.
    pub applied: u64,
    /// In how many of the last round's samples memory had been used, at most.
    pub accesses: u64,
}

/// A thread of DAMON that watches one region; it ends when this is dropped.
#[derive(Debug)]
pub struct Kdamond {
    /// Removes the thread's folder, when the thread has ended.
    _count: Setting,
}

impl Kdamond {
    /// Begins to watch `region`, and nothing else. Skips the test where there is no DAMON.
    ///
    /// # Panics
    /// When DAMON does not take a value, or does not start.
    pub fn watch(region: &Region, action: Action) -> Self {
        if !Path::new(KDAMONDS).exists() {
            skip!("no {KDAMONDS} (CONFIG_DAMON_VADDR, CONFIG_DAMON_SYSFS)");
        }
        let me = Self {
            _count: Setting::set(format!("{KDAMONDS}/nr_kdamonds"), "1"),
        };
        let all = region.absolute(&region.all());
        let (word, node) = match action {
            Action::Stat => ("stat", None),
            Action::PageOut => ("pageout", None),
            Action::MigrateTo(node) => ("migrate_cold", Some(node)),
        };
        set("contexts/nr_contexts", 1);
        // The regions stay those that are given.
        set("contexts/0/operations", "fvaddr");
        set("contexts/0/targets/nr_targets", 1);
        set("contexts/0/targets/0/pid_target", std::process::id());
        set("contexts/0/targets/0/regions/nr_regions", 1);
        set("contexts/0/targets/0/regions/0/start", all.start);
        set("contexts/0/targets/0/regions/0/end", all.end);
        set("contexts/0/monitoring_attrs/nr_regions/max", 10);
        set("contexts/0/monitoring_attrs/nr_regions/min", 3);
        let intervals = "contexts/0/monitoring_attrs/intervals";
        set(&format!("{intervals}/sample_us"), SAMPLE_US);
        set(&format!("{intervals}/aggr_us"), SUM_UP_US);
        set("contexts/0/schemes/nr_schemes", 1);
        set("contexts/0/schemes/0/action", word);
        for property in ["sz", "nr_accesses", "age"] {
            let most = format!("contexts/0/schemes/0/access_pattern/{property}/max");
            set(&most, u32::MAX);
        }
        if let Some(node) = node {
            set("contexts/0/schemes/0/target_nid", node);
        }
        set("state", "on");
        me
    }

    /// What was done so far.
    pub fn done(&self) -> Done {
        set("state", "update_schemes_stats");
        set("state", "update_schemes_tried_regions");
        let scheme = file("contexts/0/schemes/0");
        let regions = fs::read_dir(scheme.join("tried_regions"))
            .unwrap_or_else(|error| panic!("{}: {error}", scheme.display()));
        let accesses = regions
            .flatten()
            .filter_map(|region| number(&region.path().join("nr_accesses")))
            .max();
        let stat = |name: &str| number(&scheme.join("stats").join(name)).unwrap_or_default();
        Done {
            tried: stat("nr_tried"),
            applied: stat("sz_applied"),
            accesses: accesses.unwrap_or_default(),
        }
    }

    /// Waits until what was done satisfies `enough`; `meanwhile` runs again and again.
    ///
    /// # Panics
    /// When that does not happen in time.
    #[track_caller]
    pub fn wait(&self, enough: impl Fn(&Done) -> bool, mut meanwhile: impl FnMut()) -> Done {
        let deadline = Instant::now() + LIMIT;
        loop {
            let until = Instant::now() + Duration::from_micros(SUM_UP_US);
            while Instant::now() < until {
                meanwhile();
                std::thread::sleep(Duration::from_micros(SAMPLE_US));
            }
            let done = self.done();
            if enough(&done) {
                return done;
            }
            assert!(Instant::now() < deadline, "DAMON has only {done:?}");
        }
    }
}

impl Drop for Kdamond {
    fn drop(&mut self) {
        if let Err(error) = fs::write(file("state"), "off") {
            eprintln!("DAMON does not stop: {error}");
        }
    }
}

fn file(name: &str) -> PathBuf {
    Path::new(KDAMONDS).join("0").join(name)
}

#[track_caller]
fn set(name: &str, value: impl ToString) {
    let path = file(name);
    if let Err(error) = fs::write(&path, value.to_string()) {
        panic!("{}: {}: {error}", path.display(), value.to_string());
    }
}

/// The number in a file; `None` for what is no such file.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
