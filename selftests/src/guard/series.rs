// SPDX-License-Identifier: GPL-2.0-only
//! Whole blocks of words that are filled and compared without a buffer in between.

use super::{Fault, Raw, install, result};

// Their code is in the file above, where the handler looks for it.
unsafe extern "C" {
    fn hugeprobe_guard_fill(to: usize, first: u64, step: u64, blocks: usize) -> Raw;
    fn hugeprobe_guard_differ(from: usize, first: u64, step: u64, blocks: usize) -> Raw;
}

/// Words of one block of a [`Series`].
const BLOCK: usize = 8;

/// Words of eight bytes of which each is the one before plus `step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// The first word.
    pub first: u64,
    /// What to add for the next.
    pub step: u64,
}

impl Series {
    /// Writes `words` of it, a multiple of eight and not 0, to `address`, which must lie where
    /// [`store`] may write.
    ///
    /// # Errors
    /// The first fault; a beginning may have been written.
    pub fn write(self, address: usize, words: usize) -> Result<(), Fault> {
        install();
        let blocks = Self::blocks(words);
        // SAFETY: by the contract above it reaches no memory that Rust knows of; a store that
        // faults is caught by the handler.
        result(unsafe { hugeprobe_guard_fill(address, self.first, self.step, blocks) })
    }

    /// Whether `words` of it, a multiple of eight and not 0, are what is at `address`: every
    /// bit of them is compared.
    ///
    /// # Errors
    /// The first fault before a difference.
    pub fn is_at(self, address: usize, words: usize) -> Result<bool, Fault> {
        install();
        let blocks = Self::blocks(words);
        // SAFETY: a load that faults is caught by the handler, and nothing is stored.
        let raw = unsafe { hugeprobe_guard_differ(address, self.first, self.step, blocks) };
        let left = raw.address;
        result(raw).map(|()| left == 0)
    }

    fn blocks(words: usize) -> usize {
        assert!(
            words != 0 && words.is_multiple_of(BLOCK),
            "a series has whole blocks of {BLOCK} words"
        );
        words / BLOCK
    }
}

#[cfg(test)]
mod tests {
    use super::Series;
    use crate::guard::{SEGV_MAPERR, read_words, store, write_words};
    use crate::mapping::{PAGE, Region, page};

    #[test]
    fn each_bit_of_a_series_counts() {
        const WORDS: usize = PAGE / 8;
        let region = Region::private(2 * PAGE).unwrap();
        let series = Series {
            first: u64::MAX - 5,
            step: 0x1_0000_0003,
        };
        series.write(region.addr(), WORDS).unwrap();
        assert_eq!(series.is_at(region.addr(), WORDS), Ok(true));
        let mut words = [0; WORDS + 1];
        read_words(region.addr(), &mut words).unwrap();
        let of = |at: usize| {
            series
                .first
                .wrapping_add(series.step.wrapping_mul(at as u64))
        };
        assert!((0..WORDS).all(|at| words[at] == of(at)));
        assert_eq!(words[WORDS], 0, "nothing is written behind it");
        for at in [0, 7, 8, 300, WORDS - 1] {
            for bit in [0, 31, 63] {
                write_words(region.addr() + at * 8, &[of(at) ^ 1 << bit]).unwrap();
                assert_eq!(series.is_at(region.addr(), WORDS), Ok(false), "{at} {bit}");
            }
            write_words(region.addr() + at * 8, &[of(at)]).unwrap();
        }
        assert_eq!(series.is_at(region.addr(), WORDS), Ok(true));
    }

    #[test]
    fn a_series_stops_at_a_fault_or_a_difference() {
        let mut region = Region::private(3 * PAGE).unwrap();
        region.munmap(page(1)).unwrap();
        let zeros = Series { first: 0, step: 0 };
        let end = region.addr() + PAGE;
        let fault = zeros.is_at(end - 64, 16).unwrap_err();
        assert_eq!((fault.code, fault.address), (SEGV_MAPERR, end));
        let fault = zeros.write(end - 64, 16).unwrap_err();
        assert_eq!(fault.address, end);
        store(end - 8, 1).unwrap();
        assert_eq!(zeros.is_at(end - 64, 16), Ok(false));
    }
}
