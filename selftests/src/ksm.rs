// SPDX-License-Identifier: GPL-2.0-only
//! KSM, as many passes as it needs to merge what is the same: it rests else.

use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;

const FOLDER: &str = "/sys/kernel/mm/ksm";
/// The first pass of a page notes what it contains, the second finds that this is still so, and
/// the third finds another page like it.
const PASSES: u64 = 3;
/// A scan that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// A pass over what a few processes have takes less than this. Where no memory is registered any more no pass begins
/// (`ksmd_should_run()`), and nothing tells.
const PASS: Duration = Duration::from_millis(150);

/// Lets KSM go over all memory that is registered for it, and rest again.
///
/// # Errors
/// ENOENT without CONFIG_KSM, EAGAIN when it takes too long.
pub fn passes() -> Result<(), Errno> {
    // a kernel may not know the last one, which leaves out pages that did not merge before
    for (file, value) in [
        ("pages_to_scan", "100000"),
        ("sleep_millisecs", "0"),
        ("smart_scan", "0"),
    ] {
        let _ = fs::write(format!("{FOLDER}/{file}"), value);
    }
    let before = full_scans()?;
    run("1")?;
    let start = Instant::now();
    let (mut done, mut since) = (0, start);
    let mut result = Ok(());
    while done < PASSES && since.elapsed() < PASS {
        let now = full_scans()? - before;
        if now != done {
            (done, since) = (now, Instant::now());
        }
        if start.elapsed() > PATIENCE {
            result = Err(Errno::EAGAIN);
            break;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    run("0")?;
    result
}

fn run(value: &str) -> Result<(), Errno> {
    fs::write(format!("{FOLDER}/run"), value).map_err(|_| Errno::ENOENT)
}

fn full_scans() -> Result<u64, Errno> {
    let text = fs::read_to_string(format!("{FOLDER}/full_scans")).map_err(|_| Errno::ENOENT)?;
    text.trim().parse().map_err(|_| Errno::ENOENT)
}
