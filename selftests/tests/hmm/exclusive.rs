// SPDX-License-Identifier: GPL-2.0-only
//! Exclusive access of a device to pages of system memory.

use nix::errno::Errno;
use selftests::collapse::drain_lru;
use selftests::counters::{Expect, Snapshot};
use selftests::hmm::Memory::{Coherent, Private};
use selftests::hmm::{Access, Dmirror, Level, Memory, PageState, Span};
use selftests::mapping::{Advice, Prot, Region};
use selftests::pattern::{Content, FIRST};
use selftests::{child, enter, guard, pagemap, skip};
use test_case::test_case;

use crate::scene::{self, Baseline, HUGE, all, huge, in_system, small, whole, words};

/// More than three of the driver's windows of 32 pages.
const PAGES: usize = 100;

#[track_caller]
fn take(dev: &Dmirror, region: &Region) {
    let reply = dev.exclusive(whole(region)).unwrap();
    assert_eq!(reply.cpages as usize, all(region).len());
    dev.check_seen(Content::Stamped(FIRST), all(region));
    assert!(
        !dev.exclusive_revoked(whole(region)),
        "the device has access"
    );
}

/// EXCLUSIVE returns the data; the CPU's next access revokes it, page by page.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn exclusive(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let region = small(PAGES);
    take(&dev, &region);
    // Backwards: the driver forgets one page more than the kernel tells it to.
    for number in all(&region).rev() {
        let span = Span::of(&region, number..number + 1);
        assert!(
            !dev.exclusive_revoked(span),
            "page {number} was not touched"
        );
        FIRST.check(&region, number..number + 1);
        assert!(dev.exclusive_revoked(span), "page {number} was touched");
        FIRST.next().fill(&region, number..number + 1);
    }
    FIRST.next().check_all(&region);
    assert!(dev.exclusive_revoked(whole(&region)));
    in_system(&dev, &region, all(&region));
}

/// After mprotect(PROT_READ) of exclusive pages the device may not write.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn exclusive_mprotect(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let region = small(PAGES);
    take(&dev, &region);
    region.mprotect(region.all(), Prot::READ).unwrap();
    let refusal = dev.write(whole(&region), &words(FIRST.next(), all(&region)));
    assert_eq!(refusal.unwrap_err().errno, Errno::EPERM);
    FIRST.check_all(&region);
    assert!(
        guard::store(region.addr(), 1).is_err(),
        "the CPU may not either"
    );
    region.mprotect(region.all(), Prot::READ_WRITE).unwrap();
    FIRST.next().fill_all(&region);
    FIRST.next().check_all(&region);
}

/// After a fork over exclusive pages parent and child each keep their own data.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn exclusive_cow(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let region = small(PAGES);
    take(&dev, &region);
    let child = child::start(|parent| {
        FIRST.check_all(&region);
        FIRST.next().fill_all(&region);
        parent.send(0);
        parent.receive();
        FIRST.next().check_all(&region);
    });
    child.line().receive();
    FIRST.check_all(&region);
    FIRST.next().next().fill_all(&region);
    child.line().send(0);
    child.join();
    FIRST.next().next().check_all(&region);
}

/// EXCLUSIVE on one page of a huge page splits its PMD entry once, and takes
/// that page alone.
#[test_case(0; "first_page")]
#[test_case(255; "middle_page")]
#[test_case(511; "last_page")]
fn dpthp_exclusive(number: usize) {
    enter!();
    scene::needs_huge_pages_on_device();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = huge(1);
    let before = Snapshot::take();
    let span = Span::of(&region, number..number + 1);
    assert_eq!(dev.exclusive(span).unwrap().cpages, 1);
    Expect::new()
        .delta("thp_split_pmd", 1)
        .unchanged(&[
            "thp_split_page",
            "thp_deferred_split_page",
            "2048kB/nr_anon",
        ])
        .check(&before);
    assert!(!dev.exclusive_revoked(span));
    let others: Vec<usize> = (0..HUGE).filter(|n| *n != number).collect();
    for run in others.chunk_by(|a, b| a + 1 == *b) {
        let rest = Span::of(&region, run[0]..run[0] + run.len());
        dev.check_states(rest, PageState::system(Access::Write, Level::Pte));
    }
    let child = child::start(|_| {
        FIRST.next().fill_all(&region);
        FIRST.next().check_all(&region);
    });
    child.join();
    FIRST.check_all(&region);
    assert!(
        dev.exclusive_revoked(span),
        "a fork and an access revoke it"
    );
    region.mprotect(region.all(), Prot::READ).unwrap();
    assert!(guard::store(region.page_addr(number), 1).is_err());
}

/// Pages that a device holds exclusively are soft-dirty, as it may write to them, and stay so when
/// the CPU takes them back.
#[test]
fn exclusive_pages_are_soft_dirty() {
    enter!();
    if !pagemap::soft_dirty_supported() {
        skip!("no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)");
    }
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = small(PAGES);
    pagemap::clear_soft_dirty();
    take(&dev, &region);
    let clean = |when: &str| {
        let entries = pagemap::entries(&region, 0, PAGES);
        let clean = entries.iter().position(|entry| !entry.soft_dirty());
        assert_eq!(clean, None, "{when}: a page that is not soft-dirty");
    };
    clean("held by the device");
    FIRST.check_all(&region);
    clean("taken back");
}

/// What was given free and then written is needed: reclaim keeps it when a device held it in
/// between, and the CPU has only read it since.
#[test]
fn exclusive_pages_stay_dirty() {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = small(PAGES);
    region.madvise(region.all(), Advice::Free).unwrap();
    FIRST.fill_all(&region);
    take(&dev, &region);
    FIRST.check_all(&region);
    drain_lru();
    region.madvise(region.all(), Advice::PageOut).unwrap();
    FIRST.check_all(&region);
}

/// A huge page of which a device holds some pages exclusively can be split, and keeps all content.
#[test_case(0..1; "first_page")]
#[test_case(200..210; "some_pages")]
fn dpthp_exclusive_huge_page_splits(held: std::ops::Range<usize>) {
    enter!();
    scene::needs_huge_pages_on_device();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = huge(1);
    let span = Span::of(&region, held.clone());
    assert_eq!(dev.exclusive(span).unwrap().cpages as usize, held.len());
    let before = Snapshot::take();
    let at = region.absolute(&region.all());
    let request = format!("{},{:#x},{:#x},0", std::process::id(), at.start, at.end);
    std::fs::write("/sys/kernel/debug/split_huge_pages", &request)
        .unwrap_or_else(|error| skip!("{request} to split_huge_pages: {error}"));
    Expect::new()
        .delta("thp_split_page", 1)
        .delta("2048kB/nr_anon", -1)
        .unchanged(&["thp_split_page_failed"])
        .check(&before);
    FIRST.check_all(&region);
    FIRST.next().fill_all(&region);
    FIRST.next().check_all(&region);
}
