// SPDX-License-Identifier: GPL-2.0-only
//! Pages in a pipe, and reads and writes of a block device that go to the pages
//! of the arena themselves (O_DIRECT).

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use super::access::wrong_content;
use super::check::Broken;
use super::process::Process;
use super::sys;
use super::violation::Oracle;
use crate::model::page::{WORDS, describe, word};
use crate::model::{Effect, MAX_DIRECT, Model};
use crate::program::{Access, Addr, Len, PAGE, PAGES};

const LOOP_CTL_GET_FREE: u64 = 0x4c82;
const LOOP_SET_FD: u64 = 0x4c00;
const LOOP_CLR_FD: u64 = 0x4c01;

/// A pipe: its end to read from and its end to write to.
pub struct Pipe(OwnedFd, OwnedFd);

impl Pipe {
    fn open() -> Option<Self> {
        let mut ends = [0; 2];
        // SAFETY: two new descriptors, which nobody else has.
        unsafe {
            if libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) != 0 {
                return None;
            }
            Some(Self(
                OwnedFd::from_raw_fd(ends[0]),
                OwnedFd::from_raw_fd(ends[1]),
            ))
        }
    }
}

/// A loop device over a file in memory, and that file.
pub struct Disk {
    device: File,
    content: File,
}

impl Disk {
    /// Sets one up. None without loop devices.
    pub fn open() -> Option<Self> {
        let content = selftests::mapping::memfd("disk", MAX_DIRECT * PAGE).ok()?;
        let mut open = OpenOptions::new();
        let open = open.read(true).write(true);
        let control = open.open("/dev/loop-control").ok()?;
        // SAFETY: requests without a pointer, on descriptors of ours.
        unsafe {
            let number = libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE);
            let device = open
                .custom_flags(libc::O_DIRECT)
                .open(format!("/dev/loop{number}"))
                .ok()?;
            let set = libc::ioctl(device.as_raw_fd(), LOOP_SET_FD, content.as_raw_fd());
            (set == 0).then_some(Self { device, content })
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // SAFETY: a request without argument; it takes effect when the device is closed.
        unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_CLR_FD, 0) };
    }
}

impl Process<'_> {
    /// vmsplice of up to `MAX_SPLICED` pages, instead of what lies in the pipe.
    pub(super) fn splice(&mut self, at: Addr, len: Len) -> Result<i32, Broken> {
        self.drain()?;
        if self.pipe.is_none() {
            self.pipe = Pipe::open();
        }
        let Some(pipe) = &self.pipe else {
            return Ok(libc::ENOMEM);
        };
        let part = libc::iovec {
            iov_base: sys::address(at.page()) as *mut libc::c_void,
            iov_len: Model::spliced_pages(at, len) * PAGE,
        };
        // SAFETY: reads from the arena only.
        let bytes = unsafe {
            libc::vmsplice(
                pipe.1.as_raw_fd(),
                &raw const part,
                1,
                libc::SPLICE_F_NONBLOCK,
            )
        };
        self.known.amount = Some(bytes.max(0) as usize / PAGE);
        Ok(if bytes < 0 { sys::errno() } else { 0 })
    }

    /// Reads what lies in the pipe, and checks it.
    pub(super) fn drain(&mut self) -> Result<i32, Broken> {
        let (me, model) = (self.me, self.setup.board.model());
        let count = model.spliced(me);
        let Some(pipe) = &self.pipe else {
            return Ok(libc::EINVAL);
        };
        let mut page = [0u8; PAGE];
        for index in 0..count {
            // SAFETY: reads into `page`.
            let bytes = unsafe { libc::read(pipe.0.as_raw_fd(), page.as_mut_ptr().cast(), PAGE) };
            if bytes != PAGE as isize {
                let detail = format!("page {index} of {count}: read gave {bytes}");
                return Err((Oracle::Content, "page lost in a pipe".into(), detail));
            }
            let words = words_of(&page);
            if !model.spliced_right(me, index, &words) {
                let detail = format!(
                    "page {index} of {count}: found {}; words {words:x?}",
                    describe(words[0])
                );
                return Err((Oracle::Content, "wrong content in a pipe".into(), detail));
            }
        }
        Ok(0)
    }

    /// A direct write of the pages to a block device, or a direct read into them.
    pub(super) fn direct(&mut self, at: Addr, len: Len, access: Access) -> Result<i32, Broken> {
        let store = access == Access::Store;
        let Some(disk) = &self.setup.disk else {
            return Ok(libc::ENODEV);
        };
        let (me, model) = (self.me, self.setup.board.model());
        let count = len.pages().min(MAX_DIRECT).min(PAGES - at.page());
        let pages = at.page()..at.page() + count;
        if pages
            .clone()
            .any(|page| model.kernel_effect(me, page, store) != Effect::Done)
        {
            return Ok(libc::EAGAIN);
        }
        let stamps: Vec<u64> = pages
            .clone()
            .map(|page| model.next_stamp(me, page))
            .collect();
        if store {
            for (index, stamp) in stamps.iter().enumerate() {
                put_words(&disk.content, index, *stamp);
            }
        }
        let start = sys::address(at.page()) as *mut libc::c_void;
        let file = disk.device.as_raw_fd();
        // SAFETY: reads from or writes to pages of the arena.
        let bytes = unsafe {
            if store {
                libc::pread(file, start, count * PAGE, 0)
            } else {
                libc::pwrite(file, start, count * PAGE, 0)
            }
        };
        if bytes != (count * PAGE) as isize {
            let detail = format!("{bytes} of {} bytes, errno {}", count * PAGE, sys::errno());
            return Err((Oracle::Errno, "direct transfer not done".into(), detail));
        }
        for (index, page) in pages.enumerate() {
            if store {
                model.stored(me, page, stamps[index]);
                continue;
            }
            let mut content = [0u8; PAGE];
            let _ = disk
                .content
                .read_exact_at(&mut content, (index * PAGE) as u64);
            let words = words_of(&content);
            let (stamp, or_zero) = model.content(me, page);
            let right = (0..4).all(|i| words[i] == word(stamp, i)) || or_zero && words == [0; 4];
            if !right {
                let (oracle, what, detail) = wrong_content(page, stamp, &words);
                return Err((oracle, format!("{what} on the disk"), detail));
            }
        }
        Ok(0)
    }
}

fn words_of(page: &[u8]) -> [u64; 4] {
    WORDS.map(|offset| u64::from_ne_bytes(std::array::from_fn(|b| page[offset + b])))
}

/// Puts a stamp into a page of a file in memory, which has room for it.
pub(super) fn put_words(file: &File, page: usize, stamp: u64) {
    for (index, offset) in WORDS.iter().enumerate() {
        let place = (page * PAGE + offset) as u64;
        let _ = file.write_all_at(&word(stamp, index).to_ne_bytes(), place);
    }
}
