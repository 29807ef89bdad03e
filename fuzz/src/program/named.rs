// SPDX-License-Identifier: GPL-2.0-only
//! Arguments that take one of a few named values: one table gives the type, its text and
//! how often each value is drawn. Those of memory are here, others in `choice`.

use arbitrary::{Result, Unstructured};

use super::arg::{Arg, Context};

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
        /// MADV_HWPOISON, of one page that was written; never drawn, either.
        Hwpoison "hwpoison" 0,
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
    /// Which way `brk` moves the break, which is put to the range for that.
    Break {
        /// From its start to its end: maps it, where nothing is mapped.
        Grow "grow" 3,
        /// From its end to its start: unmaps it.
        Shrink "shrink" 1,
    }
    /// What is written to `/proc/self/clear_refs`.
    Clear {
        /// Accessed bits of all pages (1).
        Referenced "referenced" 1,
        /// The same of files and shared memory alone (3).
        Mapped "mapped" 1,
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
        /// The same, where whoever faults a page in may let go of the mmap lock (from 7.3).
        ReadUnlocked "read-unlocked" 1,
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
        /// The same, into folios of 4 pages.
        Split4 "split-4" 2,
        /// The same, into folios of 64 pages.
        Split64 "split-64" 2,
        /// Passes of KSM over all memory that is registered for it.
        Ksm "ksm" 2,
        /// One pass of khugepaged over all processes.
        Khugepaged "khugepaged" 4,
        /// `memory.reclaim` of the group of all processes.
        Reclaim "reclaim" 2,
        /// `swapoff` and `swapon`.
        Swapoff "swapoff" 1,
        /// NUMA balancing closes the memory of the process, so that the next access tells who uses it.
        Numa "numa" 1,
    }
}

impl Pulse {
    /// The order into which debugfs splits huge pages.
    pub fn split_order(self) -> Option<u32> {
        match self {
            Self::Split => Some(0),
            Self::Split4 => Some(2),
            Self::Split64 => Some(6),
            _ => None,
        }
    }
}

impl Clear {
    /// What is written.
    pub fn number(self) -> &'static str {
        match self {
            Self::Referenced => "1",
            Self::Mapped => "3",
            Self::SoftDirty => "4",
        }
    }
}
