// SPDX-License-Identifier: GPL-2.0-only
//! Loads and stores of the threads of a racing block, and what each must do or
//! find while others run.

use std::sync::atomic::{Ordering, fence};

use selftests::guard::{self, Fault, Signal};

use super::access::{load_words, page_name};
use super::check::Broken;
use super::lane::{Ground, Lane};
use super::process;
use super::sys;
use super::violation::Oracle;
use crate::model::Effect;
use crate::model::content::{Block, Threads};
use crate::model::history::{THREADS, race_stamp};
use crate::model::outcome::Effects;
use crate::model::page::{WORDS, describe, word};
use crate::program::race::LANES;
use crate::program::{Access, Op, PAGES, Step};

impl Lane<'_> {
    /// What an access to a page may do, if areas were as they are now all the time.
    fn effects(&self, who: usize, page: usize, store: bool, known: Known) -> Effects {
        let rally = &self.ground.setup.rally;
        if let Some(effect) = known.effect
            && known.generation.is_multiple_of(2)
            && rally.generation(who) == known.generation
        {
            return Effects::only(effect);
        }
        let track = rally.before().tracking(who);
        rally.plan().effects(who, page, store, track)
    }

    fn known(&self, who: usize, page: usize, store: bool) -> Known {
        let rally = &self.ground.setup.rally;
        Known {
            generation: rally.generation(who),
            effect: rally.access(who, page, store),
        }
    }

    pub(super) fn store(&self, page: usize) -> Result<(), Wrong> {
        let me = self.ground.me;
        let history = self.ground.setup.rally.history();
        let known = self.known(me, page, true);
        let time = history.tick();
        let stamp = race_stamp(time, me, self.thread % LANES, page);
        let mut done = 0;
        let mut found = Ok(());
        for (index, offset) in WORDS.iter().enumerate() {
            found = guard::write_words(sys::address(page) + offset, &[word(stamp, index)]);
            if found.is_err() {
                break;
            }
            done += 1;
        }
        fence(Ordering::SeqCst);
        history.stored(self.thread, me, page, time, done);
        agree(page, true, self.effects(me, page, true, known), found)
    }

    pub(super) fn load(&self, page: usize, storing: Option<Threads>) -> Result<(), Wrong> {
        let me = self.ground.me;
        let last = self.last(me, page, storing);
        let known = self.known(me, page, false);
        let mut words = [0; 4];
        let found = load_words(page, &mut words);
        fence(Ordering::SeqCst);
        agree(page, false, self.effects(me, page, false, known), found)?;
        if found.is_ok() {
            self.check_words((me, page), &words, last.as_ref())?;
        }
        Ok(())
    }

    /// The last complete stores to a page, where a stale load can be told.
    fn last(&self, who: usize, page: usize, storing: Option<Threads>) -> Option<[u32; THREADS]> {
        let board = self.ground.setup.board;
        let steps = |index: usize| board.step(index);
        let block = self.ground.setup.rally.block(&steps);
        storing.map(|storing| block.last((who, page), storing))
    }

    fn check_words(
        &self,
        node: (usize, usize),
        words: &[u64; 4],
        last: Option<&[u32; THREADS]>,
    ) -> Result<(), Wrong> {
        let board = self.ground.setup.board;
        let steps = |index: usize| board.step(index);
        let block = self.ground.setup.rally.block(&steps);
        for (index, found) in words.iter().enumerate() {
            let wrong = |stale: bool| Wrong::Content {
                node,
                words: *words,
                stale,
            };
            if !block.could_contain(node, *found, index) {
                return Err(wrong(false));
            }
            if last.is_some_and(|last| block.is_stale(node, *found, index, last)) {
                return Err(wrong(true));
            }
        }
        Ok(())
    }

    pub(super) fn remote(
        &self,
        peer: usize,
        page: usize,
        access: Access,
        storing: Option<Threads>,
    ) -> Result<(), Wrong> {
        let rally = &self.ground.setup.rally;
        let history = rally.history();
        let store = access == Access::Store;
        let pid = self.ground.setup.board.pid(peer);
        let last = self.last(peer, page, storing);
        let known = self.known(peer, page, store);
        let time = history.tick();
        let stamp = race_stamp(time, self.ground.me, self.thread % LANES, page);
        let mut words = [0; 4];
        if store {
            words = std::array::from_fn(|i| word(stamp, i));
        }
        let count = sys::remote_bytes(pid, page, WORDS, &mut words, access);
        fence(Ordering::SeqCst);
        let done = usize::try_from(count).unwrap_or(0) / 8;
        if store {
            history.stored(self.thread, peer, page, time, done);
        }
        if count == -libc::ENOSYS as isize || rally.is_doomed(peer) {
            return Ok(());
        }
        let effects = self.effects(peer, page, store, known);
        let right = if done == 4 {
            effects.done
        } else {
            effects.segv || effects.bus
        };
        if !right {
            return Err(Wrong::Remote(page, count));
        }
        if !store && done == 4 {
            self.check_words((peer, page), &words, last.as_ref())?;
        }
        Ok(())
    }
}

impl Ground<'_> {
    /// For each page of a load: who stores to it, if a stale load can be told.
    pub(super) fn storing(&self, step: &Step) -> Vec<Option<Threads>> {
        let board = self.setup.board;
        let steps = |index: usize| board.step(index);
        let block = self.setup.rally.block(&steps);
        let (target, at, len) = match step.op {
            Op::Read { at, len } => (self.me, at, len),
            Op::Remote { peer, at, len, .. } => (peer.index(), at, len),
            _ => return Vec::new(),
        };
        let pages = at.page()..(at.page() + len.pages()).min(PAGES);
        pages.map(|page| block.storing((target, page))).collect()
    }
}

/// What was known before an access.
#[derive(Clone, Copy)]
struct Known {
    generation: u32,
    effect: Option<Effect>,
}

/// What a thread found wrong; told only when nobody else runs any more.
pub enum Wrong {
    /// An operation had to return the first, and returned the second.
    Errno(i32, i32),
    /// A load or store (true) of a page did what it must not.
    Access(usize, bool, Effects, Result<(), Fault>),
    /// A remote access did: the bytes that it copied, or its errno, negated.
    Remote(usize, isize),
    /// A page contained what it must not.
    Content {
        /// Process and page.
        node: (usize, usize),
        /// What was found.
        words: [u64; 4],
        /// It was there earlier.
        stale: bool,
    },
}

impl Wrong {
    /// The violation; `block` knows what was possible.
    pub fn describe(self, block: &Block<'_>) -> Broken {
        match self {
            Self::Errno(wanted, got) => {
                let what = process::returned(got, wanted);
                (Oracle::Errno, what, String::new())
            }
            Self::Access(page, store, effects, found) => {
                let access = if store { "store" } else { "load" };
                let what = match found {
                    Ok(()) => format!("{access} allowed"),
                    Err(_) => format!("{access} refused"),
                };
                let found = found.map_or_else(|fault| fault.to_string(), |()| "done".into());
                let page = page_name(page);
                let detail = format!("{access} of {page}: expected {effects:?}, found {found}");
                (Oracle::Permission, what, detail)
            }
            Self::Remote(page, count) => {
                let detail = format!("{}: process_vm call gave {count}", page_name(page));
                (Oracle::Permission, "remote access".into(), detail)
            }
            Self::Content { node, words, stale } => {
                let what = if stale {
                    "stale content"
                } else {
                    "wrong content"
                };
                let found: Vec<String> = words
                    .iter()
                    .enumerate()
                    .map(|(i, found)| match found {
                        0 => "zero".into(),
                        found => describe(found.wrapping_sub(word(1, i) - 1)),
                    })
                    .collect();
                let allowed = block
                    .content(node)
                    .map_or("an earlier or racing store".into(), |c| c.explain(0));
                let detail = format!(
                    "{} of p{}: found {}; last possible {allowed}; words {words:x?}",
                    page_name(node.1),
                    node.0,
                    found.join(", ")
                );
                (Oracle::Content, what.into(), detail)
            }
        }
    }
}

fn agree(
    page: usize,
    store: bool,
    effects: Effects,
    found: Result<(), Fault>,
) -> Result<(), Wrong> {
    let right = match found.map_err(|fault| fault.signal) {
        Ok(()) => effects.done,
        Err(Signal::Segv) => effects.segv,
        Err(Signal::Bus) => effects.bus,
    };
    if right {
        Ok(())
    } else {
        Err(Wrong::Access(page, store, effects, found))
    }
}
