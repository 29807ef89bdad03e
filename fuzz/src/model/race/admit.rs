// SPDX-License-Identifier: GPL-2.0-only
//! Which steps may race, and which of them change what is mapped.

use crate::model::Model;
use crate::model::page::Flags;
use crate::program::{Advice, Backing, Device, Move, Op, Pulse, Step};

/// Whether the step is not carried out in a racing block: what it does could
/// not be told afterwards, or the driver would not survive it.
pub fn refuses(model: &Model, step: &Step) -> bool {
    let who = step.process.index();
    if model.beyond_races() {
        return true;
    }
    match step.op {
        Op::Mmap { backing, .. } => !matches!(backing, Backing::Anon | Backing::File),
        // a driver that is asked for a page that leaves at that moment oopses
        Op::Device { what, .. } => !matches!(
            what,
            Device::ToDev
                | Device::ToDevFail
                | Device::ToSys
                | Device::ToSysFail
                | Device::Snapshot
        ),
        Op::Madvise { advice, .. } => matches!(
            advice,
            Advice::Mergeable | Advice::Unmergeable | Advice::SoftOffline | Advice::Hwpoison
        ),
        Op::Mremap {
            at,
            len,
            to,
            new,
            how,
        } => {
            let shared = |first: usize| {
                let pages = &model.pages(who)[first..first + len.pages()];
                pages.iter().any(|page| page.flags.has(Flags::SHARED))
            };
            how == Move::Inplace || len != new || shared(at.page()) || shared(to.page())
        }
        Op::UffdRegister { .. } => model.tracking(who).is_none(),
        Op::Munmap { .. }
        | Op::Mprotect { .. }
        | Op::Mlock { .. }
        | Op::MlockOnfault { .. }
        | Op::Munlock { .. }
        | Op::Read { .. }
        | Op::Write { .. }
        | Op::Fork { .. }
        | Op::Exit {}
        | Op::ClearRefs { .. }
        | Op::UffdUnregister { .. }
        | Op::UffdProtect { .. }
        | Op::UffdUnprotect { .. }
        | Op::System {
            pulse: Pulse::Compact | Pulse::Shrink | Pulse::Split,
        }
        | Op::Remote { .. }
        | Op::Pin { .. }
        | Op::Unpin {}
        | Op::Place { .. }
        | Op::ScanProtect { .. } => false,
        // what is not known here does not race
        _ => true,
    }
}

/// Whether the operation changes areas, so that a lane that alone has such
/// operations knows what is mapped.
pub fn controls(op: &Op) -> bool {
    match op {
        Op::Mmap { .. }
        | Op::Munmap { .. }
        | Op::Mprotect { .. }
        | Op::Mremap { .. }
        | Op::Mlock { .. }
        | Op::MlockOnfault { .. }
        | Op::Munlock { .. }
        | Op::UffdRegister { .. }
        | Op::UffdUnregister { .. } => true,
        Op::Madvise { advice, .. } => !matches!(
            advice,
            Advice::Dontneed
                | Advice::DontneedLocked
                | Advice::Free
                | Advice::Cold
                | Advice::Pageout
                | Advice::Collapse
                | Advice::PopulateRead
                | Advice::PopulateWrite
                | Advice::Remove
        ),
        _ => false,
    }
}

/// Whether the operation changes what is known of the pages of its range.
pub(super) fn changes(op: &Op) -> bool {
    match op {
        Op::Device { .. } | Op::Place { .. } | Op::Read { .. } | Op::Remote { .. } => false,
        Op::Madvise { advice, .. } => !matches!(
            advice,
            Advice::Cold | Advice::Pageout | Advice::Collapse | Advice::PopulateRead
        ),
        _ => true,
    }
}
