// SPDX-License-Identifier: GPL-2.0-only
//! Huge pages and several devices or processes; what a device may believe of
//! memory that changes under it.

use nix::errno::Errno;
use selftests::counters::{Expect, Snapshot};
use selftests::hmm::Memory::Private;
use selftests::hmm::{Access, Dmirror, Node, PageState, Place, Span, runs};
use selftests::mapping::{Advice, PMD, Prot, Region, Source, page};
use selftests::pattern::{Content, FIRST, Stamp};
use selftests::{child, enter, guard, thp};
use test_case::test_case;

use crate::scene::{self, Baseline, HUGE, all, send_huge, whole, words};

fn second() -> Dmirror {
    Dmirror::open_node(Node::second(Private))
}

/// A huge page belongs to the device it went to: the other one cannot take it
/// (ENOENT) nor see it, and its READ brings all of it back with the data.
#[test]
fn dpthp_two_devices() {
    enter!();
    let _end = Baseline::new();
    let (dev, other) = (Dmirror::open(Private), second());
    let region = scene::huge(1);
    send_huge(&dev, &region);
    let refusal = other.to_dev(whole(&region)).unwrap_err();
    assert_eq!(refusal.errno, Errno::ENOENT);
    scene::on_device_huge(&dev, &region, Access::Write);
    let states = other.snapshot(whole(&region));
    let unseen = |state: &PageState| matches!(state.place, Place::Nowhere | Place::Error);
    assert!(states.iter().all(unseen), "{}", runs(&states));
    // TO_SYS of the wrong device changes nothing.
    assert_eq!(other.to_sys(whole(&region)).unwrap().cpages, 0);
    scene::on_device_huge(&dev, &region, Access::Write);
    let reply = other.read(whole(&region)).unwrap();
    assert_eq!(reply.cpages, HUGE as u64);
    other.check_seen(Content::Stamped(FIRST), 0..HUGE);
    scene::in_system_huge(&dev, &region);
    send_huge(&other, &region);
    FIRST.check_all(&region);
}

/// READ of a part of a huge page on another device returns the data of that
/// part, and brings back the whole.
#[test_case(0..32; "first_window")]
#[test_case(229..261; "across_the_middle")]
#[test_case(500..512; "last_pages")]
#[test_case(257..258; "one_page")]
fn dpthp_hmm_read_offset(numbers: std::ops::Range<usize>) {
    enter!();
    let _end = Baseline::new();
    let (dev, other) = (Dmirror::open(Private), second());
    let region = scene::huge(1);
    send_huge(&dev, &region);
    let reply = other.read(Span::of(&region, numbers.clone())).unwrap();
    assert_eq!(reply.cpages as usize, numbers.len());
    other.check_seen(Content::Stamped(FIRST), numbers.clone());
    scene::in_system_huge(&dev, &region);
    let data = words(Stamp::of(2), numbers.clone());
    send_huge(&dev, &region);
    other
        .write(Span::of(&region, numbers.clone()), &data)
        .unwrap();
    Stamp::of(2).check(&region, numbers.clone());
    FIRST.check(&region, 0..numbers.start);
    FIRST.check(&region, numbers.end..HUGE);
}

/// What the device writes to its own memory is what the CPU then finds, in
/// every page of the huge page.
#[test]
fn dpthp_device_writes_its_memory() {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = scene::huge(1);
    send_huge(&dev, &region);
    let numbers = 100..400;
    let span = Span::of(&region, numbers.clone());
    let reply = dev
        .write_known(span, &words(Stamp::of(2), numbers.clone()))
        .unwrap();
    assert_eq!((reply.cpages, reply.faults), (300, 0), "it has the pages");
    dev.read_known(whole(&region)).unwrap();
    dev.check_seen_in(Content::Stamped(FIRST), 0..100);
    dev.check_seen_in(Content::Stamped(Stamp::of(2)), numbers.clone());
    scene::on_device_huge(&dev, &region, Access::Write);
    FIRST.check(&region, 0..100);
    Stamp::of(2).check(&region, numbers);
    FIRST.check(&region, 400..HUGE);
    scene::in_system_huge(&dev, &region);
}

/// How memory changes that a device has read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    CpuWrites,
    DontNeed,
    DontNeedPage,
    Munmap,
    ProtNone,
    MovedAway,
    CopiedOnWrite,
    OtherDevice,
    Collapse,
    ThereAndBack,
}

/// A device that has read memory never returns old data after it changed: new
/// data, or EFAULT where there is none.
#[test_case(Change::CpuWrites; "cpu_writes")]
#[test_case(Change::DontNeed; "dontneed")]
#[test_case(Change::DontNeedPage; "dontneed_one_page")]
#[test_case(Change::Munmap; "munmap")]
#[test_case(Change::ProtNone; "mprotect_none")]
#[test_case(Change::MovedAway; "mremap")]
#[test_case(Change::CopiedOnWrite; "copy_on_write")]
#[test_case(Change::OtherDevice; "moved_to_another_device")]
#[test_case(Change::Collapse; "collapse")]
#[test_case(Change::ThereAndBack; "there_and_back")]
fn dpthp_notifier(change: Change) {
    enter!();
    let _end = Baseline::new();
    let (dev, other) = (Dmirror::open(Private), second());
    let mut region = match change {
        Change::Collapse => scene::small(HUGE),
        _ => scene::huge(1),
    };
    let span = whole(&region);
    dev.read(span).unwrap();
    dev.check_seen(Content::Stamped(FIRST), 0..HUGE);
    let new = Stamp::of(2);
    let mut target = Region::reserved(PMD).unwrap();
    let expected = match change {
        Change::CpuWrites => {
            new.fill_all(&region);
            Some(Content::Stamped(new))
        }
        Change::DontNeed => {
            region.madvise(region.all(), Advice::DontNeed).unwrap();
            Some(Content::Zero)
        }
        Change::DontNeedPage => {
            region.madvise(page(300), Advice::DontNeed).unwrap();
            dev.read(Span::of(&region, 300..301)).unwrap();
            dev.check_seen(Content::Zero, 300..301);
            FIRST.fill(&region, 300..301);
            Some(Content::Stamped(FIRST))
        }
        Change::Munmap => {
            region.munmap(region.all()).unwrap();
            None
        }
        Change::ProtNone => {
            region.mprotect(region.all(), Prot::NONE).unwrap();
            None
        }
        Change::MovedAway => {
            let moved = region.mremap_into(0..PMD, &mut target, 0, Source::Goes);
            moved.unwrap();
            dev.read(whole(&target)).unwrap();
            dev.check_seen(Content::Stamped(FIRST), 0..HUGE);
            None
        }
        Change::CopiedOnWrite => {
            let child = child::start(|parent| {
                parent.receive();
                FIRST.check_all(&region);
            });
            new.fill_all(&region);
            child.line().send(0);
            child.join();
            Some(Content::Stamped(new))
        }
        Change::OtherDevice => {
            other.to_dev(span).unwrap();
            other.write_known(span, &words(new, 0..HUGE)).unwrap();
            Some(Content::Stamped(new))
        }
        Change::Collapse => {
            region.madvise(region.all(), Advice::HugePage).unwrap();
            region.madvise(region.all(), Advice::Collapse).unwrap();
            thp::assert_huge(&region, 0..1);
            new.fill_all(&region);
            Some(Content::Stamped(new))
        }
        Change::ThereAndBack => {
            send_huge(&dev, &region);
            new.fill_all(&region);
            Some(Content::Stamped(new))
        }
    };
    match expected {
        Some(content) => {
            dev.read(span).unwrap();
            dev.check_seen(content, 0..HUGE);
        }
        None => assert_eq!(dev.read(span).unwrap_err().errno, Errno::EFAULT),
    }
}

/// A device loses its permission to write when a fork shares the memory: what
/// it writes then stays with its own process.
#[test]
fn dpthp_notifier_fork() {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = scene::huge(1);
    let span = whole(&region);
    dev.write(span, &words(FIRST, 0..HUGE)).unwrap();
    let child = child::start(|parent| {
        parent.receive();
        FIRST.check_all(&region);
    });
    let reply = dev.write(span, &words(Stamp::of(2), 0..HUGE)).unwrap();
    assert_ne!(reply.faults, 0, "it had to fault for a copy");
    child.line().send(0);
    child.join();
    Stamp::of(2).check_all(&region);
}

/// RELEASE brings back the huge pages of two processes, whole and with all data.
#[test]
fn dpthp_release_with_thp() {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let child = child::start(|parent| {
        let dev = Dmirror::open(Private);
        let region = scene::huge(1);
        Stamp::of(2).fill_all(&region);
        dev.to_dev(whole(&region)).unwrap();
        parent.send(0);
        parent.receive();
        scene::in_system_huge(&dev, &region);
        Stamp::of(2).check_all(&region);
    });
    child.line().receive();
    let region = scene::huge(2);
    send_huge(&dev, &region);
    let before = Snapshot::take();
    dev.release();
    scene::in_system_huge(&dev, &region);
    Expect::new()
        .unchanged(&["2048kB/nr_anon", "thp_split_pmd", "thp_split_page"])
        .check(&before);
    FIRST.check_all(&region);
    child.line().send(0);
    child.join();
    send_huge(&dev, &region);
    FIRST.check_all(&region);
}

/// Closing the device brings its huge pages back.
#[test]
fn dpthp_close_with_thp() {
    enter!();
    let _end = Baseline::new();
    let keep = Dmirror::open(Private);
    let region = scene::huge(1);
    send_huge(&keep, &region);
    // The end of any file of the device evicts what is on it.
    drop(Dmirror::open(Private));
    scene::in_system_huge(&keep, &region);
    FIRST.check_all(&region);
    assert_eq!(guard::store(region.addr(), 1), Ok(()));
    assert_eq!(all(&region), 0..HUGE);
}
