// SPDX-License-Identifier: GPL-2.0-only
//! Background work of memory management that must not move a counter while a
//! test counts: khugepaged, KSM, NUMA balancing and proactive compaction rest.
//! A test that wants one of them turns it on.

use std::fs;
use std::time::{Duration, Instant};

use super::sys;

/// Files and the values that make their owners rest. `scan_sleep_millisecs` is
/// last: a write to it wakes khugepaged, which then finds all other values.
const RESTING: [(&str, &str); 6] = [
    ("/sys/kernel/mm/ksm/run", "0"),
    ("/proc/sys/kernel/numa_balancing", "0"),
    ("/proc/sys/vm/compaction_proactiveness", "0"),
    (
        "/sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan",
        "1000000",
    ),
    (
        "/sys/kernel/mm/transparent_hugepage/khugepaged/alloc_sleep_millisecs",
        "3600000",
    ),
    (
        "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs",
        "3600000",
    ),
];

const FULL_SCANS: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged/full_scans";

/// How long khugepaged's first scan may take.
const SCAN_LIMIT: Duration = Duration::from_secs(1);

/// Makes everything rest. What a kernel lacks needs no rest.
///
/// khugepaged without any process on its list wakes for the first one that asks
/// for huge pages, and that would be a test. So this process asks: khugepaged
/// scans it now and then sleeps for the hour it was given.
pub fn begin() {
    sys::ask_for_huge_pages();
    let before = scans();
    for (file, value) in RESTING {
        let _ = fs::write(file, value);
    }
    let deadline = Instant::now() + SCAN_LIMIT;
    while before.is_some() && scans() == before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How often khugepaged has scanned everything; `None` without khugepaged.
fn scans() -> Option<String> {
    fs::read_to_string(FULL_SCANS).ok()
}
