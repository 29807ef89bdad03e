// SPDX-License-Identifier: GPL-2.0-only
//! A device that mirrors the page tables (HMM): a collapse tells it of exactly the range whose
//! pages have moved, so it neither keeps old pages nor loses others.

use selftests::collapse_model::{Orders, PTES};
use selftests::enter;
use selftests::hmm::{Dmirror, Memory, Span};
use selftests::pattern::{Content, FIRST};
use test_case::test_case;

use crate::mthp::take;
use crate::tables::Tables;

/// What the device has read before a collapse is stale after it: reading again it sees what the
/// CPU has written into the new folios, and what it writes the CPU sees.
#[test_case(Orders::only(2); "order_2")]
#[test_case(Orders::only(4); "order_4")]
#[test_case(Orders::only(8); "order_8")]
#[test_case(Orders::only(9); "pmd")]
fn device_follows_the_collapse(orders: Orders) {
    enter!();
    let (khugepaged, knobs) = take(orders, 0);
    let mut tables = Tables::full();
    let device = Dmirror::open(Memory::Private);
    device.hide_buffer_from_khugepaged();
    let pages = tables.pages(0, 0..PTES);
    let span = Span::of(&tables.region, pages.clone());
    device.read(span).expect("the device reads memory");
    device.check_seen(Content::Stamped(FIRST), pages.clone());
    tables.advise();
    tables.pass_as_modelled(&khugepaged, &knobs);
    tables.fill_with(FIRST.next(), pages.clone());
    // Page by page from the end: where the driver misses one it looks up all that follow, and
    // what it should have forgotten of those would not show.
    for page in pages.clone().rev() {
        device
            .read(Span::of(&tables.region, page..page + 1))
            .expect("the device reads memory");
        device.check_seen(Content::Stamped(FIRST.next()), page..page + 1);
    }
    let page = pages.start + 333;
    device
        .write(Span::of(&tables.region, page..page + 1), &FIRST.page(page))
        .expect("the device writes memory");
    FIRST.check(&tables.region, page..page + 1);
}

/// The device is told of the collapsed group and of nothing beside it in the same page table.
#[test]
fn device_keeps_what_is_not_collapsed() {
    enter!();
    let (khugepaged, knobs) = take(Orders::only(4), 0);
    let mut tables = Tables::new(&[&[16..32, 64..72, 100..101]]);
    let device = Dmirror::open(Memory::Private);
    device.hide_buffer_from_khugepaged();
    let collapsed = tables.pages(0, 16..32);
    let others = [tables.pages(0, 64..72), tables.pages(0, 100..101)];
    for pages in others.iter().chain([&collapsed]) {
        device
            .read(Span::of(&tables.region, pages.clone()))
            .expect("the device reads memory");
    }
    tables.advise();
    let outcomes = tables.pass_as_modelled(&khugepaged, &knobs);
    assert_eq!(outcomes[0].folios.len(), 1);
    for pages in others {
        let reply = device
            .read(Span::of(&tables.region, pages.clone()))
            .expect("the device reads memory");
        assert_eq!(
            reply.faults, 0,
            "the device had to look up pages {pages:?} again, which have not moved"
        );
        device.check_seen(Content::Stamped(FIRST), pages);
    }
    let reply = device
        .read(Span::of(&tables.region, collapsed.clone()))
        .expect("the device reads memory");
    assert!(
        reply.faults > 0,
        "the device was not told that the collapsed pages have moved"
    );
    device.check_seen(Content::Stamped(FIRST), collapsed);
}
