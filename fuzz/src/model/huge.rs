// SPDX-License-Identifier: GPL-2.0-only
//! What an operation must do to a huge page: nothing, or split it exactly once.

use super::Model;
use super::page::{Flags, Page};
use crate::program::{Access, Addr, Advice, Break, Device, Len, Move, Op, PAGES, SLOT_PAGES, Step};

/// What happens to a slot that was mapped by one PMD before a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It must be mapped by one PMD afterwards.
    Kept,
    /// The PMD must be split, once.
    Split,
    /// It must be mapped by one PMD afterwards, in that slot.
    MovedTo(usize),
    /// All of it goes; nothing is split.
    Gone,
    /// Not determined.
    Open,
}

/// How a range lies over a slot.
#[derive(PartialEq)]
enum Cover {
    Nothing,
    Part,
    Whole,
}

fn cover(at: Addr, len: Len, slot: usize) -> Cover {
    let (start, end) = (at.page(), (at.page() + len.pages()).min(PAGES));
    let (first, last) = (slot * SLOT_PAGES, (slot + 1) * SLOT_PAGES);
    if end <= first || start >= last {
        Cover::Nothing
    } else if start <= first && end >= last {
        Cover::Whole
    } else {
        Cover::Part
    }
}

impl Model {
    /// The fate of a slot of the acting process, known to be mapped by one PMD,
    /// in a step that has not been applied yet and will succeed.
    pub fn fate(&self, step: &Step, slot: usize) -> Fate {
        let who = step.process.index();
        if self.is_limited() {
            return Fate::Open;
        }
        if self
            .slot(who, slot)
            .iter()
            .any(|page| page.flags.has(Flags::PFN))
        {
            return Fate::Open;
        }
        match step.op {
            // a fork copies what is pinned, page by page
            Op::Fork { .. } | Op::Spawn { .. } if self.has_pin(step.process.index()) => Fate::Open,
            Op::Read { .. }
            | Op::Verify {}
            | Op::Fork { .. }
            | Op::Spawn { .. }
            | Op::Kill { .. }
            | Op::ThpDisable { .. }
            | Op::Splice { .. }
            | Op::Drain {}
            | Op::Inspect { .. }
            | Op::Scan { .. }
            | Op::Idle { .. }
            | Op::Knob { .. }
            | Op::Poke {
                access: Access::Load,
                ..
            }
            | Op::ClearRefs { .. } => Fate::Kept,
            Op::Remote {
                access: Access::Load,
                ..
            } => Fate::Kept,
            Op::Device {
                what: Device::Snapshot | Device::CheckExclusive,
                ..
            } => Fate::Kept,
            Op::Munmap { at, len }
            | Op::Brk {
                at,
                len,
                how: Break::Shrink,
            } => split_where(at, len, slot),
            Op::Brk {
                how: Break::Grow, ..
            } => Fate::Kept,
            // the bits of file memory live in page tables only (pgtable_split_needed())
            Op::UffdProtect { .. } | Op::UffdClose { .. }
                if !self.private(step.process.index(), slot) =>
            {
                Fate::Open
            }
            // the fault of a shared page that becomes ours splits
            Op::Mprotect { at, len, prot }
                if self
                    .slot(who, slot)
                    .iter()
                    .any(|page| page.is_populated_by(prot))
                    && cover(at, len, slot) != Cover::Nothing =>
            {
                Fate::Open
            }
            Op::Mprotect { at, len, .. }
            | Op::Munlock { at, len }
            | Op::UffdProtect { at, len }
            | Op::UffdClose { at, len, .. }
            | Op::UffdUnprotect { at, len } => kept_if_whole(at, len, slot),
            Op::Madvise { at, len, advice } => self.fate_of_advice(step, at, len, advice, slot),
            Op::Mremap {
                at,
                len,
                to,
                new,
                how: Move::Fixed,
            } if len == new => {
                let aligned = at.page() % SLOT_PAGES == to.page() % SLOT_PAGES;
                match cover(at, len, slot) {
                    Cover::Whole if aligned => {
                        Fate::MovedTo((to.page() + slot * SLOT_PAGES - at.page()) / SLOT_PAGES)
                    }
                    _ => Fate::Open,
                }
            }
            _ => Fate::Open,
        }
    }

    fn slot(&self, who: usize, slot: usize) -> &[Page] {
        &self.pages(who)[slot * SLOT_PAGES..][..SLOT_PAGES]
    }

    /// Whether all of the slot is private anonymous memory.
    fn private(&self, who: usize, slot: usize) -> bool {
        self.slot(who, slot).iter().all(Page::private_anon)
    }

    fn fate_of_advice(&self, step: &Step, at: Addr, len: Len, advice: Advice, slot: usize) -> Fate {
        let pages = self.slot(step.process.index(), slot);
        let unlocked = !pages.iter().any(|page| page.flags.has(Flags::LOCKED));
        let private = unlocked && self.private(step.process.index(), slot);
        match advice {
            Advice::Hugepage | Advice::Nohugepage | Advice::Wipeonfork | Advice::Keeponfork => {
                kept_if_whole(at, len, slot)
            }
            Advice::Dontfork | Advice::Dofork => kept_if_whole(at, len, slot),
            Advice::Collapse => Fate::Kept,
            Advice::Dontneed if private => split_where(at, len, slot),
            _ => Fate::Open,
        }
    }
}

fn kept_if_whole(at: Addr, len: Len, slot: usize) -> Fate {
    if cover(at, len, slot) == Cover::Part {
        Fate::Open
    } else {
        Fate::Kept
    }
}

fn split_where(at: Addr, len: Len, slot: usize) -> Fate {
    match cover(at, len, slot) {
        Cover::Nothing => Fate::Kept,
        Cover::Part => Fate::Split,
        Cover::Whole => Fate::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    fn fate(step: &str, slot: usize) -> Fate {
        fate_after("p0 mmap at=0.0 len=1024 prot=rw backing=anon\n", step, slot)
    }

    fn fate_after(setup: &str, step: &str, slot: usize) -> Fate {
        let mut model = Model::boxed();
        model.start();
        text::parse(setup)
            .unwrap()
            .steps
            .iter()
            .for_each(|step| model.assume(step));
        model.fate(&text::parse(step).unwrap().steps[0], slot)
    }

    #[test]
    fn only_a_cut_through_a_huge_page_splits_it() {
        assert_eq!(fate("p0 munmap at=0.511 len=1", 0), Fate::Split);
        assert_eq!(fate("p0 munmap at=1.0 len=512", 0), Fate::Kept);
        assert_eq!(fate("p0 munmap at=0.0 len=513", 0), Fate::Gone);
        assert_eq!(
            fate("p0 madvise at=0.1 len=1 advice=dontneed", 0),
            Fate::Split
        );
        assert_eq!(fate("p0 mprotect at=0.0 len=512 prot=r", 0), Fate::Kept);
        assert_eq!(fate("p0 mprotect at=0.0 len=511 prot=r", 0), Fate::Open);
        assert_eq!(fate("p0 fork child=p1", 1), Fate::Kept);
        assert_eq!(fate("p0 uffd-protect at=0.0 len=512", 0), Fate::Kept);
        assert_eq!(fate("p0 uffd-protect at=2.0 len=512", 2), Fate::Open);
    }

    #[test]
    fn locked_memory_that_becomes_writable_may_be_copied_page_by_page() {
        let setup = "p0 mmap at=0.0 len=1024 prot=r backing=anon\np0 mlock at=0.0 len=512\n";
        let fate = |slot| fate_after(setup, "p0 mprotect at=0.0 len=1024 prot=rw", slot);
        assert_eq!((fate(0), fate(1)), (Fate::Open, Fate::Kept));
    }

    #[test]
    fn an_aligned_move_takes_the_huge_page_along() {
        assert_eq!(
            fate("p0 mremap at=0.0 len=1024 to=2.0 new=1024 how=fixed", 1),
            Fate::MovedTo(3)
        );
        assert_eq!(
            fate("p0 mremap at=1.0 len=512 to=3.0 new=512 how=fixed", 1),
            Fate::MovedTo(3)
        );
        assert_eq!(
            fate("p0 mremap at=0.0 len=512 to=2.1 new=512 how=fixed", 0),
            Fate::Open
        );
    }
}
