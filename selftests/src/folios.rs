// SPDX-License-Identifier: GPL-2.0-only
//! Which folios back a range of pages, from `/proc/kpageflags` and `/proc/kpagecount`.
//!
//! A folio's pages are adjacent in physical memory and its first page is aligned to its size,
//! so one read of 512 flags tells every folio in 2 MiB of physical memory. Flags of a page are
//! stable only while nobody else works on it: take a census when khugepaged sleeps.
//! See `Documentation/admin-guide/mm/pagemap.rst`.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::io;

use crate::pagemap::Entry;
use crate::pagemap::kpage::{self, Flags};

/// Pages whose flags are read at once.
const BLOCK: u64 = 512;

/// One page of a range, as its folio knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Its frame.
    pub pfn: u64,
    /// Order of its folio, 0 for a small page.
    pub order: u8,
    /// Which page of the folio it is.
    pub index: u64,
    /// Its own flags.
    pub flags: Flags,
    /// Those of its folio's first page, which alone say whether it is locked and on an LRU list.
    pub head: Flags,
}

/// A folio, or the part of it that the range maps in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Page of the range where it begins.
    pub offset: usize,
    /// Order of the folio.
    pub order: u8,
    /// First page of the folio that is mapped here.
    pub index: u64,
    /// Number of pages.
    pub pages: usize,
}

impl Piece {
    /// Whether all of the folio is mapped, in order.
    pub fn is_whole(&self) -> bool {
        self.index == 0 && self.pages == 1 << self.order
    }
}

/// Groups the pages of a range into pieces of folios.
pub fn pieces(pages: &[Option<Page>]) -> Vec<Piece> {
    let mut found: Vec<Piece> = Vec::new();
    let mut head = None;
    for (offset, page) in pages.iter().enumerate() {
        let Some(page) = page else {
            head = None;
            continue;
        };
        let this = Some(page.pfn - page.index);
        match found.last_mut() {
            Some(last) if head == this && last.index + last.pages as u64 == page.index => {
                last.pages += 1
            }
            _ => found.push(Piece {
                offset,
                order: page.order,
                index: page.index,
                pages: 1,
            }),
        }
        head = this;
    }
    found
}

/// The pages behind pagemap entries; `None` where nothing is present.
///
/// # Errors
/// Those of reading `/proc/kpageflags`: it is for root only.
pub fn census(entries: &[Entry]) -> io::Result<Vec<Option<Page>>> {
    let mut blocks = HashMap::new();
    let mut last = None;
    for pfn in entries.iter().filter_map(|entry| entry.pfn()) {
        let number = pfn / BLOCK;
        // Neighbours mostly are in the same block.
        if last != Some(number)
            && let Slot::Vacant(slot) = blocks.entry(number)
        {
            slot.insert(Block::new(kpage::flags(number * BLOCK, BLOCK as usize)?));
        }
        last = Some(number);
    }
    let mut last: Option<(u64, &Block)> = None;
    let mut page = |pfn: u64| {
        let number = pfn / BLOCK;
        let block = match last {
            Some((same, block)) if same == number => block,
            _ => &blocks[&number],
        };
        last = Some((number, block));
        block.page(pfn)
    };
    let pages = entries.iter().map(|entry| entry.pfn().map(&mut page));
    Ok(pages.collect())
}

/// The flags of 512 frames, and for each of them where its folio begins and of which order it is.
struct Block {
    flags: Vec<Flags>,
    folios: Vec<(usize, u8)>,
}

impl Block {
    fn new(flags: Vec<Flags>) -> Self {
        let mut folios = Vec::with_capacity(flags.len());
        while let Some(rest) = flags.get(folios.len() + 1..) {
            let head = folios.len();
            let tails = rest.iter().take_while(|f| f.compound_tail()).count();
            let order = (tails + 1).ilog2() as u8;
            folios.extend(std::iter::repeat_n((head, order), tails + 1));
        }
        Self { flags, folios }
    }

    fn page(&self, pfn: u64) -> Page {
        let at = (pfn % BLOCK) as usize;
        let (head, order) = self.folios[at];
        Page {
            pfn,
            order,
            index: (at - head) as u64,
            flags: self.flags[at],
            head: self.flags[head],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD_ON_LRU: Flags = Flags(1 << 15 | 1 << 5);
    const TAIL: Flags = Flags(1 << 16);

    fn block(folios: &[(usize, u8)]) -> Block {
        let mut flags = vec![Flags(0); BLOCK as usize];
        for &(head, order) in folios {
            flags[head] = HEAD_ON_LRU;
            flags[head + 1..head + (1 << order)].fill(TAIL);
        }
        Block::new(flags)
    }

    #[test]
    fn tail_page_knows_its_folio() {
        let block = block(&[(16, 4), (32, 4)]);
        let page = block.page(BLOCK * 7 + 37);
        assert_eq!((page.order, page.index), (4, 5));
        assert!(page.head.lru() && !page.flags.lru());
    }

    #[test]
    fn small_page_between_folios_is_order_0() {
        let block = block(&[(0, 2), (8, 3)]);
        assert_eq!(block.page(5).order, 0);
        assert_eq!(block.page(7).order, 0);
    }

    #[test]
    fn folio_of_a_whole_block_is_order_9() {
        let block = block(&[(0, 9)]);
        let last = block.page(511);
        assert_eq!((last.order, last.index), (9, 511));
    }

    #[test]
    fn pieces_break_at_holes_at_other_folios_and_at_disorder() {
        let block = block(&[(0, 2), (4, 2)]);
        let page = |pfn| Some(block.page(pfn));
        let mapped = [
            page(0),
            page(1),
            page(2),
            page(3),
            page(4),
            None,
            page(6),
            page(5),
        ];
        let found: Vec<_> = pieces(&mapped)
            .iter()
            .map(|p| (p.offset, p.index, p.pages))
            .collect();
        assert_eq!(found, [(0, 0, 4), (4, 0, 1), (6, 2, 1), (7, 1, 1)]);
        assert!(pieces(&mapped)[0].is_whole());
    }
}
