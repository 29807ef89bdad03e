// SPDX-License-Identifier: GPL-2.0-only
//! Lets every task of a test count for `hugeprobe cov`.
//!
//! KCOV traces one task and is not inherited. The guest traces the first task
//! of a test (`vm/src/guest/coverage.rs`), but libtest runs each test in a
//! thread; so this library stands before `pthread_create()`, and
//! [`crate::child`] calls [`trace`] in each child. Outside such a run nothing
//! is traced, and both do nothing.
//!
//! Not counted: what other programs do, the kernel's own threads (khugepaged,
//! kswapd, kcompactd), interrupts, and what a task does after KCOV has been
//! taken from it at its exit: `exit_mm()` comes later.

use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;
use std::sync::OnceLock;

const ENABLE: u64 = 0x6364;
const TRACE_PC: u64 = 0;

type Start = extern "C" fn(*mut c_void) -> *mut c_void;

unsafe extern "C" {
    /// What glibc calls its own; `pthread_create` is its weak name for it.
    fn __pthread_create(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        start: Start,
        argument: *mut c_void,
    ) -> c_int;
}

/// The descriptors that the guest has opened for this test.
fn descriptors() -> &'static [RawFd] {
    static OPEN: OnceLock<Vec<RawFd>> = OnceLock::new();
    OPEN.get_or_init(|| {
        let names = std::env::var("HUGEPROBE_KCOV").unwrap_or_default();
        names.split(',').filter_map(|fd| fd.parse().ok()).collect()
    })
}

/// Traces the calling task until it ends, if the guest wants to know. Allowed
/// right after a fork.
pub fn trace() {
    let descriptors = descriptors();
    let traced = descriptors.iter().any(|fd| {
        // SAFETY: takes the mode by value; a descriptor in use refuses.
        unsafe { libc::ioctl(*fd, ENABLE, TRACE_PC) == 0 }
    });
    if !traced && !descriptors.is_empty() {
        let text = b"coverage: more tasks at a time than can be traced\n";
        // SAFETY: the text outlives the call.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    }
}

/// As glibc's, and the new thread is traced.
///
/// # Safety
/// As pthread_create(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    if descriptors().is_empty() {
        // SAFETY: by the contract.
        return unsafe { __pthread_create(thread, attributes, start, argument) };
    }
    let wanted = Box::into_raw(Box::new((start, argument)));
    // SAFETY: by the contract; `traced` takes the box over.
    let result = unsafe { __pthread_create(thread, attributes, traced, wanted.cast()) };
    if result != 0 {
        // SAFETY: no thread was made, so the box is still ours.
        drop(unsafe { Box::from_raw(wanted) });
    }
    result
}

extern "C" fn traced(wanted: *mut c_void) -> *mut c_void {
    // SAFETY: made by `pthread_create` for this thread alone.
    let (start, argument) = *unsafe { Box::from_raw(wanted.cast::<(Start, *mut c_void)>()) };
    trace();
    start(argument)
}
