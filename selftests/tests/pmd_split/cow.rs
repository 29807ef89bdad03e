// SPDX-License-Identifier: GPL-2.0-only
//! Sharing after fork: a split on one side changes nothing on the other, and
//! every page is copied when it is written, once, whoever writes first.

use selftests::child;
use selftests::counters::{Expect, Snapshot};
use selftests::gup::{Pin, Way};
use selftests::mapping::{Advice, Prot, Region, pages};
use selftests::pattern::{FIRST, Stamp};
use selftests::{enter, guard, thp};
use test_case::test_case;

use crate::fixture::*;

/// The child's content.
const CHILD: Stamp = Stamp::of(2);

/// How the side that splits does it, without unmapping anything.
#[derive(Clone, Copy, Debug)]
enum By {
    Mprotect,
    DontFork,
    Write,
}

fn split(region: &Region, by: By) {
    match by {
        By::Mprotect => {
            region.mprotect(pages(5..6), Prot::READ).expect("mprotect");
            region
                .mprotect(pages(5..6), Prot::READ_WRITE)
                .expect("mprotect");
        }
        By::DontFork => region
            .madvise(pages(5..6), Advice::DontFork)
            .expect("madvise"),
        By::Write => guard::store(region.page_addr(5), FIRST.page(5)[0] as u8).expect("a store"),
    }
}

/// The parent splits after fork and writes every page: the child sees none of
/// it, each write takes exactly one fault, and the other way round.
#[test_case(By::Mprotect; "mprotect")]
#[test_case(By::DontFork; "madvise")]
#[test_case(By::Write; "write_fault")]
fn parent_splits(by: By) {
    enter!();
    let region = filled(1);
    let child = child::start(|parent| {
        parent.receive();
        FIRST.check_all(&region);
        thp::assert_huge(&region, 0..1);
        CHILD.fill_all(&region);
        parent.send(0);
        parent.receive();
        CHILD.check_all(&region);
    });
    let before = Snapshot::take();
    split(&region, by);
    Expect::new()
        .delta("thp_split_pmd", 1)
        .unchanged(&["thp_split_page", "thp_fault_alloc", "2048kB/nr_anon"])
        .check(&before);
    FIRST.check_all(&region);
    let faults = if matches!(by, By::Write) { 511 } else { 512 };
    assert_writes_fault(&region, 0..512, faults);
    FIRST.next().fill_all(&region);
    child.line().send(0);
    child.line().receive();
    FIRST.next().check_all(&region);
    child.line().send(0);
    child.join();
}

/// The child splits and writes: the parent keeps its huge page and its content.
#[test_case(By::Mprotect; "mprotect")]
#[test_case(By::DontFork; "madvise")]
#[test_case(By::Write; "write_fault")]
fn child_splits(by: By) {
    enter!();
    let region = filled(1);
    let before = Snapshot::take();
    let child = child::start(|parent| {
        split(&region, by);
        FIRST.check_all(&region);
        let faults = if matches!(by, By::Write) { 511 } else { 512 };
        assert_writes_fault(&region, 0..512, faults);
        CHILD.fill_all(&region);
        CHILD.check_all(&region);
        parent.send(0);
    });
    child.line().receive();
    child.join();
    Expect::new()
        .delta("thp_split_pmd", 1)
        .unchanged(&[
            "thp_split_page",
            "2048kB/nr_anon",
            "thp_deferred_split_page",
        ])
        .check(&before);
    thp::assert_huge(&region, 0..1);
    FIRST.check_all(&region);
    FIRST.next().fill_all(&region);
    FIRST.next().check_all(&region);
}

/// A split before fork: every page is shared, and every page is copied.
#[test]
fn fork_after_split() {
    enter!();
    let region = filled(1);
    region.mprotect(pages(5..6), Prot::READ).expect("mprotect");
    region
        .mprotect(pages(5..6), Prot::READ_WRITE)
        .expect("mprotect");
    let before = Snapshot::take();
    let child = child::start(|parent| {
        FIRST.check_all(&region);
        CHILD.fill(&region, 0..256);
        parent.send(0);
        parent.receive();
        CHILD.check(&region, 0..256);
        FIRST.check(&region, 256..512);
    });
    child.line().receive();
    FIRST.check_all(&region);
    FIRST.next().fill_all(&region);
    child.line().send(0);
    child.join();
    FIRST.next().check_all(&region);
    // When both had copied the first half, it was mapped by nobody any more;
    // then the child gave back the second half, and with it the folio.
    Expect::new()
        .delta("thp_deferred_split_page", 1)
        .delta("2048kB/nr_anon", -1)
        .unchanged(&[
            "thp_split_pmd",
            "thp_split_page",
            "2048kB/nr_anon_partially_mapped",
        ])
        .check_settled(&before);
}

/// One write to a shared huge page copies one page; the others stay shared.
#[test]
fn one_write_copies_one_page() {
    enter!();
    let region = filled(1);
    let frames = thp::frames(&region, 0);
    let child = child::start(|parent| {
        parent.receive();
        FIRST.check_all(&region);
    });
    let before = Snapshot::take();
    FIRST.next().fill(&region, 77..78);
    Expect::new()
        .delta("thp_split_pmd", 1)
        .unchanged(&["thp_split_page", "2048kB/nr_anon"])
        .check(&before);
    let now = thp::frames(&region, 0);
    for number in 0..512 {
        assert_eq!(
            now[number] == frames[number],
            number != 77,
            "page {number} shares its frame"
        );
    }
    child.line().send(0);
    child.join();
    check_others(&region, &(77..78));
    FIRST.next().check(&region, 77..78);
}

/// After the other side is gone the pages are not copied any more.
#[test]
fn last_owner_reuses_its_pages() {
    enter!();
    let region = filled(1);
    let frames = thp::frames(&region, 0);
    child::run_to_end(|_| {
        FIRST.check_all(&region);
    });
    let before = Snapshot::take();
    FIRST.next().fill_all(&region);
    splits_nothing()
        .unchanged(&["2048kB/nr_anon", "thp_fault_alloc"])
        .check(&before);
    assert_eq!(
        thp::frames(&region, 0),
        frames,
        "frames after the child has gone"
    );
}

/// fork of a huge page with a pinned page: the parent keeps the pinned frame,
/// the child gets a copy of every page that it must not share.
#[test_case(Way::Read; "pinned_for_reading")]
#[test_case(Way::Write; "pinned_for_writing")]
#[test_case(Way::WriteFast; "pinned_fast")]
fn fork_pinned(way: Way) {
    enter!();
    let region = filled(1);
    let frames = thp::frames(&region, 0);
    let pinned = pages(33..34);
    let pin = Pin::take(&region, &pinned, way).expect("pin");
    let before = Snapshot::take();
    let child = child::start(|parent| {
        FIRST.check_all(&region);
        parent.receive();
        FIRST.check_all(&region);
        CHILD.fill_all(&region);
        parent.send(0);
    });
    Expect::new()
        .delta("thp_split_pmd", 1)
        .unchanged(&["thp_split_page", "2048kB/nr_anon"])
        .check(&before);
    assert_eq!(thp::frames(&region, 0), frames, "the parent's frames");
    // All pages of the folio count as pinned, so none of them may be shared.
    assert_writes_fault(&region, 0..512, 0);
    FIRST.next().fill_all(&region);
    pin.assert_coherent(&region, &pinned);
    child.line().send(0);
    child.line().receive();
    child.join();
    FIRST.next().check_all(&region);
    pin.assert_coherent(&region, &pinned);
}

/// A huge page that is only readable stays so for both sides after a split.
#[test]
fn read_only_memory_stays_read_only() {
    enter!();
    let region = filled(1);
    region.mprotect(region.all(), Prot::READ).expect("mprotect");
    thp::assert_huge(&region, 0..1);
    let before = Snapshot::take();
    region
        .madvise(pages(5..6), Advice::DontFork)
        .expect("madvise");
    splits_and_keeps(1).check(&before);
    assert_read_only(&region, 0..512);
    FIRST.check_all(&region);
    region
        .mprotect(region.all(), Prot::READ_WRITE)
        .expect("mprotect");
    FIRST.next().fill_all(&region);
    FIRST.next().check_all(&region);
}

/// A shared huge page that goes read-only and back is still copied on write.
#[test]
fn protection_round_trip_keeps_sharing() {
    enter!();
    let region = filled(1);
    let child = child::start(|parent| {
        parent.receive();
        FIRST.check_all(&region);
    });
    region.mprotect(region.all(), Prot::READ).expect("mprotect");
    region
        .mprotect(region.all(), Prot::READ_WRITE)
        .expect("mprotect");
    FIRST.next().fill_all(&region);
    FIRST.next().check_all(&region);
    child.line().send(0);
    child.join();
}
