// SPDX-License-Identifier: GPL-2.0-only
//! Operations of userfaultfd that fill and move pages, and accesses to ranges
//! in which a page that is not there gives a signal.

use std::os::unix::fs::FileExt;

use super::check::Broken;
use super::entry::bit;
use super::process::Process;
use super::sys;
use crate::model::page::{WORDS, word};
use crate::model::{Effect, MAX_FILLED};
use crate::program::{Addr, Fill, Len, Op, PAGE, PAGES, SLOT_PAGES, SLOTS, Step};

/// What is known of a step beside what it returned.
#[derive(Default)]
pub struct Known {
    /// Page map entries of slots before the step, where they matter.
    entries: [Option<Box<[u64; SLOT_PAGES]>>; SLOTS],
    /// Pages that the operation says it has done.
    pub amount: Option<usize>,
    /// The step fills pages.
    fills: bool,
}

impl Known {
    /// Whether anything was at the page before the step, if that was looked at.
    pub fn populated(&self, page: usize) -> Option<bool> {
        let entries = self.entries[page / SLOT_PAGES].as_ref()?;
        populated(entries[page % SLOT_PAGES], self.fills)
    }
}

/// Whether there is anything that an operation would meet. UFFDIO_COPY replaces the mark of a
/// protected page that is not there, and poison (`pte_is_uffd_marker()`); UFFDIO_ZEROPAGE does not.
fn populated(entry: u64, fills: bool) -> Option<bool> {
    let replaced = fills && bit::is_mark(entry) && entry & bit::GUARD == 0;
    (!replaced).then_some(entry & bit::ANYTHING != 0)
}

impl Process<'_> {
    /// Looks at what a step depends on that the model does not know.
    pub(super) fn known_before(&mut self, step: &Step) -> Result<Known, Broken> {
        let mut known = Known {
            // UFFDIO_POISON replaces nothing
            fills: matches!(step.op, Op::UffdFill { how, .. } if how != Fill::Poison),
            ..Known::default()
        };
        let ranges = match step.op {
            Op::UffdFill { at, len, .. } => [Some((at, len)), None],
            Op::UffdMove { at, len, to } => [Some((at, len)), Some((to, len))],
            _ => return Ok(known),
        };
        if self.setup.board.model().is_limited() {
            return Ok(known);
        }
        for (at, len) in ranges.into_iter().flatten() {
            let last = (at.page() + len.pages()).min(PAGES) - 1;
            for slot in at.page() / SLOT_PAGES..=last / SLOT_PAGES {
                known.entries[slot] = Some(Box::new(self.entries(slot)?));
            }
        }
        Ok(known)
    }

    /// UFFDIO_COPY and its kind, of up to `MAX_FILLED` pages.
    pub(super) fn fill(&mut self, at: Addr, len: Len, how: Fill) -> i32 {
        let stamps = self.setup.board.model().reserve_fill(self.me, at, len);
        debug_assert!(stamps.len() <= MAX_FILLED);
        let mut content = vec![0u8; stamps.len() * PAGE];
        if matches!(how, Fill::Copy | Fill::CopyProtected) {
            for (page, stamp) in content.chunks_exact_mut(PAGE).zip(&stamps) {
                for (index, offset) in WORDS.iter().enumerate() {
                    page[*offset..offset + 8].copy_from_slice(&word(*stamp, index).to_ne_bytes());
                }
            }
        }
        let Some(tracker) = &self.tracker else {
            return libc::EINVAL;
        };
        let (result, done) = tracker.fill(at, &content, how);
        self.known.amount = Some(done);
        result
    }

    /// UFFDIO_MOVE.
    pub(super) fn shift(&mut self, at: Addr, len: Len, to: Addr) -> i32 {
        let Some(tracker) = &self.tracker else {
            return libc::EINVAL;
        };
        let (result, done) = tracker.shift(at, len, to);
        self.known.amount = Some(done);
        result
    }

    /// What an access to the page must do. Asks the page map where that depends on
    /// whether a page is there.
    pub(super) fn expected(&self, page: usize, store: bool) -> Effect {
        let model = self.setup.board.model();
        let effect = model.effect(self.me, page, store);
        if effect != Effect::DoneOrBus {
            return effect;
        }
        let Some(file) = &self.pagemap else {
            return effect;
        };
        let mut entry = [0; 8];
        let offset = sys::address(page) / PAGE * 8;
        if file.read_exact_at(&mut entry, offset as u64).is_err() {
            return effect;
        }
        self.expected_seen(page, store, u64::from_ne_bytes(entry))
    }

    /// The same where the entry is at hand.
    pub(super) fn expected_seen(&self, page: usize, store: bool, entry: u64) -> Effect {
        let seen = (bit::is_populated(entry), entry & bit::UFFD_WP != 0);
        self.setup
            .board
            .model()
            .effect_seen(self.me, page, store, seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_of_protection_is_no_page() {
        let swapped = bit::SWAP | bit::UFFD_WP;
        let mark = swapped | 0x3f;
        assert!(bit::is_populated(swapped) && !bit::is_populated(mark));
        assert!(bit::is_populated(mark | bit::PRESENT));
        assert_eq!(populated(mark, true), None);
        assert_eq!(populated(mark, false), Some(true));
        assert_eq!(populated(bit::MARK, true), None);
        assert_eq!(populated(bit::MARK | bit::GUARD, true), Some(true));
        assert_eq!(populated(swapped, true), Some(true));
        assert_eq!(populated(bit::PRESENT | bit::UFFD_WP, true), Some(true));
        assert_eq!(populated(0, true), Some(false));
    }
}
