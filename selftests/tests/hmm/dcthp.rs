// SPDX-License-Identifier: GPL-2.0-only
//! Huge pages of device-coherent memory.

/// Why a test leaves out the partial unmap of a coherent huge page.
pub const NO_PARTIAL_UNMAP: &str = "the kernel would put a coherent huge page on the deferred \
     split queue and free it from there, which corrupts the queue";
/// Why a test leaves out the split of a coherent huge page.
pub const NO_SPLIT: &str =
    "the kernel loses the pgmap of the tail pages when it splits a coherent huge page";
