// SPDX-License-Identifier: GPL-2.0-only
//! userfaultfd: its bits of single entries are never merged into a folio, and a page whose
//! absence it wants to hear of is never filled in.

use nix::errno::Errno;
use selftests::collapse::Khugepaged;
use selftests::collapse_model::{Knobs, MAX_NONE, Orders, Outcome, PMD_ORDER, PTES};
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{enter, pagemap, swap};
use test_case::test_case;

use crate::mthp::take_knobs;
use crate::tables::Tables;

/// An entry in the last group of every size but PMD.
const MARKED: usize = 509;

fn take(orders: Orders) -> (Khugepaged, Knobs) {
    let knobs = Knobs {
        uffd_armed: true,
        none: MAX_NONE,
        ..Knobs::new(orders)
    };
    (take_knobs(&knobs), knobs)
}

/// A full table registered for write-protection, with one page protected.
fn one_protected_page() -> (Tables, Uffd) {
    let tables = Tables::full();
    let uffd = Uffd::open(feature::WP);
    uffd.register(&tables.region, &tables.all(), Mode::WP)
        .expect("registration of anonymous memory");
    protect(&uffd, &tables, true);
    (tables, uffd)
}

fn protect(uffd: &Uffd, tables: &Tables, on: bool) {
    uffd.write_protect(&tables.region, &tables.bytes(0, MARKED..MARKED + 1), on)
        .expect("write-protection of a page");
    assert_eq!(is_protected(tables), on, "pagemap's bit of the page");
}

fn is_protected(tables: &Tables) -> bool {
    pagemap::entries(&tables.region, tables.pages(0, MARKED..MARKED + 1).start, 1)[0].uffd_wp()
}

/// One write-protected page keeps its whole table as it is, with its bit; without the
/// protection the table is collapsed.
#[test_case(Orders::only(2); "order_2")]
#[test_case(Orders::only(6); "order_6")]
#[test_case(Orders::only(9); "pmd")]
#[test_case(Orders::range(2, 9); "all_sizes")]
fn protected_page_keeps_its_table(orders: Orders) {
    enter!();
    let (khugepaged, knobs) = take(orders);
    let (mut tables, uffd) = one_protected_page();
    tables.advise();
    tables.pass(&khugepaged, &[Outcome::default()]);
    assert!(is_protected(&tables));
    protect(&uffd, &tables, false);
    let outcomes = tables.pass_as_modelled(&khugepaged, &knobs);
    assert!(!outcomes[0].folios.is_empty());
}

/// The same when the protected page is in swap, where its bit is in the swap entry.
#[test_case(Orders::only(9); "pmd")]
#[test_case(Orders::range(2, 8); "mthp")]
fn protected_page_in_swap_keeps_its_table(orders: Orders) {
    enter!();
    let (khugepaged, _) = take(orders);
    let (mut tables, _uffd) = one_protected_page();
    swap::page_out(&tables.region, tables.pages(0, MARKED..MARKED + 1));
    assert!(
        is_protected(&tables),
        "precondition: the swap entry keeps the bit"
    );
    tables.advise();
    tables.pass(&khugepaged, &[Outcome::default()]);
    assert!(
        is_protected(&tables),
        "the bit of the page read back from swap"
    );
}

/// In memory registered for missing pages no hole is filled, at any size, though 511 empty
/// entries would be allowed.
#[test_case(Orders::only(9); "pmd")]
#[test_case(Orders::only(2); "order_2")]
#[test_case(Orders::only(5); "order_5")]
#[test_case(Orders::only(8); "order_8")]
fn missing_pages_are_not_filled(orders: Orders) {
    enter!();
    let (khugepaged, knobs) = take(orders);
    let mut tables = Tables::new(&[&[0..32, 33..64, 500..502]]);
    let uffd = Uffd::open(0);
    uffd.register(&tables.region, &tables.all(), Mode::MISSING)
        .expect("registration of anonymous memory");
    tables.advise();
    let outcomes = tables.pass_as_modelled(&khugepaged, &knobs);
    assert!(outcomes[0].stats.iter().any(|size| size.exceed_none > 0));
}

/// `MADV_COLLAPSE` of a table with a write-protected page: EINVAL, and the bit stays.
#[test]
fn madvise_refuses_protected_pages() {
    enter!();
    let _khugepaged = take(Orders::only(PMD_ORDER));
    let (mut tables, uffd) = one_protected_page();
    tables.collapse(&[Outcome::default()], Err(Errno::EINVAL));
    protect(&uffd, &tables, false);
    tables.collapse(&[Outcome::one_huge_page()], Ok(()));
}

/// `MADV_COLLAPSE` of a table with a hole registered for missing pages: EBUSY; without one it
/// succeeds.
#[test]
fn madvise_refuses_to_fill_missing_pages() {
    enter!();
    let _khugepaged = take(Orders::only(PMD_ORDER));
    let mut tables = Tables::new(&[&[0..PTES - 1]]);
    let uffd = Uffd::open(0);
    uffd.register(&tables.region, &tables.all(), Mode::MISSING)
        .expect("registration of anonymous memory");
    let mut refused = Outcome::default();
    refused.stats[usize::from(PMD_ORDER)].exceed_none = 1;
    tables.collapse(&[refused], Err(Errno::EBUSY));
    uffd.unregister(&tables.region, &tables.all())
        .expect("end of the registration");
    tables.fill(tables.pages(0, PTES - 1..PTES));
    uffd.register(&tables.region, &tables.all(), Mode::MISSING)
        .expect("registration of anonymous memory");
    tables.collapse(&[Outcome::one_huge_page()], Ok(()));
}
