// SPDX-License-Identifier: GPL-2.0-only
//! Loads and stores of programs, from this process and from others; each is
//! checked against what the model says of the page.

use std::ops::Range;

use selftests::guard::{self, Fault, Signal};

use super::check;
use super::process::Process;
use super::sys;
use super::violation::Oracle;
use crate::model::Effect;
use crate::model::page::{WORDS, describe, word};
use crate::program::{Access, Addr, Len, PAGES, Proc};

impl Process<'_> {
    /// Loads each page of a range.
    pub(super) fn load_range(&self, at: Addr, len: Len) -> Result<i32, check::Broken> {
        let range = at.page()..(at.page() + len.pages()).min(PAGES);
        for page in range.clone() {
            self.record(is_sampled(page, &range));
            if self.is_inside_refusal(page, &range, false) {
                self.refuses(page, false)?;
            } else {
                self.load(page)?;
            }
            self.relieve();
        }
        Ok(0)
    }

    /// Whether a page refuses the access as its neighbours in the range do. Each
    /// signal costs as much as a dozen of system calls, so the first and the last page of
    /// those are tried by an access, the others by a system call.
    fn is_inside_refusal(&self, page: usize, range: &Range<usize>, store: bool) -> bool {
        let model = self.setup.board.model();
        let effect = model.effect(self.me, page, store);
        matches!(effect, Effect::Segv | Effect::Bus)
            && page > range.start
            && page + 1 < range.end
            && model.effect(self.me, page - 1, store) == effect
            && model.effect(self.me, page + 1, store) == effect
    }

    /// Sees that a page refuses a load or a store of the kernel in our name.
    pub(super) fn refuses(&self, page: usize, store: bool) -> Result<(), check::Broken> {
        let refused = if store {
            sys::refuses_store(page)
        } else {
            sys::refuses_load(self.setup.bell, page)
        };
        if refused {
            return Ok(());
        }
        let access = if store { "store" } else { "load" };
        let detail = format!("{access} of {} by a system call", page_name(page));
        Err((Oracle::Permission, format!("{access} allowed"), detail))
    }

    /// Loads a page, checks that this does what it must, and the content.
    pub(super) fn load(&self, page: usize) -> Result<(), check::Broken> {
        let expected = self.expected(page, false);
        let mut words = [0; 4];
        let found = load_words(page, &mut words);
        agree(page, "load", expected, found)?;
        if found.is_err() {
            return Ok(());
        }
        self.setup.board.model().loaded(self.me, page);
        self.check_words(page, &words)
    }

    /// Compares the words of a page with the model.
    pub(super) fn check_words(&self, page: usize, words: &[u64]) -> Result<(), check::Broken> {
        let (stamp, or_zero) = self.setup.board.model().content(self.me, page);
        let mut pairs = words.iter().enumerate();
        if pairs.all(|(i, found)| *found == word(stamp, i)) {
            return Ok(());
        }
        if or_zero && words.iter().all(|found| *found == 0) {
            self.setup.board.model().dropped(self.me, page);
            return Ok(());
        }
        Err(wrong_content(page, stamp, words))
    }

    /// Stores a new stamp to each page of a range; the check of the step reads it back.
    pub(super) fn store_range(&self, at: Addr, len: Len) -> Result<i32, check::Broken> {
        let range = at.page()..(at.page() + len.pages()).min(PAGES);
        for page in range.clone() {
            self.record(is_sampled(page, &range));
            if self.is_inside_refusal(page, &range, true) {
                self.refuses(page, true)?;
            } else {
                self.store(page)?;
            }
            self.relieve();
        }
        Ok(0)
    }

    fn store(&self, page: usize) -> Result<(), check::Broken> {
        let model = self.setup.board.model();
        let expected = self.expected(page, true);
        let stamp = model.next_stamp(self.me, page);
        let found = store_words(page, stamp);
        agree(page, "store", expected, found)?;
        if found.is_ok() {
            model.stored(self.me, page, stamp);
        }
        Ok(())
    }

    /// Loads or stores pages of another process.
    pub(super) fn remote(
        &self,
        peer: Proc,
        at: Addr,
        len: Len,
        access: Access,
    ) -> Result<i32, check::Broken> {
        let (peer, pid) = (peer.index(), self.setup.board.pid(peer.index()));
        for page in at.page()..(at.page() + len.pages()).min(PAGES) {
            self.remote_page(peer, pid, page, access)?;
        }
        Ok(0)
    }

    fn remote_page(
        &self,
        peer: usize,
        pid: i32,
        page: usize,
        access: Access,
    ) -> Result<(), check::Broken> {
        let model = self.setup.board.model();
        let store = access == Access::Store;
        let expected = model.kernel_effect(peer, page, store);
        let stamp = model.next_stamp(self.me, page);
        let mut words = if store {
            std::array::from_fn(|i| word(stamp, i))
        } else {
            [0; 4]
        };
        let result = sys::remote(pid, page, WORDS, &mut words, access);
        if result == libc::ENOSYS {
            return Ok(());
        }
        let allowed = match expected {
            Effect::Done => result == 0,
            Effect::DoneOrBus => true,
            Effect::Segv | Effect::Bus => result != 0,
        };
        if !allowed {
            let detail = format!(
                "{} of p{peer}: expected {expected:?}, got errno {result}",
                page_name(page)
            );
            return Err((Oracle::Permission, "remote access".into(), detail));
        }
        if result != 0 {
            return Ok(());
        }
        if store {
            model.stored(peer, page, stamp);
            return Ok(());
        }
        model.unsettle_closed(peer, page);
        let (content, or_zero) = model.content(peer, page);
        let right = (0..4).all(|i| words[i] == word(content, i)) || or_zero && words == [0; 4];
        if right {
            Ok(())
        } else {
            Err(wrong_content(page, content, &words))
        }
    }
}

/// Whether coverage of the access to a page of a long range is recorded: at its ends, where a page
/// table begins, and here and there. Each page takes much the same way through the kernel, and
/// recording it costs as much as going it.
fn is_sampled(page: usize, range: &Range<usize>) -> bool {
    const ENDS: usize = 4;
    const EACH: usize = 32;
    page - range.start < ENDS || range.end - page <= ENDS || page.is_multiple_of(EACH)
}

/// `slot.page` of a page.
pub(super) fn page_name(page: usize) -> String {
    format!("page {}.{}", page / 512, page % 512)
}

/// The violation that a load found the wrong words.
pub(super) fn wrong_content(page: usize, stamp: u64, words: &[u64]) -> check::Broken {
    let described = words.iter().enumerate();
    let found: Vec<String> = described
        .map(|(i, found)| describe(found.wrapping_sub(word(1, i) - 1)))
        .collect();
    let found = if words.iter().all(|found| *found == 0) {
        "zero".to_owned()
    } else {
        found.join(", ")
    };
    let detail = format!(
        "{}: expected {}, found {found}; words {words:x?}",
        page_name(page),
        describe(stamp)
    );
    (Oracle::Content, "wrong content".into(), detail)
}

/// Loads the four words of a page.
pub(super) fn load_words(page: usize, words: &mut [u64]) -> Result<(), Fault> {
    for (offset, word) in WORDS.iter().zip(words.iter_mut()) {
        guard::read_words(sys::address(page) + offset, std::slice::from_mut(word))?;
    }
    Ok(())
}

/// Stores a stamp to a page.
pub(super) fn store_words(page: usize, stamp: u64) -> Result<(), Fault> {
    for (index, offset) in WORDS.iter().enumerate() {
        guard::write_words(sys::address(page) + offset, &[word(stamp, index)])?;
    }
    Ok(())
}

/// Compares what an access did with what it had to do.
pub(super) fn agree(
    page: usize,
    access: &str,
    expected: Effect,
    found: Result<(), Fault>,
) -> Result<(), check::Broken> {
    let right = matches!(
        (expected, found.map_err(|fault| fault.signal)),
        (Effect::Done | Effect::DoneOrBus, Ok(()))
            | (Effect::Segv, Err(Signal::Segv))
            | (Effect::Bus | Effect::DoneOrBus, Err(Signal::Bus))
    );
    if right {
        return Ok(());
    }
    let found = found.map_or_else(|fault| fault.to_string(), |()| "done".into());
    let detail = format!(
        "{access} of {}: expected {expected:?}, found {found}",
        page_name(page)
    );
    let what = if expected == Effect::Done {
        format!("{access} refused")
    } else {
        format!("{access} allowed")
    };
    Err((Oracle::Permission, what, detail))
}
