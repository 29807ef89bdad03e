// SPDX-License-Identifier: GPL-2.0-only
//! Pins, placement, PAGEMAP_SCAN with write protection, and failures that the
//! fuzzer injects.

use libc::{EACCES, EAGAIN, EBUSY, EFAULT, EINVAL, EIO, ENODEV, ENOENT, ENOMEM, EPERM};

use super::page::Flags;
use super::{Facts, MAX_PINNED, Model, Touched, Wanted};
use crate::program::{Addr, Advice, Backing, Len, Op};

impl Model {
    /// A longterm pin for writing (gup_test): the pages stay the process's own,
    /// whoever forks.
    pub(super) fn pin(&mut self, who: usize, at: Addr, len: Len, got: i32) -> (Wanted, Touched) {
        let touched = Touched::range(at.page(), len.pages());
        self.unsettle_protection(who, at, len);
        self.processes[who].pinning = got == 0;
        self.processes[who].buffer = (0, 0);
        if got == 0 {
            self.processes[who]
                .pages
                .iter_mut()
                .for_each(|page| page.flags.clear(Flags::PINNED));
            for page in self.range(who, at, Len(len.0.min(MAX_PINNED as u16))) {
                if !page.flags.has(Flags::SHARED) {
                    page.flags.set(Flags::PINNED);
                }
            }
        }
        (
            Wanted::OrAny(&[ENODEV, EFAULT, EINVAL, ENOMEM, EAGAIN, EBUSY]),
            touched,
        )
    }

    /// The pin is gone.
    pub(super) fn unpin(&mut self, who: usize) -> (Wanted, Touched) {
        self.processes[who].pinning = false;
        self.processes[who].buffer = (0, 0);
        self.processes[who]
            .pages
            .iter_mut()
            .for_each(|page| page.flags.clear(Flags::PINNED));
        (Wanted::OrAny(&[EINVAL, ENODEV]), Touched::default())
    }

    /// mbind and move_pages: where pages are is nothing that a program sees.
    pub(super) fn place(&self, at: Addr, len: Len) -> (Wanted, Touched) {
        const REFUSALS: &[i32] = &[
            EACCES, EBUSY, EFAULT, EINVAL, EIO, ENODEV, ENOENT, ENOMEM, EPERM,
        ];
        (
            Wanted::OrAny(REFUSALS),
            Touched::range(at.page(), len.pages()),
        )
    }

    /// PAGEMAP_SCAN with PM_SCAN_WP_MATCHING over all categories.
    pub(super) fn scan_protect(
        &mut self,
        who: usize,
        at: Addr,
        len: Len,
        got: i32,
    ) -> (Wanted, Touched) {
        for page in self
            .range(who, at, len)
            .iter_mut()
            .filter(|page| page.flags.has(Flags::TRACKED))
        {
            page.flags.clear(Flags::PROTECTED_UNSURE);
            page.protect();
            if got != 0 || page.is_marker() || page.flags.any(Flags::SHARED.with(Flags::FILE)) {
                page.flags.set(Flags::PROTECTED_UNSURE);
            }
        }
        (
            Wanted::OrAny(&[EPERM, EINVAL, ENOMEM]),
            Touched::range(at.page(), len.pages()),
        )
    }

    /// Whether an allocation failure may be injected into the operation: where
    /// it can be told afterwards what a failed call has done.
    pub fn injectable(op: &Op) -> bool {
        matches!(
            op,
            Op::Munmap { .. }
                | Op::Brk { .. }
                | Op::Mmap {
                    backing: Backing::Anon,
                    ..
                }
                | Op::Mremap { .. }
                | Op::Fork { .. }
                | Op::Madvise {
                    advice: Advice::Collapse,
                    ..
                }
        )
    }

    /// A failed munmap, brk or mmap has unmapped the range, or has not.
    pub(super) fn settle_injected(
        &mut self,
        who: usize,
        op: &Op,
        facts: &dyn Facts,
    ) -> Option<Touched> {
        let (Op::Munmap { at, len } | Op::Brk { at, len, .. } | Op::Mmap { at, len, .. }) = *op
        else {
            return None;
        };
        for (i, page) in self.range(who, at, len).iter_mut().enumerate() {
            if page.flags.has(Flags::MAPPED) && !facts.mapped(at.page() + i) {
                page.unmap();
            }
        }
        Some(Touched::range(at.page(), len.pages()))
    }
}
