// SPDX-License-Identifier: GPL-2.0-only
//! Leaves of this process's page tables, also where pagemap shows nothing
//! (PFN mappings) or reading it changes them (device-dax).
//!
//! Our module reads them in microseconds and with frame numbers. Without it the
//! kernel's own dump serves, which takes about a second under emulation.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

use crate::mapping::{PAGE, PMD, PUD};
use crate::pagemap::ptdump;
use crate::pfndev::Cache;

/// Runs of leaves that one request can return.
const MAX_RUNS: usize = 16384;

/// Page table levels that hold leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// 4 KiB.
    Pte,
    /// 2 MiB.
    Pmd,
    /// 1 GiB.
    Pud,
}

impl Level {
    /// Bytes that one leaf maps.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Pte => PAGE,
            Self::Pmd => PMD,
            Self::Pud => PUD,
        }
    }
}

/// A run of equal leaves; with frame numbers also of consecutive frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaves {
    /// The addresses they map.
    pub range: Range<usize>,
    /// Their level.
    pub level: Level,
    /// Frame number of the first page, where the source tells.
    pub pfn: Option<u64>,
    /// Whether stores pass.
    pub writable: bool,
    /// Their cache attribute.
    pub cache: Cache,
}

/// Everything that is mapped in `at`, in order of address; a leaf that reaches
/// beyond `at` is given whole.
///
/// # Panics
/// When neither the module nor the kernel's dump can be read.
#[track_caller]
pub fn leaves(at: &Range<usize>) -> Vec<Leaves> {
    match File::open("/dev/hugeprobe_pfnmap") {
        Ok(module) => by_module(&module, at),
        Err(_) => by_dump(at),
    }
}

/// As [`leaves`], from the kernel's dump: without frame numbers, and slow.
///
/// # Panics
/// When it cannot be read.
#[track_caller]
pub fn by_dump(at: &Range<usize>) -> Vec<Leaves> {
    let runs = ptdump::runs(at).unwrap_or_else(|error| {
        panic!("cannot read the page tables (CONFIG_PTDUMP_DEBUGFS, debugfs): {error}")
    });
    // The dump also separates by accessed and dirty, without showing them.
    merged(runs.iter().filter_map(from_dump))
}

/// Joins neighbours that are one run.
pub fn merged(leaves: impl IntoIterator<Item = Leaves>) -> Vec<Leaves> {
    let mut all: Vec<Leaves> = Vec::new();
    for leaf in leaves {
        match all.last_mut().filter(|last| continues(last, &leaf)) {
            Some(last) => last.range.end = leaf.range.end,
            None => all.push(leaf),
        }
    }
    all
}

fn continues(last: &Leaves, next: &Leaves) -> bool {
    last.range.end == next.range.start
        && (last.level, last.writable, last.cache) == (next.level, next.writable, next.cache)
        && match (last.pfn, next.pfn) {
            (Some(first), Some(pfn)) => first + (last.range.len() / PAGE) as u64 == pfn,
            (first, pfn) => first == pfn,
        }
}

fn from_dump(run: &ptdump::Run) -> Option<Leaves> {
    let has = |flag: &str| run.flags.iter().any(|f| f == flag);
    if !has("USR") {
        return None;
    }
    let level = match run.level {
        ptdump::Level::Pte => Level::Pte,
        ptdump::Level::Pmd if has("PSE") => Level::Pmd,
        ptdump::Level::Pud if has("PSE") => Level::Pud,
        _ => return None,
    };
    Some(Leaves {
        range: run.range.clone(),
        level,
        pfn: None,
        writable: has("RW"),
        cache: cache_of(has("PWT"), has("PCD"), has("PAT")),
    })
}

/// The attribute that Linux programs behind the three bits: PAT entries 1
/// (write-combining), 2 and 3 (uncached), all others write-back.
fn cache_of(pwt: bool, pcd: bool, pat: bool) -> Cache {
    match (pat, pcd, pwt) {
        (false, false, true) => Cache::WriteCombining,
        (_, true, _) => Cache::Uncached,
        _ => Cache::WriteBack,
    }
}

/// `struct hpp_leaf` of the module.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawLeaf {
    addr: u64,
    len: u64,
    pfn: u64,
    flags: u64,
    level: u32,
    reserved: u32,
}

/// `struct hpp_walk` of the module.
#[repr(C)]
struct RawWalk {
    start: u64,
    end: u64,
    leaves: u64,
    max: u32,
    count: u32,
}

mod ioctl {
    nix::ioctl_readwrite!(walk, b'h', 0x64, super::RawWalk);
}

#[track_caller]
fn by_module(module: &File, at: &Range<usize>) -> Vec<Leaves> {
    let mut raw = vec![RawLeaf::default(); MAX_RUNS];
    let mut request = RawWalk {
        start: at.start as u64,
        end: at.end as u64,
        leaves: raw.as_mut_ptr() as u64,
        max: MAX_RUNS as u32,
        count: 0,
    };
    // SAFETY: the structure is the one that this request takes, and `raw` has
    // room for `max` results.
    if let Err(errno) = unsafe { ioctl::walk(module.as_raw_fd(), &raw mut request) } {
        panic!("cannot walk the page tables of {at:x?}: {errno}");
    }
    // The module separates by every bit, accessed and dirty too.
    merged(raw[..request.count as usize].iter().map(from_module))
}

/// Decodes an entry of x86-64 (arch/x86/include/asm/pgtable_types.h).
fn from_module(raw: &RawLeaf) -> Leaves {
    let bit = |number: u32| raw.flags & (1 << number) != 0;
    let level = match raw.level {
        0 => Level::Pte,
        1 => Level::Pmd,
        _ => Level::Pud,
    };
    // PAT is bit 7 of a PTE, and bit 12 where bit 7 says "leaf".
    let pat = if level == Level::Pte { bit(7) } else { bit(12) };
    Leaves {
        range: raw.addr as usize..(raw.addr + raw.len) as usize,
        level,
        pfn: Some(raw.pfn),
        writable: bit(1),
        cache: cache_of(bit(3), bit(4), pat),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_kernel_ranges_of_the_dump_are_no_leaves() {
        let runs = ptdump::parse(
            "0x0000000000000000-0x0000000000200000 2M                       pmd\n\
             0x0000000000200000-0x0000000000400000 2M USR RW PWT PSE     NX pmd\n\
             0x0000000000400000-0x0000000000402000 8K USR ro     PCD     NX pte\n\
             0xffffc90000000000-0xffffc90000001000 4K     RW             NX pte\n",
        );
        let leaves: Vec<_> = runs.iter().filter_map(from_dump).collect();
        assert_eq!(leaves.len(), 2);
        assert_eq!(leaves[0].level, Level::Pmd);
        assert_eq!(leaves[0].cache, Cache::WriteCombining);
        assert!(leaves[0].writable);
        assert_eq!(leaves[1].level, Level::Pte);
        assert_eq!(leaves[1].cache, Cache::Uncached);
        assert!(!leaves[1].writable);
    }

    #[test]
    fn large_entries_have_their_pat_bit_elsewhere() {
        let raw = RawLeaf {
            addr: 0x20_0000,
            len: 0x20_0000,
            pfn: 0x18_0000,
            flags: 0x2e7 | 1 << 3,
            level: 1,
            reserved: 0,
        };
        let leaf = from_module(&raw);
        assert_eq!(
            (leaf.level, leaf.cache),
            (Level::Pmd, Cache::WriteCombining)
        );
        let pte = from_module(&RawLeaf { level: 0, ..raw });
        assert_eq!(pte.cache, Cache::WriteBack);
    }
}
