// SPDX-License-Identifier: GPL-2.0-only
//! What stands in for coverage where the kernel has none. Pure.

use crate::exec::cover::CELLS;
use crate::program::Program;

/// Which operation came after which, and what it returned: as cell, address and
/// count of [`crate::exec::cover::Cover`].
pub fn of(program: &Program, results: &[i32]) -> Vec<(usize, u64, u8)> {
    let mut hashes: Vec<usize> = Vec::new();
    let mut before = "";
    for (step, result) in program.steps.iter().zip(results) {
        let text = [before, step.op.name(), &result.to_string()].join(" ");
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hashes.push((hash >> 20) as usize % CELLS);
        before = step.op.name();
    }
    hashes.sort_unstable();
    hashes.dedup();
    hashes
        .into_iter()
        .map(|cell| (cell, cell as u64, 1))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::of;
    use crate::text;

    #[test]
    fn order_and_results_count_and_places_do_not() {
        let cells = |source: &str, results: &[i32]| of(&text::parse(source).unwrap(), results);
        let once = cells("p0 verify\np0 verify\n", &[0, 0]);
        assert_eq!(once.len(), 2, "a beginning and a repetition");
        assert_eq!(once, cells("p1 verify\np0 verify\n", &[0, 0]));
        assert_ne!(once, cells("p0 verify\np0 verify\n", &[0, 12]));
    }
}
