// SPDX-License-Identifier: GPL-2.0-only
//! Drives khugepaged one pass at a time.
//!
//! Left alone, khugepaged scans when it likes, so a counter can only be bounded. Here it sleeps
//! for an hour between passes and a write to `scan_sleep_millisecs` wakes it, which
//! `__sleep_millisecs_store()` documents by doing it. With `pages_to_scan` large enough one
//! awakening is one full scan of every registered process, so that every counter can be
//! checked exactly, and "not collapsed" needs no waiting for time to pass.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use nix::errno::Errno;

use crate::collapse_model::{Knobs, MIN_ORDER, Orders, PMD_ORDER};
use crate::mapping::{Advice, PMD, Region};
use crate::settings::{self, Setting, THP};
use crate::{guard, kthread};

/// khugepaged's sleep between passes that nobody asks for.
const HOUR_MS: u64 = 3_600_000;

/// How long one pass may take: under emulation a pass over some tables takes milliseconds.
const PASS_LIMIT: Duration = Duration::from_secs(20);

/// How long khugepaged may sleep without the scan we asked for before it is woken again.
const KICK_AGAIN: Duration = Duration::from_millis(200);

/// Why khugepaged could not be driven.
#[derive(Debug, thiserror::Error)]
pub enum CollapseError {
    /// No thread of that name: transparent huge pages are off in this kernel.
    #[error("no khugepaged thread: is every THP size disabled?")]
    NoThread,
    /// No pass ended in time.
    #[error("khugepaged made no full scan in {0:?}, state {1}")]
    Stuck(Duration, char),
    /// A knob could not be read.
    #[error("failed to read {0}: {1}")]
    Read(PathBuf, io::Error),
    /// The mapping that registers this process could not be made.
    #[error("failed to register the process with khugepaged: {0}")]
    Register(#[from] Errno),
}

/// What khugepaged calls its sizes: `hugepages-64kB` for order 4.
pub fn size_dir(order: u8) -> PathBuf {
    format!("{THP}/hugepages-{}kB", 4u64 << order).into()
}

/// Whether this kernel collapses to sizes below PMD: it then counts the attempts by size.
pub fn collapses_mthp() -> bool {
    size_dir(MIN_ORDER).join("stats/collapse_alloc").exists()
}

/// The only user of khugepaged while it lives; restores every knob at the end.
pub struct Khugepaged {
    pid: Cell<i32>,
    settings: Vec<Setting>,
}

impl Khugepaged {
    /// Quiets khugepaged, registers this process with it and sets `knobs`. Only mappings under
    /// `MADV_HUGEPAGE` are collapsed, so a test chooses the moment with that. `alloc_fails` and
    /// `uffd_armed` are the test's own business. Skips the test when a knob is missing.
    ///
    /// # Errors
    /// [`CollapseError`].
    pub fn take(knobs: &Knobs) -> Result<Self, CollapseError> {
        let mut settings = settings::quiet_background();
        // Sizes first: khugepaged runs only while one is enabled.
        for (file, value) in size_settings(knobs.orders) {
            settings.push(Setting::set(file, value));
        }
        for (file, value) in [
            ("scan_sleep_millisecs", HOUR_MS),
            ("alloc_sleep_millisecs", 0),
            // More than all processes of a guest have: one awakening is one full scan.
            ("pages_to_scan", 1 << 24),
            ("defrag", 1),
            ("max_ptes_none", knobs.none.into()),
            ("max_ptes_swap", knobs.swap.into()),
            ("max_ptes_shared", knobs.shared.into()),
        ] {
            settings.push(Setting::set(knob(file), &value.to_string()));
        }
        let me = Khugepaged {
            pid: Cell::new(find_thread()?),
            settings,
        };
        me.settle()?;
        register()?;
        me.settle()?;
        Ok(me)
    }

    /// Lets khugepaged scan everything once more and returns when it sleeps again.
    ///
    /// # Errors
    /// [`CollapseError::Stuck`] after 20 s.
    pub fn pass(&self) -> Result<u64, CollapseError> {
        self.settle()?;
        let before = full_scans()?;
        let start = Instant::now();
        let mut kicked = None::<Instant>;
        while full_scans()? == before {
            let due = kicked.is_none_or(|at| at.elapsed() > KICK_AGAIN);
            // Seen asleep and still without the scan: it missed the kick. The other way round,
            // it could have scanned between the two looks.
            if due && self.state()? == 'S' && full_scans()? == before {
                self.kick()?;
                kicked = Some(Instant::now());
            }
            self.check_limit(start)?;
            thread::sleep(Duration::from_millis(1));
        }
        self.settle()?;
        Ok(full_scans()? - before)
    }

    /// The thread's number, for `/proc/PID/make-it-fail`.
    pub fn pid(&self) -> i32 {
        self.pid.get()
    }

    /// Enables other sizes than [`Self::take`] did; what that one found is restored at the end.
    /// Without any size khugepaged ends, and starts anew with the next one.
    ///
    /// # Panics
    /// When a size cannot be set.
    pub fn enable(&self, orders: Orders) {
        for (file, value) in size_settings(orders) {
            fs::write(&file, value).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
        if orders != Orders::default() {
            self.pid.set(find_thread().expect("a size is enabled"));
        }
    }

    /// Changes one more file of `transparent_hugepage/` until the end.
    pub fn set(&mut self, file: &str, value: &str) {
        self.settings
            .push(Setting::set(Path::new(THP).join(file), value));
    }

    /// A write of the value that is there wakes khugepaged up.
    fn kick(&self) -> Result<(), CollapseError> {
        let file = knob("scan_sleep_millisecs");
        fs::write(&file, HOUR_MS.to_string()).map_err(|e| CollapseError::Read(file, e))
    }

    /// Waits until khugepaged sleeps for good: twice seen asleep, a tick apart.
    fn settle(&self) -> Result<(), CollapseError> {
        let start = Instant::now();
        let mut asleep = 0;
        while asleep < 2 {
            asleep = if self.state()? == 'S' { asleep + 1 } else { 0 };
            self.check_limit(start)?;
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn check_limit(&self, start: Instant) -> Result<(), CollapseError> {
        match start.elapsed() {
            elapsed if elapsed > PASS_LIMIT => Err(CollapseError::Stuck(elapsed, self.state()?)),
            _ => Ok(()),
        }
    }

    fn state(&self) -> Result<char, CollapseError> {
        kthread::state(self.pid()).ok_or(CollapseError::NoThread)
    }
}

/// `MADV_COLLAPSE` of any addresses: what [`Region::madvise`] does for a part of a region.
///
/// # Errors
/// ENOMEM, EBUSY, EAGAIN and EINVAL, as madvise(2) says.
pub fn madvise_collapse(start: usize, len: usize) -> Result<(), Errno> {
    // SAFETY: a collapse changes neither content nor permissions; no reference depends on frames.
    let status = unsafe { libc::madvise(start as *mut _, len, Advice::Collapse as i32) };
    Errno::result(status).map(drop)
}

/// Empties the caches of all CPUs in which pages wait for their LRU list.
///
/// `madvise_collapse()` does it before it looks at the range. It is asked for a range that has
/// no page table, in a mapping of which another part is in use, so nothing else happens.
///
/// # Panics
/// When 6 MiB of address space cannot be had.
pub fn drain_lru() {
    let region = Region::private(3 * PMD).expect("address space of three huge pages");
    guard::store(region.addr(), 1).expect("a store to our own memory");
    // EINVAL, "no page table", comes after the caches were emptied.
    let _ = region.madvise(PMD..2 * PMD, Advice::Collapse);
}

/// Completed scans of all registered processes since boot.
///
/// # Errors
/// [`CollapseError::Read`].
pub fn full_scans() -> Result<u64, CollapseError> {
    let file = knob("full_scans");
    let text = read(file.clone())?;
    text.trim()
        .parse()
        .map_err(|_| CollapseError::Read(file, io::ErrorKind::InvalidData.into()))
}

/// What the files `enabled` of all sizes must say: enabled ones first, because khugepaged ends
/// when there is none.
fn size_settings(orders: Orders) -> Vec<(PathBuf, &'static str)> {
    let state = |order| {
        if orders.contains(order) {
            "madvise"
        } else {
            "never"
        }
    };
    let mut sizes: Vec<_> = (MIN_ORDER..=PMD_ORDER)
        .map(|order| (size_dir(order).join("enabled"), state(order)))
        .filter(|(file, _)| file.exists())
        .collect();
    sizes.sort_by_key(|(_, state)| *state);
    sizes
}

fn knob(file: &str) -> PathBuf {
    format!("{THP}/khugepaged/{file}").into()
}

fn read(file: PathBuf) -> Result<String, CollapseError> {
    fs::read_to_string(&file).map_err(|e| CollapseError::Read(file, e))
}

fn find_thread() -> Result<i32, CollapseError> {
    kthread::find("khugepaged").ok_or(CollapseError::NoThread)
}

/// Puts this process on khugepaged's list, where it stays. Entering an empty list wakes
/// khugepaged at once, which must not happen in the middle of a test.
fn register() -> Result<(), Errno> {
    let region = Region::private(2 * PMD)?;
    guard::store(region.addr(), 1).expect("a store to our own memory");
    region.madvise(region.all(), Advice::HugePage)
}
