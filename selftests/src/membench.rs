// SPDX-License-Identifier: GPL-2.0-only
//! The two measurements that the PMD-level PFNMAP series reports: latency of
//! dependent loads, and copying. What differs between mappings of the same
//! memory is the price of address translation.

use std::time::{Duration, Instant};

use crate::guard;
use crate::mapping::Region;

/// Bytes between two loads: a cache line, as lmbench's `lat_mem_rd` is used.
pub const STRIDE: usize = 64;
/// Bytes copied at a time, into memory that is present.
const PIECE: usize = 32 << 20;

/// Writes a chain through the first `bytes` of `region`: each cache line holds
/// the address of the one before it, the first that of the last. Descending,
/// so that simple prefetchers do not help.
///
/// # Panics
/// When a store faults.
pub fn lay_chain(region: &Region, bytes: usize) {
    for offset in (0..bytes).step_by(STRIDE) {
        let before = offset.checked_sub(STRIDE).unwrap_or(bytes - STRIDE);
        let next = (region.addr() + before) as u64;
        guard::write_words(region.addr() + offset, &[next])
            .unwrap_or_else(|fault| panic!("offset {offset:#x}: {fault}"));
    }
}

/// Follows the chain of [`lay_chain`] for `loads` loads, each of which needs the
/// result of the one before it.
///
/// # Panics
/// When the chain leads out of the first `bytes`, or a load faults.
pub fn chase(region: &Region, bytes: usize, loads: usize) -> Duration {
    let inside = region.absolute(&(0..bytes));
    // Walked once with care, so that the measured loop needs none.
    let mut at = inside.end - STRIDE;
    for _ in 0..bytes / STRIDE {
        let mut next = [0];
        guard::read_words(at, &mut next).unwrap_or_else(|fault| panic!("{fault}"));
        assert!(
            inside.contains(&(next[0] as usize)),
            "the chain leads to {:#x}",
            next[0]
        );
        at = next[0] as usize;
    }
    let begin = Instant::now();
    for _ in 0..loads {
        // SAFETY: `at` is an address of the chain, all of which was just read;
        // nobody else writes there.
        at = unsafe { std::ptr::read_volatile(at as *const usize) };
    }
    let time = begin.elapsed();
    assert!(inside.contains(&at), "the chain leads to {at:#x}");
    time
}

/// Copies the first `bytes` of `region` to ordinary memory.
///
/// # Panics
/// When a load faults.
pub fn copy(region: &Region, bytes: usize) -> Duration {
    let mut to = vec![1_u64; PIECE.min(bytes) / 8];
    let mut time = Duration::ZERO;
    for offset in (0..bytes).step_by(PIECE) {
        let words = (bytes - offset).min(PIECE) / 8;
        let begin = Instant::now();
        guard::read_words(region.addr() + offset, &mut to[..words])
            .unwrap_or_else(|fault| panic!("{fault}"));
        time += begin.elapsed();
    }
    time
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::PAGE;

    #[test]
    fn chain_visits_every_line_and_closes() {
        let region = Region::private(4 * PAGE).unwrap();
        lay_chain(&region, 4 * PAGE);
        assert!(chase(&region, 4 * PAGE, 1000) > Duration::ZERO);
        assert!(copy(&region, 4 * PAGE) > Duration::ZERO);
    }

    #[test]
    #[should_panic(expected = "the chain leads to 0x0")]
    fn broken_chain_is_refused() {
        let region = Region::private(PAGE).unwrap();
        chase(&region, PAGE, 1);
    }
}
