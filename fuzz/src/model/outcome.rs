// SPDX-License-Identifier: GPL-2.0-only
//! What operations of a racing block may return, and what their loads and
//! stores may meet, given what the pages may be.

use libc::{EACCES, EAGAIN, EBUSY, EFAULT, EINVAL, EIO, ENODEV, ENOENT, ENOMEM, EPERM, ESRCH};

use super::Effect;
use super::page::Flags;
use super::race::{Possible, Race};
use crate::program::{Addr, Advice, Len, Op, PAGES, Step, Track};

/// What an operation may return.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Returns {
    /// Whether it may succeed.
    pub success: bool,
    /// How it may fail.
    pub errnos: Vec<i32>,
}

impl Returns {
    fn always() -> Self {
        Self::or(&[])
    }

    fn or(errnos: &[i32]) -> Self {
        Self {
            success: true,
            errnos: errnos.to_vec(),
        }
    }

    /// Whether it may return this: 0 or an errno.
    pub fn allows(&self, got: i32) -> bool {
        if got == 0 {
            self.success
        } else {
            self.errnos.contains(&got)
        }
    }
}

/// Effects that a load or store may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// It may complete.
    pub done: bool,
    /// It may get SIGSEGV.
    pub segv: bool,
    /// It may get SIGBUS.
    pub bus: bool,
}

impl Effects {
    /// Exactly that one.
    pub fn only(effect: Effect) -> Self {
        Self {
            done: matches!(effect, Effect::Done | Effect::DoneOrBus),
            segv: effect == Effect::Segv,
            bus: matches!(effect, Effect::Bus | Effect::DoneOrBus),
        }
    }
}

impl Race {
    /// What a step of the block may return.
    pub fn returns(&self, step: &Step) -> Returns {
        let who = step.process.index();
        match step.op {
            Op::Munmap { .. } | Op::Mmap { .. } | Op::Exit {} => Returns::always(),
            Op::Mprotect { at, len, .. } | Op::Munlock { at, len } => self.to_a_hole(who, at, len),
            Op::MlockOnfault { at, len } => self.to_a_hole(who, at, len),
            Op::Mlock { at, len } => Returns {
                errnos: vec![ENOMEM, EAGAIN],
                ..self.to_a_hole(who, at, len)
            },
            Op::Mremap { .. } => Returns::or(&[EFAULT, ENOMEM, EINVAL, EAGAIN]),
            Op::Madvise { at, len, advice } => self.advised(who, at, len, advice),
            Op::Fork { .. } => Returns::or(&[EAGAIN, ENOMEM]),
            Op::UffdRegister { .. } => Returns::or(&[EINVAL, EPERM, EBUSY, ENOMEM]),
            Op::UffdUnregister { .. } => Returns::or(&[EINVAL, ENOMEM]),
            // EAGAIN while an mremap waits for its event to be read
            Op::UffdProtect { .. } | Op::UffdUnprotect { .. } => Returns::or(&[ENOENT, EAGAIN]),
            Op::ScanProtect { .. } => Returns::or(&[EPERM, EINVAL, ENOMEM]),
            Op::Pin { .. } | Op::Unpin {} => {
                Returns::or(&[ENODEV, EFAULT, EINVAL, ENOMEM, EAGAIN, EBUSY])
            }
            Op::Place { .. } => Returns::or(&[
                EACCES, EBUSY, EFAULT, EINVAL, EIO, ENODEV, ENOENT, ENOMEM, EPERM,
            ]),
            Op::Device { .. } => Returns::or(&[ENODEV, ENOENT, EINVAL, ENOMEM, EBUSY, EAGAIN]),
            Op::System { .. } => Returns::or(&[EAGAIN, EINVAL, ENOENT, ESRCH]),
            _ => Returns::always(),
        }
    }

    fn range(&self, who: usize, at: Addr, len: Len) -> &[Possible] {
        let end = (at.page() + len.pages()).min(PAGES);
        &self.pages[who][at.page()..end]
    }

    /// Fails with ENOMEM at the first hole, and only there.
    fn to_a_hole(&self, who: usize, at: Addr, len: Len) -> Returns {
        let pages = self.range(who, at, len);
        Returns {
            success: pages.iter().all(|page| page.there),
            errnos: if pages.iter().any(|page| page.gone) {
                vec![ENOMEM]
            } else {
                vec![]
            },
        }
    }

    fn advised(&self, who: usize, at: Addr, len: Len, advice: Advice) -> Returns {
        let pages = self.range(who, at, len);
        let mut returns = self.to_a_hole(who, at, len);
        let any = |flags: Flags| pages.iter().any(|page| page.there && page.set.any(flags));
        let lacks = |flags: Flags| pages.iter().any(|page| page.there && page.clear.has(flags));
        let file = Flags::SHARED.with(Flags::FILE);
        let refused: &[i32] = match advice {
            Advice::Dontneed | Advice::Cold | Advice::Pageout | Advice::GuardInstall
                if any(Flags::LOCKED) =>
            {
                &[EINVAL]
            }
            Advice::Free if any(Flags::LOCKED.with(file)) => &[EINVAL],
            Advice::Wipeonfork if any(file) => &[EINVAL],
            Advice::Remove if any(Flags::LOCKED) || lacks(Flags::SHARED) => &[EINVAL, EACCES],
            Advice::PopulateRead | Advice::PopulateWrite => &[EFAULT, ENOMEM, EINVAL],
            Advice::Collapse => &[EINVAL, ENOMEM, EBUSY, EAGAIN],
            _ => &[],
        };
        returns.errnos.extend_from_slice(refused);
        if matches!(
            advice,
            Advice::Collapse | Advice::PopulateRead | Advice::PopulateWrite
        ) {
            returns.success = true;
        }
        returns
    }

    /// What a load or store may meet; `track` is the kind of userfaultfd of the process.
    pub fn effects(&self, who: usize, page: usize, store: bool, track: Option<Track>) -> Effects {
        let page = &self.pages[who][page];
        let needed = if store { Flags::WRITE } else { Flags::READ };
        let bus = page.there
            && (page.set.any(Flags::FILE.with(Flags::SHARED))
                || store && track == Some(Track::Sigbus) && page.set.has(Flags::TRACKED));
        Effects {
            done: page.there && page.set.has(needed) && page.clear.has(Flags::GUARD),
            segv: page.gone || page.clear.has(needed) || page.set.has(Flags::GUARD) || !page.there,
            bus,
        }
    }
}
