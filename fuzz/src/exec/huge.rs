// SPDX-License-Identifier: GPL-2.0-only
//! Huge pages before and after a step: which slots one PMD maps, and how often
//! PMDs were split.

use std::os::fd::AsRawFd;

use super::check::Broken;
use super::entry::bit;
use super::process::Process;
use super::sys;
use super::violation::Oracle;
use crate::model::huge::Fate;
use crate::program::{Op, PAGE, SLOT_PAGES, SLOTS, Step};

const PAGEMAP_SCAN: u64 = 0xc060_6610;
const IS_HUGE: u64 = 1 << 6;

/// What a step finds.
#[derive(Default)]
pub struct Before {
    fates: [Option<Fate>; SLOTS],
    /// `thp_split_pmd`, if it is determined by how much it must grow.
    splits: Option<u64>,
}

impl Process<'_> {
    /// Looks at the slots before a step, where its effect on huge pages is determined.
    pub(super) fn huge_before(&mut self, step: &Step) -> Before {
        let mut before = Before::default();
        // huge pages on a device do not show in the page map, and clear_refs
        // walks all memory of the process, the arena or not
        let everything = matches!(step.op, Op::ClearRefs { .. });
        // a pin of a shared huge page of the other process unshares it there, which
        // splits its PMD (do_huge_pmd_wp_page())
        let elsewhere = matches!(step.op, Op::Remote { .. });
        let mut countable =
            self.setup.alone && !self.setup.board.uses_devices() && !everything && !elsewhere;
        for slot in 0..SLOTS {
            let model = self.setup.board.model();
            let fate = model.fate(step, slot);
            if !model.slot_in_use(self.me, slot) {
                continue;
            }
            if fate == Fate::Open {
                countable = false;
            } else if self.is_huge(slot) {
                before.fates[slot] = Some(fate);
            }
        }
        if countable && before.fates.iter().any(Option::is_some) {
            before.splits = split_pmds();
        }
        before
    }

    /// Checks after a step that succeeded.
    pub(super) fn huge_after(&mut self, before: &Before) -> Result<(), Broken> {
        for (slot, fate) in before.fates.iter().enumerate() {
            let place = match fate {
                Some(Fate::Kept) => slot,
                Some(Fate::MovedTo(slot)) => *slot,
                _ => continue,
            };
            if !self.is_huge(place) {
                let detail =
                    format!("slot {slot} was mapped by one PMD before, slot {place} is not after");
                return Err((Oracle::Huge, "huge page split".into(), detail));
            }
            if place != slot && self.setup.features.soft_dirty {
                let entries = self.entries(place)?;
                if entries.iter().any(|entry| entry & bit::SOFT_DIRTY == 0) {
                    let detail = format!("slot {slot} was moved to slot {place}");
                    return Err((
                        Oracle::Bits,
                        "moved huge page not soft-dirty".into(),
                        detail,
                    ));
                }
            }
        }
        let wanted = before
            .fates
            .iter()
            .filter(|fate| **fate == Some(Fate::Split))
            .count() as u64;
        // storing coverage may have split PMDs of our own
        let Some(first) = before.splits.filter(|_| !self.relieved.get()) else {
            return Ok(());
        };
        let found = split_pmds().unwrap_or(first) - first;
        if found == wanted {
            return Ok(());
        }
        let detail = format!("thp_split_pmd grew by {found}, expected {wanted}");
        Err((Oracle::Deltas, "thp_split_pmd wrong".into(), detail))
    }

    /// Whether one present PMD maps the whole slot. False where the kernel cannot tell.
    fn is_huge(&mut self, slot: usize) -> bool {
        if self.open_pagemap().is_err() {
            return false;
        }
        let Some(file) = &self.pagemap else {
            return false;
        };
        let start = sys::address(slot * SLOT_PAGES) as u64;
        let end = start + (SLOT_PAGES * PAGE) as u64;
        let mut region = [0u64; 3];
        let mut argument = [
            96,
            0,
            start,
            end,
            0,
            region.as_mut_ptr() as u64,
            1,
            0,
            0,
            IS_HUGE,
            0,
            IS_HUGE,
        ];
        // SAFETY: the argument has the size in the request; it points to one region.
        let found = unsafe { libc::ioctl(file.as_raw_fd(), PAGEMAP_SCAN, argument.as_mut_ptr()) };
        found == 1 && region[0] == start && region[1] == end
    }
}

/// Event counter `thp_split_pmd`.
fn split_pmds() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/vmstat").ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("thp_split_pmd "))?
        .parse()
        .ok()
}
