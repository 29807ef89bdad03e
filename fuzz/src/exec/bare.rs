// SPDX-License-Identifier: GPL-2.0-only
//! Steps without anything around them: the same system calls and the same loads
//! and stores, but no model, no coverage and no checks. What a checked run costs
//! more than this is what checking costs.

use super::access::{load_words, store_words};
use super::hold;
use super::process::Process;
use super::sys;
use crate::model::Model;
use crate::model::page::WORDS;
use crate::program::{Access, Addr, Len, Op, PAGES, Step};

/// The content of every store.
const STAMP: u64 = 1 << 20;

impl Process<'_> {
    /// Carries out a step. What comes of it does not matter.
    pub(super) fn bare(&mut self, step: &Step) {
        let armed = if Model::injectable(&step.op) {
            self.arm()
        } else {
            None
        };
        self.inject = None;
        self.bare_call(step);
        hold::disarm(armed);
    }

    fn bare_call(&mut self, step: &Step) {
        match step.op {
            Op::Exit {} => self.leave(),
            Op::Read { at, len } => bare_loads(at, len),
            Op::Write { at, len } => {
                for page in pages(at, len) {
                    // a page may refuse the store: that is its right
                    let _ = store_words(page, STAMP);
                }
            }
            Op::Remote {
                peer,
                at,
                len,
                access,
            } => {
                let pid = self.setup.board.pid(peer.index());
                let mut words = match access {
                    Access::Load => [0; 4],
                    Access::Store => [STAMP; 4],
                };
                for page in pages(at, len) {
                    sys::remote(pid, page, WORDS, &mut words, access);
                }
            }
            Op::Device {
                mirror,
                what,
                at,
                len,
            } => self.bare_device(mirror, what, at, len),
            Op::Verify {} => {}
            _ => {
                // none of the others compares anything with the model
                let _ = self.perform(step);
            }
        }
    }
}

fn pages(at: Addr, len: Len) -> std::ops::Range<usize> {
    at.page()..(at.page() + len.pages()).min(PAGES)
}

fn bare_loads(at: Addr, len: Len) {
    for page in pages(at, len) {
        // a page may refuse the load: that is its right
        let _ = load_words(page, &mut [0; 4]);
    }
}
