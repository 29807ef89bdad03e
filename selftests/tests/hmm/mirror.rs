// SPDX-License-Identifier: GPL-2.0-only
//! What a device keeps of a process's page table: each change of that table must reach it, for
//! every page, or it goes on with frames that are no longer the process's.

use selftests::hmm::Memory::Private;
use selftests::hmm::{Dmirror, Span};
use selftests::mapping::{Advice, PMD, Region, Source};
use selftests::pattern::{Content, FIRST};
use selftests::{child, enter};
use test_case::test_case;

use crate::scene::{self, Baseline, HUGE, whole, words};
use crate::two_devices::both;

/// Reads page by page, the last one first: where the driver misses one page it looks all that
/// follow up anew, so that a page which it should have forgotten would not be noticed.
#[track_caller]
fn read_each(dev: &Dmirror, region: &Region, content: Content) {
    for number in (0..HUGE).rev() {
        dev.read(Span::of(region, number..number + 1)).unwrap();
        dev.check_seen(content, number..number + 1);
    }
}

/// What gives a range new pages, all zero, under the same addresses.
#[derive(Clone, Copy, Debug)]
enum Anew {
    DontNeed,
    MoveAway,
    MapOver,
}

/// A device that has read small pages, or a huge one, sees the new pages that come in their place,
/// each of them.
#[test_case(scene::small, Anew::DontNeed; "small_dontneed")]
#[test_case(scene::small, Anew::MoveAway; "small_mremap")]
#[test_case(scene::small, Anew::MapOver; "small_mmap_over")]
#[test_case(|_| scene::huge(1), Anew::DontNeed; "huge_dontneed")]
#[test_case(|_| scene::huge(1), Anew::MoveAway; "huge_mremap")]
#[test_case(|_| scene::huge(1), Anew::MapOver; "huge_mmap_over")]
fn device_follows_new_pages(memory: fn(usize) -> Region, anew: Anew) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let mut region = memory(HUGE);
    let span = whole(&region);
    dev.read(span).unwrap();
    dev.check_seen(Content::Stamped(FIRST), 0..HUGE);
    let all = region.all();
    let mut target = Region::reserved(PMD).unwrap();
    match anew {
        Anew::DontNeed => region.madvise(all, Advice::DontNeed).unwrap(),
        Anew::MoveAway => region
            .mremap_into(all, &mut target, 0, Source::Stays)
            .unwrap(),
        Anew::MapOver => region.renew(all).unwrap(),
    }
    read_each(&dev, &region, Content::Zero);
    // What the device writes now goes into the new pages, and nowhere else.
    dev.write(span, &words(FIRST.next(), 0..HUGE)).unwrap();
    FIRST.next().check_all(&region);
    if matches!(anew, Anew::MoveAway) {
        FIRST.check_all(&target);
    }
}

/// After a fork a device that has written to memory no longer may: what it writes next goes into
/// a copy, and the child keeps what it had.
#[test_case(scene::small; "small")]
#[test_case(|_| scene::huge(1); "huge")]
fn device_copies_after_fork(memory: fn(usize) -> Region) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = memory(HUGE);
    let span = whole(&region);
    dev.write(span, &words(FIRST, 0..HUGE)).unwrap();
    let child = child::start(|parent| {
        parent.receive();
        FIRST.check_all(&region);
    });
    for number in (0..HUGE).rev() {
        let page = Span::of(&region, number..number + 1);
        dev.write(page, &words(FIRST.next(), number..number + 1))
            .unwrap();
    }
    child.line().send(0);
    child.join();
    FIRST.next().check_all(&region);
}

/// A second device that has read pages sees what the first one has written into them since it took
/// them over.
#[test_case(scene::small; "small")]
#[test_case(|_| scene::huge(1); "huge")]
fn other_device_follows_a_migration(memory: fn(usize) -> Region) {
    enter!();
    let _end = Baseline::new();
    let (first, second) = both(Private);
    let region = memory(HUGE);
    let span = whole(&region);
    second.read(span).unwrap();
    first.to_dev(span).unwrap();
    first
        .write_known(span, &words(FIRST.next(), 0..HUGE))
        .unwrap();
    read_each(&second, &region, Content::Stamped(FIRST.next()));
    FIRST.next().check_all(&region);
}
