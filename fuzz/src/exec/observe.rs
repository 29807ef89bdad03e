// SPDX-License-Identifier: GPL-2.0-only
//! What a process finds after a racing block: its areas from smaps, the bits of
//! the page map, and contents. What the plan of the block rules out is a
//! violation; the rest becomes the state of the model.

mod areas;
mod bits;

use areas::areas;

use super::access::{load_words, page_name, store_words};
use super::check::Broken;
use super::entry::bit;
use super::process::Process;
use super::rally::control;
use super::sys;
use super::violation::Oracle;
use crate::model::Model;
use crate::model::content::Block;
use crate::model::page::{Flags, Page, describe, file_stamp, word};
use crate::program::{Addr, Len, Op, Prot, SLOT_PAGES, SLOTS, Step};

/// Attributes of an area that smaps shows.
const SHOWN: Flags = Flags::READ
    .with(Flags::WRITE)
    .with(Flags::SHARED)
    .with(Flags::FILE)
    .with(Flags::LOCKED)
    .with(Flags::DONTFORK)
    .with(Flags::WIPEONFORK)
    .with(Flags::TRACKED);

/// Looks at one process.
pub struct Observer<'a, 'b> {
    process: &'a mut Process<'b>,
    /// What is mapped where: attributes and page number in file or object.
    areas: Vec<Option<(Flags, u16)>>,
    /// The areas as they must be, if that is known.
    wanted: Option<Box<Model>>,
    /// Soft-dirty bits were cleared meanwhile, here or in the parent.
    cleared: bool,
}

impl<'a, 'b> Observer<'a, 'b> {
    /// Reads the areas of the process. `wanted` are those that it must have.
    pub fn new(process: &'a mut Process<'b>, wanted: Option<Box<Model>>) -> Result<Self, Broken> {
        let smaps = std::fs::read_to_string("/proc/self/smaps").map_err(|error| {
            (
                Oracle::Bits,
                "smaps not readable".to_owned(),
                error.to_string(),
            )
        })?;
        let board = process.setup.board;
        let cleared = process
            .setup
            .rally
            .plan()
            .carried(&|index| board.step(index))
            .any(|step| matches!(step.op, Op::ClearRefs { .. }));
        Ok(Self {
            areas: areas(&smaps),
            wanted,
            process,
            cleared,
        })
    }

    /// Looks at every page that the block may have changed.
    pub fn look(&mut self) -> Result<(), Broken> {
        for slot in 0..SLOTS {
            let pages = slot * SLOT_PAGES..(slot + 1) * SLOT_PAGES;
            let plan = self.process.setup.rally.plan();
            let touched = |page: usize| plan.pages[self.process.me][page].touched;
            if !pages.clone().any(touched) {
                continue;
            }
            let entries = self.process.entries(slot)?;
            for (page, entry) in pages.zip(entries) {
                if self.process.setup.rally.plan().pages[self.process.me][page].touched {
                    self.page(page, entry)?;
                }
            }
        }
        Ok(())
    }

    fn page(&mut self, number: usize, entry: u64) -> Result<(), Broken> {
        let me = self.process.me;
        let area = self.areas[number];
        self.check_area(number, area)?;
        let Some((mut flags, offset)) = area else {
            let wrong = entry & (bit::PRESENT | bit::SWAP) != 0;
            self.process
                .setup
                .board
                .model()
                .settle(me, number, Page::default());
            return if wrong {
                Err(self.wrong(number, Oracle::Bits, "unmapped page populated", entry))
            } else {
                Ok(())
            };
        };
        flags.set(self.bits(number, entry)?);
        let shared = flags.has(Flags::SHARED);
        let mut page = Page {
            value: 0,
            flags,
            offset,
            object: if shared { self.object(number) } else { 0 },
        };
        if shared {
            self.shared_content(number, &mut page)?;
        } else {
            page.value = self.private_content(number, &mut page, entry)?;
        }
        page.flags.set(self.history_bits(number, &page, entry)?);
        if page.flags.has(Flags::PROTECTED) {
            page.protect();
        }
        self.process.setup.board.model().settle(me, number, page);
        Ok(())
    }

    fn check_area(&self, number: usize, area: Option<(Flags, u16)>) -> Result<(), Broken> {
        let me = self.process.me;
        let possible = self.process.setup.rally.plan().pages[me][number];
        let found = area.map(|(flags, _)| flags);
        let rally = &self.process.setup.rally;
        let exact = match rally.control(me) {
            _ if !rally.before().alive(me) => None,
            control::NOBODY => Some(rally.before().pages(me)[number]),
            control::MANY => None,
            _ => self.wanted.as_ref().map(|model| model.pages(me)[number]),
        };
        let right = match (found, exact) {
            (None, None) => possible.gone,
            (Some(flags), None) => possible.allows(flags, SHOWN),
            (found, Some(page)) => {
                let wanted = page.flags.has(Flags::MAPPED).then_some(page.flags);
                let mut shown = SHOWN;
                // DONTUNMAP unlocks areas whose edges are not modelled
                shown.clear(Flags::LOCKED);
                wanted.map(|flags| flags.0 & shown.0) == found.map(|flags| flags.0 & shown.0)
                    && found.is_none_or(|flags| possible.allows(flags, SHOWN))
            }
        };
        if right {
            return Ok(());
        }
        let what = if found.is_some() {
            "wrong mapping"
        } else {
            "mapping lost"
        };
        let exact = exact.map(|page| page.flags);
        let detail = format!(
            "{}: found {found:?}, must be {exact:?}, may be {possible:?}",
            page_name(number)
        );
        Err((Oracle::Permission, what.into(), detail))
    }

    /// The object of a shared page: those do not move in a block.
    fn object(&self, number: usize) -> u16 {
        let before = self.process.setup.rally.before();
        let me = self.process.me;
        let of = |who: usize| before.pages(who)[number];
        if before.alive(me) {
            return of(me).object;
        }
        self.parent().map_or(0, |parent| of(parent).object)
    }

    /// The process that forked this one in the block.
    fn parent(&self) -> Option<usize> {
        let board = self.process.setup.board;
        let steps = |index: usize| board.step(index);
        let mut carried = self.process.setup.rally.plan().carried(&steps);
        let mine =
            |step: &Step| matches!(step.op, Op::Fork { child } if child.index() == self.process.me);
        carried.find(mine).map(|step| step.process.index())
    }

    fn shared_content(&mut self, number: usize, page: &mut Page) -> Result<(), Broken> {
        let setup = self.process.setup;
        let guarded = page.flags.has(Flags::GUARD);
        if guarded || !setup.rally.settles(page.object, page.offset) {
            // it shows nothing, or whoever looked first has told the model
            return Ok(());
        }
        let mut words = [0; 4];
        let behind_end = !setup.board.model().effect_of(page);
        if behind_end && load_words(number, &mut words).is_err() {
            return Ok(());
        }
        if !behind_end || page.flags.has(Flags::READ) {
            let words = self.words(number, page.flags)?;
            let stamp = self.settled_stamp(number, page, &words)?;
            setup.board.model().settle_shared(page, stamp);
        }
        Ok(())
    }

    fn private_content(
        &mut self,
        number: usize,
        page: &mut Page,
        entry: u64,
    ) -> Result<u64, Broken> {
        let file = page.flags.has(Flags::FILE);
        let empty = if file { file_stamp(page.offset) } else { 0 };
        if page.flags.has(Flags::GUARD)
            || file && usize::from(page.offset) >= crate::model::FILE_PAGES
        {
            return Ok(empty);
        }
        let populated = entry & (bit::PRESENT | bit::SWAP) != 0;
        if !populated {
            let words: [u64; 4] = std::array::from_fn(|index| word(empty, index));
            self.check_words(number, &words)?;
            return Ok(empty);
        }
        if entry & bit::PRESENT == 0 || !page.flags.has(Flags::READ) {
            // it stays as it is, if its content is certain
            let board = self.process.setup.board;
            let steps = |index: usize| board.step(index);
            let block = self.process.setup.rally.block(&steps);
            let content = block.content((self.process.me, number));
            if let Some(stamp) = content.and_then(|content| content.only()) {
                return Ok(stamp);
            }
        }
        let words = self.words(number, page.flags)?;
        self.settled_stamp(number, page, &words)
    }

    /// The words of a page, also of one that allows no loads.
    fn words(&mut self, number: usize, flags: Flags) -> Result<[u64; 4], Broken> {
        let mut words = [0; 4];
        if flags.has(Flags::READ) {
            return match load_words(number, &mut words) {
                Ok(()) => Ok(words),
                Err(fault) => {
                    let detail = format!("load of {}: {fault}", page_name(number));
                    Err((Oracle::Permission, "load refused".into(), detail))
                }
            };
        }
        let loaded = opened(number, Prot::Read, Prot::None, || {
            load_words(number, &mut words)
        });
        match loaded {
            Some(Ok(())) => Ok(words),
            found => {
                let detail = format!("load of {} made readable: {found:?}", page_name(number));
                Err((Oracle::Permission, "load refused".into(), detail))
            }
        }
    }

    /// Checks the words; the stamp that the page has. Words of several stores that
    /// ran at once are replaced by those of a new one, which ends the page's write protection.
    fn settled_stamp(
        &mut self,
        number: usize,
        page: &mut Page,
        words: &[u64; 4],
    ) -> Result<u64, Broken> {
        self.check_words(number, words)?;
        let stamp = words[0];
        if (0..4).all(|index| words[index] == word(stamp, index)) {
            return Ok(stamp);
        }
        let board = self.process.setup.board;
        let stamp = board.model().next_stamp(self.process.me, number);
        if page.flags.has(Flags::WRITE) && store_words(number, stamp).is_ok() {
            page.flags.clear(Flags::PROTECTED);
            return Ok(stamp);
        }
        let closed = if page.flags.has(Flags::READ) {
            Prot::Read
        } else {
            Prot::None
        };
        let stored = opened(number, Prot::Write, closed, || store_words(number, stamp));
        page.flags.clear(Flags::PROTECTED);
        if !matches!(stored, Some(Ok(()))) {
            // content that the model cannot tell: the program ends here
            board.stop();
        }
        Ok(stamp)
    }

    fn check_words(&self, number: usize, words: &[u64; 4]) -> Result<(), Broken> {
        let board = self.process.setup.board;
        let steps = |index: usize| board.step(index);
        let block = self.process.setup.rally.block(&steps);
        let node = (self.process.me, number);
        let content = block.content(node);
        for (index, found) in words.iter().enumerate() {
            let right = match &content {
                Some(content) => content.allows(*found, index),
                None => block.could_contain(node, *found, index),
            };
            if !right {
                return Err(wrong_words(&block, node, words, index));
            }
        }
        Ok(())
    }

    /// What the page's past leaves: whether it may be dropped, is soft-dirty, pinned.
    fn history_bits(&self, number: usize, page: &Page, entry: u64) -> Result<Flags, Broken> {
        let me = self.process.me;
        let setup = self.process.setup;
        let possible = setup.rally.plan().pages[me][number];
        let before = setup.rally.before();
        let old = before.pages(me)[number];
        let mut flags = Flags(0);
        for kept in [Flags::LAZY, Flags::MERGEABLE] {
            if possible.set.has(kept) {
                flags.set(kept);
            }
        }
        for lost in [Flags::PINNED, Flags::DIRTY] {
            let unsure = lost == Flags::DIRTY && setup.board.uses_devices();
            if old.flags.has(lost) && !possible.clear.has(lost) && !unsure {
                flags.set(lost);
            }
        }
        let stored = page.value != 0 && setup.rally.history().is_new(page.value);
        // on a device soft-dirty bits are lost (fuzz/known.tsv)
        let devices = setup.board.uses_devices();
        if stored && !self.cleared && !devices && !flags.has(Flags::LAZY) {
            flags.set(Flags::DIRTY);
        }
        let shown = entry & bit::SOFT_DIRTY != 0 || !setup.features.soft_dirty;
        if flags.has(Flags::DIRTY) && !flags.has(Flags::MERGEABLE) && !shown {
            return Err(self.wrong(number, Oracle::Bits, "soft-dirty lost", entry));
        }
        Ok(flags)
    }

    fn wrong(&self, number: usize, oracle: Oracle, what: &str, entry: u64) -> Broken {
        let possible = self.process.setup.rally.plan().pages[self.process.me][number];
        let detail = format!(
            "{}: entry {entry:#018x}, may be {possible:?}",
            page_name(number)
        );
        (oracle, what.into(), detail)
    }
}

/// Does something to a page that does not permit it, while it is made to.
fn opened<T>(number: usize, open: Prot, closed: Prot, f: impl FnOnce() -> T) -> Option<T> {
    let (at, len) = (Addr(number as u16), Len(1));
    let ready = sys::mprotect(at, len, open) == 0;
    let done = ready.then(f);
    (sys::mprotect(at, len, closed) == 0).then_some(done)?
}

fn wrong_words(block: &Block<'_>, node: (usize, usize), words: &[u64; 4], index: usize) -> Broken {
    let found = match words[index] {
        0 => "zero".into(),
        found => describe(found.wrapping_sub(word(1, index) - 1)),
    };
    let expected = block.content(node).map_or(
        "what was there before the race or was stored in it".into(),
        |content| content.explain(index),
    );
    let detail = format!(
        "{}: expected {expected}, found {found}; words {words:x?}",
        page_name(node.1)
    );
    (Oracle::Content, "wrong content".into(), detail)
}
