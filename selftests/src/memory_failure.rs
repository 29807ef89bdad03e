// SPDX-License-Identifier: GPL-2.0-only
//! Memory that is said to have failed: MADV_HWPOISON (`madvise_inject_error()` in mm/madvise.c).
//! The page is gone for good, for the whole machine.

use std::ops::Range;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// MADV_HWPOISON.
const HWPOISON: i32 = 100;

extern "C" fn pass_over(_: i32) {}

/// Fails the pages of a range. The SIGBUS that a process gets for the loss of what it had
/// written (`kill_procs()` in mm/memory-failure.c) comes before this returns, and is passed over.
///
/// # Errors
/// EINVAL without CONFIG_MEMORY_FAILURE, EPERM without CAP_SYS_ADMIN, EBUSY and EHWPOISON where
/// the page is still there for somebody.
///
/// # Safety
/// Nothing of Rust lies in the range, and no other thread of this process counts on SIGBUS.
pub unsafe fn inject(range: &Range<usize>) -> Result<(), Errno> {
    let over = SigHandler::Handler(pass_over);
    let action = SigAction::new(over, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    let before = unsafe { sigaction(Signal::SIGBUS, &action) }?;
    // SAFETY: the caller's promise.
    let result = unsafe { libc::madvise(range.start as *mut _, range.len(), HWPOISON) };
    let result = Errno::result(result).map(drop);
    // SAFETY: what was there before.
    unsafe { sigaction(Signal::SIGBUS, &before) }?;
    result
}
