// SPDX-License-Identifier: GPL-2.0-only
//! Events and settings of the whole system: khugepaged, reclaim, swap, sizes of
//! huge pages. What a program has set is set back when it has ended.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

use selftests::{hinting, ksm};

use super::process::Process;
use super::sys;
use crate::program::{Knob, PAGES, Pulse, Setting};

const THP: &str = "/sys/kernel/mm/transparent_hugepage";
/// The group of all processes of programs, made by the session.
const CGROUP: &str = "/sys/fs/cgroup/hugeprobe-fuzz";
/// How much one pulse of reclaim asks for.
const RECLAIM: &str = "1M";
/// A pass of khugepaged that takes longer is given up; the step's own limit tells.
const PASS_LIMIT: Duration = Duration::from_secs(15);
/// A sleeping khugepaged that has not scanned after this has missed the wake-up.
const KICK_AGAIN: Duration = Duration::from_millis(100);
/// Sizes of huge pages between a base page and a PMD that knobs turn on.
const SIZES: [u32; 7] = [16, 32, 64, 128, 256, 512, 1024];
/// Those of them that are on when a program starts.
const SIZES_AT_START: [u32; 2] = [64, 512];

impl Process<'_> {
    /// A system-wide event. Returns 0 or an errno.
    pub(super) fn pulse(&self, pulse: Pulse) -> i32 {
        match pulse {
            Pulse::Compact => sys::compact(),
            Pulse::Shrink => write_to("/proc/sys/vm/drop_caches", "2"),
            Pulse::Split | Pulse::Split4 | Pulse::Split64 => {
                let (start, end) = (sys::address(0), sys::address(PAGES));
                let order = pulse.split_order().unwrap_or(0);
                let request = format!("{},{start:#x},{end:#x},{order}", std::process::id());
                write_to("/sys/kernel/debug/split_huge_pages", &request)
            }
            // no pass begins where nothing may merge, and waiting for one costs as much as ten programs
            Pulse::Ksm if !self.setup.board.model().may_merge() => 0,
            Pulse::Ksm => ksm::passes().map_or_else(|errno| errno as i32, |()| 0),
            Pulse::Khugepaged => khugepaged_pass(),
            Pulse::Reclaim => write_to(&format!("{CGROUP}/memory.reclaim"), RECLAIM),
            Pulse::Swapoff => swap_off_and_on(),
            Pulse::Numa => hinting::pass().map_or_else(|errno| errno as i32, |()| 0),
        }
    }
}

/// Turns a knob. Returns 0 or an errno.
pub fn turn(knob: Knob) -> i32 {
    match knob.setting() {
        Setting::Sizes(count) => set_sizes(&SIZES[..count]),
        Setting::File(name, value) => write_to(&format!("{THP}/{name}"), value),
    }
}

/// Turns every knob to where a program finds it. What a kernel does not have stays out.
pub fn turn_back() {
    set_sizes(&SIZES_AT_START);
    set_khugepaged("max_ptes_none", "511");
    set_khugepaged("max_ptes_swap", "64");
    set_khugepaged("max_ptes_shared", "256");
    for (name, value) in [
        ("defrag", "madvise"),
        ("use_zero_page", "1"),
        ("shrink_underused", "1"),
    ] {
        write_to(&format!("{THP}/{name}"), value);
    }
}

fn set_khugepaged(name: &str, value: &str) -> i32 {
    write_to(&format!("{THP}/khugepaged/{name}"), value)
}

fn set_sizes(on: &[u32]) -> i32 {
    let mut result = 0;
    for size in SIZES {
        let value = if on.contains(&size) {
            "madvise"
        } else {
            "never"
        };
        let errno = write_to(&format!("{THP}/hugepages-{size}kB/enabled"), value);
        // a kernel may lack a size
        if errno != libc::ENOENT {
            result = errno;
        }
    }
    result
}

/// Lets khugepaged scan all that there is, once: 0 when it has.
fn khugepaged_pass() -> i32 {
    let Some(before) = full_scans() else {
        return libc::ENOENT;
    };
    let start = Instant::now();
    let mut kicked = None::<Instant>;
    while full_scans() == Some(before) {
        if kicked.is_none_or(|at| at.elapsed() > KICK_AGAIN) {
            // a write of the value that is there wakes it
            set_khugepaged("scan_sleep_millisecs", "3600000");
            kicked = Some(Instant::now());
        }
        if start.elapsed() > PASS_LIMIT {
            return libc::EAGAIN;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    0
}

fn full_scans() -> Option<u64> {
    let text = std::fs::read_to_string(format!("{THP}/khugepaged/full_scans")).ok()?;
    text.trim().parse().ok()
}

/// Takes the first swap area away, which brings all its pages back, and adds it again.
fn swap_off_and_on() -> i32 {
    let text = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let Some(line) = text.lines().nth(1) else {
        return libc::ENOENT;
    };
    let mut fields = line.split_whitespace();
    let (path, priority) = (fields.next().unwrap_or_default(), fields.nth(3));
    let Ok(path) = std::ffi::CString::new(path) else {
        return libc::EINVAL;
    };
    let prefer = priority.and_then(|text| text.parse::<i32>().ok());
    let flags = prefer.map_or(0, |number| if number < 0 { 0 } else { 0x8000 | number });
    // SAFETY: the path lives for the length of both calls.
    unsafe {
        if libc::swapoff(path.as_ptr()) != 0 {
            return sys::errno();
        }
        if libc::swapon(path.as_ptr(), flags) != 0 {
            return sys::errno();
        }
    }
    0
}

/// Puts this process, and with it all that it forks, into a group of its own.
pub fn enter_group() {
    // What fails here leaves `memory.reclaim` missing, which is an errno of the operation.
    let _ = std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
    let _ = std::fs::create_dir(CGROUP);
    let _ = std::fs::write(format!("{CGROUP}/cgroup.procs"), "0");
}

/// Settings of a guest for fuzzing: huge pages where asked for, and no work of
/// khugepaged behind the program's back. What a kernel does not have stays out.
pub fn prepare_guest() {
    for (path, value) in [
        (format!("{THP}/enabled"), "madvise"),
        (format!("{THP}/shmem_enabled"), "advise"),
        (format!("{THP}/khugepaged/scan_sleep_millisecs"), "3600000"),
        (format!("{THP}/khugepaged/alloc_sleep_millisecs"), "0"),
        // more than all processes of a guest have: one awakening is one full scan
        (format!("{THP}/khugepaged/pages_to_scan"), "16777216"),
        ("/proc/sys/kernel/print-fatal-signals".into(), "0"),
        ("/proc/sys/vm/overcommit_memory".into(), "1"),
        (
            "/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait".into(),
            "N",
        ),
        ("/sys/kernel/debug/fail_page_alloc/min-order".into(), "0"),
        ("/sys/kernel/debug/fail_page_alloc/verbose".into(), "0"),
        ("/sys/kernel/debug/failslab/ignore-gfp-wait".into(), "N"),
        ("/sys/kernel/debug/failslab/verbose".into(), "0"),
    ] {
        let _ = std::fs::write(path, value);
    }
    turn_back();
}

/// Writes to a file of procfs, sysfs or debugfs. Returns 0 or an errno.
pub fn write_to(path: &str, text: &str) -> i32 {
    let result = OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    result.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0)
}
