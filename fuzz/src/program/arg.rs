// SPDX-License-Identifier: GPL-2.0-only
//! Argument types. Each knows its text, and how to draw a value that is
//! likely to matter: at the edges of a huge page, in live memory.

use std::fmt::Write as _;

use arbitrary::{Result, Unstructured};

use super::{PAGES, PROCESSES, SLOT_PAGES, SLOTS};
use crate::model::Model;

/// What is known where an argument is drawn: the state that the steps before
/// would leave if each of them succeeded.
pub struct Context<'a> {
    /// That state.
    pub model: &'a Model,
    /// The process that acts.
    pub process: usize,
}

/// An argument of an operation.
pub trait Arg {
    /// Appends the text form.
    fn write(&self, out: &mut String);
    /// Reads the text form.
    fn parse(text: &str) -> Option<Self>
    where
        Self: Sized;
    /// Draws a value.
    fn draw(u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<Self>
    where
        Self: Sized;
    /// Replaces the value by another draw.
    fn redraw(&mut self, u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<()>;
}

/// A page of the arena, as its index; in text `slot.page`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Addr(pub u16);

impl Addr {
    /// Index of the page in the arena.
    pub fn page(self) -> usize {
        usize::from(self.0)
    }
}

impl Arg for Addr {
    fn write(&self, out: &mut String) {
        let _ = write!(
            out,
            "{}.{}",
            self.page() / SLOT_PAGES,
            self.page() % SLOT_PAGES
        );
    }

    fn parse(text: &str) -> Option<Self> {
        let (slot, page) = text.split_once('.')?;
        let (slot, page): (usize, usize) = (slot.parse().ok()?, page.parse().ok()?);
        (slot < SLOTS && page < SLOT_PAGES).then(|| Self((slot * SLOT_PAGES + page) as u16))
    }

    fn draw(u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<Self> {
        let mut slot = u.int_in_range(0..=SLOTS - 1)?;
        if u.ratio(9, 10)? {
            slot = (0..SLOTS)
                .map(|i| (slot + i) % SLOTS)
                .find(|&s| context.model.slot_in_use(context.process, s))
                .unwrap_or(slot);
        }
        let page = match u.int_in_range(0u8..=15)? {
            0..=6 => 0,
            7 => 1,
            8 => SLOT_PAGES / 2 - 1,
            9 => SLOT_PAGES / 2,
            10 => SLOT_PAGES - 2,
            11 | 12 => SLOT_PAGES - 1,
            13 => *u.choose(&[31, 32, 33, 480, 496])?,
            _ => u.int_in_range(0..=SLOT_PAGES - 1)?,
        };
        Ok(Self((slot * SLOT_PAGES + page) as u16))
    }

    fn redraw(&mut self, u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<()> {
        *self = match u.int_in_range(0u8..=3)? {
            0 => Self((self.0 + 1) % PAGES as u16),
            1 => Self(self.0 / SLOT_PAGES as u16 * SLOT_PAGES as u16),
            _ => Self::draw(u, context)?,
        };
        Ok(())
    }
}

/// A length in pages, 1 to the whole arena; cut at the end of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Len(pub u16);

impl Len {
    /// Pages.
    pub fn pages(self) -> usize {
        usize::from(self.0)
    }
}

/// Lengths at which something changes: one page, the 32-page window of the
/// mirror driver, the 512-page window of a migration and of a PMD.
const LENGTHS: [u16; 9] = [1, 2, 31, 32, 33, 511, 512, 513, 1024];

impl Arg for Len {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "{}", self.0);
    }

    fn parse(text: &str) -> Option<Self> {
        let pages: u16 = text.parse().ok()?;
        (1..=PAGES as u16).contains(&pages).then_some(Self(pages))
    }

    fn draw(u: &mut Unstructured<'_>, _: &Context<'_>) -> Result<Self> {
        Ok(Self(match u.int_in_range(0u8..=9)? {
            0..=3 => 512,
            4 => u.int_in_range(1..=64)?,
            5 => u.int_in_range(1..=PAGES as u16)?,
            _ => *u.choose(&LENGTHS)?,
        }))
    }

    fn redraw(&mut self, u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<()> {
        *self = match u.int_in_range(0u8..=3)? {
            0 => Self((self.0 - 1).max(1)),
            1 => Self((self.0 + 1).min(PAGES as u16)),
            _ => Self::draw(u, context)?,
        };
        Ok(())
    }
}

/// A process of the program; in text `p0` to `p3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proc(pub u8);

impl Proc {
    /// Index of the process.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Arg for Proc {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "p{}", self.0);
    }

    fn parse(text: &str) -> Option<Self> {
        let index: u8 = text.strip_prefix('p')?.parse().ok()?;
        (usize::from(index) < PROCESSES).then_some(Self(index))
    }

    fn draw(u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<Self> {
        let first = u.int_in_range(0..=PROCESSES - 1)?;
        let free = (0..PROCESSES)
            .map(|i| (first + i) % PROCESSES)
            .find(|&p| !context.model.alive(p));
        Ok(Self(free.unwrap_or(first) as u8))
    }

    fn redraw(&mut self, u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<()> {
        *self = Self::draw(u, context)?;
        Ok(())
    }
}

/// Which allocation fails, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nth(pub u8);

impl Arg for Nth {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "{}", self.0);
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|nth| *nth > 0).map(Self)
    }

    fn draw(u: &mut Unstructured<'_>, _: &Context<'_>) -> Result<Self> {
        Ok(Self(u.int_in_range(1..=12)?))
    }

    fn redraw(&mut self, u: &mut Unstructured<'_>, _: &Context<'_>) -> Result<()> {
        self.0 = u.int_in_range(1..=40)?;
        Ok(())
    }
}

/// Arguments that take one of a few named values.
macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident $text:literal $weight:literal),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            /// All values.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The value's text.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        impl Arg for $name {
            fn write(&self, out: &mut String) {
                out.push_str(self.name());
            }

            fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)* _ => None }
            }

            fn draw(u: &mut Unstructured<'_>, _: &Context<'_>) -> Result<Self> {
                const WEIGHTS: &[u16] = &[$($weight),*];
                let total: u16 = WEIGHTS.iter().sum();
                let mut at = u.int_in_range(0..=total - 1)?;
                for (value, weight) in Self::ALL.iter().zip(WEIGHTS) {
                    if at < *weight {
                        return Ok(*value);
                    }
                    at -= weight;
                }
                Ok(Self::ALL[0])
            }

            fn redraw(&mut self, u: &mut Unstructured<'_>, _: &Context<'_>) -> Result<()> {
                const WEIGHTS: &[u16] = &[$($weight),*];
                let chosen = u.choose_index(WEIGHTS.len())?;
                // what is never drawn comes from a text alone
                if WEIGHTS[chosen] > 0 {
                    *self = Self::ALL[chosen];
                }
                Ok(())
            }
        }
    )*};
}

pub(super) use choices;

choices! {
    /// Permission of a mapping.
    Prot {
        /// No access.
        None "none" 1,
        /// Loads only.
        Read "r" 2,
        /// Loads and stores.
        Write "rw" 4,
    }
    /// What a new mapping shows.
    Backing {
        /// Private anonymous memory.
        Anon "anon" 12,
        /// The same, all of it faulted in (MAP_POPULATE).
        Populated "populated" 1,
        /// Shared anonymous memory (shmem), a new object.
        Shared "shared" 2,
        /// A private view of the stamped file.
        File "file" 1,
        /// Device memory, shared, by remap_pfn_range(); drawn for the target pfnmap alone.
        PfnRemap "pfn-remap" 0,
        /// The same, private: a store makes a copy.
        PfnPrivate "pfn-private" 0,
        /// Device memory whose pages a fault handler inserts.
        PfnPte "pfn-pte" 0,
        /// The same, by PMD where it can.
        PfnPmd "pfn-pmd" 0,
    }
    /// Advice to `madvise`.
    Advice {
        /// MADV_HUGEPAGE
        Hugepage "hugepage" 8,
        /// MADV_NOHUGEPAGE
        Nohugepage "nohugepage" 2,
        /// MADV_COLLAPSE
        Collapse "collapse" 6,
        /// MADV_DONTNEED
        Dontneed "dontneed" 8,
        /// MADV_DONTNEED_LOCKED
        DontneedLocked "dontneed-locked" 1,
        /// MADV_FREE
        Free "free" 4,
        /// MADV_COLD
        Cold "cold" 2,
        /// MADV_PAGEOUT
        Pageout "pageout" 5,
        /// MADV_POPULATE_READ
        PopulateRead "populate-read" 2,
        /// MADV_POPULATE_WRITE
        PopulateWrite "populate-write" 3,
        /// MADV_REMOVE
        Remove "remove" 1,
        /// MADV_GUARD_INSTALL
        GuardInstall "guard-install" 3,
        /// MADV_GUARD_REMOVE
        GuardRemove "guard-remove" 2,
        /// MADV_WIPEONFORK
        Wipeonfork "wipeonfork" 1,
        /// MADV_KEEPONFORK
        Keeponfork "keeponfork" 1,
        /// MADV_DONTFORK
        Dontfork "dontfork" 1,
        /// MADV_DOFORK
        Dofork "dofork" 1,
        /// MADV_MERGEABLE
        Mergeable "mergeable" 1,
        /// MADV_UNMERGEABLE
        Unmergeable "unmergeable" 1,
        /// MADV_SOFT_OFFLINE, of two pages at most; never drawn, as it takes memory away.
        SoftOffline "soft-offline" 0,
    }
    /// How `mremap` moves.
    Move {
        /// To the given place (MREMAP_MAYMOVE | MREMAP_FIXED).
        Fixed "fixed" 4,
        /// The same, and the source stays mapped and empty (MREMAP_DONTUNMAP).
        Dontunmap "dontunmap" 2,
        /// Grow or shrink where it is; the given place does not matter.
        Inplace "inplace" 2,
    }
    /// What is written to `/proc/self/clear_refs`.
    Clear {
        /// Accessed bits of all pages (1).
        Referenced "referenced" 1,
        /// Soft-dirty bits (4).
        SoftDirty "soft-dirty" 4,
    }
    /// Direction of an access.
    Access {
        /// A load.
        Load "load" 1,
        /// A store.
        Store "store" 1,
    }
    /// How a userfaultfd treats a store to a protected page.
    Track {
        /// The kernel resolves it and clears the bit (UFFD_FEATURE_WP_ASYNC).
        Async "async" 3,
        /// The store gets SIGBUS (UFFD_FEATURE_SIGBUS).
        Sigbus "sigbus" 2,
    }
    /// One of the open mirror files.
    Mirror {
        /// First file of the first device-private device.
        A "a" 4,
        /// First file of the second device-private device.
        B "b" 2,
        /// Second file of the first device-private device.
        A2 "a2" 1,
    }
    /// Where pages go, and how.
    Node {
        /// Node 0, by `move_pages`.
        Move0 "move-0" 2,
        /// Node 1, by `move_pages`.
        Move1 "move-1" 3,
        /// All pages of the process from node 0 to node 1, by `migrate_pages`.
        Migrate1 "migrate-1" 1,
        /// And back.
        Migrate0 "migrate-0" 1,
        /// Only node 0, by `mbind`.
        Bind0 "bind-0" 1,
        /// Rather node 1, by `mbind`.
        Bind1 "bind-1" 2,
    }
    /// Commands of a mirror device (lib/test_hmm.c).
    Device {
        /// Move to the device.
        ToDev "to-dev" 10,
        /// The same, and its first allocation fails.
        ToDevFail "to-dev-fail" 2,
        /// Move back.
        ToSys "to-sys" 4,
        /// The same, and its first allocation fails.
        ToSysFail "to-sys-fail" 1,
        /// The device loads.
        Read "read" 2,
        /// The device stores.
        Write "write" 3,
        /// The device looks at the page table.
        Snapshot "snapshot" 2,
        /// The device takes exclusive access.
        Exclusive "exclusive" 2,
        /// Whether the device still has exclusive access to a page.
        CheckExclusive "check-exclusive" 1,
        /// The device gives all of its memory back.
        Release "release" 1,
        /// The file is closed, for which the device gives all of its memory back.
        Close "close" 1,
    }
    /// System-wide events.
    Pulse {
        /// `/proc/sys/vm/compact_memory`
        Compact "compact" 1,
        /// `/proc/sys/vm/drop_caches` with 2 (slab and shrinkers).
        Shrink "shrink" 1,
        /// debugfs `split_huge_pages` over the arena of the process.
        Split "split" 8,
        /// One pass of khugepaged over all processes.
        Khugepaged "khugepaged" 4,
        /// `memory.reclaim` of the group of all processes.
        Reclaim "reclaim" 2,
        /// `swapoff` and `swapon`.
        Swapoff "swapoff" 1,
    }
}
