// SPDX-License-Identifier: GPL-2.0-only
//! userfaultfd(2): faults as messages. Structures: include/uapi/linux/userfaultfd.h.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::mapping::Region;
use crate::skip;

/// Features to ask for; `UFFD_FEATURE_*`.
pub mod feature {
    /// `UFFD_FEATURE_PAGEFAULT_FLAG_WP`: write-protection of anonymous memory.
    pub const WP: u64 = 1 << 0;
    /// `UFFD_FEATURE_EVENT_FORK`: a child of fork keeps its write-protection.
    pub const EVENT_FORK: u64 = 1 << 1;
    /// `UFFD_FEATURE_EVENT_REMAP`: so does memory moved by mremap.
    pub const EVENT_REMAP: u64 = 1 << 2;
    /// `UFFD_FEATURE_WP_HUGETLBFS_SHMEM`: write-protection of files in memory.
    pub const WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
    /// `UFFD_FEATURE_WP_UNPOPULATED`.
    pub const WP_UNPOPULATED: u64 = 1 << 13;
    /// `UFFD_FEATURE_WP_ASYNC`: writes resolve the protection themselves.
    pub const WP_ASYNC: u64 = 1 << 15;
    /// `UFFD_FEATURE_MOVE`.
    pub const MOVE: u64 = 1 << 16;
    /// `UFFD_FEATURE_RWP`: protection against loads, too. Since 7.3.
    pub const RWP: u64 = 1 << 17;
    /// `UFFD_FEATURE_RWP_ASYNC`.
    pub const RWP_ASYNC: u64 = 1 << 18;
}

/// What to be told of; `UFFDIO_REGISTER_MODE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(u64);

impl Mode {
    /// Faults on pages that are not there.
    pub const MISSING: Self = Self(1 << 0);
    /// Writes to write-protected pages.
    pub const WP: Self = Self(1 << 1);
    /// Both.
    pub const MISSING_AND_WP: Self = Self(3);
    /// Accesses to protected pages.
    pub const RWP: Self = Self(1 << 3);
    /// Both of these.
    pub const MISSING_AND_RWP: Self = Self(9);
}

#[repr(C)]
struct ApiArg {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct RangeArg {
    start: u64,
    len: u64,
}

#[repr(C)]
struct RegisterArg {
    range: RangeArg,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct ProtectArg {
    range: RangeArg,
    mode: u64,
}

/// Of `UFFDIO_MOVE` and `UFFDIO_COPY`, which look alike.
#[repr(C)]
struct TransferArg {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    done: i64,
}

#[repr(C)]
struct ZeroArg {
    range: RangeArg,
    mode: u64,
    done: i64,
}

mod ioctl {
    use super::{ApiArg, ProtectArg, RangeArg, RegisterArg, TransferArg, ZeroArg};
    nix::ioctl_readwrite!(/// `UFFDIO_API`.
        api, 0xaa, 0x3f, ApiArg);
    nix::ioctl_readwrite!(/// `UFFDIO_REGISTER`.
        register, 0xaa, 0x00, RegisterArg);
    nix::ioctl_read!(/// `UFFDIO_UNREGISTER`.
        unregister, 0xaa, 0x01, RangeArg);
    nix::ioctl_read!(/// `UFFDIO_WAKE`.
        wake, 0xaa, 0x02, RangeArg);
    nix::ioctl_readwrite!(/// `UFFDIO_COPY`.
        copy, 0xaa, 0x03, TransferArg);
    nix::ioctl_readwrite!(/// `UFFDIO_ZEROPAGE`.
        zeropage, 0xaa, 0x04, ZeroArg);
    nix::ioctl_readwrite!(/// `UFFDIO_MOVE`.
        move_pages, 0xaa, 0x05, TransferArg);
    nix::ioctl_readwrite!(/// `UFFDIO_WRITEPROTECT`.
        writeprotect, 0xaa, 0x06, ProtectArg);
    nix::ioctl_readwrite!(/// `UFFDIO_RWPROTECT`.
        rwprotect, 0xaa, 0x09, ProtectArg);
}

/// `struct uffd_msg`, as far as page faults use it.
#[repr(C)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    thread: u64,
}

/// `UFFDIO_COPY_MODE_WP`.
const COPY_MODE_WP: u64 = 1 << 1;
/// `UFFD_EVENT_PAGEFAULT`.
const EVENT_PAGEFAULT: u8 = 0x12;

/// A fault that waits to be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which `UFFD_EVENT_*`; a page fault is 0x12.
    pub kind: u8,
    /// The faulting address, rounded down to its page.
    pub address: usize,
    /// Whether it was a write.
    pub write: bool,
    /// Whether it hit a write-protected page.
    pub wp: bool,
    /// Whether it hit a page protected against every access.
    pub rwp: bool,
}

/// A userfaultfd; closing it ends all its registrations.
#[derive(Debug)]
pub struct Uffd {
    file: File,
}

fn range_arg(at: &Range<usize>) -> RangeArg {
    RangeArg {
        start: at.start as u64,
        len: at.len() as u64,
    }
}

fn protect_arg(region: &Region, range: &Range<usize>, protect: bool) -> ProtectArg {
    ProtectArg {
        range: range_arg(&region.absolute(range)),
        mode: u64::from(protect),
    }
}

impl Uffd {
    /// Opens one with exactly these features; `EINVAL` when the kernel lacks any.
    ///
    /// # Errors
    /// Those of userfaultfd(2) and `UFFDIO_API`.
    pub fn try_open(features: u64) -> Result<Self, Errno> {
        Self::with_supported(features).map(|(uffd, _)| uffd)
    }

    /// One with these features, and all features that the kernel has.
    fn with_supported(features: u64) -> Result<(Self, u64), Errno> {
        // SAFETY: makes a new descriptor, which belongs to nobody else yet.
        let file = unsafe {
            let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
            let fd = Errno::result(libc::syscall(libc::SYS_userfaultfd, flags))?;
            File::from_raw_fd(fd as i32)
        };
        let mut arg = ApiArg {
            api: 0xaa,
            features,
            ioctls: 0,
        };
        // SAFETY: the structure is complete.
        unsafe { ioctl::api(file.as_raw_fd(), &raw mut arg) }?;
        Ok((Self { file }, arg.features))
    }

    /// As [`Self::try_open`]; skips the test where it cannot be had.
    pub fn open(features: u64) -> Self {
        Self::try_open(features).unwrap_or_else(|errno| match Self::with_supported(0) {
            Ok((_, supported)) => skip!(
                "userfaultfd without features {:#x} (a kernel that has them, CONFIG_PTE_MARKER_UFFD_WP)",
                features & !supported
            ),
            Err(_) => skip!("userfaultfd: {errno} (CONFIG_USERFAULTFD)"),
        })
    }

    /// Registers `range` of `region`.
    ///
    /// # Errors
    /// Those of `UFFDIO_REGISTER`.
    pub fn register(&self, region: &Region, range: &Range<usize>, mode: Mode) -> Result<(), Errno> {
        let mut arg = RegisterArg {
            range: range_arg(&region.absolute(range)),
            mode: mode.0,
            ioctls: 0,
        };
        // SAFETY: the structure is complete.
        unsafe { ioctl::register(self.file.as_raw_fd(), &raw mut arg) }.map(drop)
    }

    /// Ends the registration of `range`.
    ///
    /// # Errors
    /// Those of `UFFDIO_UNREGISTER`.
    pub fn unregister(&self, region: &Region, range: &Range<usize>) -> Result<(), Errno> {
        let mut arg = range_arg(&region.absolute(range));
        // SAFETY: the structure is complete.
        unsafe { ioctl::unregister(self.file.as_raw_fd(), &raw mut arg) }.map(drop)
    }

    /// Write-protects `range`, or ends that and wakes who waits.
    ///
    /// # Errors
    /// Those of `UFFDIO_WRITEPROTECT`.
    pub fn write_protect(
        &self,
        region: &Region,
        range: &Range<usize>,
        protect: bool,
    ) -> Result<(), Errno> {
        let mut arg = protect_arg(region, range, protect);
        // SAFETY: the structure is complete.
        unsafe { ioctl::writeprotect(self.file.as_raw_fd(), &raw mut arg) }.map(drop)
    }

    /// Protects what is present in `range` against every access, or ends that and wakes who waits.
    ///
    /// # Errors
    /// Those of `UFFDIO_RWPROTECT`.
    pub fn rw_protect(
        &self,
        region: &Region,
        range: &Range<usize>,
        protect: bool,
    ) -> Result<(), Errno> {
        let mut arg = protect_arg(region, range, protect);
        // SAFETY: the structure is complete.
        unsafe { ioctl::rwprotect(self.file.as_raw_fd(), &raw mut arg) }.map(drop)
    }

    /// Moves the pages of `range` of `from` to `offset` of `to`, which must be
    /// registered for missing faults and be empty there. Returns the bytes moved.
    ///
    /// # Errors
    /// Those of `UFFDIO_MOVE`.
    pub fn move_pages(
        &self,
        from: &Region,
        range: &Range<usize>,
        to: &Region,
        offset: usize,
    ) -> Result<usize, Errno> {
        let mut arg = TransferArg {
            dst: to.absolute(&(offset..offset + range.len())).start as u64,
            src: from.absolute(range).start as u64,
            len: range.len() as u64,
            mode: 0,
            done: 0,
        };
        // SAFETY: the structure is complete; both ranges belong to regions.
        unsafe { ioctl::move_pages(self.file.as_raw_fd(), &raw mut arg) }?;
        Ok(arg.done as usize)
    }

    /// Resolves missing faults in `range` by copies of `bytes`.
    ///
    /// # Errors
    /// Those of `UFFDIO_COPY`.
    ///
    /// # Panics
    /// When `bytes` has another length than `range`.
    pub fn copy(&self, region: &Region, range: &Range<usize>, bytes: &[u8]) -> Result<(), Errno> {
        self.copy_with(region, range, bytes, 0)
    }

    /// As [`Self::copy`]; the copies are write-protected from the start.
    ///
    /// # Errors
    /// As [`Self::copy`].
    pub fn copy_protected(
        &self,
        region: &Region,
        range: &Range<usize>,
        bytes: &[u8],
    ) -> Result<(), Errno> {
        self.copy_with(region, range, bytes, COPY_MODE_WP)
    }

    fn copy_with(
        &self,
        region: &Region,
        range: &Range<usize>,
        bytes: &[u8],
        mode: u64,
    ) -> Result<(), Errno> {
        assert_eq!(bytes.len(), range.len(), "as many bytes as the range has");
        let mut arg = TransferArg {
            dst: region.absolute(range).start as u64,
            src: bytes.as_ptr() as u64,
            len: range.len() as u64,
            mode,
            done: 0,
        };
        // SAFETY: the structure is complete; the source is a borrowed slice.
        unsafe { ioctl::copy(self.file.as_raw_fd(), &raw mut arg) }.map(drop)
    }

    /// Resolves missing faults in `range` by zero pages.
    ///
    /// # Errors
    /// Those of `UFFDIO_ZEROPAGE`.
    pub fn zero(&self, region: &Region, range: &Range<usize>) -> Result<(), Errno> {
        let mut arg = ZeroArg {
            range: range_arg(&region.absolute(range)),
            mode: 0,
            done: 0,
        };
        // SAFETY: the structure is complete.
        unsafe { ioctl::zeropage(self.file.as_raw_fd(), &raw mut arg) }.map(drop)
    }

    /// Lets threads that wait in `range` try again.
    ///
    /// # Errors
    /// Those of `UFFDIO_WAKE`.
    pub fn wake(&self, region: &Region, range: &Range<usize>) -> Result<(), Errno> {
        let mut arg = range_arg(&region.absolute(range));
        // SAFETY: the structure is complete.
        unsafe { ioctl::wake(self.file.as_raw_fd(), &raw mut arg) }.map(drop)
    }

    /// The next event, if one comes within `limit`.
    ///
    /// # Errors
    /// Those of poll(2) and read(2).
    pub fn event(&self, limit: Duration) -> Result<Option<Event>, Errno> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, timeout)? == 0 {
            return Ok(None);
        }
        let mut bytes = [0; size_of::<Message>()];
        match (&self.file).read(&mut bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
        }
        Ok(Some(parse_event(&bytes)))
    }
}

fn parse_event(bytes: &[u8; size_of::<Message>()]) -> Event {
    let word = |at: usize| {
        let bytes: [u8; 8] = bytes[at..at + 8].try_into().expect("eight bytes");
        u64::from_ne_bytes(bytes)
    };
    let flags = word(std::mem::offset_of!(Message, flags));
    Event {
        kind: bytes[std::mem::offset_of!(Message, event)],
        address: word(std::mem::offset_of!(Message, address)) as usize & !0xfff,
        write: flags & 1 != 0,
        wp: flags & 2 != 0,
        rwp: flags & 8 != 0,
    }
}

impl Event {
    /// A write to a write-protected page?
    pub fn is_wp_fault(&self) -> bool {
        self.kind == EVENT_PAGEFAULT && self.wp
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_write_protection_fault_is_recognised() {
        let mut bytes = [0; 32];
        bytes[0] = EVENT_PAGEFAULT;
        bytes[8] = 3;
        bytes[16..24].copy_from_slice(&0x7f00_0000_1234_u64.to_ne_bytes());
        let event = parse_event(&bytes);
        assert!(event.is_wp_fault() && event.write);
        assert_eq!(event.address, 0x7f00_0000_1000);
    }
}
