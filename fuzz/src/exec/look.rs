// SPDX-License-Identifier: GPL-2.0-only
//! Looks at page tables from outside: files of another process in procfs,
//! PAGEMAP_SCAN against the page map, and the idle bits of page frames.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::access::page_name;
use super::check::{Broken, locked_pages};
use super::entry::{bit, shown, wrong_bits};
use super::process::Process;
use super::sys;
use super::system::write_to;
use super::violation::Oracle;
use crate::model::page::Flags;
use crate::program::{Addr, Category, Clear, Len, Look, PAGE, PAGES, Proc, SLOT_PAGES, SLOTS};

const PAGEMAP_SCAN: u64 = 0xc060_6610;
const FRAME: u64 = (1 << 55) - 1;

impl Category {
    /// Its bit in PAGEMAP_SCAN.
    fn mask(self) -> u64 {
        match self {
            Self::Written => 1 << 1,
            Self::Present => 1 << 3,
            Self::Swapped => 1 << 4,
            Self::SoftDirty => 1 << 7,
            Self::Guard => 1 << 8,
        }
    }
}

/// Words of the bitmap of idle frames that one operation writes and reads. Each costs as much as
/// a small program.
const IDLE_WORDS: usize = 8;

impl Process<'_> {
    /// A write to `/proc/self/clear_refs`. No page is soft-dirty after that of soft-dirty bits, but for pinned ones
    /// and such on a device, which the kernel passes over (`clear_soft_dirty()`, `clear_soft_dirty_pmd()`).
    pub(super) fn clear_refs(&mut self, what: Clear) -> Result<i32, Broken> {
        let tracking = what == Clear::SoftDirty;
        let result = write_to("/proc/self/clear_refs", what.number());
        let told = self.setup.features.soft_dirty
            && !self.setup.board.uses_devices()
            && !self.setup.board.pins();
        if result != 0 || !tracking || !told {
            return Ok(result);
        }
        for slot in 0..SLOTS {
            if !self.setup.board.model().slot_in_use(self.me, slot) {
                continue;
            }
            let dirty = |entry: &u64| entry & bit::SOFT_DIRTY != 0;
            if let Some(index) = self.entries(slot)?.iter().position(dirty) {
                let detail = page_name(slot * SLOT_PAGES + index);
                return Err((Oracle::Bits, "soft-dirty not cleared".into(), detail));
            }
        }
        Ok(0)
    }

    /// Reads a file about another process, and checks it against the model.
    pub(super) fn inspect(&self, peer: Proc, what: Look) -> Result<i32, Broken> {
        let (who, pid) = (peer.index(), self.setup.board.pid(peer.index()));
        let path = format!("/proc/{pid}/{}", what.name());
        if what == Look::Pagemap {
            return self.inspect_pagemap(who, &path);
        }
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return Ok(error.raw_os_error().unwrap_or(libc::EIO)),
        };
        let model = self.setup.board.model();
        match what {
            Look::Smaps if model.lock_known(who) => {
                for (number, locked) in locked_pages(&text).into_iter().enumerate() {
                    if locked != model.pages(who)[number].flags.has(Flags::LOCKED) {
                        let detail = format!("{} of p{who}: locked {locked}", page_name(number));
                        return Err((Oracle::Bits, "smaps: lock wrong".into(), detail));
                    }
                }
            }
            Look::Maps => {
                let shown = mappings(&text);
                for (number, shown) in shown.into_iter().enumerate() {
                    if shown != model.mapping(who, number) {
                        let wanted = model.mapping(who, number);
                        let detail = format!(
                            "{} of p{who}: shown {shown:?}, model {wanted:?} (read, write, shared)",
                            page_name(number)
                        );
                        return Err((Oracle::Permission, "maps wrong".into(), detail));
                    }
                }
            }
            _ => {}
        }
        Ok(0)
    }

    fn inspect_pagemap(&self, who: usize, path: &str) -> Result<i32, Broken> {
        let mut bytes = vec![0u8; PAGES * 8];
        let read = File::open(path)
            .and_then(|file| file.read_exact_at(&mut bytes, (sys::address(0) / PAGE * 8) as u64));
        if let Err(error) = read {
            return Ok(error.raw_os_error().unwrap_or(libc::EIO));
        }
        let model = self.setup.board.model();
        for (number, entry) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let (page, entry) = (model.pages(who)[number], u64::from_ne_bytes(*entry));
            if let Some(what) = wrong_bits(&page, entry, self.setup.features) {
                let detail = format!(
                    "{} of p{who}: page map {}, model {:?}",
                    page_name(number),
                    shown(entry),
                    page.flags
                );
                return Err((Oracle::Bits, format!("{what}, seen from outside"), detail));
            }
        }
        Ok(0)
    }

    /// PAGEMAP_SCAN for one category, page by page the same as the page map.
    pub(super) fn scan(&mut self, at: Addr, len: Len, what: Category) -> Result<i32, Broken> {
        let end = (at.page() + len.pages()).min(PAGES);
        let found = match self.scanned(at.page(), end, what.mask()) {
            Ok(found) => found,
            Err(errno) => return Ok(errno),
        };
        if self.setup.board.model().is_limited() {
            return Ok(0);
        }
        let first = at.page() / SLOT_PAGES;
        for slot in first..=(end - 1) / SLOT_PAGES {
            let entries = self.entries(slot)?;
            for (index, entry) in entries.iter().enumerate() {
                let number = slot * SLOT_PAGES + index;
                if !(at.page()..end).contains(&number) {
                    continue;
                }
                let flags = self.setup.board.model().pages(self.me)[number].flags;
                let wrong = match wanted(what, flags, *entry) {
                    Some(wanted) => wanted != found[number],
                    None => false,
                };
                if wrong {
                    let detail = format!(
                        "{}: entry {entry:#018x}, in the scan {}, model {flags:?}",
                        page_name(number),
                        found[number]
                    );
                    let title = format!("PAGEMAP_SCAN of {} wrong", what.name());
                    return Err((Oracle::Bits, title, detail));
                }
            }
        }
        Ok(0)
    }

    /// Which pages of a range PAGEMAP_SCAN has in a category.
    fn scanned(&mut self, first: usize, end: usize, mask: u64) -> Result<Vec<bool>, i32> {
        self.open_pagemap().map_err(|_| libc::EINVAL)?;
        let Some(file) = &self.pagemap else {
            return Err(libc::EINVAL);
        };
        let mut regions = vec![[0u64; 3]; end - first];
        let (start, stop) = (sys::address(first) as u64, sys::address(end) as u64);
        let (list, count) = (regions.as_mut_ptr() as u64, regions.len() as u64);
        let mut argument = [96, 0, start, stop, 0, list, count, 0, 0, mask, 0, mask];
        // SAFETY: the argument has the size in the request; it points to `count` regions.
        let got = unsafe { libc::ioctl(file.as_raw_fd(), PAGEMAP_SCAN, argument.as_mut_ptr()) };
        if got < 0 {
            return Err(sys::errno());
        }
        let mut found = vec![false; PAGES];
        let page = |address: u64| (address as usize - sys::address(0)) / PAGE;
        for region in &regions[..got as usize] {
            found[page(region[0])..page(region[1])].fill(true);
        }
        Ok(found)
    }

    /// Marks page frames of a range idle, and reads the marks back, for which the kernel looks
    /// through all mappings of each frame, and of the others of the same word.
    pub(super) fn idle(&mut self, at: Addr, len: Len) -> Result<i32, Broken> {
        let bitmap = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/sys/kernel/mm/page_idle/bitmap");
        let Ok(bitmap) = bitmap else {
            return Ok(libc::ENODEV);
        };
        let end = (at.page() + len.pages()).min(PAGES);
        let (mut last, mut words) = (u64::MAX, 0);
        for slot in at.page() / SLOT_PAGES..=(end - 1) / SLOT_PAGES {
            let entries = self.entries(slot)?;
            for (index, entry) in entries.iter().enumerate() {
                let place = (entry & FRAME) / 64 * 8;
                let inside = (at.page()..end).contains(&(slot * SLOT_PAGES + index));
                let new = inside && entry & bit::PRESENT != 0 && place != last;
                if !new || words == IDLE_WORDS {
                    continue;
                }
                (last, words) = (place, words + 1);
                let mut marks = u64::MAX.to_ne_bytes();
                // refused for frames beyond the end of memory, and there is nothing to see then
                let _ = bitmap.write_all_at(&marks, place);
                let _ = bitmap.read_exact_at(&mut marks, place);
            }
        }
        Ok(0)
    }
}

/// Whether a page must be in a category; none where that is not determined.
fn wanted(what: Category, flags: Flags, entry: u64) -> Option<bool> {
    let populated = entry & (bit::PRESENT | bit::SWAP) != 0;
    match what {
        Category::Present => Some(entry & bit::PRESENT != 0),
        Category::Swapped => Some(entry & bit::SWAP != 0),
        Category::Guard => Some(entry & bit::GUARD != 0),
        // the page map also says it of areas that are new
        Category::SoftDirty => {
            (flags.has(Flags::DIRTY) && !flags.has(Flags::MERGEABLE)).then_some(true)
        }
        Category::Written => {
            (populated && flags.has(Flags::TRACKED)).then_some(entry & bit::UFFD_WP == 0)
        }
    }
}

/// What `/proc/PID/maps` shows of each page of the arena: read, write, shared.
fn mappings(text: &str) -> Vec<Option<(bool, bool, bool)>> {
    let mut shown = vec![None; PAGES];
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else {
            continue;
        };
        let Some((start, end)) = range.split_once('-') else {
            continue;
        };
        let page = |text: &str| {
            let address = usize::from_str_radix(text, 16).unwrap_or(0);
            (address.saturating_sub(sys::address(0)) / PAGE).min(PAGES)
        };
        let right = |letter: char| rights.contains(letter);
        shown[page(start)..page(end)].fill(Some((right('r'), right('w'), right('s'))));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_read_from_maps() {
        let start = sys::address(1);
        let text = format!(
            "{start:x}-{:x} r--p 00000000 00:00 0\n{:x}-{:x} rw-s 00000000 00:01 7 /dev/zero (deleted)\n\
             7f0000000000-7f0000001000 rw-p 00000000 00:00 0\n",
            start + PAGE,
            start + PAGE,
            start + 2 * PAGE
        );
        let shown = mappings(&text);
        assert_eq!(shown[0], None);
        assert_eq!(shown[1], Some((true, false, false)));
        assert_eq!(shown[2], Some((true, true, true)));
        assert!(shown[3..].iter().all(Option::is_none));
    }

    #[test]
    fn categories_follow_the_page_map() {
        assert_eq!(wanted(Category::Present, Flags(0), bit::SWAP), Some(false));
        assert_eq!(wanted(Category::Swapped, Flags(0), bit::SWAP), Some(true));
        assert_eq!(wanted(Category::SoftDirty, Flags::DIRTY, 0), Some(true));
        assert_eq!(wanted(Category::SoftDirty, Flags(0), 0), None);
        let entry = bit::PRESENT | bit::UFFD_WP;
        assert_eq!(
            wanted(Category::Written, Flags::TRACKED, entry),
            Some(false)
        );
        assert_eq!(wanted(Category::Written, Flags(0), entry), None);
    }
}
