// SPDX-License-Identifier: GPL-2.0-only
//! Two devices, or several kinds of pages, in one range (the fixture `hmm2`).

use nix::errno::Errno;
use selftests::hmm::Memory::{Coherent, Private};
use selftests::hmm::{Access, Dmirror, Level, Memory, Node, PageState, Place, Span};
use selftests::mapping::{Prot, Region, page, pages};
use selftests::pattern::{Content, FIRST, check_zero};
use selftests::{enter, guard};
use test_case::test_case;

use crate::scene::{self, Baseline, all, small, untouched, whole};

/// The device that gets small pages, and another one with the same memory.
pub fn both(memory: Memory) -> (Dmirror, Dmirror) {
    let other = match memory {
        Private => Dmirror::open_node(Node::second(Private)),
        Coherent => scene::open_for_huge(Coherent),
    };
    (Dmirror::open(memory), other)
}

/// TO_DEV refuses memory without permission and holes; a zero page, read-only
/// and writable pages move; another device does not take them away.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn migrate_mixed(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let (dev, other) = both(memory);
    let mut region = untouched(6);
    FIRST.fill(&region, 3..6);
    region.mprotect(region.all(), Prot::NONE).unwrap();
    assert_eq!(dev.to_dev(whole(&region)).unwrap_err().errno, Errno::EINVAL);
    region.munmap(page(1)).unwrap();
    let with_hole = Span::of(&region, 0..3);
    assert_eq!(dev.to_dev(with_hole).unwrap_err().errno, Errno::EINVAL);

    region.mprotect(pages(2..4), Prot::READ).unwrap();
    region.mprotect(pages(4..6), Prot::READ_WRITE).unwrap();
    assert_eq!(
        guard::load(region.page_addr(2)),
        Ok(0),
        "maps the zero page"
    );
    let moved = Span::of(&region, 2..6);
    assert_eq!(dev.to_dev(moved).unwrap().cpages, 4);
    dev.check_seen_in(Content::Zero, 0..1);
    let states = dev.snapshot(moved);
    let expected = [Access::Read, Access::Read, Access::Write, Access::Write];
    let expected = expected.map(|access| PageState::device(access, Level::Pte));
    assert_eq!(states, expected);

    let taken = Span::of(&region, 5..6);
    assert_eq!(other.to_dev(taken).unwrap_err().errno, Errno::ENOENT);
    assert_eq!(dev.snapshot(taken), [expected[3]], "it stays where it is");
    check_zero(&region, 2..3);
    FIRST.check(&region, 3..6);
    assert!(guard::store(region.page_addr(2), 1).is_err(), "read-only");
    assert!(guard::store(region.page_addr(3), 1).is_err(), "read-only");
    assert_eq!(guard::store(region.page_addr(5), 1), Ok(()));
}

/// SNAPSHOT tells seven kinds of pages apart.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn snapshot(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let (dev, other) = both(memory);
    let mut region = untouched(7);
    FIRST.fill(&region, 3..7);
    region.mprotect(page(0), Prot::NONE).unwrap();
    region.munmap(page(1)).unwrap();
    region.mprotect(pages(2..4), Prot::READ).unwrap();
    assert_eq!(
        guard::load(region.page_addr(2)),
        Ok(0),
        "maps the zero page"
    );
    dev.to_dev(Span::of(&region, 5..6)).unwrap();
    let remote = remote_page(memory, &other, &region);

    let small = |place, access| PageState {
        place,
        access,
        level: Level::Pte,
    };
    let expected = [
        PageState::ERROR,
        PageState::ERROR,
        small(Place::ZeroPage, Access::Read),
        small(Place::System, Access::Read),
        small(Place::System, Access::Write),
        small(Place::Device, Access::Write),
    ];
    assert_eq!(dev.snapshot(Span::of(&region, 0..6)), expected);
    // Private memory of another device cannot be told from nothing.
    let (region, states) = match &remote {
        None => (&region, dev.snapshot(Span::of(&region, 6..7))),
        Some(far) => (&region, dev.snapshot(Span::of(far, 0..1))),
    };
    match memory {
        Private => assert_eq!(states, [PageState::NOWHERE]),
        Coherent => {
            assert_eq!(states[0].place, Place::OtherDevice);
            assert_eq!(states[0].access, Access::Write);
        }
    }
    FIRST.check(region, 3..7);
}

/// Puts page 6 on the other device. The other coherent device has huge pages
/// only, so a region of its own stands for page 6 there.
fn remote_page(memory: Memory, other: &Dmirror, region: &Region) -> Option<Region> {
    match memory {
        Private => {
            other.to_dev(Span::of(region, 6..7)).unwrap();
            None
        }
        Coherent => {
            let far = scene::huge(1);
            scene::send_huge(other, &far);
            Some(far)
        }
    }
}

/// Two devices read the same pages; after they moved to one device the other
/// still reads the right data.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn double_map(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let (dev, other) = both(memory);
    let region = small(6);
    region.mprotect(region.all(), Prot::READ).unwrap();
    let span = whole(&region);
    for reader in [&other, &dev] {
        let reply = reader.read(span).unwrap();
        assert_eq!((reply.cpages, reply.faults), (6, 1));
        reader.check_seen(Content::Stamped(FIRST), all(&region));
    }
    assert_eq!(dev.to_dev(span).unwrap().cpages, 6);
    dev.check_states(span, PageState::device(Access::Read, Level::Pte));
    let reply = other.read(span).unwrap();
    assert_eq!(
        (reply.cpages, reply.faults),
        (6, 1),
        "it had to fault again"
    );
    other.check_seen(Content::Stamped(FIRST), all(&region));
    FIRST.check_all(&region);
    assert!(guard::store(region.addr(), 1).is_err(), "still read-only");
}
