// SPDX-License-Identifier: GPL-2.0-only
//! Memory that fails (mm/memory-failure.c): who had written it gets SIGBUS from then on. Only pages
//! that were written are failed: one of zeros may be the zero page of the whole machine.

use libc::{EBUSY, EFAULT, EHWPOISON, EINVAL, EIO, ENOMEM, EPERM};

use super::page::Flags;
use super::{Model, Wanted};
use crate::program::Addr;

impl Model {
    /// Whether the page is not one that may be failed.
    pub(super) fn spares(&self, who: usize, at: Addr) -> bool {
        let page = &self.processes[who].pages[at.page()];
        !page.private_anon() || page.value == 0 || page.flags.any(Flags::ALL_POISON)
    }

    /// Whether memory of the process has failed, or may have.
    pub fn has_failed(&self, process: usize) -> bool {
        let mut pages = self.processes[process].pages.iter();
        pages.any(|page| page.flags.has(Flags::FAILED))
    }

    /// The page is unmapped everywhere, also where it cannot be taken away (EBUSY). Which others
    /// have the same page is not known: any that has the same content may.
    pub(super) fn fail_memory(&mut self, who: usize, at: Addr, got: i32) -> Wanted {
        let failed = self.processes[who].pages[at.page()].value;
        let mut all = self
            .processes
            .iter_mut()
            .flat_map(|process| &mut process.pages);
        while let Some(page) = all.find(|page| page.private_anon() && page.value == failed) {
            page.flags.set(Flags::ALL_POISON);
            page.flags.clear(Flags::DIRTY);
            page.unsettle_protection();
        }
        let lazy = self.processes[who].pages[at.page()].flags.has(Flags::LAZY);
        if got == 0 && !lazy {
            let flags = &mut self.processes[who].pages[at.page()].flags;
            flags.clear(Flags::POISON_UNSURE);
        }
        Wanted::OrAny(&[EINVAL, EBUSY, EFAULT, EHWPOISON, EIO, ENOMEM, EPERM])
    }
}
