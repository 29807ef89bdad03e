// SPDX-License-Identifier: GPL-2.0-only
//! Commands of the mirror devices (lib/test_hmm.c).
//!
//! Not by [`crate::hmm::Dmirror`], which keeps its user from what the fuzzers
//! want to try. Only what the driver does not survive is left out: it reads and
//! writes a page of its own memory only through its own table, so a device loads
//! and stores nothing where a snapshot shows such a page.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use super::Process;
use super::check::{PAGE_WORDS, WORDS, word};
use crate::hmm::{PageState, Place};
use crate::mapping::PAGE;

const READ: u64 = 0xc028_4800;
const READ_UNLOCKED: u64 = 0xc028_4809;
const WRITE: u64 = 0xc028_4801;
const TO_DEV: u64 = 0xc028_4802;
const TO_SYS: u64 = 0xc028_4803;
const SNAPSHOT: u64 = 0xc028_4804;
const EXCLUSIVE: u64 = 0xc028_4805;
const CHECK_EXCLUSIVE: u64 = 0xc028_4806;
const RELEASE: u64 = 0xc028_4807;
const FLAGS: u64 = 0xc028_4808;
/// The next allocation fails; and a flag without meaning, as 0 is refused.
const FAIL_ALLOC: u64 = 1;
const NO_FAIL: u64 = 2;

/// The argument of every command: address, buffer, pages, and two answers.
type Command = [u64; 5];

impl Process {
    /// Moves pages to the device; with `fail` its first allocation fails. What
    /// it returns is in the buffer, see [`Self::seen`].
    pub fn to_dev(&mut self, device: usize, page: usize, count: usize, fail: bool) {
        let result = self.moved(device, TO_DEV, page, count, fail);
        self.say(result);
    }

    /// Moves pages back; with `fail` the first allocation fails.
    pub fn to_sys(&mut self, device: usize, page: usize, count: usize, fail: bool) {
        let result = self.moved(device, TO_SYS, page, count, fail);
        self.say(result);
    }

    fn moved(
        &mut self,
        device: usize,
        request: u64,
        page: usize,
        count: usize,
        fail: bool,
    ) -> Result<(), Errno> {
        if fail {
            self.flags(device, FAIL_ALLOC)?;
        }
        let result = self.command(device, request, page, count);
        if fail {
            self.flags(device, NO_FAIL)?;
        }
        result
    }

    /// The device looks at the page table.
    pub fn snapshot(&mut self, device: usize, page: usize, count: usize) {
        let result = self.command(device, SNAPSHOT, page, count);
        self.say(result);
    }

    /// The device takes exclusive access, if none of the pages is in its memory.
    pub fn device_exclusive(&mut self, device: usize, page: usize, count: usize) {
        let result = self
            .reachable(device, page, count)
            .and_then(|()| self.command(device, EXCLUSIVE, page, count));
        self.say(result);
    }

    /// Whether the device still has exclusive access to a page, which it may only
    /// where it took it.
    pub fn check_exclusive(&mut self, device: usize, page: usize, count: usize, may: bool) {
        let result = self.command(device, CHECK_EXCLUSIVE, page, count);
        if result == Err(Errno::EPERM) && !may {
            self.bad("exclusive access appeared", page, count as u64);
        }
        self.say(result);
    }

    /// The device gives all of its memory back.
    pub fn device_release(&mut self, device: usize) {
        let result = self.command(device, RELEASE, 0, 1);
        self.say(result);
    }

    /// Closes a file, for which the device gives all of its memory back.
    pub fn close_mirror(&mut self, device: usize) {
        self.mirrors[device] = None;
        self.failed = false;
    }

    /// The device loads, if none of the pages is in its memory; `unlocked` by READ_UNLOCKED.
    pub fn device_load(&mut self, device: usize, page: usize, count: usize, unlocked: bool) {
        let command = if unlocked { READ_UNLOCKED } else { READ };
        let result = self
            .reachable(device, page, count)
            .and_then(|()| self.command(device, command, page, count));
        self.say(result);
    }

    /// What the device returned last, if it did: pages whose stamps must be
    /// these, from `offset` pages on.
    pub fn seen(
        &mut self,
        offset: usize,
        page: usize,
        count: usize,
        stamp: u64,
        step: u64,
        flags: u32,
    ) {
        for n in (0..count).filter(|_| !self.failed) {
            let stamp = stamp.wrapping_add(step.wrapping_mul(n as u64));
            let start = (offset + n) * PAGE_WORDS;
            let words = WORDS.map(|at| self.buffer[start + at / 8]);
            if !self.doubts(page + n) {
                self.equal(page + n, &words, stamp, flags);
            }
        }
    }

    /// Puts stamps where the next [`Self::device_store`] takes them from.
    pub fn prepare(&mut self, offset: usize, count: usize, stamp: u64, step: u64) {
        self.buffer
            .resize(self.buffer.len().max((offset + count) * PAGE_WORDS), 0);
        for n in 0..count {
            let stamp = stamp.wrapping_add(step.wrapping_mul(n as u64));
            for (index, at) in WORDS.into_iter().enumerate() {
                self.buffer[(offset + n) * PAGE_WORDS + at / 8] = word(stamp, index);
            }
        }
    }

    /// The device stores what was prepared, if none of the pages is in its memory.
    pub fn device_store(&mut self, device: usize, page: usize, count: usize) {
        let prepared = std::mem::take(&mut self.buffer);
        let result = self.reachable(device, page, count);
        self.buffer = prepared;
        let result = result.and_then(|()| self.command(device, WRITE, page, count));
        if result.is_ok() {
            self.board.device_stored(self.now);
        }
        self.say(result);
    }

    /// Fails where a page is in the memory of the device itself, or that is not
    /// known.
    fn reachable(&mut self, device: usize, page: usize, count: usize) -> Result<(), Errno> {
        self.command(device, SNAPSHOT, page, count)?;
        let bytes = self.buffer.iter().flat_map(|word| word.to_ne_bytes());
        let local = bytes
            .take(count)
            .any(|byte| PageState::decode(byte).is_ok_and(|state| state.place == Place::Device));
        if local { Err(Errno::EAGAIN) } else { Ok(()) }
    }

    fn flags(&mut self, device: usize, flags: u64) -> Result<(), Errno> {
        let mut command: Command = [0, 0, flags, 0, 0];
        ioctl(self.mirror(device)?, FLAGS, &mut command)
    }

    fn command(
        &mut self,
        device: usize,
        request: u64,
        page: usize,
        count: usize,
    ) -> Result<(), Errno> {
        self.buffer
            .resize(self.buffer.len().max(count * PAGE_WORDS), 0);
        let address = (self.arena.page_addr(page)) as u64;
        let buffer = self.buffer.as_mut_ptr() as u64;
        debug_assert!(self.buffer.len() * 8 >= count * PAGE);
        ioctl(
            self.mirror(device)?,
            request,
            &mut [address, buffer, count as u64, 0, 0],
        )
    }

    /// The file of a device, opened at its first use.
    fn mirror(&mut self, device: usize) -> Result<&File, Errno> {
        if self.mirrors[device].is_none() {
            // The third file is the first device's second one.
            let path = format!("/dev/hmm_dmirror{}", u8::from(device == 1));
            let file = File::options().read(true).write(true).open(path);
            self.mirrors[device] = Some(file.map_err(|_| Errno::ENODEV)?);
        }
        self.mirrors[device].as_ref().ok_or(Errno::ENODEV)
    }
}

fn ioctl(file: &File, request: u64, command: &mut Command) -> Result<(), Errno> {
    // SAFETY: the command has the size in the request; its buffer has room for
    // the pages, see `Process::command`.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, command.as_mut_ptr()) };
    Errno::result(result).map(drop)
}
