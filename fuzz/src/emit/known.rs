// SPDX-License-Identifier: GPL-2.0-only
//! What the model knows of pages, as calls that check it. Pages in a row of
//! which the same is known share a call.

use std::ops::Range;

use super::call::Call;
use crate::model::page::Flags;
use crate::model::{Effect, Model};
use crate::program::{PAGES, SLOT_PAGES, SLOTS};

const LAZY: u32 = 1;
const DIRTY: u32 = 2;
const WP: u32 = 4;
const WP_ANY: u32 = 8;
const READABLE: u32 = 16;

/// Pages in a row of which the same is known, with stamps that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first page.
    pub page: usize,
    /// How many.
    pub count: usize,
    /// The stamp of the first.
    pub stamp: u64,
    /// Distance of each stamp to the next.
    pub step: u64,
    /// What else is known.
    pub flags: u32,
}

/// Differences of stamps in a row: zeros, pages of the file, stores.
const STEPS: [u64; 3] = [0, 1, (1 << 20) + 1];

/// Joins pages with their stamps and flags into runs.
pub fn runs(pages: impl Iterator<Item = (usize, u64, u32)>) -> Vec<Run> {
    let mut found: Vec<Run> = Vec::new();
    for (page, stamp, flags) in pages {
        let run = found
            .last_mut()
            .filter(|run| run.page + run.count == page && run.flags == flags);
        if !run.is_some_and(|run| run.takes(stamp)) {
            found.push(Run {
                page,
                count: 1,
                stamp,
                step: 0,
                flags,
            });
        }
    }
    found
}

impl Run {
    /// Takes one more page in, if its stamp follows.
    fn takes(&mut self, stamp: u64) -> bool {
        let distance = stamp.wrapping_sub(self.stamp);
        if self.count == 1 && STEPS.contains(&distance) {
            self.step = distance;
        } else if self.count == 1 || distance != self.step.wrapping_mul(self.count as u64) {
            return false;
        }
        self.count += 1;
        true
    }
}

/// The stamp of a page and whether it may read as zero, for a run.
pub fn content(model: &Model, who: usize, page: usize) -> (usize, u64, u32) {
    let (stamp, lazy) = model.content(who, page);
    (page, stamp, if lazy { LAZY } else { 0 })
}

/// Accesses that must get a signal.
pub fn refused(model: &Model, who: usize, store: bool, pages: Range<usize>) -> Vec<Call> {
    let signals = pages.filter_map(|page| match model.effect(who, page, store) {
        Effect::Segv => Some((page, 0, 11)),
        Effect::Bus => Some((page, 0, 7)),
        _ => None,
    });
    let call = |run: Run| {
        let (page, count) = (run.page as i64, run.count as i64);
        Call::new("refuses", [page, count, store.into(), run.flags.into()])
    };
    runs(signals).into_iter().map(call).collect()
}

/// Looks at everything that the process has mapped.
pub fn looks(model: &Model, who: usize) -> Vec<Call> {
    let mapped = (0..PAGES).filter(|page| model.pages(who)[*page].flags.has(Flags::MAPPED));
    let known = mapped.map(|page| {
        let (stamp, lazy) = model.content(who, page);
        let flags = model.pages(who)[page].flags;
        let dirty = flags.has(Flags::DIRTY) && !flags.has(Flags::MERGEABLE);
        // A load would open a page that userfaultfd has closed.
        let readable =
            model.effect(who, page, false) == Effect::Done && !model.is_closed(who, page);
        let parts = [
            (lazy, LAZY),
            (dirty, DIRTY),
            (flags.has(Flags::PROTECTED), WP),
            (flags.has(Flags::PROTECTED_UNSURE), WP_ANY),
            (readable, READABLE),
        ];
        let known = parts.iter().filter(|(is, _)| *is);
        (page, stamp, known.fold(0, |sum, (_, bit)| sum | bit))
    });
    let call = |run: &Run| Call::of_run("look", &[], run);
    runs(known).iter().map(call).collect()
}

/// What a process checks before it ends.
pub fn last_checks(model: &Model, who: usize) -> Vec<Call> {
    let mut pages = model.pages(who).iter();
    let shmem = pages.any(|page| page.flags.any(Flags::SHARED.with(Flags::FILE)));
    let locked = model.locked(who).map_or(-1, |pages| pages as i64 * 4);
    let mut calls = looks(model, who);
    if !model.has_failed(who) {
        calls.push(Call::new("counters", [i64::from(!shmem), locked]));
    }
    let readable = (0..PAGES).filter(|page| model.effect(who, *page, false) == Effect::Done);
    let contents = runs(readable.map(|page| content(model, who, page)));
    calls.extend(contents.iter().map(|run| Call::of_run("check", &[], run)));
    let mapped = |page: &usize| model.pages(who)[*page].flags.has(Flags::MAPPED);
    for slot in 0..SLOTS {
        let pages = slot * SLOT_PAGES..(slot + 1) * SLOT_PAGES;
        if pages.clone().any(|page| mapped(&page)) {
            calls.extend(refused(model, who, false, pages.clone()));
            calls.extend(refused(model, who, true, pages));
        }
    }
    calls
}
