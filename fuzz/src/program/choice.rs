// SPDX-License-Identifier: GPL-2.0-only
//! More arguments that take one of a few named values; see `named`.

use arbitrary::{Result, Unstructured};

use super::arg::{Arg, Context};
use super::named::choices;

choices! {
    /// Which faults of a range a userfaultfd is told of.
    Watch {
        /// Those of pages that are not there (UFFDIO_REGISTER_MODE_MISSING).
        Missing "missing" 4,
        /// The same, and stores to protected pages (MODE_WP).
        MissingWp "missing-wp" 2,
        /// Those of shmem pages that are there and not mapped (MODE_MINOR).
        Minor "minor" 2,
        /// Every access to a page that was closed (MODE_RWP).
        Rwp "rwp" 4,
        /// The same, and those of pages that are not there.
        MissingRwp "missing-rwp" 1,
    }
    /// How a userfaultfd fills a page that is not there.
    Fill {
        /// UFFDIO_COPY of a stamped page.
        Copy "copy" 4,
        /// The same, write-protected (UFFDIO_COPY_MODE_WP).
        CopyProtected "copy-wp" 2,
        /// UFFDIO_ZEROPAGE.
        Zero "zero" 2,
        /// UFFDIO_CONTINUE.
        Continue "continue" 1,
        /// UFFDIO_POISON: every access gets SIGBUS.
        Poison "poison" 2,
    }
    /// On or off.
    Switch {
        /// On.
        On "on" 2,
        /// Off.
        Off "off" 1,
    }
    /// How a child comes to life that executes another program at once.
    Spawn {
        /// `fork`
        Fork "fork" 2,
        /// As `vfork`: it shares the memory of its parent until then.
        Vfork "vfork" 1,
    }
    /// How a debugger reaches another process.
    Via {
        /// `/proc/PID/mem`
        Mem "mem" 3,
        /// PTRACE_PEEKDATA and PTRACE_POKEDATA
        Ptrace "ptrace" 1,
    }
    /// Settings of huge pages, until the program has ended.
    Knob {
        /// No sizes below PMD.
        SizesNone "sizes-none" 1,
        /// 16 to 128 KiB, where asked for.
        SizesSmall "sizes-small" 2,
        /// 16 to 1024 KiB, where asked for.
        SizesAll "sizes-all" 2,
        /// khugepaged fills no hole.
        PtesNone0 "ptes-none-0" 2,
        /// khugepaged fills any hole.
        PtesNone511 "ptes-none-511" 1,
        /// khugepaged reads nothing from swap.
        PtesSwap0 "ptes-swap-0" 1,
        /// khugepaged leaves shared pages alone.
        PtesShared0 "ptes-shared-0" 1,
        /// A fault reclaims and compacts for a huge page.
        DefragAlways "defrag-always" 1,
        /// It never does.
        DefragNever "defrag-never" 1,
        /// Loads of what is not there get no huge page of zeros.
        ZeroPageOff "zero-page-off" 2,
        /// Huge pages that are mostly zeros stay whole.
        UnderusedOff "underused-off" 1,
    }
    /// What the memory cgroup of a program allows.
    Room {
        /// `memory.max` of 2 MiB.
        Max2M "max-2m" 2,
        /// `memory.max` of 4 MiB.
        Max4M "max-4m" 2,
        /// `memory.high` of 4 MiB; never drawn, as whoever is above it waits for seconds.
        High4M "high-4m" 0,
        /// Everything.
        Unlimited "unlimited" 1,
    }
    /// A file about another process.
    Look {
        /// `/proc/PID/pagemap`
        Pagemap "pagemap" 3,
        /// `/proc/PID/smaps`
        Smaps "smaps" 2,
        /// `/proc/PID/maps`
        Maps "maps" 2,
        /// `/proc/PID/numa_maps`
        NumaMaps "numa_maps" 1,
        /// `/proc/PID/smaps_rollup`
        Rollup "smaps_rollup" 1,
    }
    /// A category of PAGEMAP_SCAN.
    Category {
        /// Not write-protected by userfaultfd (PAGE_IS_WRITTEN).
        Written "written" 2,
        /// PAGE_IS_PRESENT
        Present "present" 1,
        /// PAGE_IS_SWAPPED
        Swapped "swapped" 1,
        /// PAGE_IS_SOFT_DIRTY
        SoftDirty "soft-dirty" 2,
        /// PAGE_IS_GUARD
        Guard "guard" 1,
    }
}

/// What a knob is set to, below `/sys/kernel/mm/transparent_hugepage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// So many sizes below PMD are on, the smallest first.
    Sizes(usize),
    /// A file, and its value.
    File(&'static str, &'static str),
}

impl Knob {
    /// What it does.
    pub fn setting(self) -> Setting {
        match self {
            Self::SizesNone => Setting::Sizes(0),
            Self::SizesSmall => Setting::Sizes(4),
            Self::SizesAll => Setting::Sizes(7),
            Self::PtesNone0 => Setting::File("khugepaged/max_ptes_none", "0"),
            Self::PtesNone511 => Setting::File("khugepaged/max_ptes_none", "511"),
            Self::PtesSwap0 => Setting::File("khugepaged/max_ptes_swap", "0"),
            Self::PtesShared0 => Setting::File("khugepaged/max_ptes_shared", "0"),
            Self::DefragAlways => Setting::File("defrag", "always"),
            Self::DefragNever => Setting::File("defrag", "never"),
            Self::ZeroPageOff => Setting::File("use_zero_page", "0"),
            Self::UnderusedOff => Setting::File("shrink_underused", "0"),
        }
    }
}
