// SPDX-License-Identifier: GPL-2.0-only
//! Makes the N-th allocation of exactly one system call fail, and says whether
//! it did. Documentation/fault-injection/fault-injection.rst, "fail-nth".

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::settings::Setting;
use crate::skip;

mod rseq;

const DEBUGFS: &str = "/sys/kernel/debug";
/// Of the thread that opens it.
const FILE: &str = "/proc/thread-self/fail-nth";

/// More allocations than the end of a process makes.
const PLENTY: u32 = 1_000_000;

/// What may fail, set up for [`Injection::call`]; restored when dropped.
#[derive(Debug)]
pub struct Injection {
    _settings: Vec<Setting>,
    file: File,
}

/// Whether the chosen allocation existed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injected {
    /// It did, and was made to fail.
    Yes,
    /// The call made fewer allocations.
    No,
}

impl Injection {
    /// Lets any page and any slab allocation fail, also those which may wait
    /// for memory (page tables are of that kind). Nothing fails by chance.
    ///
    /// Skips the test on kernels without CONFIG_FAULT_INJECTION_DEBUG_FS,
    /// CONFIG_FAIL_PAGE_ALLOC and CONFIG_FAILSLAB.
    pub fn of_all_allocations() -> Self {
        let mut settings = Self::pages(0);
        settings.extend(Self::slab());
        Self::with(settings)
    }

    /// Lets page allocations of `min_order` and up fail: order 9 are the PMD
    /// sized huge pages only.
    ///
    /// Skips the test on kernels without CONFIG_FAIL_PAGE_ALLOC.
    pub fn of_pages(min_order: u32) -> Self {
        Self::with(Self::pages(min_order))
    }

    fn with(settings: Vec<Setting>) -> Self {
        rseq::end();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(FILE)
            .unwrap_or_else(|error| skip!("{FILE}: {error} (CONFIG_FAULT_INJECTION)"));
        Self {
            _settings: settings,
            file,
        }
    }

    /// The same for the calling thread, for instance a child's only one.
    ///
    /// # Panics
    /// When its file cannot be opened.
    #[track_caller]
    pub fn here(&self) -> Self {
        rseq::end();
        let file = OpenOptions::new().read(true).write(true).open(FILE);
        Self {
            _settings: Vec::new(),
            file: file.unwrap_or_else(|error| panic!("{FILE}: {error}")),
        }
    }

    fn pages(min_order: u32) -> Vec<Setting> {
        let mut settings = Self::knobs("fail_page_alloc", "CONFIG_FAIL_PAGE_ALLOC");
        let folder = format!("{DEBUGFS}/fail_page_alloc");
        settings.push(Setting::set(
            format!("{folder}/min-order"),
            &min_order.to_string(),
        ));
        settings.push(Setting::set(format!("{folder}/ignore-gfp-highmem"), "N"));
        settings
    }

    fn slab() -> Vec<Setting> {
        Self::knobs("failslab", "CONFIG_FAILSLAB")
    }

    /// What both kinds have: quiet, by fail-nth only, also for allocations
    /// that may sleep.
    fn knobs(kind: &str, option: &str) -> Vec<Setting> {
        let folder = format!("{DEBUGFS}/{kind}");
        if !Path::new(&folder).exists() {
            skip!("no {folder} ({option}, CONFIG_FAULT_INJECTION_DEBUG_FS)");
        }
        [
            ("probability", "0"),
            // A stack dump for each injected failure would look like a fault.
            ("verbose", "0"),
            ("task-filter", "Y"),
            ("ignore-gfp-wait", "N"),
        ]
        .into_iter()
        .map(|(knob, value)| Setting::set(format!("{folder}/{knob}"), value))
        .collect()
    }

    /// Runs `call` with its `nth` allocation (from 1) made to fail. Whatever
    /// `call` touches must be present already, so that no page fault of its
    /// own is what fails, and it should be one system call.
    ///
    /// # Panics
    /// When the kernel does not take the number.
    #[track_caller]
    pub fn call<T>(&self, nth: u32, call: impl FnOnce() -> T) -> (T, Injected) {
        assert!(nth > 0, "allocations are counted from 1");
        let text = format!("{nth:<8}");
        let armed = self.file.write_at(text.trim_end().as_bytes(), 0);
        let result = call();
        let left = self.left();
        let disarmed = self.file.write_at(b"0", 0);
        armed.and(disarmed).expect("fail-nth takes a number");
        let injected = if left == 0 {
            Injected::Yes
        } else {
            Injected::No
        };
        (result, injected)
    }

    /// In a child: starts to count this process's allocations, from now to the
    /// end of its exit; see [`Self::counted`].
    ///
    /// # Panics
    /// When the kernel does not take the number.
    pub fn arm_until_exit(&self) {
        rseq::end();
        std::fs::write(FILE, PLENTY.to_string()).expect("fail-nth takes a number");
    }

    /// How many allocations an ended, not yet reaped process has made since
    /// [`Self::arm_until_exit`].
    ///
    /// # Panics
    /// When there is no such process.
    #[track_caller]
    pub fn counted(pid: i32) -> u32 {
        let path = format!("/proc/{pid}/fail-nth");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        PLENTY - text.trim().parse::<u32>().expect("fail-nth is a number")
    }

    /// Allocations that were still to come when the call ended.
    fn left(&self) -> u32 {
        let mut text = [0; 16];
        let length = self
            .file
            .read_at(&mut text, 0)
            .expect("fail-nth can be read");
        std::str::from_utf8(&text[..length])
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .expect("fail-nth is a number")
    }
}
