// SPDX-License-Identifier: GPL-2.0-only
//! What one page may be after a racing block.

use crate::model::page::{Flags, Page};

/// What goes with the content of a page.
const OF_CONTENT: Flags = Flags::LAZY
    .with(Flags::DIRTY)
    .with(Flags::PINNED)
    .with(Flags::PROTECTED)
    .with(Flags::PROTECTED_UNSURE);

/// What one page may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Possible {
    /// Attributes that it may have.
    pub set: Flags,
    /// Attributes that it may lack while it is mapped.
    pub clear: Flags,
    /// Something may be mapped.
    pub there: bool,
    /// Nothing may be mapped.
    pub gone: bool,
    /// It may have lost its content.
    pub emptied: bool,
    /// An operation of the block may change it.
    pub touched: bool,
}

impl Possible {
    pub(super) fn of(page: &Page) -> Self {
        let mapped = page.flags.has(Flags::MAPPED);
        Self {
            set: page.flags,
            clear: if mapped {
                Flags(!page.flags.0)
            } else {
                Flags(0)
            },
            there: mapped,
            gone: !mapped,
            ..Self::default()
        }
    }

    pub(super) fn may_set(&mut self, flags: Flags) {
        self.set.set(flags);
    }

    pub(super) fn may_clear(&mut self, flags: Flags) {
        self.clear.set(flags);
    }

    pub(super) fn empty(&mut self) {
        self.emptied = true;
        self.may_clear(OF_CONTENT);
    }

    /// Whether its uffd-wp bit may be set, or may not be. One that was set stays, whatever else
    /// happens, unless something in the block may clear it. Nothing is said of what goes without a
    /// step (after MADV_FREE), of markers, and of what KSM merges.
    pub fn allows_protection(&self, set: bool) -> bool {
        const UNTOLD: Flags = Flags::LAZY.with(Flags::GUARD).with(Flags::MERGEABLE);
        let possible = if set { self.set } else { self.clear };
        possible.has(Flags::PROTECTED)
            || self.set.has(Flags::PROTECTED_UNSURE)
            || !set && self.set.any(UNTOLD)
    }

    /// Whether it may be as `flags` say, which are those of a mapped page.
    pub fn allows(&self, flags: Flags, among: Flags) -> bool {
        let (set, clear) = (flags.0 & among.0, !flags.0 & among.0);
        self.there && set & !self.set.0 == 0 && clear & !self.clear.0 == 0
    }
}
