// SPDX-License-Identifier: GPL-2.0-only
//! What a test does to a part of a [`Region`]: unmap, protect, advise, lock, move, resize.

use std::ops::Range;

use nix::errno::Errno;

use super::{Advice, Prot, Region, Source, check};

impl Region {
    /// munmap(2) of a part: leaves a hole.
    ///
    /// # Errors
    /// Those of munmap(2).
    pub fn munmap(&mut self, range: Range<usize>) -> Result<(), Errno> {
        let at = self.absolute(&range);
        // SAFETY: unmaps only what this region owns; no reference into it exists.
        check(unsafe { libc::munmap(at.start as *mut _, at.len()) })?;
        self.disown(&at);
        Ok(())
    }

    /// mprotect(2) of a part.
    ///
    /// # Errors
    /// Those of mprotect(2).
    pub fn mprotect(&self, range: Range<usize>, prot: Prot) -> Result<(), Errno> {
        let at = self.absolute(&range);
        // SAFETY: only concerns memory of this region, which Rust does not reference.
        check(unsafe { libc::mprotect(at.start as *mut _, at.len(), prot.0) })
    }

    /// madvise(2) of a part.
    ///
    /// # Errors
    /// Those of madvise(2).
    pub fn madvise(&self, range: Range<usize>, advice: Advice) -> Result<(), Errno> {
        let at = self.absolute(&range);
        // SAFETY: as in `mprotect`.
        check(unsafe { libc::madvise(at.start as *mut _, at.len(), advice as i32) })
    }

    /// mlock(2) of a part.
    ///
    /// # Errors
    /// Those of mlock(2).
    pub fn mlock(&self, range: Range<usize>) -> Result<(), Errno> {
        let at = self.absolute(&range);
        // SAFETY: changes residency only.
        check(unsafe { libc::mlock(at.start as *const _, at.len()) })
    }

    /// munlock(2) of a part.
    ///
    /// # Errors
    /// Those of munlock(2).
    pub fn munlock(&self, range: Range<usize>) -> Result<(), Errno> {
        let at = self.absolute(&range);
        // SAFETY: changes residency only.
        check(unsafe { libc::munlock(at.start as *const _, at.len()) })
    }

    /// mremap(2) of a part to `offset` of another region, replacing what is
    /// mapped there.
    ///
    /// # Errors
    /// Those of mremap(2); with [`Source::Stays`] the kernel must be 5.7 or newer.
    pub fn mremap_into(
        &mut self,
        range: Range<usize>,
        to: &mut Region,
        offset: usize,
        source: Source,
    ) -> Result<(), Errno> {
        let from = self.absolute(&range);
        let target = to.absolute(&(offset..offset + range.len()));
        let mut flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        if source == Source::Stays {
            flags |= libc::MREMAP_DONTUNMAP;
        }
        let (old, new, len) = (from.start as *mut _, target.start, from.len());
        // SAFETY: both ranges belong to regions that are borrowed mutably.
        let moved = unsafe { libc::mremap(old, len, len, flags, new) };
        if moved == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        assert_eq!(
            moved as usize, target.start,
            "mremap moved to another place"
        );
        to.disown(&target);
        to.owned.push(target);
        if source == Source::Goes {
            self.disown(&from);
        }
        Ok(())
    }

    /// Moves a part inside the region; see [`Self::mremap_into`].
    ///
    /// # Errors
    /// Those of mremap(2).
    pub fn mremap_within(&mut self, range: Range<usize>, offset: usize) -> Result<(), Errno> {
        let from = self.absolute(&range);
        let target = self.absolute(&(offset..offset + range.len()));
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let (old, new, len) = (from.start as *mut _, target.start, from.len());
        // SAFETY: both ranges belong to this region, which is borrowed mutably.
        let moved = unsafe { libc::mremap(old, len, len, flags, new) };
        if moved == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        self.disown(&from);
        self.disown(&target);
        self.owned.push(target);
        Ok(())
    }

    /// mremap(2) to fewer bytes, in place.
    ///
    /// # Errors
    /// Those of mremap(2).
    pub fn shrink(&mut self, len: usize) -> Result<(), Errno> {
        let rest = self.absolute(&(len..self.len));
        self.resize(self.len, len)?;
        self.disown(&rest);
        Ok(())
    }

    /// mremap(2) of the first `old` bytes to `new`, where the kernel likes.
    ///
    /// # Errors
    /// Those of mremap(2).
    ///
    /// # Panics
    /// When the kernel moved the memory: use this for what must be refused,
    /// and for shrinking, which happens in place.
    pub fn resize(&mut self, old: usize, new: usize) -> Result<(), Errno> {
        let at = self.absolute(&(0..old)).start;
        // SAFETY: the region is borrowed mutably; where memory moves although
        // it must not, the test ends.
        let moved = unsafe { libc::mremap(at as *mut _, old, new, libc::MREMAP_MAYMOVE) };
        if moved == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        assert_eq!(moved as usize, at, "mremap moved to another place");
        Ok(())
    }
}
