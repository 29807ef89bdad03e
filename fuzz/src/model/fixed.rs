// SPDX-License-Identifier: GPL-2.0-only
//! Fixed buffers of io_uring: a pin through which pages change without a store.

use std::ops::Range;

use libc::{EAGAIN, EBUSY, EFAULT, EINVAL, ENODEV, ENOMEM, ENOSYS, EOPNOTSUPP, EPERM};

use super::page::Flags;
use super::{Model, Touched, Wanted};
use crate::program::{Addr, Len, PAGES};

/// Pages of a fixed buffer at most.
pub const MAX_BUFFERED: usize = 32;

impl Model {
    /// Pins like any longterm pin for writing (io_pin_pages()).
    pub(super) fn register_buffer(
        &mut self,
        who: usize,
        at: Addr,
        len: Len,
        got: i32,
    ) -> (Wanted, Touched) {
        const REFUSALS: &[i32] = &[
            EFAULT, EINVAL, ENOMEM, EAGAIN, EBUSY, ENODEV, ENOSYS, EOPNOTSUPP, EPERM,
        ];
        let count = len.pages().min(MAX_BUFFERED).min(PAGES - at.page());
        let (_, touched) = self.pin(who, at, Len(count as u16), got);
        if got == 0 {
            self.processes[who].buffer = (at.0, count as u16);
        }
        (Wanted::OrAny(REFUSALS), touched)
    }

    /// The pages that the fixed buffer of the process had when it was registered.
    pub fn buffer(&self, process: usize) -> Range<usize> {
        let (first, count) = self.processes[process].buffer;
        usize::from(first)..usize::from(first + count)
    }

    /// Whether what is stored through the buffer is seen in all pages of its range. Those
    /// that were replaced or have moved since are not the buffer's any more.
    pub fn buffer_is_whole(&self, process: usize) -> bool {
        let pages = &self.processes[process].pages[self.buffer(process)];
        pages.iter().all(|page| page.flags.has(Flags::PINNED))
    }

    /// EAGAIN: the executor left it out.
    pub(super) fn fixed(&self, who: usize) -> (Wanted, Touched) {
        let range = self.buffer(who);
        (
            Wanted::OrAny(&[EAGAIN]),
            Touched::range(range.start, range.len()),
        )
    }

    /// The stamp came into a pinned page past the page table: neither its soft-dirty bit nor its
    /// protection is changed, and who may drop it still may.
    pub fn stored_to_buffer(&mut self, process: usize, page: usize, value: u64) {
        self.processes[process].pages[page].value = value;
    }

    pub(super) fn assume_fixed(&mut self, process: usize) {
        if self.buffer_is_whole(process) {
            for page in self.buffer(process) {
                let value = self.next_stamp(process, page);
                self.stored_to_buffer(process, page, value);
            }
        }
    }
}
