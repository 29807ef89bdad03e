// SPDX-License-Identifier: GPL-2.0-only
//! How fast the host's time stamp counter runs. [`crate::launch`] tells it to emulated guests.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Long enough that what a reading of both clocks takes does not matter.
const SPAN: Duration = Duration::from_millis(20);
/// A reading that took longer was interrupted.
const READING: Duration = Duration::from_micros(5);
const ATTEMPTS: usize = 50;

/// Frequency of the time stamp counter in kHz, to a thousandth, measured once; `None` where the
/// host has none or gives us no undisturbed moment.
pub fn khz() -> Option<u64> {
    static KHZ: OnceLock<Option<u64>> = OnceLock::new();
    *KHZ.get_or_init(measured)
}

fn measured() -> Option<u64> {
    let first = reading()?;
    std::thread::sleep(SPAN);
    let second = reading()?;
    let nanoseconds = second.0.duration_since(first.0).as_nanos() as u64;
    (second.1 - first.1)
        .checked_mul(1_000_000)?
        .checked_div(nanoseconds)
        .filter(|khz| *khz > 0)
}

/// Time and counter of the same moment.
fn reading() -> Option<(Instant, u64)> {
    (0..ATTEMPTS).find_map(|_| {
        let before = Instant::now();
        let count = counter()?;
        (before.elapsed() < READING).then_some((before, count))
    })
}

#[cfg(target_arch = "x86_64")]
fn counter() -> Option<u64> {
    // SAFETY: every x86-64 has the instruction, and Linux permits it unless a process
    // gives it up (PR_SET_TSC), which we do not.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_runs_as_fast_as_it_was_measured() {
        let khz = khz().expect("a moment without an interruption");
        let (start, first) = reading().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let (end, second) = reading().unwrap();
        let expected = end.duration_since(start).as_nanos() as f64 * khz as f64 / 1e6;
        let error = ((second - first) as f64 / expected - 1.0).abs();
        assert!(error < 1e-3, "{khz} kHz is off by {error}");
    }
}
