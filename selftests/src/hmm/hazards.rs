// SPDX-License-Identifier: GPL-2.0-only
//! What must hold before a command, so that the *driver* survives it.
//!
//! Each check panics with the reason: a test that trips one is wrong, not the
//! kernel. All of it rests on `lib/test_hmm.c` of 7.3, and holds for older ones.

use std::fs;

use super::coherent;
use super::device::{Dmirror, Span};
use super::node::{Memory, Node};
use super::snapshot::{Level, PageState, Place};
use crate::guard;
use crate::mapping::{PAGE, PAGES_PER_PMD, PMD, Region};

/// Order of a PMD-sized page.
const PMD_ORDER: usize = 9;

/// Sizes of the free pages of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stock {
    /// Private memory: more of either size is made when needed.
    Any,
    /// A coherent device whose only 256 MiB are small pages.
    Small,
    /// A coherent device whose only 256 MiB are huge pages.
    Huge,
}

impl Stock {
    pub(super) fn of(node: Node) -> Self {
        match node.memory {
            Memory::Private => Self::Any,
            Memory::Coherent if coherent::is_huge(node) => Self::Huge,
            Memory::Coherent => Self::Small,
        }
    }
}

/// Makes every page of our own memory present.
pub(super) fn touch(region: &Region) {
    spoil(region, region.len() / PAGE);
}

/// What the beginning of a page is overwritten with.
const SPOILED: [u64; 8] = [0xdead_beef_dead_beef; 8];

/// Overwrites the beginning of each page, so that content which the driver did
/// not return cannot look like an answer.
pub(super) fn spoil(region: &Region, pages: usize) {
    for page in 0..pages {
        guard::write_words(region.page_addr(page), &SPOILED).expect("our own memory is writable");
    }
}

/// Whether nothing was written since [`spoil`].
pub(super) fn is_spoiled(region: &Region, pages: usize) -> bool {
    let mut words = [0; SPOILED.len()];
    (0..pages).all(|page| {
        guard::read_words(region.page_addr(page), &mut words).expect("our own memory is readable");
        words == SPOILED
    })
}

/// READ and WRITE of private pages that are on this device but not in the
/// mirror's page table make the driver copy from a page without memory.
#[track_caller]
pub(super) fn before_access(device: &Dmirror, span: Span) {
    if device.memory() == Memory::Coherent {
        return;
    }
    let states = device.snapshot(span);
    let on_device = states.iter().position(|state| state.place == Place::Device);
    if let Some(page) = on_device {
        panic!(
            "page {page} is on the device: bring it back first, or use the `_known` command\n{}",
            device.history()
        );
    }
}

/// A coherent device cannot make pages of the size it lacks: it warns about a
/// conflicting mapping, and may then use a page it did not get.
#[track_caller]
pub(super) fn before_to_dev(device: &Dmirror, span: Span) {
    let fits = match device.stock() {
        Stock::Any => return,
        // An injected failure is what keeps it from asking for a huge page.
        Stock::Small => device.armed.get() || !needs(device, span).contains(&Need::Huge),
        Stock::Huge => {
            let needs = needs(device, span);
            // Up to 7.3 the kernel offers the driver its own coherent huge
            // pages again, and the driver warns.
            let again = span.pages >= PAGES_PER_PMD && needs.contains(&Need::Nothing);
            !needs.contains(&Need::Small) && !again
        }
    };
    assert!(
        fits,
        "{} has no page of the size that {span:x?} needs",
        device.node()
    );
}

/// What the driver needs for a window of 512 pages, counted from the start of
/// the command as the driver counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    Small,
    Huge,
}

fn needs(device: &Dmirror, span: Span) -> Vec<Need> {
    let aligned = span.addr.is_multiple_of(PMD);
    let states = device.snapshot(span);
    let need = |window: &[PageState]| {
        let all = |test: fn(&PageState) -> bool| window.iter().all(test);
        let movable = |state: &PageState| {
            !matches!(
                state.place,
                Place::Device | Place::OtherDevice | Place::Error
            )
        };
        let huge = all(|s| s.level == Level::Pmd) || all(|s| *s == PageState::NOWHERE);
        match window.iter().any(movable) {
            false => Need::Nothing,
            true if aligned && window.len() == PAGES_PER_PMD && huge => Need::Huge,
            true => Need::Small,
        }
    };
    states.chunks(PAGES_PER_PMD).map(need).collect()
}

/// The failing allocation of a huge device page is replaced by 512 small ones
/// without a check, each backed by a page of system memory.
#[track_caller]
pub(super) fn before_fail_alloc(device: &Dmirror) {
    assert_ne!(
        device.stock(),
        Stock::Huge,
        "{} has no small page to fall back to",
        device.node()
    );
    let free = free_huge_pages();
    assert!(
        free >= 4,
        "only {free} huge pages are free: the driver may fail for real"
    );
}

/// RELEASE takes a new page for every one it evicts, and does not check that
/// it got a huge one; then it waits until nobody holds a device page.
#[track_caller]
pub(super) fn before_release(device: &Dmirror) {
    assert_ne!(
        device.stock(),
        Stock::Huge,
        "a release of huge coherent pages makes the driver warn"
    );
    let needed = huge_pages_out(device);
    let free = free_huge_pages();
    assert!(
        free > needed + 1,
        "{needed} huge pages are on the device, and only {free} are free in the system"
    );
}

/// Closing evicts too: bring our own pages back first, by the path that copes
/// with a shortage. What is mapped no longer is not on the device either.
pub(super) fn before_close(device: &Dmirror) {
    let sent = device.sent.take();
    for span in sent {
        let states = device.try_snapshot(span).unwrap_or_default();
        let left = states.iter().any(|state| state.place == Place::Device);
        if left && device.to_sys(span).is_err() {
            eprintln!("{span:x?} could not be brought back before the close");
        }
    }
}

fn huge_pages_out(device: &Dmirror) -> usize {
    let sent = device.sent.borrow();
    let out = sent.iter().map(|span| {
        let states = device.snapshot(*span);
        let huge = |s: &&PageState| s.place == Place::Device && s.level == Level::Pmd;
        states.iter().filter(huge).count().div_ceil(PAGES_PER_PMD)
    });
    out.sum()
}

/// Free pages of PMD size, from `/proc/buddyinfo`.
fn free_huge_pages() -> usize {
    parse_buddyinfo(&fs::read_to_string("/proc/buddyinfo").unwrap_or_default())
}

/// Sums blocks of PMD order and larger over all zones, counted in PMD size.
fn parse_buddyinfo(text: &str) -> usize {
    let zone = |line: &str| -> usize {
        let counts = line.split_whitespace().skip(4);
        counts
            .enumerate()
            .skip(PMD_ORDER)
            .map(|(order, count)| count.parse::<usize>().unwrap_or(0) << (order - PMD_ORDER))
            .sum()
    };
    text.lines().map(zone).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_larger_than_a_pmd_count_several_times() {
        let text = "\
Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      2
Node 0, zone    DMA32      6      4      5      4      4      5      4      5      6      4    442
";
        assert_eq!(parse_buddyinfo(text), 1 + 2 * 2 + 4 + 442 * 2);
        assert_eq!(parse_buddyinfo(""), 0);
    }
}
