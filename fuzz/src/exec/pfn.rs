// SPDX-License-Identifier: GPL-2.0-only
//! Device memory of the module hugeprobe_pfnmap (vm/modules): its files, one for
//! each way of mapping, and what its driver does.

use std::os::fd::RawFd;

use super::sys;
use crate::model::page::WORDS;
use crate::program::{Addr, Backing, DEVICE_PAGES, Len, PAGE};

const SETUP: u64 = 0x4010_6861;
const ZAP: u64 = 0x4010_6863;

/// How a file maps (enum hpp_mode): remap_pfn_range() at once, or by faults.
const REMAP: u32 = 0;
const FAULT_PTE: u32 = 2;
const FAULT_PMD: u32 = 3;

/// The files, open from the start to the end; -1 without the module.
pub struct PfnFiles {
    remap: RawFd,
    by_pte: RawFd,
    by_pmd: RawFd,
}

impl PfnFiles {
    /// Opens what there is.
    pub fn open() -> Self {
        Self {
            remap: opened(REMAP),
            by_pte: opened(FAULT_PTE),
            by_pmd: opened(FAULT_PMD),
        }
    }

    /// The file behind a mapping, or -1.
    pub fn file(&self, backing: Backing) -> RawFd {
        match backing {
            Backing::PfnPte => self.by_pte,
            Backing::PfnPmd => self.by_pmd,
            _ => self.remap,
        }
    }

    /// The driver takes mappings back. Returns 0 or an errno.
    pub fn zap(&self, at: Addr, len: Len) -> i32 {
        let first = at.page() % DEVICE_PAGES;
        let count = len.pages().min(DEVICE_PAGES - first);
        if self.remap < 0 {
            return libc::ENODEV;
        }
        let range = [(first * PAGE) as u64, (count * PAGE) as u64];
        // SAFETY: the argument has the size in the request. Mappings of device memory
        // lie in arenas only.
        if unsafe { libc::ioctl(self.remap, ZAP, range.as_ptr()) } == 0 {
            0
        } else {
            sys::errno()
        }
    }

    /// Makes the words of every page zero, as the model has them at the start.
    pub fn clear(&self) {
        let (access, bytes) = (libc::PROT_READ | libc::PROT_WRITE, DEVICE_PAGES * PAGE);
        // SAFETY: a new mapping, written inside its bounds and unmapped again.
        unsafe {
            let file = self.by_pmd.max(self.by_pte);
            let base = libc::mmap(
                std::ptr::null_mut(),
                bytes,
                access,
                libc::MAP_SHARED,
                file,
                0,
            );
            if base == libc::MAP_FAILED {
                return;
            }
            for page in 0..DEVICE_PAGES {
                for offset in WORDS {
                    let word = base.cast::<u8>().add(page * PAGE + offset);
                    word.cast::<u64>().write_volatile(0);
                }
            }
            libc::munmap(base, bytes);
        }
    }
}

/// A file that maps this way, or -1.
fn opened(mode: u32) -> RawFd {
    let setup = [mode, 0, 0, 0];
    // SAFETY: a new descriptor; the argument has the size in the request.
    unsafe {
        let file = libc::open(
            c"/dev/hugeprobe_pfnmap".as_ptr(),
            libc::O_RDWR | libc::O_CLOEXEC,
        );
        if file >= 0 && libc::ioctl(file, SETUP, setup.as_ptr()) != 0 {
            libc::close(file);
            return -1;
        }
        file
    }
}
