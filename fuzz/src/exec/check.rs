// SPDX-License-Identifier: GPL-2.0-only
//! What is checked after a step, and at the end, in the process itself.
//!
//! After a step only what does not disturb is done: page map entries, loads of
//! pages that are present, accesses that must fault. A page that is swapped
//! out, on a device or not there yet stays so until the program reads it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::access::{agree, load_words, page_name, store_words};
use super::process::Process;
use super::sys;
use super::violation::Oracle;
use crate::model::page::{Flags, Page};
use crate::model::{Effect, Touched};
use crate::program::{Advice, Move, Op, PAGES, SLOT_PAGES, SLOTS, Step};

/// Oracle, what is wrong (part of the title), and the detail.
pub type Broken = (Oracle, String, String);

/// What the kernel under test can tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// Soft-dirty bits.
    pub soft_dirty: bool,
    /// The guard-region bit of the page map.
    pub guard: bool,
}

/// Bits of a page map entry (Documentation/admin-guide/mm/pagemap.rst).
pub mod bit {
    pub const SOFT_DIRTY: u64 = 1 << 55;
    pub const UFFD_WP: u64 = 1 << 57;
    pub const GUARD: u64 = 1 << 58;
    pub const SWAP: u64 = 1 << 62;
    pub const PRESENT: u64 = 1 << 63;
    /// The entry is not empty.
    pub const ANYTHING: u64 = PRESENT | SWAP | GUARD | UFFD_WP;

    /// Whether there is no page behind an entry but a mark of userfaultfd or a guard. The page
    /// map shows marks as swapped out, to the last of the 32 swap types
    /// (`SWP_PTE_MARKER` in include/linux/swap.h).
    pub const fn is_mark(entry: u64) -> bool {
        const TYPE: u64 = 0x1f;
        entry & (PRESENT | SWAP) == SWAP && entry & TYPE == TYPE
    }

    /// Whether there is a page behind an entry, in memory or in swap.
    pub const fn is_populated(entry: u64) -> bool {
        entry & (PRESENT | SWAP) != 0 && !is_mark(entry)
    }
}

/// A page map entry in words.
pub fn shown(entry: u64) -> String {
    const NAMES: [(u64, &str); 7] = [
        (bit::PRESENT, "present"),
        (bit::SWAP, "swap"),
        (bit::SOFT_DIRTY, "soft-dirty"),
        (bit::UFFD_WP, "uffd-wp"),
        (bit::GUARD, "guard"),
        (1 << 56, "exclusive"),
        (1 << 61, "file"),
    ];
    let set = NAMES.iter().filter(|(bit, _)| entry & bit != 0);
    let names: Vec<&str> = set.map(|(_, name)| *name).collect();
    if names.is_empty() {
        "empty".to_owned()
    } else {
        names.join(" ")
    }
}

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
        if let Op::Mremap { at, len, .. } | Op::Munmap { at, len } | Op::Mprotect { at, len, .. } =
            step.op
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

/// What is wrong with the entry of a page, if anything is.
pub(super) fn wrong_bits(page: &Page, entry: u64, features: Features) -> Option<&'static str> {
    let flags = page.flags;
    let populated = entry & (bit::PRESENT | bit::SWAP) != 0;
    if !flags.has(Flags::MAPPED) {
        return populated.then_some("unmapped page populated");
    }
    // the page map passes over device memory (walk_page_test())
    if flags.has(Flags::PFN) {
        return None;
    }
    if features.guard && flags.has(Flags::GUARD) != (entry & bit::GUARD != 0) {
        return Some(if flags.has(Flags::GUARD) {
            "guard marker lost"
        } else {
            "guard marker appeared"
        });
    }
    if flags.has(Flags::DIRTY) && !flags.has(Flags::MERGEABLE) {
        if !populated {
            return Some("written page lost");
        }
        if features.soft_dirty && entry & bit::SOFT_DIRTY == 0 {
            return Some("soft-dirty lost");
        }
    }
    let protected = entry & bit::UFFD_WP != 0;
    if !flags.has(Flags::PROTECTED_UNSURE) && protected != flags.has(Flags::PROTECTED) {
        return Some(if protected {
            "uffd-wp appeared"
        } else {
            "uffd-wp lost"
        });
    }
    None
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

/// Whether the page map shows guard regions: installs one and looks.
pub fn guard_bit_supported() -> bool {
    use crate::program::{Addr, Backing, Len, PAGE, Prot};
    let (at, len) = (Addr(0), Len(1));
    if sys::mmap(at, len, Prot::Write, Backing::Anon, -1) != 0 {
        return false;
    }
    let mut entry = [0; 8];
    let shown = sys::madvise(at, len, Advice::GuardInstall) == 0
        && File::open("/proc/self/pagemap")
            .and_then(|file| file.read_exact_at(&mut entry, (sys::address(0) / PAGE * 8) as u64))
            .is_ok()
        && u64::from_ne_bytes(entry) & bit::GUARD != 0;
    sys::munmap(at, len);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(flags: Flags) -> Page {
        Page {
            flags: Flags::MAPPED.with(flags),
            ..Page::default()
        }
    }

    #[test]
    fn each_lost_bit_is_named() {
        let features = Features {
            soft_dirty: true,
            guard: true,
        };
        let wrong = |flags, entry| wrong_bits(&page(flags), entry, features);
        let present = bit::PRESENT;
        assert_eq!(wrong(Flags(0), present), None);
        assert_eq!(wrong(Flags::DIRTY, present | bit::SOFT_DIRTY), None);
        assert_eq!(wrong(Flags::DIRTY, present), Some("soft-dirty lost"));
        assert_eq!(wrong(Flags::DIRTY, 0), Some("written page lost"));
        assert_eq!(wrong(Flags::PROTECTED, present), Some("uffd-wp lost"));
        assert_eq!(
            wrong(Flags(0), present | bit::UFFD_WP),
            Some("uffd-wp appeared")
        );
        assert_eq!(
            wrong(Flags::PROTECTED.with(Flags::PROTECTED_UNSURE), present),
            None
        );
        assert_eq!(wrong(Flags::GUARD, 0), Some("guard marker lost"));
        assert_eq!(
            wrong_bits(&Page::default(), present, features),
            Some("unmapped page populated")
        );
    }

    #[test]
    fn entries_and_flags_are_told_in_words() {
        assert_eq!(shown(bit::PRESENT | bit::UFFD_WP | 77), "present uffd-wp");
        assert_eq!(shown(77), "empty");
        let page = page(Flags::WRITE.with(Flags::PROTECTED).with(Flags::EXCLUSIVE));
        assert_eq!(
            format!("{:?}", page.flags),
            "mapped write uffd-wp exclusive"
        );
    }

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
