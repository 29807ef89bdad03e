// SPDX-License-Identifier: GPL-2.0-only
//! What a page may contain while a racing block runs, as its threads ask it.

use std::sync::atomic::Ordering;

use super::super::history::{Stamp, THREADS, stored_pages, thread};
use super::super::page::{Flags, file_stamp, word};
use super::super::race::same_shared;
use super::{Block, Node, Sources, Threads, stores_to};
use crate::program::{Op, PAGES};

impl Block<'_> {
    /// Whether a page could contain that at any time of the block.
    pub fn could_contain(&self, node: Node, found: u64, index: usize) -> bool {
        let sources = self.sources(node);
        if sources.more {
            return true;
        }
        let fork = self.fork_of(node);
        if let Some(stamp) = self.history.decode(found, index) {
            let before_fork = fork.is_none_or(|(_, end)| stamp.time < end);
            return before_fork && sources.iter().any(|source| self.stores_of(stamp, *source));
        }
        let possible = &self.race.pages[node.0][node.1];
        let emptied = possible.emptied || possible.set.has(Flags::LAZY);
        if emptied && found == 0 {
            return true;
        }
        let word_of = |stamp: &u64| word(*stamp, index) == found;
        let offsets = 0..PAGES as u16;
        if possible.set.has(Flags::FILE) && offsets.map(file_stamp).any(|stamp| word_of(&stamp)) {
            return true;
        }
        if fork.is_some_and(|(begin, _)| self.stored_before(node.1, &sources, begin)) && !emptied {
            return false;
        }
        sources.iter().any(|source| {
            let mapped = self.model.pages(source.0)[source.1].flags;
            mapped.has(Flags::MAPPED) && self.before(*source).iter().any(word_of)
        })
    }

    /// When the process of a private page was forked in this block: what its
    /// parent stored later is not for it.
    fn fork_of(&self, (process, page): Node) -> Option<(u32, u32)> {
        if self.model.alive(process) || self.race.pages[process][page].set.has(Flags::SHARED) {
            return None;
        }
        let mut forks = self
            .carried()
            .filter(|(_, step)| matches!(step.op, Op::Fork { child } if child.index() == process));
        let calls = &self.history.calls[forks.next()?.0];
        let end = calls.end.load(Ordering::SeqCst);
        (end != 0).then(|| (calls.begin.load(Ordering::SeqCst), end))
    }

    /// Whether a page that has only been at `page` was certainly stored to before `time`.
    fn stored_before(&self, page: usize, sources: &Sources, time: u32) -> bool {
        let parent = sources.iter().find(|source| self.model.alive(source.0));
        parent.is_some_and(|parent| {
            let stays = parent.1 == page && self.places(*parent).is_some_and(|all| all.len() == 1);
            stays
                && self.carried().any(|(_, step)| {
                    let stores = &self.history.stores[thread(&step)][parent.0][page];
                    let end = stores.full_end.load(Ordering::SeqCst);
                    stores_to(&step, *parent) && end != 0 && end <= time
                })
        })
    }

    /// Whether a step of the block stores such stamps to the page.
    fn stores_of(&self, stamp: Stamp, node: Node) -> bool {
        let shown = self.model.pages(node.0)[node.1];
        self.carried().any(|(_, step)| {
            let Some((target, pages)) = stored_pages(&step) else {
                return false;
            };
            let hits = pages.contains(&stamp.page)
                && ((target, stamp.page) == node
                    || same_shared(&self.model.pages(target)[stamp.page], &shown));
            thread(&step) == stamp.thread() && hits
        })
    }

    /// Whether a load that began when the last complete store of each thread
    /// to the page was as `last` says must not have found this word.
    pub fn is_stale(&self, node: Node, found: u64, index: usize, last: &[u32; THREADS]) -> bool {
        match self.history.decode(found, index) {
            Some(stamp) => stamp.page == node.1 && stamp.time < last[stamp.thread()],
            // what was there before the block
            None => last.iter().any(|time| *time != 0) && !self.race.pages[node.0][node.1].emptied,
        }
    }

    /// The last complete stores to a page, by the threads in `storing`.
    pub fn last(&self, node: Node, storing: Threads) -> [u32; THREADS] {
        std::array::from_fn(|thread| {
            if storing.0 & 1 << thread == 0 {
                0
            } else {
                self.history.last(thread, node.0, node.1)
            }
        })
    }

    /// The threads that store to the page, if it stays where it is, so that
    /// `is_stale` may be asked.
    pub fn storing(&self, node: Node) -> Option<Threads> {
        let flags = self.model.pages(node.0)[node.1].flags;
        let stays = !flags.any(Flags::SHARED.with(Flags::LAZY))
            && self.places(node).is_some_and(|places| places.len() == 1)
            && !self.race.pages[node.0][node.1].set.has(Flags::LAZY);
        let stores = self.carried().filter(|(_, step)| stores_to(step, node));
        let all = stores.fold(0, |all, (_, step)| all | 1 << thread(&step));
        (stays && all != 0).then_some(Threads(all))
    }
}
