// SPDX-License-Identifier: GPL-2.0-only
//! Regions: memory that a test maps, tears holes into, moves and protects, and
//! that is gone when the [`Region`] is dropped.
//!
//! [`Region`] makes and owns mappings here; `mapping/change.rs` changes them.
//!
//! Nothing here hands out references to the memory, only addresses: its content
//! is read and written through [`crate::guard`] and [`crate::pattern`], so a
//! region may be changed in any way without breaking Rust's rules.

mod change;

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd};

use nix::errno::Errno;

/// Makes malloc() take memory from its heap alone: a large allocation would
/// otherwise get a mapping of its own, perhaps in the hole that the test has
/// just made and is about to look at.
pub fn keep_heap_out_of_holes() {
    // SAFETY: mallopt(3) changes a number of the allocator, nothing else.
    let done = unsafe { libc::mallopt(libc::M_MMAP_MAX, 0) };
    assert_eq!(done, 1, "mallopt(M_MMAP_MAX)");
}

/// Bytes of a small page.
pub const PAGE: usize = 4096;
/// Bytes that one PMD entry maps.
pub const PMD: usize = 2 << 20;
/// Bytes that one PUD entry maps.
pub const PUD: usize = 1 << 30;
/// Small pages in a PMD-sized huge page.
pub const PAGES_PER_PMD: usize = PMD / PAGE;

/// Byte range of page `number` of a region.
pub fn page(number: usize) -> Range<usize> {
    pages(number..number + 1)
}

/// Byte range of some pages of a region.
pub fn pages(numbers: Range<usize>) -> Range<usize> {
    numbers.start * PAGE..numbers.end * PAGE
}

/// What a mapping permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prot(pub i32);

impl Prot {
    /// Nothing.
    pub const NONE: Self = Self(libc::PROT_NONE);
    /// Loads.
    pub const READ: Self = Self(libc::PROT_READ);
    /// Loads and stores.
    pub const READ_WRITE: Self = Self(libc::PROT_READ | libc::PROT_WRITE);
    /// Loads and instruction fetches.
    pub const READ_EXEC: Self = Self(libc::PROT_READ | libc::PROT_EXEC);
}

/// Advice that madvise(2) takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names are those of madvise(2)")]
pub enum Advice {
    Normal = 0,
    WillNeed = 3,
    DontNeed = 4,
    Free = 8,
    Remove = 9,
    DontFork = 10,
    DoFork = 11,
    Mergeable = 12,
    Unmergeable = 13,
    HugePage = 14,
    NoHugePage = 15,
    WipeOnFork = 18,
    KeepOnFork = 19,
    Cold = 20,
    PageOut = 21,
    PopulateRead = 22,
    PopulateWrite = 23,
    DontNeedLocked = 24,
    Collapse = 25,
    HwPoison = 100,
    SoftOffline = 101,
    GuardInstall = 102,
    GuardRemove = 103,
}

/// How [`Region::mremap_into`] treats the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It is unmapped.
    Goes,
    /// It stays mapped and empty (`MREMAP_DONTUNMAP`).
    Stays,
}

/// Mapped memory of a test, with inaccessible address space on either side.
#[derive(Debug)]
pub struct Region {
    addr: usize,
    len: usize,
    /// Absolute ranges that [`Drop`] has to unmap: the region and its
    /// surroundings, without the holes, where others may map by now.
    owned: Vec<Range<usize>>,
}

fn check(status: libc::c_int) -> Result<(), Errno> {
    Errno::result(status).map(drop)
}

/// A memory file of `len` bytes, all zero.
///
/// # Errors
/// Those of memfd_create(2) and ftruncate(2).
pub fn memfd(name: &str, len: usize) -> Result<File, Errno> {
    let name = std::ffi::CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the name is a C string; the new descriptor belongs to nobody yet.
    let file = unsafe {
        let fd = Errno::result(libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC))?;
        File::from_raw_fd(fd)
    };
    file.set_len(len as u64)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(file)
}

impl Region {
    /// Private anonymous memory, readable and writable, aligned to a PMD (to a
    /// PUD from 1 GiB on).
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn private(len: usize) -> Result<Self, Errno> {
        Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None)
    }

    /// Shared anonymous memory (shmem), otherwise as [`Self::private`].
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn shared(len: usize) -> Result<Self, Errno> {
        Self::map(len, libc::MAP_SHARED | libc::MAP_ANONYMOUS, None)
    }

    /// `len` bytes of `file` from `offset`, shared.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn shared_file(file: &File, offset: usize, len: usize) -> Result<Self, Errno> {
        Self::map(len, libc::MAP_SHARED, Some((file, offset)))
    }

    /// As [`Self::shared_file`], of a file that is open for reading only.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn read_only_file(file: &File, offset: usize, len: usize) -> Result<Self, Errno> {
        let region = Self::reserved(len)?;
        let (flags, fd) = (libc::MAP_SHARED, file.as_raw_fd());
        region.map_over(0..len, Prot::READ, flags, fd, offset)?;
        Ok(region)
    }

    /// `len` bytes of `file` from `offset`, private: stores go to copies.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn private_file(file: &File, offset: usize, len: usize) -> Result<Self, Errno> {
        Self::map(len, libc::MAP_PRIVATE, Some((file, offset)))
    }

    /// Address space without a mapping that permits anything: a place to move
    /// memory to. Aligned as [`Self::private`].
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn reserved(len: usize) -> Result<Self, Errno> {
        let align = if len >= PUD { PUD } else { PMD };
        let whole = len.next_multiple_of(PAGE) + 2 * align;
        // MAP_NORESERVE also keeps the kernel from merging the surroundings
        // with a part of the region that is made inaccessible.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: maps where nothing is mapped.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), whole, 0, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let start = start as usize;
        let addr = (start + 1).next_multiple_of(align);
        Ok(Self {
            addr,
            len,
            owned: std::iter::once(start..start + whole).collect(),
        })
    }

    /// As [`Self::reserved`], at an address of the caller's choosing: a multiple
    /// of a page where nothing is mapped yet.
    ///
    /// # Errors
    /// `EEXIST` where something is, otherwise those of mmap(2).
    pub fn reserved_at(addr: usize, len: usize) -> Result<Self, Errno> {
        let whole = addr - PAGE..addr + len + PAGE;
        let flags = libc::MAP_PRIVATE
            | libc::MAP_ANONYMOUS
            | libc::MAP_NORESERVE
            | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: MAP_FIXED_NOREPLACE maps where nothing is mapped.
        let start = unsafe { libc::mmap(whole.start as *mut _, whole.len(), 0, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Self {
            addr,
            len,
            owned: vec![whole],
        })
    }

    fn map(len: usize, flags: i32, file: Option<(&File, usize)>) -> Result<Self, Errno> {
        let region = Self::reserved(len)?;
        let (fd, offset) = file.map_or((-1, 0), |(file, offset)| (file.as_raw_fd(), offset));
        region.map_over(0..len, Prot::READ_WRITE, flags, fd, offset)?;
        Ok(region)
    }

    /// Maps anew over `range`: fresh anonymous private memory.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn renew(&mut self, range: Range<usize>) -> Result<(), Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let absolute = self.absolute(&range);
        self.map_over(range, Prot::READ_WRITE, flags, -1, 0)?;
        self.disown(&absolute);
        self.owned.push(absolute);
        Ok(())
    }

    /// Maps `file` from `offset` over `range`, replacing what is there; shared.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn map_file(
        &mut self,
        range: Range<usize>,
        file: &File,
        offset: usize,
        prot: Prot,
    ) -> Result<(), Errno> {
        let absolute = self.absolute(&range);
        self.map_over(range, prot, libc::MAP_SHARED, file.as_raw_fd(), offset)?;
        self.disown(&absolute);
        self.owned.push(absolute);
        Ok(())
    }

    fn map_over(
        &self,
        range: Range<usize>,
        prot: Prot,
        flags: i32,
        fd: i32,
        offset: usize,
    ) -> Result<(), Errno> {
        let at = self.absolute(&range);
        let flags = flags | libc::MAP_FIXED;
        // SAFETY: only replaces what lies inside this region.
        let mapped = unsafe {
            libc::mmap(
                at.start as *mut _,
                at.len(),
                prot.0,
                flags,
                fd,
                offset as i64,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(())
    }

    /// Where the region begins.
    pub fn addr(&self) -> usize {
        self.addr
    }

    /// Its length in bytes, holes included.
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The whole region as a byte range.
    pub fn all(&self) -> Range<usize> {
        0..self.len
    }

    /// Address of page `number`.
    pub fn page_addr(&self, number: usize) -> usize {
        self.addr + number * PAGE
    }

    /// The addresses of a byte range.
    ///
    /// # Panics
    /// When it reaches beyond the region.
    #[track_caller]
    pub fn absolute(&self, range: &Range<usize>) -> Range<usize> {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:x?} is not inside a region of {:#x} bytes",
            self.len
        );
        self.addr + range.start..self.addr + range.end
    }

    fn disown(&mut self, hole: &Range<usize>) {
        let parts = std::mem::take(&mut self.owned);
        for part in parts {
            let before = part.start..part.end.min(hole.start);
            let after = part.start.max(hole.end)..part.end;
            self.owned
                .extend([before, after].into_iter().filter(|rest| !rest.is_empty()));
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        for part in &self.owned {
            // SAFETY: owned parts are mapped by us and referenced by nobody.
            let status = unsafe { libc::munmap(part.start as *mut _, part.len()) };
            // An injected failure or a full table of mappings leaves it to exit.
            if status != 0 {
                eprintln!("cannot unmap {part:x?}: {}", Errno::last());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard;

    #[test]
    fn regions_are_aligned_and_surrounded() {
        let region = Region::private(3 * PAGE).unwrap();
        assert_eq!(region.addr() % PMD, 0);
        assert_eq!(guard::load(region.addr()), Ok(0));
        assert!(guard::load(region.addr() - 1).is_err());
        assert!(guard::load(region.addr() + 3 * PAGE).is_err());
    }

    #[test]
    fn a_dropped_region_leaves_others_alone() {
        let mut region = Region::private(4 * PAGE).unwrap();
        region.munmap(page(1)).unwrap();
        let hole = region.absolute(&page(1));
        // SAFETY: maps into the hole just made; MAP_FIXED_NOREPLACE cannot hurt.
        let tenant = unsafe {
            libc::mmap(
                hole.start as *mut _,
                PAGE,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        assert_eq!(tenant as usize, hole.start);
        drop(region);
        assert_eq!(guard::load(hole.start), Ok(0));
        // SAFETY: unmaps the page mapped above.
        assert_eq!(unsafe { libc::munmap(tenant, PAGE) }, 0);
    }

    #[test]
    fn moved_pages_belong_to_the_target() {
        let mut from = Region::private(2 * PAGE).unwrap();
        let mut to = Region::reserved(2 * PAGE).unwrap();
        guard::store(from.page_addr(1), 9).unwrap();
        from.mremap_into(page(1), &mut to, 0, Source::Goes).unwrap();
        drop(from);
        assert_eq!(guard::load(to.addr()), Ok(9));
        assert!(guard::load(to.page_addr(1)).is_err());
    }

    #[test]
    #[should_panic(expected = "is not inside a region")]
    fn ranges_beyond_the_region_are_refused() {
        let region = Region::private(PAGE).unwrap();
        let _ = region.madvise(pages(0..2), Advice::DontNeed);
    }
}
