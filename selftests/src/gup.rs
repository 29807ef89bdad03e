// SPDX-License-Identifier: GPL-2.0-only
//! Pins on user memory, taken and held by the kernel's gup_test
//! (CONFIG_GUP_TEST; the interface is mm/gup_test.h).

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use crate::guard;
use crate::mapping::{PAGE, Region};
use crate::skip;

const FILE: &str = "/sys/kernel/debug/gup_test";

/// `struct pin_longterm_test`.
#[repr(C)]
struct PinArg {
    addr: u64,
    size: u64,
    flags: u32,
}

mod ioctl {
    use super::{BasicArg, PinArg};
    nix::ioctl_write_ptr!(
        /// `PIN_LONGTERM_TEST_START`.
        start,
        b'g',
        7,
        PinArg
    );
    nix::ioctl_none!(
        /// `PIN_LONGTERM_TEST_STOP`.
        stop,
        b'g',
        8
    );
    nix::ioctl_write_ptr!(
        /// `PIN_LONGTERM_TEST_READ`.
        read,
        b'g',
        9,
        u64
    );
    nix::ioctl_readwrite!(
        /// `GUP_BASIC_TEST`.
        get,
        b'g',
        4,
        BasicArg
    );
    nix::ioctl_readwrite!(
        /// `GUP_FAST_BENCHMARK`.
        get_fast,
        b'g',
        1,
        BasicArg
    );
}

/// `struct gup_test`.
#[repr(C)]
#[derive(Default)]
pub struct BasicArg {
    get_usec: u64,
    put_usec: u64,
    addr: u64,
    size: u64,
    pages_per_call: u32,
    gup_flags: u32,
    test_flags: u32,
    which_pages: [u32; 8],
}

/// `FOLL_WRITE` of include/linux/mm_types.h.
pub const FOLL_WRITE: u32 = 1 << 0;
/// `FOLL_SPLIT_PMD` of the same place.
const FOLL_SPLIT_PMD: u32 = 1 << 9;

/// How pages are pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// For loads, by walking the page tables under the lock.
    Read,
    /// For loads and stores, likewise.
    Write,
    /// For loads, without a lock where possible.
    ReadFast,
    /// For loads and stores, without a lock where possible.
    WriteFast,
}

impl Way {
    fn flags(self) -> u32 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::ReadFast => 2,
            Self::WriteFast => 3,
        }
    }
}

/// A long-term pin on a range of pages, held until it is dropped.
#[derive(Debug)]
pub struct Pin {
    file: File,
    pages: usize,
}

/// Opens the device; a file holds one pin at a time.
///
/// Skips the test without CONFIG_GUP_TEST.
pub fn open() -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(FILE)
        .unwrap_or_else(|error| skip!("{FILE}: {error} (CONFIG_GUP_TEST)"))
}

impl Pin {
    /// Pins `range` of `region`.
    ///
    /// # Errors
    /// Those of pin_user_pages(): `EFAULT` where the mapping does not permit
    /// it, `ENOMEM`.
    pub fn take(region: &Region, range: &Range<usize>, way: Way) -> Result<Self, Errno> {
        Self::take_on(open(), region, range, way)
    }

    /// As [`Self::take`] on a device opened before.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn take_on(
        file: File,
        region: &Region,
        range: &Range<usize>,
        way: Way,
    ) -> Result<Self, Errno> {
        let at = region.absolute(range);
        let arg = PinArg {
            addr: at.start as u64,
            size: at.len() as u64,
            flags: way.flags(),
        };
        // SAFETY: the structure is complete; the pinned memory is a region's,
        // which Rust does not reference.
        unsafe { ioctl::start(file.as_raw_fd(), &raw const arg) }?;
        Ok(Self {
            file,
            pages: range.len() / PAGE,
        })
    }

    /// What a device that holds the pin would read now.
    ///
    /// # Errors
    /// Those of the ioctl.
    pub fn read(&self) -> Result<Vec<u64>, Errno> {
        let mut words = vec![0_u64; self.pages * PAGE / 8];
        let to = words.as_mut_ptr() as u64;
        // SAFETY: `words` has room for all pinned pages.
        unsafe { ioctl::read(self.file.as_raw_fd(), &raw const to) }?;
        Ok(words)
    }

    /// Checks that the pinned frames are still the memory at `range`: what is
    /// read through both is equal.
    ///
    /// # Panics
    /// When it differs.
    #[track_caller]
    pub fn assert_coherent(&self, region: &Region, range: &Range<usize>) {
        let device = self.read().expect("pinned pages can be read");
        let mut cpu = vec![0_u64; device.len()];
        guard::read_words(region.absolute(range).start, &mut cpu)
            .unwrap_or_else(|fault| panic!("pinned memory: {fault}"));
        if let Some(at) = (0..cpu.len()).find(|at| cpu[*at] != device[*at]) {
            panic!(
                "pinned page {} differs from what is mapped: offset {:#x}: pinned {:#x}, mapped {:#x}",
                at * 8 / PAGE,
                at * 8 % PAGE,
                device[at],
                cpu[at]
            );
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // SAFETY: releases what this file pinned; closing would do it, too.
        // A file that holds no pin answers with 0 as well.
        let _ = unsafe { ioctl::stop(self.file.as_raw_fd()) };
    }
}

/// Takes references to all pages of `range` and drops them again, with
/// get_user_pages() and these `FOLL_*` flags.
///
/// # Errors
/// Those of get_user_pages().
pub fn get_once(
    file: &File,
    region: &Region,
    range: &Range<usize>,
    flags: u32,
) -> Result<(), Errno> {
    let mut arg = basic(region, range, flags);
    // SAFETY: the structure is complete.
    unsafe { ioctl::get(file.as_raw_fd(), &raw mut arg) }?;
    all_pages(&arg, range)
}

/// As [`get_once`] with get_user_pages_fast().
///
/// # Errors
/// As [`get_once`].
pub fn get_once_fast(
    file: &File,
    region: &Region,
    range: &Range<usize>,
    flags: u32,
) -> Result<(), Errno> {
    let mut arg = basic(region, range, flags);
    // SAFETY: the structure is complete.
    unsafe { ioctl::get_fast(file.as_raw_fd(), &raw mut arg) }?;
    all_pages(&arg, range)
}

/// As [`get_once`], asking for small pages: a PMD entry in the way is split.
///
/// # Errors
/// As [`get_once`].
pub fn get_once_split(
    file: &File,
    region: &Region,
    range: &Range<usize>,
    flags: u32,
) -> Result<(), Errno> {
    get_once(file, region, range, flags | FOLL_SPLIT_PMD)
}

fn basic(region: &Region, range: &Range<usize>, flags: u32) -> BasicArg {
    let at = region.absolute(range);
    BasicArg {
        addr: at.start as u64,
        size: at.len() as u64,
        pages_per_call: (at.len() / PAGE) as u32,
        gup_flags: flags,
        ..BasicArg::default()
    }
}

/// The driver reports in `size` how far it came.
fn all_pages(arg: &BasicArg, range: &Range<usize>) -> Result<(), Errno> {
    if arg.size == range.len() as u64 {
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}
