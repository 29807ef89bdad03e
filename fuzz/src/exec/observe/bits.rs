// SPDX-License-Identifier: GPL-2.0-only
//! Guard markers and uffd-wp bits of the page map after a racing block.

use super::super::check::Broken;
use super::super::entry::bit;
use super::super::violation::Oracle;
use super::Observer;
use crate::model::page::Flags;

impl Observer<'_, '_> {
    /// Bits of the page map, which must be possible.
    pub(super) fn bits(&self, number: usize, entry: u64) -> Result<Flags, Broken> {
        let possible = self.process.setup.rally.plan().pages[self.process.me][number];
        let mut found = Flags(0);
        let guarded = entry & bit::GUARD != 0;
        let guard = if guarded {
            possible.set
        } else {
            possible.clear
        };
        if self.process.setup.features.guard && !guard.has(Flags::GUARD) {
            let what = if guarded {
                "guard marker appeared"
            } else {
                "guard marker lost"
            };
            return Err(self.wrong(number, Oracle::Bits, what, entry));
        }
        if guarded {
            found.set(Flags::GUARD);
        }
        let protected = entry & bit::UFFD_WP != 0;
        // on its way to a device a page may lose the bit (fuzz/known.tsv)
        let unsure = !protected && self.process.setup.board.uses_devices();
        if !unsure && !possible.allows_protection(protected) {
            let what = if protected {
                "uffd-wp appeared"
            } else {
                "uffd-wp lost"
            };
            return Err(self.wrong(number, Oracle::Bits, what, entry));
        }
        if protected {
            found.set(Flags::PROTECTED);
        }
        Ok(found)
    }
}
