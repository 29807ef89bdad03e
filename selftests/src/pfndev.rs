// SPDX-License-Identifier: GPL-2.0-only
//! Files that map physical memory: `/dev/mem`, and `/dev/hugeprobe_pfnmap` of
//! our module (`vm/modules/hugeprobe_pfnmap`), which does it in each way that a
//! driver has. The structures here are those of the module's header.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use crate::iomem;
use crate::pagetable::Level;

const MODULE: &str = "/dev/hugeprobe_pfnmap";
/// The least that tests through `/dev/mem` ask for.
const DEV_MEM_BYTES: u64 = 16 << 20;

/// How a file maps the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Mode {
    /// `remap_pfn_range()`, no fault handler.
    Remap = 0,
    /// `remap_pfn_range()` in a VMA that has a fault handler.
    RemapWithHandler = 1,
    /// The fault handler inserts PTEs.
    FaultPte = 2,
    /// The fault handler inserts PMDs where alignment allows.
    FaultPmd = 3,
    /// The fault handler inserts PUDs, else PMDs, where alignment allows.
    FaultPud = 4,
}

/// Cache attribute of a file's mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Cache {
    /// Write-back, as all memory.
    WriteBack = 0,
    /// Write-combining, as frame buffers.
    WriteCombining = 1,
    /// Uncached, as device registers.
    Uncached = 2,
}

/// What the module's fault handler has done for one open file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stats {
    /// PTEs inserted.
    pub pte: u64,
    /// PMD leaves inserted.
    pub pmd: u64,
    /// PUD leaves inserted.
    pub pud: u64,
    /// Huge faults refused because a leaf did not fit.
    pub fallbacks: u64,
    /// VMAs that came by fork, split or move.
    pub opens: u64,
    /// VMAs that went.
    pub closes: u64,
}

impl Stats {
    /// Entries inserted at any level.
    pub fn inserted(&self) -> u64 {
        self.pte + self.pmd + self.pud
    }
}

#[repr(C)]
#[derive(Default)]
struct RawInfo {
    phys: u64,
    size: u64,
    levels: u32,
    ram: u32,
}

#[repr(C)]
struct RawSetup {
    mode: u32,
    cache: u32,
    split_align: u32,
    reserved: u32,
}

#[repr(C)]
struct RawZap {
    offset: u64,
    len: u64,
}

mod ioctl {
    nix::ioctl_read!(info, b'h', 0x60, super::RawInfo);
    nix::ioctl_write_ptr!(setup, b'h', 0x61, super::RawSetup);
    nix::ioctl_read!(stats, b'h', 0x62, super::Stats);
    nix::ioctl_write_ptr!(zap, b'h', 0x63, super::RawZap);
}

/// An open file that maps a range of physical memory.
#[derive(Debug)]
pub struct PfnFile {
    file: File,
    phys: Range<u64>,
    /// Add to an offset in the range to get the offset that mmap(2) takes.
    base: u64,
    module: bool,
    levels: u32,
    ram: bool,
}

impl PfnFile {
    /// `/dev/mem` over memory that was reserved at boot.
    ///
    /// # Errors
    /// The reason to skip: which file or boot argument is missing.
    pub fn dev_mem() -> Result<Self, String> {
        let phys = iomem::reserved_memory(DEV_MEM_BYTES)
            .map_err(|e| format!("cannot read /proc/iomem: {e}"))?
            .ok_or("no memory was reserved at boot (memmap=SIZE$START above 4 GiB)")?;
        let file = open("/dev/mem").map_err(|e| format!("cannot open /dev/mem: {e}"))?;
        Ok(Self {
            file,
            base: phys.start,
            phys,
            module: false,
            levels: 1,
            ram: false,
        })
    }

    /// Our module, before its mode is chosen ([`Self::setup`]).
    ///
    /// # Errors
    /// The reason to skip.
    pub fn module() -> Result<Self, String> {
        let file = open(MODULE).map_err(|e| {
            format!("cannot open {MODULE} (module hugeprobe_pfnmap not loaded): {e}")
        })?;
        let mut info = RawInfo::default();
        // SAFETY: the structure is the one that this request fills.
        unsafe { ioctl::info(file.as_raw_fd(), &raw mut info) }
            .map_err(|e| format!("{MODULE} is not ours: {e}"))?;
        Ok(Self {
            file,
            phys: info.phys..info.phys + info.size,
            base: 0,
            module: true,
            levels: info.levels,
            ram: info.ram != 0,
        })
    }

    /// Chooses how this file maps; only before its first mapping. VMAs of the
    /// fault modes can be split at multiples of `split_align` bytes only, if
    /// one is given.
    ///
    /// # Errors
    /// `EBUSY` once mapped, `EOPNOTSUPP` for a level that this kernel cannot
    /// insert or a cache attribute that the range cannot have.
    pub fn setup(&self, mode: Mode, cache: Cache, split_align: Option<Level>) -> Result<(), Errno> {
        let raw = RawSetup {
            mode: mode as u32,
            cache: cache as u32,
            split_align: split_align.map_or(0, |level| level.bytes().trailing_zeros()),
            reserved: 0,
        };
        // SAFETY: the structure is the one that this request reads.
        unsafe { ioctl::setup(self.file.as_raw_fd(), &raw const raw) }.map(drop)
    }

    /// Takes all mappings of a part of the range back, as a driver does whose
    /// device goes away (`unmap_mapping_range()`).
    ///
    /// # Errors
    /// `EINVAL` beyond the range.
    pub fn zap(&self, part: Range<usize>) -> Result<(), Errno> {
        let raw = RawZap {
            offset: part.start as u64,
            len: part.len() as u64,
        };
        // SAFETY: the structure is the one that this request reads.
        unsafe { ioctl::zap(self.file.as_raw_fd(), &raw const raw) }.map(drop)
    }

    /// What the fault handler has done so far; all zero for `/dev/mem`.
    ///
    /// # Panics
    /// When the module refuses, which it never does.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        if self.module {
            // SAFETY: the structure is the one that this request fills.
            unsafe { ioctl::stats(self.file.as_raw_fd(), &raw mut stats) }
                .expect("the module answers for its own file");
        }
        stats
    }

    /// Whether the fault handler can insert leaves of `level` on this kernel.
    pub fn inserts(&self, level: Level) -> bool {
        self.levels & (1 << level as u32) != 0
    }

    /// Whether the range is ordinary memory of the kernel's (4 MiB), because
    /// the module was loaded without a reserved range.
    pub fn is_ram(&self) -> bool {
        self.ram
    }

    /// Physical addresses of the range.
    pub fn phys(&self) -> &Range<u64> {
        &self.phys
    }

    /// Bytes in the range.
    pub fn len(&self) -> usize {
        (self.phys.end - self.phys.start) as usize
    }

    /// Whether there is nothing to map.
    pub fn is_empty(&self) -> bool {
        self.phys.is_empty()
    }

    /// The file, and the offset that mmap(2) takes for `offset` of the range.
    pub fn at(&self, offset: usize) -> (&File, usize) {
        (&self.file, self.base as usize + offset)
    }
}

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}
