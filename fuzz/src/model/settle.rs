// SPDX-License-Identifier: GPL-2.0-only
//! The model after a racing block: brought to what was found.

use super::Model;
use super::page::Page;
use crate::program::PROCESSES;

impl Model {
    /// A copy of the state, for the length of a block.
    pub fn copy_from(&mut self, other: &Self) {
        // SAFETY: plain data, and the two are different places.
        unsafe { std::ptr::copy_nonoverlapping(other, self, 1) };
    }

    /// Number of the last store.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The block is over; its stores had numbers up to `version`. A failure to
    /// be injected does not outlive it.
    pub fn end_race(&mut self, version: u32) {
        self.version = version;
        for who in 0..PROCESSES {
            self.processes[who].injecting = false;
        }
    }

    /// A page is as it was found.
    pub fn settle(&mut self, process: usize, number: usize, page: Page) {
        self.processes[process].pages[number] = page;
    }

    /// Whether a shared page has memory behind it.
    pub fn effect_of(&self, page: &Page) -> bool {
        usize::from(page.offset) < self.limit(page)
    }

    /// A page of a shared object contains what was found.
    pub fn settle_shared(&mut self, page: &Page, value: u64) {
        self.objects[usize::from(page.object)][usize::from(page.offset)] = value;
    }

    /// How much of the process is locked is not determined.
    pub fn forget_locks(&mut self, process: usize) {
        self.processes[process].lock_unsure = true;
    }
}
