// SPDX-License-Identifier: GPL-2.0-only
//! Migration of small pages to a device and back.

use nix::errno::Errno;
use selftests::enter;
use selftests::hmm::Memory::{Coherent, Private};
use selftests::hmm::{Access, Dmirror, Level, Memory, PageState, Span};
use selftests::mapping::{PAGE, Region, memfd};
use selftests::pattern::{Content, FIRST, Stamp};
use test_case::test_case;

use crate::scene::{self, Baseline, all, bring_back, in_system, send_small, small, whole};

/// More than one of the driver's windows of 512 pages, and not a multiple.
const PAGES: usize = 520;
const ROUNDS: u16 = 10;

/// Small pages move to the device with their content; the CPU gets them back.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn migrate(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let region = small(PAGES);
    send_small(&dev, &region);
    bring_back(&dev, &region);
    in_system(&dev, &region, all(&region));
}

/// Written pages of a private file mapping move like anonymous ones, and the
/// file keeps its own content.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn migrate_file_private(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let file = memfd("private", PAGES * PAGE).unwrap();
    let original = Region::shared_file(&file, 0, PAGES * PAGE).unwrap();
    let other = Stamp::of(2);
    other.fill_all(&original);
    let region = Region::private_file(&file, 0, PAGES * PAGE).unwrap();
    FIRST.fill_all(&region);
    send_small(&dev, &region);
    bring_back(&dev, &region);
    in_system(&dev, &region, all(&region));
    other.check_all(&original);
}

/// A mixture of pages in both memories moves to the device again.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn migrate_fault(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let region = small(PAGES);
    send_small(&dev, &region);
    let half = 0..PAGES / 2;
    if memory == Coherent {
        let reply = dev.to_sys(Span::of(&region, half.clone())).unwrap();
        assert_eq!(reply.cpages, half.len() as u64);
    }
    FIRST.check(&region, half.clone());
    in_system(&dev, &region, half.clone());
    let rest = Span::of(&region, half.end..PAGES);
    dev.check_states(rest, PageState::device(Access::Write, Level::Pte));
    send_small(&dev, &region);
    bring_back(&dev, &region);
}

/// RELEASE brings every page back; the device then works on.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn migrate_release(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let region = small(PAGES);
    send_small(&dev, &region);
    dev.release();
    in_system(&dev, &region, all(&region));
    FIRST.check_all(&region);
    send_small(&dev, &region);
    bring_back(&dev, &region);
}

/// Shared anonymous memory does not migrate: ENOENT, and nothing changes.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn migrate_shared(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let region = Region::shared(500 * PAGE).unwrap();
    assert_eq!(dev.to_dev(whole(&region)).unwrap_err().errno, Errno::ENOENT);
    FIRST.fill_all(&region);
    assert_eq!(dev.to_dev(whole(&region)).unwrap_err().errno, Errno::ENOENT);
    FIRST.check_all(&region);
    in_system(&dev, &region, all(&region));
}

/// Ten round trips, each with new content, end with the data in system memory.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn migrate_multiple(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let region = small(PAGES);
    let span = whole(&region);
    for version in 1..=ROUNDS {
        let stamp = Stamp { owner: 1, version };
        stamp.fill_all(&region);
        assert_eq!(dev.to_dev(span).unwrap().cpages, PAGES as u64);
        dev.check_seen(Content::Stamped(stamp), all(&region));
        scene::check_cpu_view(memory, &region, all(&region));
        // Private pages come back by a fault, and every other time by request.
        if memory == Coherent || version % 2 == 0 {
            assert_eq!(dev.to_sys(span).unwrap().cpages, PAGES as u64);
        }
        stamp.check_all(&region);
        in_system(&dev, &region, all(&region));
    }
}
