// SPDX-License-Identifier: GPL-2.0-only
//! Pages that are shared after fork and that somebody else than a page table refers to: a pin,
//! a pipe. Who may write in place, and who must copy first.

use selftests::child;
use selftests::gup::{Pin, Way};
use selftests::mapping::{Advice, Prot, pages};
use selftests::pattern::FIRST;
use selftests::uffd::{Mode, Uffd, feature};
use selftests::usermem::HeldPage;
use selftests::{enter, pagemap, thp};
use test_case::test_case;

use crate::fixture::*;

/// How the memory is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// By a PMD entry.
    Huge,
    /// By PTE entries, as a huge page that was split.
    Split,
    /// By PTE entries, as small pages.
    Small,
}

impl Mapped {
    /// Two MiB of it, each page stamped by [`FIRST`].
    #[track_caller]
    pub fn memory(self) -> Filled {
        let region = match self {
            Self::Small => filled_small(1),
            Self::Huge | Self::Split => filled(1),
        };
        if self == Self::Split {
            region.mprotect(pages(5..6), Prot::READ).expect("mprotect");
            region
                .mprotect(pages(5..6), Prot::READ_WRITE)
                .expect("mprotect");
            thp::assert_split(&region, 0);
        }
        region
    }
}

/// A pin for loads alone of a page that a child shares is a pin of a page of our own: whatever is
/// written after it, by us or by the child, the pin sees what we see.
#[test_case(Mapped::Huge, Way::Read; "huge")]
#[test_case(Mapped::Huge, Way::ReadFast; "huge_fast")]
#[test_case(Mapped::Split, Way::Read; "split")]
#[test_case(Mapped::Split, Way::ReadFast; "split_fast")]
#[test_case(Mapped::Small, Way::Read; "small")]
#[test_case(Mapped::Small, Way::ReadFast; "small_fast")]
fn reading_pin_after_fork_is_of_our_own_page(mapped: Mapped, way: Way) {
    enter!();
    let region = mapped.memory();
    let child = child::start(|parent| {
        parent.receive();
        FIRST.next().next().fill_all(&region);
        parent.send(0);
        parent.receive();
        FIRST.next().next().check_all(&region);
    });
    let pinned = pages(33..35);
    let pin = Pin::take(&region, &pinned, way).expect("pin");
    child.line().send(0);
    child.line().receive();
    FIRST.check_all(&region);
    pin.assert_coherent(&region, &pinned);
    FIRST.next().fill(&region, 30..40);
    pin.assert_coherent(&region, &pinned);
    child.line().send(0);
    child.join();
    FIRST.next().check(&region, 30..40);
    check_others(&region, &(30..40));
}

/// A child puts a page into a pipe and unmaps it: the parent is the only one who maps it now, and
/// still must copy it to write, as the pipe gives what the page held.
#[test_case(Mapped::Huge; "huge")]
#[test_case(Mapped::Split; "split")]
#[test_case(Mapped::Small; "small")]
fn pipe_of_a_child_keeps_what_the_page_held(mapped: Mapped) {
    enter!();
    let region = mapped.memory();
    let child = child::start(|parent| {
        let held = HeldPage::take(region.page_addr(77)).expect("vmsplice");
        region
            .madvise(region.all(), Advice::DontNeed)
            .expect("MADV_DONTNEED");
        parent.send(0);
        parent.receive();
        let bytes = FIRST.page(77).map(u64::to_ne_bytes).concat();
        assert!(
            held.content() == bytes,
            "what the parent wrote came out of the pipe"
        );
    });
    child.line().receive();
    FIRST.next().fill_all(&region);
    child.line().send(0);
    child.join();
    FIRST.next().check_all(&region);
}

/// A pin for loads alone makes a copy of a page that a child shares; the copy is write-protected by
/// userfaultfd if the page was, and soft-dirty if it was.
#[test_case(Mapped::Huge; "huge")]
#[test_case(Mapped::Split; "split")]
#[test_case(Mapped::Small; "small")]
fn copy_for_a_pin_keeps_write_protection(mapped: Mapped) {
    enter!();
    let region = mapped.memory();
    let uffd = Uffd::open(feature::WP | feature::WP_ASYNC);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    uffd.write_protect(&region, &region.all(), true)
        .expect("write-protect");
    let child = child::start(|parent| {
        parent.receive();
        FIRST.check_all(&region);
    });
    let pinned = pages(33..35);
    let pin = Pin::take(&region, &pinned, Way::Read).expect("pin");
    for entry in pagemap::entries(&region, 30, 10) {
        assert!(entry.uffd_wp(), "after the pin a page is {entry:?}");
    }
    FIRST.next().fill(&region, 30..40);
    for entry in pagemap::entries(&region, 30, 10) {
        assert!(!entry.uffd_wp(), "after a store a page is {entry:?}");
    }
    pin.assert_coherent(&region, &pinned);
    child.line().send(0);
    child.join();
}
