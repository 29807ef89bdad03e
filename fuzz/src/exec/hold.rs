// SPDX-License-Identifier: GPL-2.0-only
//! Longterm pins through the kernel's gup_test, placement on NUMA nodes,
//! PAGEMAP_SCAN with write protection, and injected allocation failures.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

use selftests::fixed_buffer::FixedBuffer;

use super::access::wrong_content;
use super::check::Broken;
use super::fixed;
use super::process::Process;
use super::sys;
use crate::model::MAX_PINNED;
use crate::model::page::{Flags, WORDS, word};
use crate::program::{Addr, Len, Node, PAGE, PAGES};

const PIN_START: u64 = 0x4018_6707;
const PIN_STOP: u64 = 0x6708;
const PIN_READ: u64 = 0x4008_6709;
const PIN_WRITE: u64 = 1;
const PAGEMAP_SCAN: u64 = 0xc060_6610;
const SCAN_WP: u64 = 1 << 0;
const SCAN_CHECK_ASYNC: u64 = 1 << 1;

/// A pin and the pages that it holds.
pub struct Pin {
    pub(super) how: Held,
    pub(super) first: usize,
    pub(super) pages: usize,
}

/// What holds a pin.
pub enum Held {
    /// gup_test.
    Test(File),
    /// A fixed buffer of io_uring.
    Buffer(Box<FixedBuffer>),
}

impl Process<'_> {
    /// Pins a range, instead of what was pinned before.
    pub(super) fn pin(&mut self, at: Addr, len: Len) -> i32 {
        self.unpin();
        match start_pin(at, len) {
            Ok((file, pages)) => {
                self.pin = Some(Pin {
                    how: Held::Test(file),
                    first: at.page(),
                    pages,
                });
                0
            }
            Err(errno) => errno,
        }
    }

    /// Gives the pin up.
    pub(super) fn unpin(&mut self) -> i32 {
        let pin = self.pin.take();
        pin.map_or(libc::EINVAL, |pin| match pin.how {
            Held::Test(file) => stop_pin(&file),
            Held::Buffer(_) => 0,
        })
    }

    /// What the pin holds must be what the process sees, where the page was not
    /// replaced since.
    pub(super) fn check_pin(&mut self) -> Result<(), Broken> {
        let Some(pin) = &mut self.pin else {
            return Ok(());
        };
        let mut content = vec![0u8; pin.pages * PAGE];
        match &mut pin.how {
            Held::Test(file) => {
                let target = content.as_mut_ptr() as u64;
                // SAFETY: the argument points to an address of a buffer for all pages.
                if unsafe { libc::ioctl(file.as_raw_fd(), PIN_READ, &raw const target) } != 0 {
                    return Ok(());
                }
            }
            Held::Buffer(buffer) => {
                fixed::read_out(buffer, &self.setup.exchange, pin.first, &mut content)?;
            }
        }
        for i in 0..pin.pages {
            let (model, page) = (self.setup.board.model(), pin.first + i);
            let flags = model.pages(self.me)[page].flags;
            if !flags.has(Flags::PINNED) || flags.has(Flags::LAZY) {
                continue;
            }
            let words = WORDS.map(|offset| {
                let bytes = &content[i * PAGE + offset..][..8];
                u64::from_ne_bytes(std::array::from_fn(|b| bytes[b]))
            });
            let stamp = model.content(self.me, page).0;
            if (0..4).any(|index| words[index] != word(stamp, index)) {
                let (oracle, what, detail) = wrong_content(page, stamp, &words);
                return Err((oracle, format!("{what} in a pinned page"), detail));
            }
        }
        Ok(())
    }

    /// PAGEMAP_SCAN over the range that protects every page of it.
    pub(super) fn scan_protect(&mut self, at: Addr, len: Len) -> i32 {
        if self.open_pagemap().is_err() {
            return libc::EINVAL;
        }
        let file = self.pagemap.as_ref();
        file.map_or(libc::EINVAL, |file| scan_protect(file, at, len))
    }

    /// Arms the failure of one allocation of the next system call.
    pub(super) fn arm(&self) -> Option<File> {
        let nth = self.inject?;
        let mut file = OpenOptions::new()
            .write(true)
            .open("/proc/thread-self/fail-nth")
            .ok()?;
        std::io::Write::write_all(&mut file, nth.to_string().as_bytes()).ok()?;
        Some(file)
    }
}

/// PAGEMAP_SCAN of a range through an open page map. Returns 0 or an errno.
pub fn scan_protect(file: &File, at: Addr, len: Len) -> i32 {
    let start = sys::address(at.page()) as u64;
    let end = start + (len.pages().min(PAGES - at.page()) * PAGE) as u64;
    let flags = SCAN_WP | SCAN_CHECK_ASYNC;
    let mut argument = [96, flags, start, end, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the argument has the size in the request and wants no regions.
    let found = unsafe { libc::ioctl(file.as_raw_fd(), PAGEMAP_SCAN, argument.as_mut_ptr()) };
    if found >= 0 { 0 } else { sys::errno() }
}

/// Pins a range; the file that holds the pin and how many pages it has, or an errno.
pub fn start_pin(at: Addr, len: Len) -> Result<(File, usize), i32> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/sys/kernel/debug/gup_test");
    let file = file.map_err(|_| libc::ENODEV)?;
    let pages = len.pages().min(MAX_PINNED).min(PAGES - at.page());
    let mut argument = [
        sys::address(at.page()) as u64,
        (pages * PAGE) as u64,
        PIN_WRITE,
    ];
    // SAFETY: the argument has the size in the request.
    if unsafe { libc::ioctl(file.as_raw_fd(), PIN_START, argument.as_mut_ptr()) } != 0 {
        return Err(sys::errno());
    }
    Ok((file, pages))
}

/// Gives a pin up. Returns 0 or an errno.
pub fn stop_pin(file: &File) -> i32 {
    // SAFETY: the request takes no argument.
    if unsafe { libc::ioctl(file.as_raw_fd(), PIN_STOP, 0) } == 0 {
        0
    } else {
        sys::errno()
    }
}

/// Ends what `Process::arm` began.
pub fn disarm(armed: Option<File>) {
    if let Some(mut file) = armed {
        // Fails only if the file is gone, which the kernel rules out.
        let _ = std::io::Write::write_all(&mut file, b"0");
    }
}

/// The arrays of `move_pages`.
pub struct Scratch {
    addresses: Vec<usize>,
    nodes: Vec<i32>,
    status: Vec<i32>,
}

impl Scratch {
    /// For so many pages.
    pub fn new(pages: usize) -> Self {
        Self {
            addresses: vec![0; pages],
            nodes: vec![0; pages],
            status: vec![0; pages],
        }
    }
}

/// Moves the pages of a range to a node: by `mbind`, which also binds what
/// comes later, or by `move_pages`.
pub fn place(at: Addr, len: Len, node: Node) -> i32 {
    let pages = len.pages().min(PAGES - at.page());
    place_with(at, len, node, &mut Scratch::new(pages))
}

/// The same with arrays that are large enough; allocates nothing.
pub fn place_with(at: Addr, len: Len, node: Node, scratch: &mut Scratch) -> i32 {
    const MPOL_BIND: usize = 2;
    const MPOL_PREFERRED: usize = 1;
    const MPOL_MF_MOVE: usize = 2;
    let pages = len.pages().min(PAGES - at.page());
    let start = sys::address(at.page());
    let (number, bind) = match node {
        Node::Migrate0 => return migrate(1, 0),
        Node::Migrate1 => return migrate(0, 1),
        Node::Move0 => (0, false),
        Node::Move1 => (1, false),
        Node::Bind0 => (0, true),
        Node::Bind1 => (1, true),
    };
    let result = if bind {
        let mask: usize = 1 << number;
        let mode = if number == 0 {
            MPOL_BIND
        } else {
            MPOL_PREFERRED
        };
        // SAFETY: changes the policy of the arena only; the mask has 64 bits.
        unsafe {
            libc::syscall(
                libc::SYS_mbind,
                start,
                pages * PAGE,
                mode,
                &raw const mask,
                64,
                MPOL_MF_MOVE,
            )
        }
    } else {
        for (i, address) in scratch.addresses[..pages].iter_mut().enumerate() {
            *address = start + i * PAGE;
        }
        scratch.nodes[..pages].fill(number);
        // SAFETY: three arrays of `pages` entries.
        unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                pages,
                scratch.addresses.as_ptr(),
                scratch.nodes.as_ptr(),
                scratch.status.as_mut_ptr(),
                MPOL_MF_MOVE,
            )
        }
    };
    // move_pages returns the number of pages that it could not move
    if result >= 0 { 0 } else { sys::errno() }
}

/// `migrate_pages`: all pages of this process from one node to another.
fn migrate(from: u32, to: u32) -> i32 {
    let masks = [1usize << from, 1usize << to];
    // SAFETY: two masks of 64 bits; moves pages of this process.
    let left = unsafe {
        libc::syscall(
            libc::SYS_migrate_pages,
            0,
            65,
            &raw const masks[0],
            &raw const masks[1],
        )
    };
    if left >= 0 { 0 } else { sys::errno() }
}
