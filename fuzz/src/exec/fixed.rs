// SPDX-License-Identifier: GPL-2.0-only
//! Fixed buffers of io_uring over the arena, and transfers between them and a file in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;

use selftests::fixed_buffer::{FixedBuffer, Way};

use super::check::Broken;
use super::hold::{Held, Pin};
use super::pipe::put_words;
use super::process::Process;
use super::sys;
use super::violation::Oracle;
use crate::model::MAX_BUFFERED;
use crate::program::{Access, Addr, Len, PAGE, PAGES};

impl Process<'_> {
    /// Registers a range as a fixed buffer, instead of what was pinned before.
    pub(super) fn buffer(&mut self, at: Addr, len: Len) -> i32 {
        self.unpin();
        let pages = len.pages().min(MAX_BUFFERED).min(PAGES - at.page());
        let range = sys::address(at.page())..sys::address(at.page() + pages);
        // SAFETY: nothing of Rust lies in the arena.
        match unsafe { FixedBuffer::register(&range) } {
            Ok(buffer) => {
                self.pin = Some(Pin {
                    how: Held::Buffer(Box::new(buffer)),
                    first: at.page(),
                    pages,
                });
                0
            }
            Err(errno) => errno as i32,
        }
    }

    /// Transfers the whole buffer. What comes out of it is checked after each step.
    pub(super) fn fixed(&mut self, access: Access) -> Result<i32, Broken> {
        let Some(Pin {
            how: Held::Buffer(buffer),
            first,
            pages,
        }) = &mut self.pin
        else {
            return Ok(libc::EAGAIN);
        };
        let (me, model) = (self.me, self.setup.board.model());
        if access == Access::Load {
            let mut content = vec![0; *pages * PAGE];
            read_out(buffer, &self.setup.exchange, *first, &mut content)?;
            return Ok(0);
        }
        if !model.buffer_is_whole(me) {
            return Ok(libc::EAGAIN);
        }
        let range = *first..*first + *pages;
        let stamps: Vec<u64> = range
            .clone()
            .map(|page| model.next_stamp(me, page))
            .collect();
        for (index, stamp) in stamps.iter().enumerate() {
            put_words(&self.setup.exchange, index, *stamp);
        }
        transfer(buffer, &self.setup.exchange, *first, *pages, Way::In)?;
        for (page, stamp) in range.zip(stamps) {
            model.stored_to_buffer(me, page, stamp);
        }
        Ok(0)
    }
}

/// What the buffer contains that was registered from page `first` on.
pub(super) fn read_out(
    buffer: &mut FixedBuffer,
    file: &File,
    first: usize,
    content: &mut [u8],
) -> Result<(), Broken> {
    transfer(buffer, file, first, content.len() / PAGE, Way::Out)?;
    let read = file.read_exact_at(content, 0);
    read.map_err(|error| (Oracle::Errno, "file not readable".into(), error.to_string()))
}

fn transfer(
    buffer: &mut FixedBuffer,
    file: &File,
    first: usize,
    pages: usize,
    way: Way,
) -> Result<(), Broken> {
    let part = sys::address(first)..sys::address(first + pages);
    let done = buffer.transfer(file, &part, way);
    if done == Ok(part.len()) {
        return Ok(());
    }
    let detail = format!("{way:?}: {done:?} of {} bytes", part.len());
    Err((
        Oracle::Errno,
        "transfer of a fixed buffer not done".into(),
        detail,
    ))
}
