// SPDX-License-Identifier: GPL-2.0-only
//! What all processes of a program share: whose turn it is, who lives, what was
//! found wrong, and where nothing is known any more.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicUsize, Ordering};

use super::{PAGES, PROCESSES};

/// Room for what was found wrong; the first is what counts.
const TEXT: usize = 16 << 10;
/// Steps of a program at most.
const STEPS: usize = 128;

/// Shared memory; all zeros is the beginning.
#[repr(C)]
pub struct Board {
    turn: AtomicUsize,
    alive: [AtomicBool; PROCESSES],
    pids: [AtomicI32; PROCESSES],
    /// The process that another one is killing.
    doomed: AtomicI32,
    written: AtomicUsize,
    text: [AtomicU8; TEXT],
    doubts: [[AtomicBool; PAGES]; PROCESSES],
    done: [AtomicBool; STEPS],
    cleared: AtomicBool,
}

impl Board {
    /// A new one, for this process and its children to come.
    pub fn new() -> &'static Self {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping of zeros, aligned to a page, which is never
        // unmapped; atomics of zero are valid, and shared memory is theirs.
        unsafe {
            let base = libc::mmap(
                std::ptr::null_mut(),
                size_of::<Self>(),
                access,
                flags,
                -1,
                0,
            );
            assert_ne!(base, libc::MAP_FAILED, "memory for a board");
            &*base.cast::<Self>()
        }
    }

    /// The step that has the turn.
    pub fn turn(&self) -> usize {
        self.turn.load(Ordering::SeqCst)
    }

    /// Passes the turn on, if it is still `from`.
    pub fn pass(&self, from: usize) {
        let order = Ordering::SeqCst;
        // Somebody else has passed it on.
        let _ = self.turn.compare_exchange(from, from + 1, order, order);
    }

    /// A process begins.
    pub fn born(&self, process: usize, pid: i32) {
        self.pids[process].store(pid, Ordering::SeqCst);
        self.alive[process].store(true, Ordering::SeqCst);
    }

    /// Whether a process lives.
    pub fn lives(&self, process: usize) -> bool {
        self.alive[process].load(Ordering::SeqCst)
    }

    /// The pid of a process.
    pub fn pid(&self, process: usize) -> i32 {
        self.pids[process].load(Ordering::SeqCst)
    }

    /// The pids of all processes that live.
    pub fn living(&self) -> Vec<i32> {
        let living = (0..PROCESSES).filter(|process| self.lives(*process));
        living.map(|process| self.pid(process)).collect()
    }

    /// A process will be killed by another one, which then goes on.
    pub fn doom(&self, process: usize) {
        self.doomed.store(self.pid(process), Ordering::SeqCst);
    }

    /// Whether that process is being killed.
    pub fn is_doomed(&self, pid: i32) -> bool {
        self.doomed.load(Ordering::SeqCst) == pid
    }

    /// A process has ended; whether the turn was its own.
    pub fn buried(&self, pid: i32) -> bool {
        let killed = self.is_doomed(pid);
        for process in 0..PROCESSES {
            if self.pid(process) == pid {
                self.alive[process].store(false, Ordering::SeqCst);
            }
        }
        if killed {
            self.doomed.store(0, Ordering::SeqCst);
        }
        !killed
    }

    /// Adds to what was found wrong.
    pub fn write(&self, text: &str) {
        let at = self.written.fetch_add(text.len(), Ordering::SeqCst);
        for (place, byte) in self.text.iter().skip(at).zip(text.bytes()) {
            place.store(byte, Ordering::SeqCst);
        }
    }

    /// What was found wrong.
    pub fn text(&self) -> String {
        let end = self.written.load(Ordering::SeqCst).min(TEXT);
        let bytes = self.text[..end].iter().map(|b| b.load(Ordering::SeqCst));
        String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
    }

    /// What is mapped in these pages is not known any more, or is again.
    pub fn doubt(&self, process: usize, pages: Range<usize>, doubt: bool) {
        for page in pages.start..pages.end.min(PAGES) {
            self.doubts[process][page].store(doubt, Ordering::SeqCst);
        }
    }

    /// Whether nothing is known of a page.
    pub fn doubts(&self, process: usize, page: usize) -> bool {
        self.doubts[process][page].load(Ordering::SeqCst)
    }

    /// Whether nothing is known of some page of a process.
    pub fn doubts_any(&self, process: usize) -> bool {
        (0..PAGES).any(|page| self.doubts(process, page))
    }

    /// A child knows as little as its parent.
    pub fn copy_doubts(&self, parent: usize, child: usize) {
        for page in 0..PAGES {
            let doubt = self.doubts(parent, page);
            self.doubts[child][page].store(doubt, Ordering::SeqCst);
        }
    }

    /// The store of a device in that step has taken place.
    pub fn device_stored(&self, step: usize) {
        self.done[step].store(true, Ordering::SeqCst);
    }

    /// True for the first who asks: device memory is cleared once.
    pub fn first_to_clear(&self) -> bool {
        !self.cleared.swap(true, Ordering::SeqCst)
    }

    /// Whether it has.
    pub fn has_stored(&self, step: usize) -> bool {
        self.done[step].load(Ordering::SeqCst)
    }
}
