// SPDX-License-Identifier: GPL-2.0-only
//! `brk` where a test wants it. The break of a process lies behind its program, where the
//! allocator of libc moves it; prctl(2) with PR_SET_MM puts it elsewhere for the length of
//! one call, and back (`prctl_set_mm()` in kernel/sys.c, CAP_SYS_RESOURCE).

use std::fs;

use nix::errno::Errno;

const PR_SET_MM: i32 = 35;
const PR_SET_MM_START_BRK: usize = 6;
const PR_SET_MM_BRK: usize = 7;
/// Place of `start_brk` in `/proc/self/stat`, behind the name (proc_pid_stat(5), field 47).
const START_FIELD: usize = 44;

/// Where the break of this process starts. A fork does not change it.
#[derive(Clone, Copy, Debug)]
pub struct Start(usize);

impl Start {
    /// Reads it.
    ///
    /// # Errors
    /// ENOENT without procfs, EPERM where the kernel does not tell it to this process.
    pub fn of_this_process() -> Result<Self, Errno> {
        let text = fs::read_to_string("/proc/self/stat").map_err(|_| Errno::ENOENT)?;
        start_in(&text)
            .filter(|start| *start != 0)
            .map(Self)
            .ok_or(Errno::EPERM)
    }

    /// `brk` from `from` to `to`, as if the break had started at `low` and had come to `from`.
    /// Allocates nothing: the allocator would meet the break at the wrong place.
    ///
    /// # Errors
    /// EPERM without the right to put the break elsewhere, ENOMEM where `brk` refuses.
    ///
    /// # Safety
    /// Nothing of Rust lies between `from` and `to`, and no other thread of this process
    /// allocates meanwhile.
    pub unsafe fn move_from(self, low: usize, from: usize, to: usize) -> Result<(), Errno> {
        let before = current();
        put(low, from)?;
        // SAFETY: the caller's promise.
        let after = unsafe { libc::syscall(libc::SYS_brk, to) } as usize;
        put(self.0, before)?;
        if after == to {
            Ok(())
        } else {
            Err(Errno::ENOMEM)
        }
    }
}

/// The break; one that lies before all memory is refused, and the answer is the old one.
fn current() -> usize {
    // SAFETY: changes nothing.
    unsafe { libc::syscall(libc::SYS_brk, 0) as usize }
}

/// Sets where the break starts and where it is. The kernel wants them in order at any time.
fn put(start: usize, end: usize) -> Result<(), Errno> {
    if set(PR_SET_MM_BRK, end).is_ok() {
        return set(PR_SET_MM_START_BRK, start);
    }
    set(PR_SET_MM_START_BRK, start)?;
    set(PR_SET_MM_BRK, end)
}

fn set(what: usize, address: usize) -> Result<(), Errno> {
    // SAFETY: two numbers that nothing but `brk` goes by.
    Errno::result(unsafe { libc::prctl(PR_SET_MM, what, address, 0usize, 0usize) }).map(drop)
}

fn start_in(stat: &str) -> Option<usize> {
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_whitespace().nth(START_FIELD)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_stands_behind_a_name_with_spaces() {
        let fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        let stat = format!("17 (a ) b) {}", fields.join(" "));
        assert_eq!(start_in(&stat), Some(47));
        assert_eq!(start_in("17 (a) R 1"), None);
    }

    #[test]
    fn start_is_not_behind_the_break() {
        let start = Start::of_this_process().expect("procfs is there");
        assert!(start.0 <= current() && start.0 > 0);
    }
}
