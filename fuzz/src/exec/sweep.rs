// SPDX-License-Identifier: GPL-2.0-only
//! Checks all pages of a slot at once: what their page map entries say, and what
//! those that are present contain. Page by page it would cost more than the
//! operations themselves; the answers are the same.

use std::ops::Range;

use selftests::guard;

use super::access::{agree, load_words, page_name, wrong_content};
use super::check::Broken;
use super::entry::{Features, bit, shown, wrong_bits};
use super::process::Process;
use super::sys;
use super::violation::Oracle;
use crate::model::Effect;
use crate::model::page::{Flags, WORDS, word};
use crate::program::{PAGE, SLOT_PAGES};

/// Pages for which more than the permission of their mapping decides about a load.
const SPECIAL: Flags = Flags::SHARED
    .with(Flags::FILE)
    .with(Flags::PFN)
    .with(Flags::ZAPPED)
    .with(Flags::MISSING)
    .with(Flags::MINOR)
    .with(Flags::POISON)
    .with(Flags::RWP);

/// What `wrong_bits` accepts of a page with certain flags, in one comparison.
struct Rule {
    flags: Flags,
    mask: u64,
    wanted: u64,
    /// One of these must be set; 0 for no such demand.
    any: u64,
    /// Loads are allowed if there is something behind the page.
    readable: bool,
    /// There is, and nothing else keeps a load from it.
    plain: bool,
}

impl Rule {
    fn of(flags: Flags, features: Features) -> Self {
        let populated = bit::PRESENT | bit::SWAP;
        let mut rule = Self {
            flags,
            mask: populated,
            wanted: 0,
            any: 0,
            readable: flags.has(Flags::MAPPED.with(Flags::READ)) && !flags.has(Flags::GUARD),
            plain: !flags.any(SPECIAL),
        };
        if !flags.has(Flags::MAPPED) {
            return rule;
        }
        rule.mask = 0;
        // the page map passes over device memory (walk_page_test())
        if flags.has(Flags::PFN) {
            return rule;
        }
        if features.guard {
            rule.demand(bit::GUARD, flags.has(Flags::GUARD));
        }
        if flags.has(Flags::POISON) && !flags.has(Flags::POISON_UNSURE) {
            let (mask, wanted) = bit::poison(flags);
            rule.mask |= mask;
            rule.wanted |= wanted;
        }
        if flags.has(Flags::DIRTY) && !flags.has(Flags::MERGEABLE) {
            rule.any = populated;
            if features.soft_dirty {
                rule.demand(bit::SOFT_DIRTY, true);
            }
        }
        if !flags.has(Flags::PROTECTED_UNSURE) {
            rule.demand(bit::UFFD_WP, flags.has(Flags::PROTECTED));
        }
        rule
    }

    fn demand(&mut self, bit: u64, set: bool) {
        self.mask |= bit;
        self.wanted |= if set { bit } else { 0 };
    }

    fn allows(&self, entry: u64) -> bool {
        entry & self.mask == self.wanted && (self.any == 0 || entry & self.any != 0)
    }
}

impl Process<'_> {
    /// Checks bits and what is present of a slot: all words of the pages in
    /// `focus`, of the others the first, which tells one page from another.
    pub(super) fn check_slot(
        &self,
        slot: usize,
        entries: &[u64; SLOT_PAGES],
        focus: &Range<usize>,
    ) -> Result<(), Broken> {
        let first = slot * SLOT_PAGES;
        let model = self.setup.board.model();
        let features = self.setup.features;
        let mut rule = Rule::of(Flags(0), features);
        let mut run = first..first;
        for (index, entry) in entries.iter().enumerate() {
            let number = first + index;
            let flags = model.pages(self.me)[number].flags;
            if flags != rule.flags {
                rule = Rule::of(flags, features);
            }
            if !rule.allows(*entry) {
                return Err(self.wrong_entry(number, *entry));
            }
            if flags.has(Flags::PROTECTED_UNSURE) {
                model.settle_protection(self.me, number, entry & bit::UFFD_WP != 0);
            }
            // a remapped range is there as long as it is mapped
            let present = entry & bit::PRESENT != 0 || flags.has(Flags::PFN.with(Flags::REMAPPED));
            let loads = present
                && rule.readable
                && (rule.plain
                    || !model.is_closed(self.me, number)
                        && self.expected_seen(number, false, *entry) == Effect::Done);
            if loads && run.end == number {
                run.end += 1;
            } else if loads {
                self.check_run(&run, focus)?;
                run = number..number + 1;
            }
        }
        self.check_run(&run, focus)
    }

    fn wrong_entry(&self, number: usize, entry: u64) -> Broken {
        let page = self.setup.board.model().pages(self.me)[number];
        let what = wrong_bits(&page, entry, self.setup.features).unwrap_or("wrong bits");
        let detail = format!(
            "{}: page map {}, model {:?}",
            page_name(number),
            shown(entry),
            page.flags
        );
        (Oracle::Bits, what.into(), detail)
    }

    /// Loads pages in a row, all of which allow it, and compares them.
    fn check_run(&self, run: &Range<usize>, focus: &Range<usize>) -> Result<(), Broken> {
        let mut words = [0; SLOT_PAGES];
        for (which, offset) in WORDS.iter().enumerate() {
            let part = if which == 0 {
                run.clone()
            } else {
                run.start.max(focus.start)..run.end.min(focus.end)
            };
            if part.is_empty() {
                continue;
            }
            let words = &mut words[..part.len()];
            let found = guard::gather_words(sys::address(part.start) + offset, PAGE, words);
            if let Err(fault) = found {
                let page = (fault.address - sys::address(0)) / PAGE;
                return agree(page, "load", Effect::Done, found);
            }
            for (page, found) in part.zip(words.iter()) {
                let (stamp, or_zero) = self.setup.board.model().content(self.me, page);
                if *found != word(stamp, which) {
                    self.other_word(page, which, *found, (stamp, or_zero))?;
                }
            }
        }
        Ok(())
    }

    /// A word is not what the page must contain: it was dropped, if it may have
    /// been, or this is wrong.
    fn other_word(
        &self,
        page: usize,
        which: usize,
        found: u64,
        (stamp, or_zero): (u64, bool),
    ) -> Result<(), Broken> {
        let mut words = [0; 4];
        agree(page, "load", Effect::Done, load_words(page, &mut words))?;
        words[which] = found;
        if or_zero && words == [0; 4] {
            self.setup.board.model().dropped(self.me, page);
            return Ok(());
        }
        Err(wrong_content(page, stamp, &words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::page::Page;

    #[test]
    fn a_rule_allows_what_is_not_wrong() {
        let flags = [
            Flags::MAPPED,
            Flags::GUARD,
            Flags::DIRTY,
            Flags::MERGEABLE,
            Flags::PROTECTED,
            Flags::PROTECTED_UNSURE,
            Flags::LAZY,
        ];
        let bits = [
            bit::PRESENT,
            bit::SWAP,
            bit::SOFT_DIRTY,
            bit::UFFD_WP,
            bit::GUARD,
            1 << 61,
        ];
        let pick = |set: usize, i: usize| set >> i & 1 == 1;
        for kernel in 0..4 {
            let features = Features {
                soft_dirty: pick(kernel, 0),
                guard: pick(kernel, 1),
            };
            for set in 0..1 << flags.len() {
                let chosen = flags.iter().enumerate().filter(|(i, _)| pick(set, *i));
                let flags = chosen.fold(Flags(0), |all, (_, flag)| all.with(*flag));
                let page = Page {
                    flags,
                    ..Page::default()
                };
                let rule = Rule::of(flags, features);
                for set in 0..1 << bits.len() {
                    let chosen = bits.iter().enumerate().filter(|(i, _)| pick(set, *i));
                    let entry = chosen.fold(0, |all, (_, bit)| all | bit);
                    let right = wrong_bits(&page, entry, features).is_none();
                    assert_eq!(rule.allows(entry), right, "{flags:?} {entry:#x}");
                }
            }
        }
    }
}
