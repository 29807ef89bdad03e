// SPDX-License-Identifier: GPL-2.0-only
//! Allocations that are made to fail, and what is not known any more afterwards.

use super::Process;

impl Process {
    /// The next call loses its `nth` allocation.
    pub fn fail_nth(&mut self, nth: u32) {
        self.nth = nth;
    }

    /// Makes one call, with its failure if one was ordered.
    pub(super) fn injected<T>(&mut self, call: impl FnOnce(&mut Self) -> T) -> T {
        let nth = std::mem::take(&mut self.nth);
        match self.injection.take().filter(|_| nth > 0) {
            Some(injection) => {
                // Opened by this thread: a child's failures are its own.
                let file = injection.here();
                let (result, _) = file.call(nth, || call(self));
                self.injection = Some(injection);
                result
            }
            None => call(self),
        }
    }

    /// After a call that failed what is mapped in the range may be as before, or
    /// not: nothing is checked there any more. With `fresh` a success settles it.
    /// Only in programs that make allocations fail.
    pub fn settle(&mut self, page: usize, count: usize, fresh: u32) {
        if self.failed || fresh != 0 {
            self.board.doubt(self.me, page..page + count, self.failed);
        }
    }

    /// The same for mremap: what is not known of a page is not known where it
    /// has moved to.
    pub fn settle_move(&mut self, page: usize, old: usize, to: usize, new: usize) {
        if self.failed {
            self.settle(page, old, 1);
            return self.settle(to, new, 1);
        }
        let doubts: Vec<bool> = (0..old).map(|n| self.doubts(page + n)).collect();
        self.board.doubt(self.me, page..page + old, false);
        for n in 0..new {
            let doubt = doubts.get(n).copied().unwrap_or(false);
            self.board.doubt(self.me, to + n..to + n + 1, doubt);
        }
    }
}
