// SPDX-License-Identifier: GPL-2.0-only
//! Device memory mapped by page frame number (VM_PFNMAP): through
//! remap_pfn_range() or by a fault handler. The kernel has no pages for it, so
//! what works on pages refuses it, and page tables are all that there is.

use libc::{ENODEV, ENOTTY};

use super::page::{Flags, Page};
use super::{DEVICE, Effect, Model, Touched, Wanted};
use crate::program::{Addr, Backing, DEVICE_PAGES, Len, PAGES, PROCESSES, Prot};

impl Page {
    /// Whether it shows what the device has there.
    pub(super) fn shows_device(&self) -> bool {
        self.flags.has(Flags::PFN) && !self.flags.has(Flags::OWN)
    }
}

impl Model {
    /// Whether a mapping of device memory would go beyond it.
    pub(super) fn leaves_device(at: Addr, len: Len) -> bool {
        let count = len.pages().min(PAGES - at.page());
        at.page() % DEVICE_PAGES + count > DEVICE_PAGES
    }

    /// ENODEV: the driver is not there, and nothing was done.
    pub(super) fn mmap_device(
        &mut self,
        who: usize,
        (at, len): (Addr, Len),
        prot: Prot,
        backing: Backing,
        got: i32,
    ) -> (Wanted, Touched) {
        let touched = Touched::range(at.page(), len.pages());
        if got != 0 {
            return (Wanted::OrAny(&[ENODEV]), touched);
        }
        let mut flags = Flags::MAPPED.with(Flags::PFN).with(prot.flags());
        if backing != Backing::PfnPrivate {
            flags.set(Flags::SHARED);
        }
        if matches!(backing, Backing::PfnRemap | Backing::PfnPrivate) {
            flags.set(Flags::REMAPPED);
        }
        for (i, page) in self.range(who, at, len).iter_mut().enumerate() {
            *page = Page {
                value: 0,
                flags,
                offset: ((at.page() + i) % DEVICE_PAGES) as u16,
                object: DEVICE as u16,
            };
        }
        (Wanted::Exactly(0), touched)
    }

    /// unmap_mapping_range() over part of the device. It does not find private mappings,
    /// whose offset remap_pfn_range() has made a page frame number.
    pub(super) fn zap(&mut self, at: Addr, len: Len) -> (Wanted, Touched) {
        let first = at.page() % DEVICE_PAGES;
        let last = (first + len.pages()).min(DEVICE_PAGES);
        for process in &mut self.processes[..PROCESSES] {
            let hit = |page: &&mut Page| {
                let offset = usize::from(page.offset);
                page.flags.has(Flags::PFN.with(Flags::SHARED)) && (first..last).contains(&offset)
            };
            for page in process.pages.iter_mut().filter(hit) {
                if page.flags.has(Flags::REMAPPED) {
                    page.flags.set(Flags::ZAPPED);
                }
            }
        }
        (Wanted::OrAny(&[ENODEV, ENOTTY]), Touched::ALL)
    }

    /// What an access through the kernel must do (get_user_pages()), which refuses
    /// memory without pages.
    pub fn kernel_effect(&self, process: usize, page: usize, store: bool) -> Effect {
        let flags = self.processes[process].pages[page].flags;
        if flags.has(Flags::OWN) {
            // a copy is a page like any other for who does not look at its area (GUP-fast)
            return Effect::DoneOrBus;
        }
        if flags.has(Flags::PFN) {
            return Effect::Segv;
        }
        self.effect(process, page, store)
    }

    /// Whether any page of the range is device memory.
    pub(super) fn has_device(&self, who: usize, at: Addr, len: Len) -> bool {
        let end = (at.page() + len.pages()).min(PAGES);
        let pages = &self.processes[who].pages[at.page()..end];
        pages.iter().any(|page| page.flags.has(Flags::PFN))
    }
}
