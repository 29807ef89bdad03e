// SPDX-License-Identifier: GPL-2.0-only
//! Which folios back a range of pages, from `/proc/kpageflags` and `/proc/kpagecount`.
//!
//! A folio's pages are adjacent in physical memory and its first page is aligned to its size,
//! so one read of 512 flags tells every folio in 2 MiB of physical memory. Flags of a page are
//! stable only while nobody else works on it: take a census when khugepaged sleeps.
//! See `Documentation/admin-guide/mm/pagemap.rst`.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Pages whose flags are read at once.
const BLOCK: u64 = 512;

/// Bits of `/proc/kpageflags`.
pub mod kpf {
    /// The page is locked, for instance isolated by a collapse that forgot it.
    pub const LOCKED: u64 = 1 << 0;
    /// On a list for reclaim.
    pub const LRU: u64 = 1 << 5;
    /// Anonymous memory.
    pub const ANON: u64 = 1 << 12;
    /// First page of a folio of several pages.
    pub const COMPOUND_HEAD: u64 = 1 << 15;
    /// Another page of such a folio.
    pub const COMPOUND_TAIL: u64 = 1 << 16;
}

/// One page of a range, as its folio knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Its frame.
    pub pfn: u64,
    /// Order of its folio, 0 for a small page.
    pub order: u8,
    /// Which page of the folio it is.
    pub index: u64,
    /// Its bits of `/proc/kpageflags`; LRU and LOCKED are those of the folio's first page.
    pub flags: u64,
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

/// Reads flags and counts of page frames; needs root.
pub struct Frames {
    flags: File,
    counts: File,
}

impl Frames {
    /// Opens the two files.
    ///
    /// # Errors
    /// EACCES without root, ENOENT without `PROC_PAGE_MONITOR`.
    pub fn open() -> io::Result<Self> {
        Ok(Frames {
            flags: File::open("/proc/kpageflags")?,
            counts: File::open("/proc/kpagecount")?,
        })
    }

    /// The pages with these frame numbers; `None` stays `None`.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn census(&self, pfns: &[Option<u64>]) -> io::Result<Vec<Option<Page>>> {
        let mut blocks = HashMap::new();
        for block in pfns.iter().flatten().map(|pfn| pfn / BLOCK) {
            if let std::collections::hash_map::Entry::Vacant(entry) = blocks.entry(block) {
                entry.insert(read_words(&self.flags, block * BLOCK, BLOCK as usize)?);
            }
        }
        Ok(pfns
            .iter()
            .map(|pfn| pfn.map(|pfn| describe(pfn, &blocks[&(pfn / BLOCK)])))
            .collect())
    }

    /// How often each of `pages` frames from `pfn` on is mapped.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn mapcounts(&self, pfn: u64, pages: usize) -> io::Result<Vec<u64>> {
        read_words(&self.counts, pfn, pages)
    }

    /// Flags of one frame, which may be free.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn flags(&self, pfn: u64) -> io::Result<u64> {
        Ok(read_words(&self.flags, pfn, 1)?[0])
    }
}

/// One page, given the flags of the 512 frames around it.
fn describe(pfn: u64, block: &[u64]) -> Page {
    let at = (pfn % BLOCK) as usize;
    let tail = |&&flags: &&u64| flags & kpf::COMPOUND_TAIL != 0;
    let index = block[..=at].iter().rev().take_while(tail).count();
    let head = at - index;
    let tails = block[head + 1..].iter().take_while(tail).count();
    let of_head = block[head] & (kpf::LRU | kpf::LOCKED);
    Page {
        pfn,
        order: (tails + 1).ilog2() as u8,
        index: index as u64,
        flags: block[at] | of_head,
    }
}

fn read_words(file: &File, first: u64, count: usize) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; count * 8];
    file.read_exact_at(&mut bytes, first * 8)?;
    Ok(bytes
        .chunks_exact(8)
        .map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(folios: &[(usize, u8)]) -> Vec<u64> {
        let mut flags = vec![0; BLOCK as usize];
        for &(head, order) in folios {
            flags[head] = kpf::COMPOUND_HEAD | kpf::LRU;
            flags[head + 1..head + (1 << order)].fill(kpf::COMPOUND_TAIL);
        }
        flags
    }

    #[test]
    fn tail_page_knows_its_folio() {
        let block = block(&[(16, 4), (32, 4)]);
        let page = describe(BLOCK * 7 + 37, &block);
        assert_eq!((page.order, page.index), (4, 5));
        assert_ne!(page.flags & kpf::LRU, 0);
    }

    #[test]
    fn small_page_between_folios_is_order_0() {
        let block = block(&[(0, 2), (8, 3)]);
        assert_eq!(describe(5, &block).order, 0);
        assert_eq!(describe(7, &block).order, 0);
    }

    #[test]
    fn folio_of_a_whole_block_is_order_9() {
        let block = block(&[(0, 9)]);
        assert_eq!(
            (describe(511, &block).order, describe(511, &block).index),
            (9, 511)
        );
    }

    #[test]
    fn pieces_break_at_holes_at_other_folios_and_at_disorder() {
        let block = block(&[(0, 2), (4, 2)]);
        let page = |pfn| Some(describe(pfn, &block));
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
