// SPDX-License-Identifier: GPL-2.0-only
//! What the model knows of one page of one process, and what a page contains.

use crate::program::{PAGE, Prot};

/// Attributes of a page. Those of the mapping come first and are moved, copied
/// and replaced with it; then those of the page itself.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Flags(pub u32);

impl Flags {
    /// Something is mapped here.
    pub const MAPPED: Self = Self(1);
    /// Loads are allowed.
    pub const READ: Self = Self(1 << 1);
    /// Stores are allowed.
    pub const WRITE: Self = Self(1 << 2);
    /// The mapping is shared (shmem); content is in an object.
    pub const SHARED: Self = Self(1 << 3);
    /// A private mapping of the stamped file.
    pub const FILE: Self = Self(1 << 4);
    /// Locked in memory, at once or on fault.
    pub const LOCKED: Self = Self(1 << 5);
    /// MADV_HUGEPAGE was the last of its kind.
    pub const HUGEPAGE: Self = Self(1 << 6);
    /// MADV_NOHUGEPAGE was the last of its kind.
    pub const NOHUGEPAGE: Self = Self(1 << 7);
    /// Not copied at fork.
    pub const DONTFORK: Self = Self(1 << 8);
    /// Zero in the child after fork.
    pub const WIPEONFORK: Self = Self(1 << 9);
    /// Registered for KSM at some time.
    pub const MERGEABLE: Self = Self(1 << 10);
    /// Registered with the userfaultfd for write protection.
    pub const TRACKED: Self = Self(1 << 11);
    /// Registered with the userfaultfd for pages that are not there.
    pub const MISSING: Self = Self(1 << 12);
    /// Registered with the userfaultfd for pages that are there and not mapped.
    pub const MINOR: Self = Self(1 << 13);
    /// Registered with the userfaultfd for closed pages: PROTECTED is then about loads too.
    pub const RWP: Self = Self(1 << 14);
    /// Device memory, mapped by page frame number.
    pub const PFN: Self = Self(1 << 15);

    /// Every registration with the userfaultfd.
    pub const WATCHED: Self = Self(Self::TRACKED.0 | Self::MISSING.0 | Self::MINOR.0 | Self::RWP.0);

    /// May have been dropped after MADV_FREE: reads as its value or as zero.
    pub const LAZY: Self = Self(1 << 16);
    /// Written since the last clear of the soft-dirty bits, and still there.
    pub const DIRTY: Self = Self(1 << 17);
    /// The uffd-wp bit is set.
    pub const PROTECTED: Self = Self(1 << 18);
    /// Whether the uffd-wp bit is set is not determined.
    pub const PROTECTED_UNSURE: Self = Self(1 << 19);
    /// A guard marker: no access at all.
    pub const GUARD: Self = Self(1 << 20);

    /// Held by the process's pin.
    pub const PINNED: Self = Self(1 << 21);

    /// Device memory without a fault handler: what is taken back stays away. It
    /// belongs to the mapping, which cannot grow.
    pub const REMAPPED: Self = Self(1 << 22);
    /// Private device memory of which this process has a copy.
    pub const OWN: Self = Self(1 << 23);
    /// Device memory that was taken back, and does not come again.
    pub const ZAPPED: Self = Self(1 << 24);

    /// A device may have exclusive access.
    pub const EXCLUSIVE: Self = Self(1 << 25);

    /// A step has just moved the page by itself, not with its page table: if there is one,
    /// it is soft-dirty.
    pub const MOVED: Self = Self(1 << 26);

    /// A poison marker (UFFDIO_POISON): every access gets SIGBUS.
    pub const POISON: Self = Self(1 << 27);
    /// Whether the poison marker is there is not determined.
    pub const POISON_UNSURE: Self = Self(1 << 28);

    /// The poison is that of memory that has failed, and no marker.
    pub const FAILED: Self = Self(1 << 29);

    /// Everything about poison.
    pub const ALL_POISON: Self = Self(Self::POISON.0 | Self::POISON_UNSURE.0 | Self::FAILED.0);

    /// Attributes of the page, as opposed to those of its mapping.
    pub const OF_PAGE: Self = Self(0xffff_0000);

    /// Whether all of `other` are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is set.
    pub fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Sets `other`.
    pub fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Clears `other`.
    pub fn clear(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    /// Both.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Names of the bits, from the lowest on; for reports.
const NAMES: [&str; 30] = [
    "mapped",
    "read",
    "write",
    "shared",
    "file",
    "locked",
    "hugepage",
    "nohugepage",
    "dontfork",
    "wipeonfork",
    "mergeable",
    "registered-wp",
    "registered-missing",
    "registered-minor",
    "registered-rwp",
    "pfn",
    "lazyfree",
    "written",
    "uffd-wp",
    "uffd-wp-unsure",
    "guard",
    "pinned",
    "remapped",
    "own",
    "zapped",
    "exclusive",
    "moved",
    "poison",
    "poison-unsure",
    "failed",
];

impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set = |bit: &usize| self.0 & 1 << bit != 0;
        let names: Vec<&str> = (0..NAMES.len()).filter(set).map(|bit| NAMES[bit]).collect();
        f.write_str(&names.join(" "))
    }
}

/// One page of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Page {
    /// Private content: a stamp, or 0 for zeros. See `Model::content` for shared pages.
    pub value: u64,
    /// Attributes.
    pub flags: Flags,
    /// Page number inside the object or the file.
    pub offset: u16,
    /// Shared object, as its index; only with `Flags::SHARED`.
    pub object: u16,
}

impl Page {
    /// Sets the content that a private page has before the first store and
    /// after it was discarded, and forgets what was known of the old content.
    pub fn discard(&mut self) {
        self.value = if self.flags.has(Flags::FILE) {
            file_stamp(self.offset)
        } else {
            0
        };
        self.flags
            .clear(Flags::LAZY.with(Flags::DIRTY).with(Flags::PINNED));
        self.flags.clear(Flags::ALL_POISON);
        if self.flags.any(Flags::SHARED.with(Flags::FILE)) {
            self.unsettle_protection();
        } else {
            self.flags
                .clear(Flags::PROTECTED.with(Flags::PROTECTED_UNSURE));
        }
    }

    /// Sets the uffd-wp bit. A page that MADV_FREE has given up may go at any time, and the bit
    /// with it.
    pub fn protect(&mut self) {
        self.flags.set(Flags::PROTECTED);
        if self.flags.has(Flags::LAZY) {
            self.flags.set(Flags::PROTECTED_UNSURE);
        }
    }

    /// Whether it is a marker of an error, which protection passes over.
    pub fn is_marker(&self) -> bool {
        self.flags.any(Flags::GUARD.with(Flags::POISON))
    }

    /// The poison marker, if there was one, may be gone.
    pub fn unsettle_poison(&mut self) {
        if self.flags.has(Flags::POISON) {
            self.flags.set(Flags::POISON_UNSURE);
        }
    }

    /// The uffd-wp bit, if it was set, may be gone.
    pub fn unsettle_protection(&mut self) {
        if self.flags.has(Flags::PROTECTED) {
            self.flags.set(Flags::PROTECTED_UNSURE);
        }
    }

    /// Whether mprotect(2) with this protection populates the page: it does so for writing with
    /// locked private memory that becomes writable (`mprotect_fixup()` in mm/mprotect.c).
    pub fn is_populated_by(&self, prot: Prot) -> bool {
        let kept = Flags::LOCKED.with(Flags::WRITE).with(Flags::SHARED);
        self.flags.0 & kept.0 == Flags::LOCKED.0 && prot.flags().has(Flags::WRITE)
    }

    /// Nothing is mapped any more.
    pub fn unmap(&mut self) {
        *self = Self::default();
    }

    /// Private and anonymous from the start.
    pub fn private_anon(&self) -> bool {
        let other = Flags::SHARED.with(Flags::FILE).with(Flags::PFN);
        self.flags.has(Flags::MAPPED) && !self.flags.any(other)
    }
}

/// Where the words of a stamp stand inside a page: both ends and two between.
pub const WORDS: [usize; 4] = [0, 171 * 8, 342 * 8, PAGE - 8];

/// What word number `index` of `WORDS` contains in a page with this stamp.
pub fn word(stamp: u64, index: usize) -> u64 {
    if stamp == 0 {
        0
    } else {
        stamp.wrapping_add(index as u64 * 0x0101_0101_0000_0000)
    }
}

/// A stamp that no other store of the program has: version (from 1), process, page.
pub fn stamp(version: u32, process: usize, page: usize) -> u64 {
    u64::from(version) << 20 | (process as u64) << 16 | page as u64 | 1 << 15
}

/// The stamp of a page of the file.
pub fn file_stamp(offset: u16) -> u64 {
    0xf11e << 48 | u64::from(offset)
}

/// A stamp in words, for reports.
pub fn describe(stamp: u64) -> String {
    match stamp {
        0 => "zero".into(),
        s if s >> 48 == 0xf11e => format!("page {} of the file", s & 0xffff),
        s => format!(
            "store {} by p{} to {}.{}",
            s >> 20,
            s >> 16 & 0xf,
            (s & 0x7fff) / 512,
            (s & 0x7fff) % 512
        ),
    }
}
