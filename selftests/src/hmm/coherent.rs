// SPDX-License-Identifier: GPL-2.0-only
//! Huge pages of coherent memory.
//!
//! A coherent device of the driver owns one range of 256 MiB, and decides with
//! the first request for memory whether it consists of small or of huge pages;
//! from boot on it is small ones. So one of the two devices stays as it is, for
//! tests with small pages, and the other gives its memory up and takes it anew
//! with a huge page as the first request ([`open_huge`]).
//!
//! That the second device has been prepared is a fact of this boot, which no
//! interface shows: it is noted in a file, with the boot's id in it.

use std::fs;
use std::path::PathBuf;

use super::device::{Dmirror, Span};
use super::node::{Memory, Node};
use super::snapshot::{Access, Level, PageState};
use crate::mapping::{Advice, PAGES_PER_PMD, PMD, Region};
use crate::pattern::FIRST;
use crate::skip;

/// The device whose memory is huge pages.
const HUGE: Node = Node::second(Memory::Coherent);

/// Opens the coherent device that hands out huge pages, and prepares it when
/// this is the first time since boot. Skips the test when there is none, or
/// when it did not take a huge page.
pub fn open_huge() -> Dmirror {
    if is_huge(HUGE) {
        return Dmirror::open_node(HUGE);
    }
    let device = Dmirror::open_node(HUGE);
    let region = Region::private(PMD).expect("2 MiB can be mapped");
    region
        .madvise(region.all(), Advice::HugePage)
        .unwrap_or_else(|errno| {
            skip!("MADV_HUGEPAGE: {errno}: CONFIG_TRANSPARENT_HUGEPAGE is off")
        });
    FIRST.fill_all(&region);
    let span = Span::of(&region, 0..PAGES_PER_PMD);
    let system = PageState::system(Access::Write, Level::Pmd);
    if device.snapshot(span).iter().any(|state| *state != system) {
        skip!("no huge page to prepare {HUGE} with: memory is fragmented");
    }
    // The device owns small pages now, and none of them is in use.
    device.release_unchecked();
    note(HUGE);
    drop(device);
    let device = Dmirror::open_node(HUGE);
    if device.to_dev(span).is_err() || device.snapshot(span)[0].level != Level::Pmd {
        skip!("{HUGE} does not take huge pages: device-coherent THP needs 6.19 or newer");
    }
    device
}

/// Whether `node` was prepared by [`open_huge`] since boot.
pub(super) fn is_huge(node: Node) -> bool {
    let noted = fs::read_to_string(note_path(node)).unwrap_or_default();
    node == HUGE && !noted.is_empty() && noted == boot_id()
}

fn note(node: Node) {
    fs::write(note_path(node), boot_id()).expect("/run is writable in a guest");
}

/// After a RELEASE the memory of a device is undecided again.
pub(super) fn forget(node: Node) {
    if is_huge(node) {
        fs::remove_file(note_path(node)).expect("the note that was just read can be removed");
    }
}

fn note_path(node: Node) -> PathBuf {
    PathBuf::from(format!("/run/hugeprobe-dmirror-{}-huge", node.index + 2))
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}
