// SPDX-License-Identifier: GPL-2.0-only
//! What `lib/test_hmm.c` and a user program agree on: command numbers, the
//! argument of every command, and the bits of a snapshot byte.
//!
//! Written down from the kernel's description of the interface; used by the
//! rest of this module only.

use std::fmt;

use nix::errno::Errno;

/// The argument of every command, in and out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arguments {
    /// User address the device works on, page aligned.
    pub addr: u64,
    /// User address of the data the device returns or takes.
    pub ptr: u64,
    /// Number of pages; the flags for [`Op::Flags`].
    pub npages: u64,
    /// Pages the driver handled, written by it unless it fails.
    pub cpages: u64,
    /// Rounds of device faults, written by it unless it fails.
    pub faults: u64,
}

/// A command of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The device reads memory through its page table, faulting as needed.
    Read,
    /// The device writes memory.
    Write,
    /// Pages move to the device.
    ToDev,
    /// Pages move back to system memory.
    ToSys,
    /// The device looks at the page table without faulting.
    Snapshot,
    /// The device takes exclusive (atomic) access.
    Exclusive,
    /// Whether exclusive access was revoked.
    CheckExclusive,
    /// The device gives up all its memory.
    Release,
    /// Sets the flags of this open file.
    Flags,
    /// Like [`Op::Read`], and may drop the mmap lock in a fault (7.3 and newer).
    ReadUnlocked,
}

impl Op {
    /// The number of the ioctl.
    pub(super) fn request(self) -> libc::Ioctl {
        let number = match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::ToDev => 2,
            Self::ToSys => 3,
            Self::Snapshot => 4,
            Self::Exclusive => 5,
            Self::CheckExclusive => 6,
            Self::Release => 7,
            Self::Flags => 8,
            Self::ReadUnlocked => 9,
        };
        nix::request_code_readwrite!(b'H', number, size_of::<Arguments>()) as libc::Ioctl
    }

    /// The errnos that the driver, and the kernel functions it calls, document
    /// for this command; any other answer is a defect.
    pub fn documented_errnos(self) -> &'static [Errno] {
        use Errno::{EBUSY, EFAULT, EINVAL, ENOENT, ENOMEM, EPERM};
        match self {
            Self::Read | Self::Write | Self::ReadUnlocked => {
                &[EFAULT, EPERM, EBUSY, EINVAL, ENOMEM]
            }
            Self::ToDev => &[ENOENT, EINVAL, ENOMEM],
            Self::ToSys => &[EINVAL, ENOMEM],
            Self::Snapshot => &[EBUSY, EINVAL],
            Self::Exclusive => &[EBUSY, EFAULT, EINVAL, ENOENT, ENOMEM],
            Self::CheckExclusive => &[EPERM, EINVAL],
            Self::Release | Self::Flags => &[EINVAL],
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "READ",
            Self::Write => "WRITE",
            Self::ToDev => "TO_DEV",
            Self::ToSys => "TO_SYS",
            Self::Snapshot => "SNAPSHOT",
            Self::Exclusive => "EXCLUSIVE",
            Self::CheckExclusive => "CHECK_EXCLUSIVE",
            Self::Release => "RELEASE",
            Self::Flags => "FLAGS",
            Self::ReadUnlocked => "READ_UNLOCKED",
        })
    }
}

/// Fails the next allocation of the driver for this open file.
pub(super) const FLAG_FAIL_ALLOC: u64 = 1;
/// A flag value without a meaning: the driver refuses 0 (`EINVAL`), so this is
/// how [`FLAG_FAIL_ALLOC`] is cleared.
pub(super) const FLAG_NOTHING: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_numbers_carry_direction_size_and_type() {
        assert_eq!(size_of::<Arguments>(), 40);
        // _IOWR('H', 2, 40 bytes), computed by hand.
        assert_eq!(Op::ToDev.request() as u32, 0xc028_4802);
        assert_eq!(Op::ReadUnlocked.request() as u32, 0xc028_4809);
    }
}
