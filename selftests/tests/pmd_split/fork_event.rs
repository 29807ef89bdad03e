// SPDX-License-Identifier: GPL-2.0-only
//! A fork that userfaultfd is told of: the child's memory is write-protected where the parent's
//! is, shared or copied, in memory or in swap.

use selftests::gup::{Pin, Way};
use selftests::mapping::{PAGES_PER_PMD, Region, pages};
use selftests::pattern::FIRST;
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{enter, pagemap, skip, swap, watched};
use test_case::test_case;

use crate::shared::Mapped;

/// The pages that are write-protected.
const PROTECTED: std::ops::Range<usize> = 64..256;

/// In which state the memory is when its process forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Present,
    /// Some pages are pinned, so that the child gets copies of them.
    Pinned,
    Swapped,
}

#[track_caller]
fn assert_protected(region: &Region, when: &str) {
    let entries = pagemap::entries(region, 0, PAGES_PER_PMD);
    for (number, entry) in entries.iter().enumerate() {
        assert_eq!(
            entry.uffd_wp(),
            PROTECTED.contains(&number),
            "{when}: page {number} is {entry:?}"
        );
    }
}

/// After a fork with its event parent and child are write-protected alike.
#[test_case(Mapped::Huge, State::Present; "huge")]
#[test_case(Mapped::Split, State::Present; "split")]
#[test_case(Mapped::Small, State::Present; "small")]
#[test_case(Mapped::Huge, State::Pinned; "huge_pinned")]
#[test_case(Mapped::Split, State::Pinned; "split_pinned")]
#[test_case(Mapped::Small, State::Pinned; "small_pinned")]
#[test_case(Mapped::Small, State::Swapped; "small_in_swap")]
fn fork_keeps_write_protection(mapped: Mapped, state: State) {
    enter!();
    if state == State::Swapped && !swap::is_on() {
        skip!("no swap: the guest needs CONFIG_ZRAM or a swap device");
    }
    let region = mapped.memory();
    let uffd = Uffd::open(feature::WP | feature::EVENT_FORK);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    uffd.write_protect(&region, &pages(PROTECTED), true)
        .expect("write-protect");
    let pinned = pages(70..72);
    let pin = (state == State::Pinned)
        .then(|| Pin::take(&region, &pinned, Way::Read).expect("pin of pages for loads"));
    if state == State::Swapped {
        swap::page_out(&region, 0..PAGES_PER_PMD);
    }
    assert_protected(&region, "before the fork");
    let child = watched::start(&uffd, |_| {
        assert_protected(&region, "in the child");
        FIRST.check_all(&region);
        assert_protected(&region, "in the child, read");
    });
    child.join();
    assert_protected(&region, "in the parent");
    FIRST.check_all(&region);
    if let Some(pin) = pin {
        pin.assert_coherent(&region, &pinned);
    }
}
