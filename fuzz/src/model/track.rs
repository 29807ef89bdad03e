// SPDX-License-Identifier: GPL-2.0-only
//! userfaultfd write protection (mm/userfaultfd.c). The executor asks for
//! UFFD_FEATURE_WP_UNPOPULATED and UFFD_FEATURE_EVENT_REMAP, so the bit is
//! kept for pages that are not there yet, and over mremap.

use libc::{EINVAL, ENOENT, ENOMEM};

use super::page::Flags;
use super::{Model, Touched, Wanted};
use crate::program::{Addr, Len, Switch, Track};

impl Model {
    /// The kind of userfaultfd of a process: the first registration decides.
    pub fn tracking(&self, process: usize) -> Option<Track> {
        match self.processes[process].uffd {
            0 => None,
            1 => Some(Track::Async),
            _ => Some(Track::Sigbus),
        }
    }

    /// UFFDIO_SET_MODE with UFFD_FEATURE_RWP_ASYNC. EINVAL: a kernel before 7.3.
    pub(super) fn uffd_mode(&mut self, who: usize, on: Switch, got: i32) -> (Wanted, Touched) {
        if got == 0 {
            self.processes[who].opens = on == Switch::On;
        }
        (Wanted::OrAny(&[EINVAL]), Touched::default())
    }

    pub(super) fn uffd_register(
        &mut self,
        who: usize,
        at: Addr,
        len: Len,
        track: Track,
        got: i32,
    ) -> (Wanted, Touched) {
        self.register(who, at, len, track, Flags::TRACKED, got)
    }

    pub(super) fn uffd_unregister(
        &mut self,
        who: usize,
        at: Addr,
        len: Len,
        got: i32,
    ) -> (Wanted, Touched) {
        if got == 0 {
            for page in self.range(who, at, len) {
                page.flags.clear(Flags::WATCHED);
                if page.is_marker() {
                    page.unsettle_protection();
                } else {
                    page.flags
                        .clear(Flags::PROTECTED.with(Flags::PROTECTED_UNSURE));
                }
            }
        }
        (
            Wanted::OrAny(&[EINVAL, ENOMEM]),
            Touched::range(at.page(), len.pages()),
        )
    }

    /// Goes on to the first area that is not registered, then fails with ENOENT;
    /// so does a range in which nothing is mapped.
    pub(super) fn uffd_protect(
        &mut self,
        who: usize,
        at: Addr,
        len: Len,
        protect: bool,
    ) -> (Wanted, Touched) {
        let touched = Touched::range(at.page(), len.pages());
        let mut seen = false;
        for page in self
            .range(who, at, len)
            .iter_mut()
            .filter(|p| p.flags.has(Flags::MAPPED))
        {
            if !page.flags.has(Flags::TRACKED) {
                return (Wanted::Exactly(ENOENT), touched);
            }
            seen = true;
            // markers are passed over, also when a scan has set their bit
            if page.is_marker() {
                continue;
            }
            page.flags
                .clear(Flags::PROTECTED.with(Flags::PROTECTED_UNSURE));
            if protect {
                page.protect();
            }
        }
        (Wanted::Exactly(if seen { 0 } else { ENOENT }), touched)
    }
}
