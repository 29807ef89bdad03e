// SPDX-License-Identifier: GPL-2.0-only
//! Steps that move pages in and out by other ways than loads and stores: pipes,
//! direct input and output, and the memory of module hugeprobe_pfnmap.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use nix::errno::Errno;

use super::Process;
use super::check::{WORDS, word};
use crate::mapping::{PAGE, Prot, memfd};

/// Pages of the disk.
const DISK_PAGES: usize = 32;
/// Pages of device memory that programs use.
const DEVICE_PAGES: usize = 1024;
const LOOP_CTL_GET_FREE: u64 = 0x4c82;
const LOOP_SET_FD: u64 = 0x4c00;
const PFN_SETUP: u64 = 0x4010_6861;
const PFN_ZAP: u64 = 0x4010_6863;

/// A pipe of a process.
pub(super) type Pipe = (File, File);

/// How device memory is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pfn {
    /// Shared, by remap_pfn_range().
    Remap,
    /// The same, private.
    Private,
    /// By a fault handler, page by page.
    Pte,
    /// The same, by PMD where it can.
    Pmd,
}

/// Puts a stamp into a page of a file in memory.
pub(super) fn put_page(file: &File, page: usize, stamp: u64) {
    for (index, offset) in WORDS.into_iter().enumerate() {
        let value = word(stamp, index).to_ne_bytes();
        let written = file.write_all_at(&value, (page * PAGE + offset) as u64);
        written.expect("a memory file can be written");
    }
}

/// The words of a page of a file in memory.
pub(super) fn page_words(file: &File, page: usize) -> [u64; 4] {
    WORDS.map(|offset| {
        let mut value = [0; 8];
        let read = file.read_exact_at(&mut value, (page * PAGE + offset) as u64);
        read.expect("a memory file can be read");
        u64::from_ne_bytes(value)
    })
}

impl Process {
    /// vmsplice(2), instead of what lies in the pipe of this process.
    pub fn splice_pages(&mut self, page: usize, count: usize) {
        let result = self.splice(page, count);
        self.say(result);
    }

    fn splice(&mut self, page: usize, count: usize) -> Result<(), Errno> {
        if self.pipe.is_none() {
            let (from, to) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK)?;
            self.pipe = Some((from.into(), to.into()));
        }
        let Some((from, to)) = &mut self.pipe else {
            return Err(Errno::EBADF);
        };
        let mut old = [0; PAGE];
        while from.read(&mut old).is_ok_and(|count| count > 0) {}
        if count == 0 {
            return Ok(());
        }
        let part = libc::iovec {
            iov_base: self.arena.page_addr(page) as *mut _,
            iov_len: count * PAGE,
        };
        // SAFETY: one part, which lies in the arena.
        let result =
            unsafe { libc::vmsplice(to.as_raw_fd(), &raw const part, 1, libc::SPLICE_F_NONBLOCK) };
        Errno::result(result).map(drop)
    }

    /// To a disk by O_DIRECT, where the content is checked; or from it.
    pub fn direct(
        &mut self,
        page: usize,
        count: usize,
        stamp: u64,
        step: u64,
        store: u32,
        flags: u32,
    ) {
        let (disk, back) = match self.disk.take().map_or_else(open_disk, Ok) {
            Ok(disk) => disk,
            Err(errno) => return self.need(Err(errno)),
        };
        let stamps = |n: usize| stamp.wrapping_add(step.wrapping_mul(n as u64));
        for n in (0..count).filter(|_| store != 0) {
            put_page(&back, n, stamps(n));
        }
        let (fd, bytes) = (disk.as_raw_fd(), count * PAGE);
        let at = self.arena.page_addr(page) as *mut libc::c_void;
        // SAFETY: the memory lies in the arena.
        let done = unsafe {
            if store != 0 {
                libc::pread(fd, at, bytes, 0)
            } else {
                libc::pwrite(fd, at, bytes, 0)
            }
        };
        if done != bytes as isize {
            self.bad("direct transfer not done", page, Errno::last_raw() as u64);
        }
        for n in (0..count).filter(|_| store == 0) {
            self.equal(page + n, &page_words(&back, n), stamps(n), flags);
        }
        self.disk = Some((disk, back));
    }

    /// Maps device memory.
    pub fn mmap_pfn(&mut self, page: usize, count: usize, prot: Prot, how: Pfn) {
        let (mode, flags) = match how {
            Pfn::Remap => (0, libc::MAP_SHARED),
            Pfn::Private => (0, libc::MAP_PRIVATE),
            Pfn::Pte => (2, libc::MAP_SHARED),
            Pfn::Pmd => (3, libc::MAP_SHARED),
        };
        let fd = match self.pfn_file(mode) {
            Ok(fd) => fd,
            Err(errno) => return self.need(Err(errno)),
        };
        let at = self.range(page, count);
        let offset = (page % DEVICE_PAGES * PAGE) as i64;
        let flags = flags | libc::MAP_FIXED;
        // SAFETY: maps over the arena only.
        let mapped = unsafe { libc::mmap(at.start as *mut _, at.len(), prot.0, flags, fd, offset) };
        let failed = mapped == libc::MAP_FAILED;
        self.need(if failed { Err(Errno::last()) } else { Ok(()) });
    }

    /// The driver takes all mappings of a range of its memory back.
    pub fn pfn_zap(&mut self, page: usize, count: usize) {
        let result = self.pfn_file(0).and_then(|fd| {
            let range = [(page * PAGE) as u64, (count * PAGE) as u64];
            // SAFETY: the argument has the size in the request.
            Errno::result(unsafe { libc::ioctl(fd, PFN_ZAP, range.as_ptr()) })
        });
        self.need(result.map(drop));
    }

    /// A file of the module in a mode; the first one opened clears its memory.
    fn pfn_file(&mut self, mode: usize) -> Result<i32, Errno> {
        if self.pfn[mode].is_none() {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/hugeprobe_pfnmap");
            let file = file.map_err(|_| Errno::ENODEV)?;
            let setup = [mode as u32, 0, 0, 0];
            // SAFETY: the argument has the size in the request.
            Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), PFN_SETUP, setup.as_ptr()) })?;
            if self.board.first_to_clear() {
                clear(&file)?;
            }
            self.pfn[mode] = Some(file);
        }
        let file = self.pfn[mode].as_ref().ok_or(Errno::ENODEV)?;
        Ok(file.as_raw_fd())
    }
}

fn clear(file: &File) -> Result<(), Errno> {
    let (bytes, access) = (DEVICE_PAGES * PAGE, libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a mapping of this call's own.
    unsafe {
        let fd = file.as_raw_fd();
        let all = libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED, fd, 0);
        if all == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        all.write_bytes(0, bytes);
        libc::munmap(all, bytes);
    }
    Ok(())
}

/// A loop device over memory, and that memory.
fn open_disk() -> Result<(File, File), Errno> {
    let missing = |_| Errno::ENODEV;
    let back = memfd("disk", DISK_PAGES * PAGE)?;
    let open = |path: &str, flags| {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(path)
    };
    let control = open("/dev/loop-control", 0).map_err(missing)?;
    // SAFETY: the request takes no argument.
    let number = Errno::result(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })?;
    let disk = open(&format!("/dev/loop{number}"), libc::O_DIRECT).map_err(missing)?;
    // SAFETY: the request takes a descriptor by value.
    Errno::result(unsafe { libc::ioctl(disk.as_raw_fd(), LOOP_SET_FD, back.as_raw_fd()) })?;
    Ok((disk, back))
}
