// SPDX-License-Identifier: GPL-2.0-only
//! Content that tells where it belongs: every word of a page depends on its
//! owner, its page number, its version and its place in the page, so data that
//! is lost, stale, shifted or of another page is recognised and named.

use std::fmt::Write as _;
use std::ops::Range;

use crate::guard::{self, Series};
use crate::mapping::{PAGE, Region};

/// Words of eight bytes in a page.
const WORDS: usize = PAGE / 8;
/// Odd, so that multiplication can be undone modulo 2^64.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
const STEP: u64 = 0xd1b5_4a32_d192_ed03;
/// Mismatching pages that a report lists.
const LISTED: usize = 8;

/// Who wrote a page, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Who wrote: 1 and up; 0 is nobody.
    pub owner: u16,
    /// Counts what the owner wrote.
    pub version: u16,
}

/// The parent's, or the only process's, first content.
pub const FIRST: Stamp = Stamp {
    owner: 1,
    version: 1,
};

impl Stamp {
    /// What `owner` writes first.
    pub const fn of(owner: u16) -> Self {
        Self { owner, version: 1 }
    }

    /// What the same owner writes next.
    pub const fn next(self) -> Self {
        Self {
            owner: self.owner,
            version: self.version + 1,
        }
    }

    fn key(self, page: usize) -> u64 {
        let identity =
            u64::from(self.owner) << 48 | u64::from(self.version) << 32 | page as u64 & 0xffff_ffff;
        identity.wrapping_mul(MIX)
    }

    fn series(self, page: usize) -> Series {
        Series {
            first: self.key(page),
            step: STEP,
        }
    }

    /// The content of page number `page`.
    pub fn page(self, page: usize) -> [u64; WORDS] {
        words_of(self.series(page))
    }

    /// Writes pages `numbers` of `region`.
    ///
    /// # Panics
    /// When a store faults.
    #[track_caller]
    pub fn fill(self, region: &Region, numbers: Range<usize>) {
        for number in numbers {
            if let Err(fault) = self.series(number).write(region.page_addr(number), WORDS) {
                panic!("page {number}: cannot be written: {fault}");
            }
        }
    }

    /// Writes the whole region.
    ///
    /// # Panics
    /// When a store faults.
    #[track_caller]
    pub fn fill_all(self, region: &Region) {
        self.fill(region, 0..region.len() / PAGE);
    }

    /// Checks every byte of pages `numbers`.
    ///
    /// # Panics
    /// When a page differs or faults; the message says what was found instead.
    #[track_caller]
    pub fn check(self, region: &Region, numbers: Range<usize>) {
        Content::Stamped(self).check(region, numbers);
    }

    /// Checks every byte of the region.
    ///
    /// # Panics
    /// As [`Self::check`].
    #[track_caller]
    pub fn check_all(self, region: &Region) {
        self.check(region, 0..region.len() / PAGE);
    }
}

/// What pages are expected to contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The stamp of their own page number.
    Stamped(Stamp),
    /// The stamp of page `number + by`: what was moved from elsewhere.
    Moved {
        /// What was written before it moved.
        stamp: Stamp,
        /// Pages to add to the number here to get the number there.
        by: isize,
    },
    /// Only zero bytes.
    Zero,
}

impl Content {
    fn series(self, page: usize) -> Series {
        match self {
            Self::Stamped(stamp) => stamp.series(page),
            Self::Moved { stamp, by } => stamp.series(page.wrapping_add_signed(by)),
            Self::Zero => Series { first: 0, step: 0 },
        }
    }

    /// Checks every byte of pages `numbers`.
    ///
    /// # Panics
    /// When a page differs or faults.
    #[track_caller]
    pub fn check(self, region: &Region, numbers: Range<usize>) {
        let found = self.mismatches(region.addr(), numbers);
        if let Some(text) = report(&found) {
            panic!("{text}");
        }
    }

    /// Pages of the memory at `base` that are not as expected, each in words.
    pub fn mismatches(self, base: usize, numbers: Range<usize>) -> Vec<(usize, String)> {
        numbers
            .filter_map(|number| {
                let addr = base.wrapping_add(number * PAGE);
                let why = match self.series(number).is_at(addr, WORDS) {
                    Ok(true) => return None,
                    Ok(false) => self.explain(addr, number),
                    Err(fault) => fault.to_string(),
                };
                Some((number, why))
            })
            .collect()
    }

    /// What is wrong with the page at `addr`, which was just found to differ.
    fn explain(self, addr: usize, number: usize) -> String {
        let mut words = [0; WORDS];
        match guard::read_words(addr, &mut words) {
            Err(fault) => fault.to_string(),
            Ok(()) => describe(&words_of(self.series(number)), &words)
                .unwrap_or_else(|| "it differed, and was as expected a moment later".to_owned()),
        }
    }
}

/// All words of a page.
fn words_of(series: Series) -> [u64; WORDS] {
    let mut word = series.first;
    std::array::from_fn(|_| {
        let this = word;
        word = word.wrapping_add(series.step);
        this
    })
}

/// Checks that pages `numbers` contain only zero bytes.
///
/// # Panics
/// When one does not, or faults.
#[track_caller]
pub fn check_zero(region: &Region, numbers: Range<usize>) {
    Content::Zero.check(region, numbers);
}

/// `None` when equal, otherwise where the first difference is and what the
/// page seems to be.
fn describe(expected: &[u64; WORDS], found: &[u64; WORDS]) -> Option<String> {
    let at = expected.iter().zip(found).position(|(a, b)| a != b)?;
    let wrong = expected.iter().zip(found).filter(|(a, b)| a != b).count();
    let mut text = format!(
        "offset {:#x}: expected {:#018x}, found {:#018x} ({wrong} of {WORDS} words differ",
        at * 8,
        expected[at],
        found[at],
    );
    let _ = match identify(found, at) {
        Some(what) => write!(text, "; looks like {what})"),
        None => write!(text, ")"),
    };
    Some(text)
}

/// Names the origin of the word at `at`.
fn identify(found: &[u64; WORDS], at: usize) -> Option<String> {
    if found[at..].iter().all(|word| *word == 0) {
        return Some("zeros".to_string());
    }
    let key = found[at].wrapping_sub(STEP.wrapping_mul(at as u64));
    let identity = key.wrapping_mul(inverse(MIX));
    let (owner, version, page) = (
        identity >> 48,
        identity >> 32 & 0xffff,
        identity & 0xffff_ffff,
    );
    let plausible = (1..1024).contains(&owner) && version < 1024 && page < 1 << 24;
    plausible.then(|| format!("page {page} of owner {owner} version {version}"))
}

/// Inverse of an odd number modulo 2^64 (Newton: each step doubles the bits).
fn inverse(odd: u64) -> u64 {
    (0..5).fold(odd, |x, _| {
        x.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(x)))
    })
}

fn report(found: &[(usize, String)]) -> Option<String> {
    if found.is_empty() {
        return None;
    }
    let mut text = format!("{} pages have wrong content:", found.len());
    for (number, why) in found.iter().take(LISTED) {
        let _ = write!(text, "\n  page {number}: {why}");
    }
    if found.len() > LISTED {
        let last = found.last().map_or(0, |(number, _)| *number);
        let _ = write!(
            text,
            "\n  and {} more up to page {last}",
            found.len() - LISTED
        );
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_filled_is_found() {
        let region = Region::private(8 * PAGE).unwrap();
        FIRST.fill_all(&region);
        FIRST.check_all(&region);
        FIRST.next().fill(&region, 3..4);
        FIRST.check(&region, 0..3);
        FIRST.next().check(&region, 3..4);
    }

    #[test]
    fn a_page_of_somebody_else_is_named() {
        let expected = FIRST.page(3);
        let text = describe(&expected, &Stamp::of(2).next().page(17)).unwrap();
        assert!(
            text.contains("looks like page 17 of owner 2 version 2"),
            "{text}"
        );
        let text = describe(&expected, &[0; WORDS]).unwrap();
        assert!(text.contains("looks like zeros"), "{text}");
        assert!(text.contains("512 of 512 words differ"), "{text}");
    }

    #[test]
    fn one_flipped_bit_is_seen_and_located() {
        let mut page = FIRST.page(9);
        page[511] ^= 1 << 40;
        let text = describe(&FIRST.page(9), &page).unwrap();
        assert!(text.starts_with("offset 0xff8:"), "{text}");
        assert!(text.contains("1 of 512 words"), "{text}");
    }

    #[test]
    fn a_hole_is_reported_as_a_fault() {
        let mut region = Region::private(4 * PAGE).unwrap();
        FIRST.fill_all(&region);
        region.munmap(crate::mapping::page(2)).unwrap();
        let found = Content::Stamped(FIRST).mismatches(region.addr(), 0..4);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, 2);
        assert!(found[0].1.contains("SIGSEGV"), "{}", found[0].1);
    }

    #[test]
    fn multiplication_is_undone() {
        assert_eq!(MIX.wrapping_mul(inverse(MIX)), 1);
    }
}
