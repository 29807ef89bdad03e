// SPDX-License-Identifier: GPL-2.0-only
//! Restartable sequences (rseq(2)), which glibc asks the kernel for in each thread: when a thread
//! was preempted, the kernel writes to a page of it on the way back. A page that a fork has just
//! shared must be copied for that, and if this is the allocation that fails, the kernel kills the
//! process.

use std::arch::asm;

unsafe extern "C" {
    /// Where the area of a thread is, from its thread pointer.
    static __rseq_offset: isize;
    /// How much of it is in use; 0 where nothing is registered.
    safe static __rseq_size: u32;
}

const UNREGISTER: i32 = 1;
/// What glibc gives for x86.
const SIGNATURE: u32 = 0x5305_3053;
/// Its first size; later it grows by multiples of this.
const SIZE: u32 = 32;

/// Ends them for the calling thread, and says whether it had them. Nothing that we use needs them.
pub fn end() -> bool {
    let pointer: usize;
    // SAFETY: on x86-64 the thread pointer stands at its own address.
    unsafe { asm!("mov {}, fs:0", out(reg) pointer, options(nostack, readonly)) };
    // SAFETY: glibc sets it before `main`, and nobody changes it.
    let area = pointer.wrapping_add_signed(unsafe { __rseq_offset });
    [SIZE, __rseq_size.next_multiple_of(SIZE)]
        .iter()
        .any(|size| {
            // SAFETY: the kernel only compares the address and the size with those it was given, and
            // writes to the area that it knows. Refused, when nothing is registered, it does nothing.
            let status =
                unsafe { libc::syscall(libc::SYS_rseq, area, *size, UNREGISTER, SIGNATURE) };
            status == 0
        })
}

#[cfg(test)]
mod tests {
    use super::{__rseq_size, end};

    #[test]
    fn a_thread_lives_on_without() {
        std::thread::spawn(|| {
            assert_eq!(end(), __rseq_size > 0);
            assert!(!end(), "there is nothing left to end");
            assert!(std::thread::available_parallelism().is_ok());
        })
        .join()
        .unwrap();
    }
}
