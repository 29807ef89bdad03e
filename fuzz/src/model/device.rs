// SPDX-License-Identifier: GPL-2.0-only
//! The mirror devices of lib/test_hmm.c. Moving memory to a device and back
//! changes nothing that a program sees, except where its pages are.

use libc::{EAGAIN, EBUSY, EFAULT, EINVAL, ENODEV, ENOENT, ENOMEM, EOPNOTSUPP, EPERM};

use super::page::{Flags, Page};
use super::{Effect, Model, Touched, Wanted};
use crate::program::{Addr, Device, Len, PAGES, PROCESSES};

impl Model {
    /// EAGAIN: the executor did not do it, because the driver would not survive;
    /// ENODEV: the kernel has no such device.
    pub(super) fn device(
        &mut self,
        who: usize,
        at: Addr,
        len: Len,
        what: Device,
        got: i32,
    ) -> (Wanted, Touched) {
        let touched = Touched::range(at.page(), len.pages());
        for page in self.range(who, at, len) {
            if page.flags.has(Flags::RWP) {
                page.unsettle_protection();
            }
        }
        let poison = self
            .range(who, at, len)
            .iter()
            .any(|page| page.flags.has(Flags::POISON));
        let refusals: &[i32] = match what {
            Device::ToDev | Device::ToDevFail => &[ENODEV, ENOENT, EINVAL, ENOMEM],
            Device::ToSys | Device::ToSysFail => &[ENODEV, EINVAL, ENOMEM],
            // an error of a page is one of the whole look (hmm_vma_handle_pte())
            Device::Snapshot if poison => &[ENODEV, EBUSY, EFAULT],
            Device::Snapshot => &[ENODEV, EBUSY],
            // a driver without it answers with EINVAL
            Device::ReadUnlocked => &[ENODEV, EAGAIN, EBUSY, EINVAL],
            Device::Read | Device::Write => &[ENODEV, EAGAIN, EBUSY],
            Device::CheckExclusive => return (self.check_exclusive(who, at, len), touched),
            Device::Release | Device::Close => {
                return (Wanted::OrAny(&[ENODEV, EAGAIN]), Touched::ALL);
            }
            Device::Exclusive => {
                self.unsettle_protection(who, at, len);
                if got == 0 {
                    for page in self.range(who, at, len) {
                        page.flags.set(Flags::EXCLUSIVE);
                    }
                }
                &[
                    ENODEV, EAGAIN, EBUSY, EFAULT, EINVAL, ENOENT, ENOMEM, EPERM, EOPNOTSUPP,
                ]
            }
        };
        (Wanted::OrAny(refusals), touched)
    }

    /// EPERM says that the device still has exclusive access to a page: only to one that
    /// it took, and that nobody has touched since.
    fn check_exclusive(&mut self, who: usize, at: Addr, len: Len) -> Wanted {
        let taken = |page: &Page| page.flags.has(Flags::EXCLUSIVE);
        if self.range(who, at, len).iter().any(taken) {
            return Wanted::OrAny(&[ENODEV, EPERM, EAGAIN]);
        }
        Wanted::OrAny(&[ENODEV, EAGAIN])
    }

    /// Whether nobody holds a page, so that the driver gets all of its memory back; it
    /// waits for ever for a page that it does not get.
    pub fn nothing_held(&self) -> bool {
        let held = Flags::LOCKED.with(Flags::PINNED);
        self.processes.iter().filter(|p| p.alive).all(|process| {
            let free = |page: &Page| !page.flags.any(held);
            !process.pinning && process.pages.iter().all(free)
        }) && (0..PROCESSES).all(|who| self.spliced(who) == 0)
    }

    /// Whether a CPU could do the same with every page of the range, and nobody has to answer a fault of it: a device
    /// does not wait for that (`hmm_do_fault()` without FAULT_FLAG_ALLOW_RETRY), and may have stored a part by then.
    pub fn all_done(&self, who: usize, at: Addr, len: Len, store: bool) -> bool {
        let answered = Flags::MISSING.with(Flags::MINOR).with(Flags::RWP);
        let end = (at.page() + len.pages()).min(PAGES);
        (at.page()..end).all(|page| {
            self.kernel_effect(who, page, store) == Effect::Done
                && !self.processes[who].pages[page].flags.any(answered)
        })
    }

    /// A device stored the stamp, or did not get as far: of the rest of the page
    /// nothing new is known.
    pub fn perhaps_stored_by_device(&mut self, who: usize, page: usize, value: u64) {
        let flags = self.processes[who].pages[page].flags;
        self.stored_by_device(who, page, value);
        let page = &mut self.processes[who].pages[page];
        page.flags = flags;
        if flags.any(Flags::PROTECTED.with(Flags::PROTECTED_UNSURE)) {
            page.unsettle_protection();
        }
    }

    /// A device stored the stamp. Unlike a CPU it sets no dirty bit, so a page
    /// that may be dropped still may be.
    pub fn stored_by_device(&mut self, who: usize, page: usize, value: u64) {
        let lazy = self.processes[who].pages[page].flags.has(Flags::LAZY);
        self.stored(who, page, value);
        if lazy {
            let flags = &mut self.processes[who].pages[page].flags;
            flags.set(Flags::LAZY);
            flags.clear(Flags::DIRTY);
        }
    }
}
