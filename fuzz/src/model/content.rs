// SPDX-License-Identifier: GPL-2.0-only
//! What a page may contain after a racing block, and while it runs.
//!
//! A store that ended before another one began has been overwritten by it, so
//! at the end only those remain possible that nothing certainly came after: this
//! is how a store is seen that went to a page which was not mapped any more (a
//! forgotten TLB flush).

mod running;

use std::sync::atomic::{AtomicU32, Ordering};

use super::Model;
use super::history::{History, race_stamp, stored_pages, thread};
use super::page::{Flags, describe, file_stamp, word};
use super::race::{Race, Steps, same_shared};
use crate::program::race::LANES;
use crate::program::{Advice, Move, Op, PAGES, PROCESSES, Step};

/// An event in the life of a page's content.
#[derive(Clone, Copy)]
struct Event {
    begin: u32,
    end: u32,
    /// What the page contains afterwards: one or the other.
    stamps: [u64; 2],
    /// Words that it changed.
    words: usize,
    /// Whether it certainly changed them.
    certain: bool,
}

/// What a page may contain after a block: the events that nothing certainly
/// came after.
pub struct Content(Vec<Event>);

impl Content {
    fn last(&self, index: usize) -> impl Iterator<Item = &Event> {
        let here = move |event: &&Event| index < event.words;
        let over = move |event: &Event| {
            self.0
                .iter()
                .filter(here)
                .any(|other| other.certain && other.begin >= event.end && other.begin > event.begin)
        };
        self.0.iter().filter(here).filter(move |event| !over(event))
    }

    /// Whether word `index` may be `found`.
    pub fn allows(&self, found: u64, index: usize) -> bool {
        self.last(index).any(|event| {
            event
                .stamps
                .iter()
                .any(|stamp| word(*stamp, index) == found)
        })
    }

    /// The stamp, if only one is possible.
    pub fn only(&self) -> Option<u64> {
        let stamp = self.last(0).next()?.stamps[0];
        let same = (0..4).all(|index| self.last(index).all(|event| event.stamps == [stamp; 2]));
        same.then_some(stamp)
    }

    /// What is possible, for reports.
    pub fn explain(&self, index: usize) -> String {
        let texts: Vec<String> = self
            .last(index)
            .map(|event| describe(event.stamps[0]))
            .collect();
        texts.join(" or ")
    }
}

/// A block with its state before, its plan and what was done.
pub struct Block<'a> {
    /// State before the block.
    pub model: &'a Model,
    /// What it may leave.
    pub race: &'a Race,
    /// The steps of the program.
    pub steps: Steps<'a>,
    /// What was done.
    pub history: &'a History,
}

/// A page of a process.
type Node = (usize, usize);

/// Pages that content came from.
#[derive(Default)]
struct Sources {
    nodes: [Node; 32],
    count: usize,
    /// There are more than that.
    more: bool,
}

impl Sources {
    fn add(&mut self, node: Node) {
        if self.nodes[..self.count].contains(&node) {
            return;
        }
        match self.nodes.get_mut(self.count) {
            Some(free) => {
                *free = node;
                self.count += 1;
            }
            None => self.more = true,
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Node> {
        self.nodes[..self.count].iter()
    }
}

impl Block<'_> {
    fn carried(&self) -> impl Iterator<Item = (usize, Step)> + '_ {
        let range = usize::from(self.race.first)..usize::from(self.race.end);
        let carried = range.filter(|index| self.race.carried[*index]);
        carried.filter_map(|index| Some((index, (self.steps)(index)?)))
    }

    /// Whether a process that may end inside the block took part.
    fn may_end(&self, process: usize) -> bool {
        self.carried()
            .any(|(_, step)| step.process.index() == process && matches!(step.op, Op::Exit {}))
    }

    /// Pages whose content may have come to this one. Threads of a block ask,
    /// which must not allocate: another one may be forking.
    fn sources(&self, node: Node) -> Sources {
        let mut found = Sources::default();
        found.add(node);
        let mut next = 0;
        while next < found.count {
            let (process, page) = found.nodes[next];
            next += 1;
            for (_, step) in self.carried() {
                match step.op {
                    Op::Mremap { at, len, to, .. }
                        if step.process.index() == process
                            && (to.page()..to.page() + len.pages()).contains(&page) =>
                    {
                        found.add((process, at.page() + page - to.page()));
                    }
                    Op::Fork { child } if child.index() == process => {
                        found.add((step.process.index(), page));
                    }
                    _ => {}
                }
            }
        }
        found
    }

    /// Whether the content of a page may have come to it from another one.
    pub fn comes_from_elsewhere(&self, node: Node) -> bool {
        let sources = self.sources(node);
        sources.more || sources.count > 1
    }

    /// All places between which the page that is at `node` may have moved, if
    /// it is certain that there is one such page and that it is never lost: then
    /// every store to any of the places went to it. For a shared page, all
    /// places where it is mapped.
    pub fn places(&self, node: Node) -> Option<Vec<Node>> {
        let (process, page) = node;
        let before = self.model.pages(process)[page];
        if before.flags.has(Flags::SHARED) {
            return self.places_of_shared(node);
        }
        if !self.model.alive(process) || self.may_end(process) {
            return None;
        }
        let mut found = vec![page];
        let mut next = 0;
        while next < found.len() {
            let page = found[next];
            next += 1;
            for (index, step) in self.carried() {
                if step.process.index() != process {
                    continue;
                }
                let within = |at: usize, len: usize| (at..at + len).contains(&page);
                match step.op {
                    Op::Munmap { at, len } | Op::Mmap { at, len, .. }
                        if within(at.page(), len.pages()) =>
                    {
                        return None;
                    }
                    Op::Mremap {
                        at, len, to, how, ..
                    } => {
                        let (from, to, len) = (at.page(), to.page(), len.pages());
                        let other = if within(from, len) {
                            to + page - from
                        } else if within(to, len) {
                            from + page - to
                        } else {
                            continue;
                        };
                        let failed = &self.history.calls[index].failed;
                        if how != Move::Fixed || failed.load(Ordering::SeqCst) != 0 {
                            return None;
                        }
                        if !found.contains(&other) {
                            found.push(other);
                        }
                    }
                    _ => {}
                }
            }
        }
        let mapped = |page: &&usize| {
            let flags = self.model.pages(process)[**page].flags;
            flags.has(Flags::MAPPED)
        };
        (found.iter().filter(mapped).count() == 1)
            .then(|| found.into_iter().map(|page| (process, page)).collect())
    }

    fn places_of_shared(&self, (process, page): Node) -> Option<Vec<Node>> {
        let shown = self.model.pages(process)[page];
        let mut found = Vec::new();
        for process in (0..PROCESSES).filter(|process| self.model.alive(*process)) {
            let pages = self.model.pages(process).iter().enumerate();
            for (number, _) in pages.filter(|(_, page)| same_shared(page, &shown)) {
                // what is mapped over it is another page
                let replaced = self.carried().any(|(_, step)| match step.op {
                    Op::Mmap { at, len, .. } => {
                        step.process.index() == process
                            && (at.page()..at.page() + len.pages()).contains(&number)
                    }
                    Op::Fork { child } => child.index() == process,
                    _ => false,
                });
                if replaced {
                    return None;
                }
                found.push((process, number));
            }
        }
        let ends = found.iter().any(|(process, _)| self.may_end(*process));
        (!ends).then_some(found)
    }

    /// What a page contains when it was emptied.
    fn fresh(&self, node: Node) -> u64 {
        let page = self.model.pages(node.0)[node.1];
        if page.flags.has(Flags::FILE) {
            file_stamp(page.offset)
        } else {
            0
        }
    }

    fn before(&self, node: Node) -> [u64; 2] {
        let (value, or_zero) = self.model.content(node.0, node.1);
        [value, if or_zero { 0 } else { value }]
    }

    /// What the page may contain after the block, if `places` can tell where it was.
    pub fn content(&self, node: Node) -> Option<Content> {
        let places = self.places(node)?;
        let mapped = |node: &&Node| {
            let flags = self.model.pages(node.0)[node.1].flags;
            flags.has(Flags::MAPPED)
        };
        let origin = *places.iter().find(mapped)?;
        let mut events = vec![Event {
            begin: 0,
            end: 0,
            stamps: self.before(origin),
            words: 4,
            certain: true,
        }];
        for (number, step) in self.carried() {
            for node in places.iter().filter(|node| stores_to(&step, **node)) {
                self.add_stores(&mut events, &step, *node);
            }
            let Some(certain) = self.empties(&step, &places) else {
                continue;
            };
            let calls = &self.history.calls[number];
            let end = calls.end.load(Ordering::SeqCst);
            if end != 0 {
                events.push(Event {
                    begin: calls.begin.load(Ordering::SeqCst),
                    end,
                    stamps: [self.fresh(origin); 2],
                    words: 4,
                    certain: certain && calls.result.load(Ordering::SeqCst) == 0,
                });
            }
        }
        Some(Content(events))
    }

    fn add_stores(&self, events: &mut Vec<Event>, step: &Step, node: Node) {
        let thread = thread(step);
        let stores = &self.history.stores[thread][node.0][node.1];
        let get = |word: &AtomicU32| word.load(Ordering::SeqCst);
        let mut push = |begin: u32, end: u32, words: usize| {
            if begin != 0 {
                let stamp = race_stamp(begin, thread / LANES, thread % LANES, node.1);
                events.push(Event {
                    begin,
                    end,
                    stamps: [stamp; 2],
                    words,
                    certain: true,
                });
            }
        };
        push(get(&stores.full), get(&stores.full_end), 4);
        let words = get(&stores.part_words) as usize;
        push(get(&stores.part), get(&stores.part_end), words);
    }

    /// Whether a step empties a page that is at one of `places`: certainly or not.
    fn empties(&self, step: &Step, places: &[Node]) -> Option<bool> {
        let Op::Madvise { at, len, advice } = step.op else {
            return None;
        };
        let who = step.process.index();
        let range = at.page()..(at.page() + len.pages()).min(PAGES);
        let hit = places
            .iter()
            .any(|(process, page)| *process == who && range.contains(page));
        let shared = places.iter().any(|(process, page)| {
            let flags = self.model.pages(*process)[*page].flags;
            flags.has(Flags::SHARED)
        });
        if !hit {
            return None;
        }
        match advice {
            Advice::Remove => shared.then_some(true),
            Advice::Dontneed | Advice::DontneedLocked | Advice::GuardInstall if shared => None,
            // where it may be elsewhere at that time, it may be spared
            Advice::Dontneed | Advice::DontneedLocked | Advice::GuardInstall => {
                Some(places.len() == 1)
            }
            Advice::Free => Some(false),
            _ => None,
        }
    }
}

/// A set of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads(u16);

fn stores_to(step: &Step, node: Node) -> bool {
    stored_pages(step).is_some_and(|(target, pages)| target == node.0 && pages.contains(&node.1))
}
