// SPDX-License-Identifier: GPL-2.0-only
//! The mirror devices of lib/test_hmm.c, as operations of programs.
//!
//! Only what the driver survives is asked of it: it reads or writes a page of
//! its own memory only through its own table, so READ and WRITE are left out
//! where a snapshot shows such a page. An open file belongs to one address
//! space; it stays open until the last process of the program has ended,
//! because closing it would take the pages of all others back.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

use super::access::{page_name, wrong_content};
use super::check::Broken;
use super::process::Process;
use super::sys;
use super::violation::Oracle;
use crate::model::page::{Flags, WORDS, word};
use crate::program::{Addr, Device, Len, Mirror, PAGE, PAGES};

const READ: u64 = 0;
const READ_UNLOCKED: u64 = 9;
const WRITE: u64 = 1;
const TO_DEV: u64 = 2;
const TO_SYS: u64 = 3;
const SNAPSHOT: u64 = 4;
const EXCLUSIVE: u64 = 5;
const CHECK_EXCLUSIVE: u64 = 6;
const RELEASE: u64 = 7;
const FLAGS: u64 = 8;
/// The flag that fails the next allocation, and one without meaning: 0 is refused.
const FAIL_ALLOC: u64 = 1;
const NO_FAIL: u64 = 2;

/// Parts of a snapshot byte.
mod seen {
    pub const ERROR: u8 = 0xff;
    pub const WRITE: u8 = 0x02;
    pub const PLACE: u8 = 0xf0;
    pub const LOCAL: u8 = 0x20;
}

/// The argument of every command.
#[repr(C)]
#[derive(Default)]
struct Command {
    addr: u64,
    ptr: u64,
    npages: u64,
    cpages: u64,
    faults: u64,
}

/// The device files that a process has open.
#[derive(Default)]
pub struct Mirrors([Option<File>; 3]);

impl Mirrors {
    /// Leaves the files of a parent open, in its child.
    pub fn disown(&mut self) {
        for file in &mut self.0 {
            std::mem::forget(file.take());
        }
    }

    /// The files that are open.
    pub fn files(&self) -> [Option<&File>; 3] {
        self.0.each_ref().map(Option::as_ref)
    }

    /// Closes a file, if it is open.
    fn close(&mut self, mirror: Mirror) {
        self.0[index(mirror)] = None;
    }

    /// The file of a device, opened at its first use.
    pub fn file(&mut self, mirror: Mirror) -> Result<&File, i32> {
        let index = index(mirror);
        if self.0[index].is_none() {
            let device = u8::from(mirror == Mirror::B);
            let path = format!("/dev/hmm_dmirror{device}");
            let file = OpenOptions::new().read(true).write(true).open(path);
            self.0[index] = Some(file.map_err(|_| libc::ENODEV)?);
        }
        self.0[index].as_ref().ok_or(libc::ENODEV)
    }
}

/// Place of a file among those of its process.
pub fn index(mirror: Mirror) -> usize {
    match mirror {
        Mirror::A => 0,
        Mirror::B => 1,
        Mirror::A2 => 2,
    }
}

fn request(file: &File, number: u64, at: Addr, pages: usize, buffer: &mut [u8]) -> i32 {
    let mut command = Command {
        addr: sys::address(at.page()) as u64,
        ptr: buffer.as_mut_ptr() as u64,
        npages: pages as u64,
        ..Command::default()
    };
    ioctl(file, number, &mut command)
}

fn ioctl(file: &File, number: u64, command: &mut Command) -> i32 {
    let code = 0xc028_4800 | number;
    // SAFETY: the command has the size in the request code; its buffer is large
    // enough for the pages, see the callers.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), code, std::ptr::from_mut(command)) };
    if result == 0 { 0 } else { sys::errno() }
}

fn set_flags(file: &File, flags: u64) {
    // Without effect on a driver that does not know flags.
    ioctl(
        file,
        FLAGS,
        &mut Command {
            addr: 0,
            npages: flags,
            ..Command::default()
        },
    );
}

/// Gives all memory of the devices back to the system. Only while no program
/// runs: pages that the driver split stay small until then.
pub fn release_devices() {
    for index in 0..2 {
        if let Ok(file) = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/dev/hmm_dmirror{index}"))
        {
            ioctl(
                &file,
                RELEASE,
                &mut Command {
                    addr: PAGE as u64,
                    npages: 1,
                    ..Command::default()
                },
            );
        }
    }
}

/// A command of a device in a racing block: moves and snapshots only, whose
/// answers are not looked at, since they may be old. `buffer` is large enough.
pub fn race(file: &File, what: Device, at: Addr, pages: usize, buffer: &mut [u8]) -> i32 {
    let (number, fail) = match what {
        Device::ToDev => (TO_DEV, false),
        Device::ToDevFail => (TO_DEV, true),
        Device::ToSys => (TO_SYS, false),
        Device::ToSysFail => (TO_SYS, true),
        Device::Snapshot => (SNAPSHOT, false),
        _ => return libc::EAGAIN,
    };
    if fail {
        set_flags(file, FAIL_ALLOC);
    }
    let result = request(file, number, at, pages, buffer);
    if fail {
        set_flags(file, NO_FAIL);
    }
    result
}

impl Process<'_> {
    /// A command of a device: 0, an errno, or EAGAIN if it was left out.
    pub(super) fn device(
        &mut self,
        mirror: Mirror,
        what: Device,
        at: Addr,
        len: Len,
    ) -> Result<i32, Broken> {
        let pages = len.pages().min(PAGES - at.page());
        let (me, model) = (self.me, self.setup.board.model());
        let file = match self.mirrors.file(mirror) {
            Ok(file) => file,
            Err(errno) => return Ok(errno),
        };
        let mut buffer = vec![
            0u8;
            if what == Device::Snapshot {
                pages
            } else {
                pages * PAGE
            }
        ];
        let buffer = buffer.as_mut_slice();
        match what {
            Device::ToDev | Device::ToDevFail | Device::ToSys | Device::ToSysFail => {
                let fail = matches!(what, Device::ToDevFail | Device::ToSysFail);
                let to_device = matches!(what, Device::ToDev | Device::ToDevFail);
                if fail {
                    set_flags(file, FAIL_ALLOC);
                }
                let result = request(
                    file,
                    if to_device { TO_DEV } else { TO_SYS },
                    at,
                    pages,
                    buffer,
                );
                if fail {
                    set_flags(file, NO_FAIL);
                }
                if to_device && result == 0 {
                    self.check_pages(at, pages, buffer)?;
                }
                Ok(result)
            }
            Device::Snapshot => {
                let result = request(file, SNAPSHOT, at, pages, buffer);
                if result == 0 {
                    self.check_snapshot(at, buffer).map(|()| 0)
                } else {
                    Ok(result)
                }
            }
            Device::Read | Device::ReadUnlocked | Device::Write => {
                let store = what == Device::Write;
                if pages > 64 || !model.all_done(me, at, len, store) || has_local(file, at, pages) {
                    return Ok(libc::EAGAIN);
                }
                match what {
                    Device::Write => self.device_store(mirror, at, pages, buffer),
                    Device::Read => self.device_load(mirror, READ, at, pages, buffer),
                    _ => self.device_load(mirror, READ_UNLOCKED, at, pages, buffer),
                }
            }
            Device::CheckExclusive => Ok(request(file, CHECK_EXCLUSIVE, at, pages, buffer)),
            Device::Release | Device::Close if !model.nothing_held() => Ok(libc::EAGAIN),
            Device::Release => Ok(request(file, RELEASE, at, pages, buffer)),
            Device::Close => {
                self.mirrors.close(mirror);
                Ok(0)
            }
            Device::Exclusive => {
                if pages > 64 || has_local(file, at, pages) {
                    return Ok(libc::EAGAIN);
                }
                Ok(request(file, EXCLUSIVE, at, pages, buffer))
            }
        }
    }

    /// The same command, if the driver survives it; what it returns does not matter.
    pub(super) fn bare_device(&mut self, mirror: Mirror, what: Device, at: Addr, len: Len) {
        let pages = len.pages().min(PAGES - at.page());
        let Ok(file) = self.mirrors.file(mirror) else {
            return;
        };
        let (number, fail) = match what {
            Device::ToDev => (TO_DEV, false),
            Device::ToDevFail => (TO_DEV, true),
            Device::ToSys => (TO_SYS, false),
            Device::ToSysFail => (TO_SYS, true),
            Device::Snapshot => (SNAPSHOT, false),
            Device::Read => (READ, false),
            Device::ReadUnlocked => (READ_UNLOCKED, false),
            Device::Write => (WRITE, false),
            Device::Exclusive => (EXCLUSIVE, false),
            Device::CheckExclusive => (CHECK_EXCLUSIVE, false),
            Device::Release | Device::Close => return,
        };
        if matches!(number, READ | READ_UNLOCKED | WRITE | EXCLUSIVE) && has_local(file, at, pages)
        {
            return;
        }
        if fail {
            set_flags(file, FAIL_ALLOC);
        }
        request(file, number, at, pages, &mut vec![0; pages * PAGE]);
        if fail {
            set_flags(file, NO_FAIL);
        }
    }

    fn device_load(
        &mut self,
        mirror: Mirror,
        how: u64,
        at: Addr,
        pages: usize,
        buffer: &mut [u8],
    ) -> Result<i32, Broken> {
        let Ok(file) = self.mirrors.file(mirror) else {
            return Ok(libc::ENODEV);
        };
        let result = request(file, how, at, pages, buffer);
        if result == 0 {
            self.check_pages(at, pages, buffer)?;
        }
        Ok(result)
    }

    fn device_store(
        &mut self,
        mirror: Mirror,
        at: Addr,
        pages: usize,
        buffer: &mut [u8],
    ) -> Result<i32, Broken> {
        let me = self.me;
        let model = self.setup.board.model();
        let stamps: Vec<u64> = (0..pages)
            .map(|i| model.next_stamp(me, at.page() + i))
            .collect();
        for (i, stamp) in stamps.iter().enumerate() {
            for (index, offset) in WORDS.iter().enumerate() {
                let place = i * PAGE + offset;
                buffer[place..place + 8].copy_from_slice(&word(*stamp, index).to_ne_bytes());
            }
        }
        let Ok(file) = self.mirrors.file(mirror) else {
            return Ok(libc::ENODEV);
        };
        let result = request(file, WRITE, at, pages, buffer);
        if result == 0 {
            stamps
                .iter()
                .enumerate()
                .for_each(|(i, stamp)| model.stored_by_device(me, at.page() + i, *stamp));
        }
        Ok(result)
    }

    /// Compares pages that a device returned with the model.
    fn check_pages(&self, at: Addr, pages: usize, buffer: &[u8]) -> Result<(), Broken> {
        for i in 0..pages {
            let words = WORDS.map(|offset| {
                let bytes = &buffer[i * PAGE + offset..][..8];
                u64::from_ne_bytes(std::array::from_fn(|b| bytes[b]))
            });
            let page = at.page() + i;
            let (stamp, or_zero) = self.setup.board.model().content(self.me, page);
            let right = (0..4).all(|index| words[index] == word(stamp, index));
            let dropped = or_zero && words == [0; 4];
            if !right && !dropped {
                let (oracle, what, detail) = wrong_content(page, stamp, &words);
                return Err((oracle, format!("{what} seen by the device"), detail));
            }
        }
        Ok(())
    }

    /// A snapshot must not show what the model rules out.
    fn check_snapshot(&self, at: Addr, states: &[u8]) -> Result<(), Broken> {
        let model = self.setup.board.model();
        for (i, state) in states.iter().enumerate() {
            let page = at.page() + i;
            let flags = model.pages(self.me)[page].flags;
            let wrong = if *state == seen::ERROR {
                flags.has(Flags::MAPPED.with(Flags::READ)) && flags.has(Flags::DIRTY)
            } else {
                state & seen::WRITE != 0 && !flags.has(Flags::WRITE)
                    || *state != 0 && !flags.has(Flags::MAPPED)
            };
            if wrong {
                let detail = format!(
                    "{}: snapshot {state:#04x}, model {flags:?}",
                    page_name(page)
                );
                return Err((Oracle::Location, "wrong device snapshot".into(), detail));
            }
        }
        Ok(())
    }
}

/// Whether any page is in the memory of the device itself, or that is not known.
fn has_local(file: &File, at: Addr, pages: usize) -> bool {
    let mut states = vec![0u8; pages];
    let result = request(file, SNAPSHOT, at, pages, &mut states);
    result != 0
        || states
            .iter()
            .any(|state| *state != seen::ERROR && state & seen::PLACE == seen::LOCAL)
}
