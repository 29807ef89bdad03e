// SPDX-License-Identifier: GPL-2.0-only
//! madvise (mm/madvise.c). It goes through the areas of the range in order: a
//! hole is remembered and gives ENOMEM at the end, an area that the advice does
//! not suit stops it with what was done so far.

use libc::{EACCES, EAGAIN, EBUSY, EFAULT, EHWPOISON, EINVAL, ENOMEM};

use super::page::{Flags, Page};
use super::{Effect, Model, Touched, Wanted};
use crate::program::{Addr, Advice, Len, PAGES};

impl Model {
    pub(super) fn madvise(
        &mut self,
        who: usize,
        at: Addr,
        len: Len,
        advice: Advice,
        got: i32,
    ) -> (Wanted, Touched) {
        let touched = Touched::range(at.page(), len.pages());
        let wanted = match advice {
            Advice::PopulateRead | Advice::PopulateWrite => self.populate(who, at, len, advice),
            Advice::Collapse => Wanted::OrAny(&[EINVAL, ENOMEM, EBUSY, EAGAIN]),
            Advice::Remove => self.remove(who, at, len),
            Advice::Mergeable | Advice::Unmergeable => {
                self.advise(who, at, len, advice);
                Wanted::OrAny(&[EINVAL, ENOMEM, EAGAIN])
            }
            Advice::SoftOffline => {
                Wanted::OrAny(&[EINVAL, EBUSY, EFAULT, ENOMEM, EAGAIN, libc::EIO])
            }
            Advice::Hwpoison => self.fail_memory(who, at, got),
            Advice::Pageout | Advice::Cold => {
                let wanted = self.advise(who, at, len, advice);
                // a page that may be dropped is dropped here or not
                Wanted::Exactly(wanted)
            }
            _ => Wanted::Exactly(self.advise(who, at, len, advice)),
        };
        let _ = got;
        (wanted, touched)
    }

    /// Applies the advice page by page; what the call has to return.
    fn advise(&mut self, who: usize, at: Addr, len: Len, advice: Advice) -> i32 {
        let mut hole = false;
        for page in self.range(who, at, len) {
            if !page.flags.has(Flags::MAPPED) {
                hole = true;
            } else if let Some(errno) = refused(page, advice) {
                return errno;
            } else {
                advise_page(page, advice);
            }
        }
        if hole { ENOMEM } else { 0 }
    }

    /// Punches a hole into shared objects, seen by every mapping of them.
    fn remove(&mut self, who: usize, at: Addr, len: Len) -> Wanted {
        let mut hole = false;
        let end = (at.page() + len.pages()).min(PAGES);
        for index in at.page()..end {
            let page = self.processes[who].pages[index];
            if !page.flags.has(Flags::MAPPED) {
                hole = true;
            } else if page.flags.has(Flags::PFN) {
                return Wanted::OrAny(&[EINVAL, EACCES, libc::EOPNOTSUPP, libc::ENODEV]);
            } else if let Some(errno) = refused(&page, Advice::Remove) {
                return Wanted::Exactly(errno);
            } else {
                let offset = usize::from(page.offset);
                self.objects[usize::from(page.object)][offset] = 0;
                self.processes[who].pages[index].unsettle_protection();
            }
        }
        Wanted::Exactly(if hole { ENOMEM } else { 0 })
    }

    /// Faults pages in. Must succeed where every page allows the access.
    fn populate(&mut self, who: usize, at: Addr, len: Len, advice: Advice) -> Wanted {
        let store = advice == Advice::PopulateWrite;
        let end = (at.page() + len.pages()).min(PAGES);
        let accessible =
            (at.page()..end).all(|page| self.kernel_effect(who, page, store) == Effect::Done);
        if store {
            self.unsettle_protection(who, at, len);
        } else {
            (at.page()..end).for_each(|page| self.opened(who, page));
        }
        if accessible {
            Wanted::Exactly(0)
        } else {
            Wanted::OrAny(&[EFAULT, ENOMEM, EINVAL, EHWPOISON])
        }
    }
}

/// The errno with which the advice stops at this page, if it does.
fn refused(page: &Page, advice: Advice) -> Option<i32> {
    let flags = page.flags;
    let locked = flags.has(Flags::LOCKED);
    let file = flags.any(Flags::SHARED.with(Flags::FILE).with(Flags::PFN));
    if flags.has(Flags::PFN) {
        return refused_device(advice);
    }
    match advice {
        Advice::Dontneed | Advice::Cold | Advice::Pageout | Advice::GuardInstall => {
            locked.then_some(EINVAL)
        }
        Advice::Free => (locked || file).then_some(EINVAL),
        Advice::Wipeonfork => file.then_some(EINVAL),
        Advice::Remove if locked || !file => Some(EINVAL),
        Advice::Remove => (!flags.has(Flags::SHARED)).then_some(EACCES),
        _ => None,
    }
}

/// The same for device memory (VM_PFNMAP and VM_IO).
fn refused_device(advice: Advice) -> Option<i32> {
    let refused = matches!(
        advice,
        Advice::Dontneed
            | Advice::DontneedLocked
            | Advice::Free
            | Advice::Cold
            | Advice::Pageout
            | Advice::GuardInstall
            | Advice::GuardRemove
            | Advice::Wipeonfork
            | Advice::Dofork
    );
    refused.then_some(EINVAL)
}

fn advise_page(page: &mut Page, advice: Advice) {
    let flags = &mut page.flags;
    match advice {
        Advice::Hugepage => {
            flags.set(Flags::HUGEPAGE);
            flags.clear(Flags::NOHUGEPAGE);
        }
        Advice::Nohugepage => {
            flags.set(Flags::NOHUGEPAGE);
            flags.clear(Flags::HUGEPAGE);
        }
        // guard markers stay, whatever is discarded around them
        Advice::Dontneed | Advice::DontneedLocked => page.discard(),
        // a poison marker goes, and nothing else is there
        Advice::Free if flags.has(Flags::POISON) => page.discard(),
        Advice::Free if !flags.has(Flags::GUARD) => {
            flags.set(Flags::LAZY);
            flags.clear(Flags::DIRTY);
            page.unsettle_protection();
        }
        Advice::GuardInstall => {
            page.discard();
            page.flags
                .clear(Flags::PROTECTED.with(Flags::PROTECTED_UNSURE));
            page.flags.set(Flags::GUARD);
        }
        // the bit that a scan may have put into a marker goes with it
        Advice::GuardRemove if flags.has(Flags::GUARD) => {
            flags.clear(
                Flags::GUARD
                    .with(Flags::PROTECTED)
                    .with(Flags::PROTECTED_UNSURE),
            );
        }
        Advice::Wipeonfork => flags.set(Flags::WIPEONFORK),
        Advice::Keeponfork => flags.clear(Flags::WIPEONFORK),
        Advice::Dontfork => flags.set(Flags::DONTFORK),
        Advice::Dofork => flags.clear(Flags::DONTFORK),
        Advice::Mergeable => flags.set(Flags::MERGEABLE),
        _ => {}
    }
}
