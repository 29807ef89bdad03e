// SPDX-License-Identifier: GPL-2.0-only
//! What is checked after a step, and at the end, in the process itself.
//!
//! After a step only what does not disturb is done: page map entries, loads of
//! pages that are present, accesses that must fault. A page that is swapped
//! out, on a device or not there yet stays so until the program reads it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::access::{agree, load_words, page_name, store_words};
use super::entry::{bit, shown};
use super::process::Process;
use super::sys;
use super::violation::Oracle;
use crate::model::page::Flags;
use crate::model::{Effect, Touched};
use crate::program::{Advice, Move, Op, PAGES, SLOT_PAGES, SLOTS, Step};

/// Oracle, what is wrong (part of the title), and the detail.
pub type Broken = (Oracle, String, String);

impl Process<'_> {
    /// Checks the slots that a step touched.
    pub(super) fn check(&mut self, touched: Touched, step: &Step) -> Result<(), Broken> {
        let mut op = step.op;
        let focus = op.span().map_or(0..0, |(at, len)| {
            at.page().saturating_sub(1)..at.page() + len.pages() + 1
        });
        // An emulated CPU keeps translations of programs and of the kernel apart: only a
        // program's own access meets one that was not flushed. It comes first, as
        // any other makes the CPU forget some.
        if let Op::Mremap { at, len, .. }
        | Op::Munmap { at, len }
        | Op::Brk { at, len, .. }
        | Op::Mprotect { at, len, .. } = step.op
        {
            self.probe((at.page() + len.pages()).min(PAGES) - 1)?;
            self.probe(at.page())?;
        }
        for slot in (0..SLOTS).filter(|slot| touched.has(*slot)) {
            let entries = self.entries(slot)?;
            if matches!(step.op, Op::Mremap { .. } | Op::UffdMove { .. }) {
                self.check_moved(slot, &entries)?;
            }
            self.check_slot(slot, &entries, &focus)?;
        }
        let mut probed = Vec::with_capacity(4 + 2 * SLOTS);
        if let Some((at, len)) = op.span() {
            let last = (at.page() + len.pages()).min(PAGES) - 1;
            probed.extend([at.page(), last]);
            if loads_emptied(step) {
                self.load(at.page())?;
                self.load(last)?;
            }
        }
        if let Op::Mremap { to, new, .. } = step.op {
            probed.extend([to.page(), (to.page() + new.pages()).min(PAGES) - 1]);
        }
        for slot in (0..SLOTS).filter(|slot| touched.has(*slot)) {
            probed.extend([slot * SLOT_PAGES, slot * SLOT_PAGES + SLOT_PAGES - 1]);
        }
        probed.sort_unstable();
        probed.dedup();
        for page in probed {
            self.probe_quietly(page)?;
        }
        self.check_pin()
    }

    /// What moved is soft-dirty, for who tracks contents by address (move_soft_dirty_pte()).
    fn check_moved(&self, slot: usize, entries: &[u64; SLOT_PAGES]) -> Result<(), Broken> {
        for (index, entry) in entries.iter().enumerate() {
            let number = slot * SLOT_PAGES + index;
            let model = self.setup.board.model();
            let clean = entry & (bit::PRESENT | bit::SWAP) != 0 && entry & bit::SOFT_DIRTY == 0;
            if model.take_moved(self.me, number) && clean && self.setup.features.soft_dirty {
                let flags = model.pages(self.me)[number].flags;
                let detail = format!(
                    "{}: page map {}, model {flags:?}",
                    page_name(number),
                    shown(*entry)
                );
                return Err((Oracle::Bits, "moved page not soft-dirty".into(), detail));
            }
        }
        Ok(())
    }

    /// Opens the page map of this process, once.
    pub(super) fn open_pagemap(&mut self) -> std::io::Result<()> {
        if self.pagemap.is_none() {
            self.pagemap = Some(File::open("/proc/self/pagemap")?);
        }
        Ok(())
    }

    /// Page map entries of a slot.
    pub(super) fn entries(&mut self, slot: usize) -> Result<[u64; SLOT_PAGES], Broken> {
        let failed = |error: std::io::Error| {
            (
                Oracle::Bits,
                "pagemap not readable".to_owned(),
                error.to_string(),
            )
        };
        self.open_pagemap().map_err(failed)?;
        let mut bytes = [0u8; SLOT_PAGES * 8];
        if let Some(file) = &self.pagemap {
            let offset = sys::address(slot * SLOT_PAGES) / crate::program::PAGE * 8;
            file.read_exact_at(&mut bytes, offset as u64)
                .map_err(failed)?;
        }
        let (words, _) = bytes.as_chunks::<8>();
        Ok(std::array::from_fn(|i| u64::from_ne_bytes(words[i])))
    }

    /// Tries an access that must fault, if there is one, and sees that it does.
    fn probe(&self, page: usize) -> Result<(), Broken> {
        let load = self.expected(page, false);
        if load == Effect::DoneOrBus {
            return Ok(());
        }
        if load != Effect::Done {
            return agree(page, "load", load, load_words(page, &mut [0; 4]));
        }
        let store = self.expected(page, true);
        if matches!(store, Effect::Segv | Effect::Bus) {
            return agree(page, "store", store, store_words(page, u64::MAX));
        }
        Ok(())
    }

    /// The same by system calls, which fail instead of a signal, at a tenth of its
    /// cost. Which signal it would have been is seen at the end of the program.
    fn probe_quietly(&self, page: usize) -> Result<(), Broken> {
        let mut access = (self.expected(page, false), false);
        if access.0 == Effect::Done {
            access = (self.expected(page, true), true);
        }
        match access {
            (Effect::Segv | Effect::Bus, store) => self.refuses(page, store),
            _ => Ok(()),
        }
    }

    /// Loads every page that allows it; the others must refuse, tried at the
    /// edges of each run of pages with equal attributes.
    pub(super) fn load_everything(&mut self) -> Result<(), Broken> {
        for slot in 0..SLOTS {
            let entries = self.entries(slot)?;
            self.load_slot(slot, &entries, false)?;
        }
        Ok(())
    }

    /// Loads the pages of a slot that the page map shows to have something in them,
    /// and some of the others. `loaded`: `check_slot` has just loaded those that are present.
    fn load_slot(
        &mut self,
        slot: usize,
        entries: &[u64; SLOT_PAGES],
        loaded: bool,
    ) -> Result<(), Broken> {
        for (index, entry) in entries.iter().enumerate() {
            let number = slot * SLOT_PAGES + index;
            let model = self.setup.board.model();
            let page = model.pages(self.me)[number];
            let edge = number == 0 || model.pages(self.me)[number - 1].flags != page.flags;
            let expected = model.content(self.me, number).0;
            let loaded = loaded && entry & bit::PRESENT != 0 && !model.is_closed(self.me, number);
            if self.expected_seen(number, false, *entry) != Effect::Done {
                if edge || index == SLOT_PAGES - 1 {
                    self.probe(number)?;
                }
            } else if loaded && !edge {
                // nothing new to see
            } else if *entry != 0 && entry & (bit::PRESENT | bit::SWAP) != 0
                || page.private_anon() && expected != 0
                || page.flags.any(Flags::SHARED.with(Flags::PFN)) && expected != 0
                || edge
                || index % 64 == 63
            {
                self.load(number)?;
                if edge {
                    self.probe(number)?;
                }
            }
        }
        Ok(())
    }

    /// The checks at the end of a program.
    pub(super) fn check_all(&mut self) -> Result<(), Broken> {
        let mut entries = [[0; SLOT_PAGES]; SLOTS];
        for (slot, entries) in entries.iter_mut().enumerate() {
            *entries = self.entries(slot)?;
            self.check_slot(slot, entries, &(0..PAGES))?;
        }
        self.check_pin()?;
        self.check_accounts()?;
        // what is present has just been loaded, every word of it
        for (slot, entries) in entries.iter().enumerate() {
            self.load_slot(slot, entries, true)?;
        }
        Ok(())
    }
}

/// Whether pages that the step has emptied are loaded at once, which shows a
/// translation that was not flushed. It also brings a page back that later steps
/// could have met empty, so only ranges of odd length are.
fn loads_emptied(step: &Step) -> bool {
    match step.op {
        Op::Madvise {
            len,
            advice: Advice::Dontneed | Advice::DontneedLocked,
            ..
        } => len.0 % 2 == 1,
        Op::Mremap {
            len,
            how: Move::Dontunmap,
            ..
        } => len.0 % 2 == 1,
        _ => false,
    }
}

/// Which pages of the arena lie in locked mappings, from the text of smaps.
pub fn locked_pages(smaps: &str) -> Vec<bool> {
    let mut locked = vec![false; PAGES];
    let mut area = 0..0;
    for line in smaps.lines() {
        let head = line.split(' ').next().unwrap_or_default();
        let bounds = head
            .split_once('-')
            .map(|(a, b)| (usize::from_str_radix(a, 16), usize::from_str_radix(b, 16)));
        if let Some((Ok(start), Ok(end))) = bounds {
            let page = |address: usize| {
                (address.saturating_sub(sys::address(0)) / crate::program::PAGE).min(PAGES)
            };
            area = page(start)..page(end);
        } else if line.starts_with("VmFlags:") && line.split_whitespace().any(|flag| flag == "lo") {
            locked[area.clone()].fill(true);
        }
    }
    locked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_areas_are_found_in_smaps() {
        let start = sys::address(2);
        let end = sys::address(4);
        let smaps = format!(
            "{start:x}-{end:x} rw-p 00000000 00:00 0\nSize: 8 kB\nVmFlags: rd wr lo ac\n\
                             7f0000000000-7f0000001000 rw-p 00000000 00:00 0\nVmFlags: rd lo\n"
        );
        let locked = locked_pages(&smaps);
        assert_eq!(
            (1..5).map(|page| locked[page]).collect::<Vec<_>>(),
            [false, true, true, false]
        );
        assert_eq!(locked.iter().filter(|locked| **locked).count(), 2);
    }
}
