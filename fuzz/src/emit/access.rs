// SPDX-License-Identifier: GPL-2.0-only
//! What the steps of a listing load and store: pages in a row, with their stamps.

use std::ops::Range;

use super::call::Call;
use super::known::{Run, content, runs};
use super::listing::{Entry, Stored};
use super::range;
use super::thinker::Thinker;
use crate::model::page::Flags;
use crate::model::{Effect, MAX_DIRECT, MAX_FILLED, MAX_POKED};
use crate::program::{Access, Addr, Device, Len, Op, PAGES, Step, Via};

impl Thinker<'_> {
    /// Brings the model past the step, and finds the pages that the step itself
    /// loads or stores. Returns what is to be checked right after it.
    pub(super) fn accessed(&mut self, index: usize, step: &Step, entry: &mut Entry) -> Vec<Call> {
        let who = step.process.index();
        match step.op {
            Op::Write { at, len } => entry.runs = self.plain(who, who, true, range(at, len)),
            Op::Read { at, len } => entry.runs = self.plain(who, who, false, range(at, len)),
            Op::Verify {} => entry.runs = self.plain(who, who, false, 0..PAGES),
            Op::Remote {
                peer,
                at,
                len,
                access,
            } => {
                let store = access == Access::Store;
                entry.runs = self.by_kernel(who, peer.index(), store, range(at, len));
            }
            Op::Direct { at, len, access } => {
                let pages = range(at, Len(len.0.min(MAX_DIRECT as u16)));
                entry.runs = self.transferred(step, pages, access == Access::Store);
            }
            Op::Fixed { access } => {
                entry.runs = self.through_buffer(step, access == Access::Store);
            }
            Op::Poke {
                peer,
                at,
                len,
                access,
                via,
            } => {
                let pages = range(at, Len(len.0.min(MAX_POKED as u16)));
                let store = access == Access::Store;
                entry.runs = self.poked(who, peer.index(), store, via, pages);
            }
            Op::UffdFill { at, len, .. } => {
                self.model.assume(step);
                let pages = range(at, Len(len.0.min(MAX_FILLED as u16)));
                let filled = pages.map(|page| (page, self.model.content(who, page).0, 0));
                entry.runs = runs(filled);
            }
            Op::Device { what, at, len, .. } => {
                return self.device(index, step, entry, what, (at, len));
            }
            Op::Fail { nth } => {
                self.nth[who] = nth.0;
                self.model.assume(step);
            }
            _ => self.model.assume(step),
        }
        Vec::new()
    }

    /// Loads and stores of a process, its own.
    fn plain(&mut self, who: usize, owner: usize, store: bool, pages: Range<usize>) -> Vec<Run> {
        let done = |page: &usize| self.model.effect(owner, *page, store) == Effect::Done;
        let allowed: Vec<usize> = pages.filter(done).collect();
        self.done(who, owner, store, allowed)
    }

    /// The kernel's, on behalf of a process.
    fn by_kernel(
        &mut self,
        who: usize,
        owner: usize,
        store: bool,
        pages: Range<usize>,
    ) -> Vec<Run> {
        let done = |page: &usize| self.model.kernel_effect(owner, *page, store) == Effect::Done;
        let allowed: Vec<usize> = pages.filter(done).collect();
        self.done(who, owner, store, allowed)
    }

    /// A debugger's.
    fn poked(
        &mut self,
        who: usize,
        owner: usize,
        store: bool,
        via: Via,
        pages: Range<usize>,
    ) -> Vec<Run> {
        let done = |page: &usize| self.model.poke_effect(owner, *page, store, via) == Effect::Done;
        let allowed: Vec<usize> = pages.filter(done).collect();
        self.done(who, owner, store, allowed)
    }

    fn done(&mut self, who: usize, owner: usize, store: bool, pages: Vec<usize>) -> Vec<Run> {
        runs(pages.into_iter().map(|page| {
            if !store {
                let found = content(&self.model, owner, page);
                if who == owner {
                    self.model.loaded(owner, page);
                } else {
                    self.model.unsettle_closed(owner, page);
                }
                return found;
            }
            let stamp = self.model.next_stamp(who, page);
            self.model.stored(owner, page, stamp);
            (page, stamp, 0)
        }))
    }

    /// The pages that a direct read or write transfers: all or none.
    fn transferred(&mut self, step: &Step, pages: Range<usize>, store: bool) -> Vec<Run> {
        let who = step.process.index();
        let allowed = |page| self.model.kernel_effect(who, page, store) == Effect::Done;
        if !pages.clone().all(allowed) {
            return Vec::new();
        }
        self.model.assume(step);
        runs(pages.map(|page| content(&self.model, who, page)))
    }

    /// The pages of a fixed buffer that are still the process's own; a store changes all or none.
    fn through_buffer(&mut self, step: &Step, store: bool) -> Vec<Run> {
        let who = step.process.index();
        if store && !self.model.buffer_is_whole(who) {
            return Vec::new();
        }
        let pages = self.model.buffer(who);
        self.model.assume(step);
        let held = Flags::PINNED;
        let shown = |page: &usize| self.model.pages(who)[*page].flags.has(held);
        let shown: Vec<usize> = pages.filter(shown).collect();
        runs(
            shown
                .into_iter()
                .map(|page| content(&self.model, who, page)),
        )
    }

    /// A command of a device; what it returns is checked where it returns pages.
    fn device(
        &mut self,
        index: usize,
        step: &Step,
        entry: &mut Entry,
        what: Device,
        (at, len): (Addr, Len),
    ) -> Vec<Call> {
        let who = step.process.index();
        let seen = |run: &Run| Call::of_run("seen", &[run.page - at.page()], run);
        match what {
            Device::ToDev | Device::ToDevFail | Device::Read | Device::ReadUnlocked => {
                let readable = |page: &usize| self.model.effect(who, *page, false) == Effect::Done;
                let pages: Vec<usize> = range(at, len).filter(readable).collect();
                let returned = runs(
                    pages
                        .into_iter()
                        .map(|page| content(&self.model, who, page)),
                );
                self.model.assume(step);
                let left_out = entry.left_out.is_some();
                returned.iter().filter(|_| !left_out).map(seen).collect()
            }
            Device::Write if entry.left_out.is_none() => {
                self.model.assume(step);
                entry.runs = self.stored_by_device(index, who, range(at, len));
                Vec::new()
            }
            Device::Write
            | Device::ToSys
            | Device::ToSysFail
            | Device::Snapshot
            | Device::Exclusive
            | Device::CheckExclusive
            | Device::Release
            | Device::Close => {
                self.model.assume(step);
                Vec::new()
            }
        }
    }

    fn stored_by_device(&mut self, by: usize, who: usize, pages: Range<usize>) -> Vec<Run> {
        let mut stamps = Vec::new();
        for page in pages {
            let old = self.model.content(who, page).0;
            let new = self.model.next_stamp(who, page);
            self.model.perhaps_stored_by_device(who, page, new);
            stamps.push((page, new, old));
        }
        // Runs of the new stamps, cut where the old ones do not follow.
        let old = runs(stamps.iter().map(|(page, _, old)| (*page, *old, 0)));
        let numbered = |page: usize| old.iter().position(|run| page < run.page + run.count);
        let new = runs(stamps.iter().map(|(page, new, _)| {
            let group = numbered(*page).unwrap_or(0);
            (*page, *new, group as u32)
        }));
        for run in &new {
            let before = &old[run.flags as usize];
            let ahead = (run.page - before.page) as u64;
            let first = before.stamp.wrapping_add(ahead.wrapping_mul(before.step));
            self.stored.push(Stored {
                by,
                count: run.count,
                new: (run.stamp, run.step),
                old: (first, before.step),
            });
        }
        new
    }
}
