// SPDX-License-Identifier: GPL-2.0-only
//! One injected allocation failure of the driver.
//!
//! The driver's flag is one-shot and stays armed until an allocation consumes
//! it, which may be in the next test. So it is a guard: proven consumed by
//! [`FailAlloc::consumed`], or disarmed when dropped.

use nix::errno::Errno;

use super::device::{Dmirror, Span};
use super::hazards::{self, Stock};
use super::uapi::{FLAG_FAIL_ALLOC, FLAG_NOTHING};
use crate::mapping::{Advice, PAGE, Region};
use crate::release::release;
use crate::skip;

/// The next allocation that the driver makes for this open file fails: of a
/// device page in TO_DEV, of a system page in TO_SYS and in a CPU fault.
#[derive(Debug)]
#[must_use = "the failure is disarmed as soon as this is dropped"]
pub struct FailAlloc<'d> {
    device: &'d Dmirror,
    /// A page of our own that is sent to the device to see whether the flag is
    /// still armed.
    canary: Region,
}

impl<'d> FailAlloc<'d> {
    #[track_caller]
    pub(super) fn arm(device: &'d Dmirror) -> Self {
        hazards::before_fail_alloc(device);
        let canary = Region::private(PAGE).expect("a page can be mapped");
        // Not huge, whatever the settings say: one small page is sent.
        let _ = canary.madvise(canary.all(), Advice::NoHugePage);
        hazards::touch(&canary);
        match device.set_flags(FLAG_FAIL_ALLOC) {
            Ok(_) => {}
            Err(refusal) if refusal.errno == Errno::EINVAL && release() < (6, 19) => {
                skip!("this kernel's test_hmm cannot fail an allocation (since 6.19)")
            }
            Err(refusal) => panic!("{refusal}"),
        }
        device.armed.set(true);
        Self { device, canary }
    }

    /// Checks that the failure happened, and that exactly one did: a page that
    /// is sent now arrives.
    ///
    /// # Panics
    /// When the flag was still armed.
    #[track_caller]
    pub fn consumed(self) {
        let page = Span::of(&self.canary, 0..1);
        self.device.armed.set(false);
        if let Err(refusal) = self.device.to_dev(page) {
            panic!("the injected failure was not consumed: {refusal}");
        }
        self.device
            .to_sys(page)
            .unwrap_or_else(|refusal| panic!("{refusal}"));
    }

    /// Disarms without a proof, for operations that may not allocate at all.
    pub fn disarm(self) {
        drop(self);
    }
}

impl Drop for FailAlloc<'_> {
    fn drop(&mut self) {
        debug_assert_ne!(self.device.stock(), Stock::Huge);
        self.device.armed.set(false);
        if let Err(refusal) = self.device.set_flags(FLAG_NOTHING) {
            eprintln!("cannot disarm: {refusal}");
        }
    }
}
