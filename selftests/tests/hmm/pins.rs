// SPDX-License-Identifier: GPL-2.0-only
//! References that get_user_pages() takes to pages of a device, and pins that
//! keep pages from migrating.

use nix::errno::Errno;
use selftests::counters::{Expect, Snapshot};
use selftests::gup::{self, Pin, Way};
use selftests::hmm::Memory::{Coherent, Private};
use selftests::hmm::{Access, Dmirror, Level, Memory, PageState, Place, Span, runs};
use selftests::mapping::{PAGE, page};
use selftests::pattern::FIRST;
use selftests::usermem::HeldPage;
use selftests::{enter, thp};
use test_case::test_case;

use crate::scene::{self, Baseline, HUGE, send_huge, send_small, small, whole};

/// GUP of private device pages brings them back; of coherent ones only a
/// long-term pin does. The data survives all four ways.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn hmm_gup_test(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let file = gup::open();
    let region = small(4);
    send_small(&dev, &region);
    gup::get_once(&file, &region, &page(0), gup::FOLL_WRITE).unwrap();
    gup::get_once_fast(&file, &region, &page(1), gup::FOLL_WRITE).unwrap();
    for (number, way) in [(2, Way::WriteFast), (3, Way::Write)] {
        let pin = Pin::take(&region, &page(number), way).unwrap();
        pin.assert_coherent(&region, &page(number));
    }
    let back = PageState::system(Access::Write, Level::Pte);
    let short_term = match memory {
        Private => back,
        Coherent => PageState::device(Access::Write, Level::Pte),
    };
    let states = dev.snapshot(whole(&region));
    assert_eq!(states, [short_term, short_term, back, back]);
    FIRST.check_all(&region);
    dev.to_sys(whole(&region)).unwrap();
    FIRST.check_all(&region);
}

/// A pinned page of a huge page keeps all of it in system memory (ENOENT), and
/// the pin stays coherent with what the CPU writes; unpinned, it migrates.
#[test_case(0; "first_page")]
#[test_case(300; "middle_page")]
#[test_case(511; "last_page")]
fn dpthp_pinned(number: usize) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = scene::huge(1);
    let pin = Pin::take(&region, &page(number), Way::Write).unwrap();
    let refusal = dev.to_dev(whole(&region)).unwrap_err();
    assert_eq!(refusal.errno, Errno::ENOENT);
    let states = dev.snapshot(whole(&region));
    let stayed = states.iter().all(|state| state.place == Place::System);
    assert!(stayed, "{}", runs(&states));
    FIRST.check_all(&region);
    FIRST.next().fill_all(&region);
    pin.assert_coherent(&region, &page(number));
    drop(pin);
    FIRST.fill_all(&region);
    let span = whole(&region);
    assert_eq!(dev.to_dev(span).unwrap().cpages, HUGE as u64);
    FIRST.check_all(&region);
}

/// GUP of one page of a huge page on the device brings the whole huge page
/// back, and the pin is that page.
#[test_case(0, Way::Write; "first_page")]
#[test_case(300, Way::WriteFast; "middle_page_fast")]
#[test_case(511, Way::Read; "last_page_for_reading")]
fn dpthp_gup_of_device(number: usize, way: Way) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = scene::huge(1);
    send_huge(&dev, &region);
    let pin = Pin::take(&region, &page(number), way).unwrap();
    scene::in_system_huge(&dev, &region);
    pin.assert_coherent(&region, &page(number));
    FIRST.check_all(&region);
    FIRST.next().fill_all(&region);
    pin.assert_coherent(&region, &page(number));
}

/// A pin taken after the way back does not follow a copy: fork while pinned
/// gives the child a copy and leaves the pinned page with the parent.
#[test]
fn dpthp_pin_then_fork() {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = scene::huge(1);
    send_huge(&dev, &region);
    let pin = Pin::take(&region, &page(7), Way::Write).unwrap();
    thp::assert_huge(&region, 0..1);
    let child = selftests::child::start(|_| {
        FIRST.check_all(&region);
        FIRST.next().fill_all(&region);
    });
    child.join();
    FIRST.check_all(&region);
    FIRST.next().next().fill_all(&region);
    pin.assert_coherent(&region, &page(7));
    let one = Span::of(&region, 7..8);
    assert_eq!(one.pages * PAGE, PAGE);
    assert_eq!(dev.to_dev(one).unwrap_err().errno, Errno::ENOENT);
}

/// A page that a pipe refers to keeps its folio in system memory (ENOENT), time
/// and again, and the reference stays good: the pipe gives what the page holds.
/// Once the pipe has let go the folio migrates, and it ends with its memory.
#[test_case(true, 300; "huge_page")]
#[test_case(false, 1; "small_page")]
fn referenced_page_stays_in_the_system(large: bool, number: usize) {
    enter!();
    if large {
        scene::needs_huge_pages_on_device();
    }
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = if large { scene::huge(1) } else { small(4) };
    let before = Snapshot::take();
    let held = HeldPage::take(region.page_addr(number)).expect("vmsplice");
    let touched = if large {
        whole(&region)
    } else {
        Span::of(&region, number..number + 1)
    };
    for _ in 0..3 {
        let refusal = dev.to_dev(touched).unwrap_err();
        assert_eq!(refusal.errno, Errno::ENOENT);
        let states = dev.snapshot(touched);
        let stayed = states.iter().all(|state| state.place == Place::System);
        assert!(stayed, "{}", runs(&states));
        FIRST.check_all(&region);
    }
    if large {
        thp::assert_huge(&region, 0..1);
    }
    let bytes = FIRST.page(number).map(u64::to_ne_bytes).concat();
    assert_eq!(held.content(), bytes, "what the pipe held");
    dev.to_dev(touched).unwrap();
    FIRST.check_all(&region);
    dev.to_sys(touched).unwrap();
    FIRST.check_all(&region);
    Expect::new()
        .unchanged(&["2048kB/nr_anon", "nr_anon_transparent_hugepages"])
        .check(&before);
}
