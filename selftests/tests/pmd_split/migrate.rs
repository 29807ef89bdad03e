// SPDX-License-Identifier: GPL-2.0-only
//! Migration between NUMA nodes, of whole huge pages, of parts and of the pages
//! of a split one: content, permission and flags go through migration entries.

use selftests::counters::{Expect, Snapshot};
use selftests::gup::{Pin, Way};
use selftests::mapping::{Advice, PAGES_PER_PMD, Prot, Region, pages};
use selftests::pagemap::smaps;
use selftests::pattern::FIRST;
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{enter, guard, numa, pagemap, thp};
use test_case::test_case;

use crate::cut::clear_soft_dirty;
use crate::fixture::*;

/// Single pages of a split huge page move to another node, with their content.
#[test]
fn migrate_some_pages() {
    enter!();
    let region = filled(1);
    let away = other_node(&region);
    region.mprotect(pages(5..6), Prot::READ).expect("mprotect");
    region
        .mprotect(pages(5..6), Prot::READ_WRITE)
        .expect("mprotect");
    numa::move_to(&region, &region.all(), away).expect("move_pages");
    let nodes = numa::nodes_of(&region, &region.all()).expect("move_pages");
    for (number, node) in nodes.iter().enumerate() {
        assert_eq!(*node, Ok(away), "node of page {number}");
    }
    FIRST.check_all(&region);
    assert_eq!(
        write_each(&region, 0..512),
        0,
        "page faults of writes to own pages"
    );
}

/// mbind of a part of a huge page brings that part to the node.
#[test]
fn bind_a_part() {
    enter!();
    let region = filled(1);
    let away = other_node(&region);
    let before = Snapshot::take();
    numa::bind(&region, &pages(100..200), away).expect("mbind");
    Expect::new().delta("thp_split_pmd", 1).check(&before);
    let nodes = numa::nodes_of(&region, &pages(100..200)).expect("move_pages");
    assert!(nodes.iter().all(|node| *node == Ok(away)), "{nodes:?}");
    FIRST.check_all(&region);
}

/// A whole huge page that migrates stays one.
#[test]
fn migrate_whole() {
    enter!();
    let region = filled(1);
    let away = other_node(&region);
    let before = Snapshot::take();
    numa::bind(&region, &region.all(), away).expect("mbind");
    splits_nothing()
        .delta("thp_migration_success", 1)
        .check(&before);
    thp::assert_huge(&region, 0..1);
    FIRST.check_all(&region);
    assert_eq!(
        write_each(&region, 0..512),
        0,
        "page faults of writes to own pages"
    );
}

/// The other node, for what has to migrate there.
#[track_caller]
fn other_node(region: &Region) -> u32 {
    let (a, b) = numa::two_nodes();
    let home = numa::nodes_of(region, &pages(0..1)).expect("move_pages")[0];
    if home.expect("a present page") == a {
        b
    } else {
        a
    }
}

/// Soft-dirty goes through the migration entry of a huge page, and is not made
/// up there.
#[test_case(true; "set")]
#[test_case(false; "clear")]
fn migration_keeps_soft_dirty(written: bool) {
    enter!();
    let region = filled(1);
    let away = other_node(&region);
    clear_soft_dirty(&region);
    if written {
        FIRST.fill(&region, 9..10);
        region.madvise(region.all(), Advice::Free).expect("madvise");
    }
    numa::bind(&region, &region.all(), away).expect("mbind");
    thp::assert_huge(&region, 0..1);
    for (number, entry) in pagemap::entries(&region, 0, PAGES_PER_PMD)
        .iter()
        .enumerate()
    {
        assert_eq!(entry.soft_dirty(), written, "page {number} is {entry:?}");
    }
    assert_eq!(
        numa::nodes_of(&region, &pages(0..1)),
        Ok(vec![Ok(away)]),
        "node"
    );
}

/// A pinned huge page does not migrate, and nothing of it is lost in the attempt.
#[test]
fn pinned_huge_page_stays() {
    enter!();
    let region = filled(1);
    let away = other_node(&region);
    let pin = Pin::take(&region, &pages(9..10), Way::WriteFast).expect("a pin on one page");
    // Refused or partly done: what counts is where the pages are.
    let _ = numa::bind(&region, &region.all(), away);
    FIRST.check_all(&region);
    FIRST.next().fill_all(&region);
    pin.assert_coherent(&region, &pages(9..10));
    thp::assert_huge(&region, 0..1);
    drop(pin);
    numa::bind(&region, &region.all(), away).expect("mbind");
    FIRST.next().check_all(&region);
}

/// A huge page is as old at its new place as it was at the old one.
#[test_case(true; "accessed")]
#[test_case(false; "not_accessed")]
fn migration_keeps_the_age(accessed: bool) {
    enter!();
    let region = filled(1);
    let away = other_node(&region);
    let referenced = |when: &str| {
        let wanted = if accessed { 2048 } else { 0 };
        let found = smaps::kib(&region, &region.all(), "Referenced");
        assert_eq!(found, wanted, "kB referenced {when}");
    };
    pagemap::clear_referenced();
    if accessed {
        guard::load(region.page_addr(300)).expect("a load from our own memory");
    }
    referenced("before");
    numa::bind(&region, &region.all(), away).expect("mbind");
    thp::assert_huge(&region, 0..1);
    referenced("after the migration");
    FIRST.check_all(&region);
}

/// A read-only huge page of a process alone stays its own: writable again, it takes stores
/// without a fault.
#[test]
fn migrated_read_only_page_stays_ours() {
    enter!();
    let region = filled(1);
    let away = other_node(&region);
    region.mprotect(region.all(), Prot::READ).expect("mprotect");
    numa::bind(&region, &region.all(), away).expect("mbind");
    thp::assert_huge(&region, 0..1);
    region
        .mprotect(region.all(), Prot::READ_WRITE)
        .expect("mprotect");
    assert_writes_fault(&region, 0..512, 0);
    FIRST.check_all(&region);
}

/// userfaultfd's protection goes through the migration entry of a huge page.
#[test]
fn migration_keeps_uffd_wp() {
    enter!();
    let region = filled(1);
    let away = other_node(&region);
    let uffd = Uffd::open(feature::WP | feature::WP_ASYNC | feature::WP_UNPOPULATED);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    uffd.write_protect(&region, &region.all(), true)
        .expect("write-protect");
    numa::bind(&region, &region.all(), away).expect("mbind");
    thp::assert_huge(&region, 0..1);
    for (number, entry) in pagemap::entries(&region, 0, PAGES_PER_PMD)
        .iter()
        .enumerate()
    {
        assert!(entry.uffd_wp(), "page {number} is {entry:?}");
    }
    assert_eq!(
        write_each(&region, [9]),
        1,
        "page faults of a write to a protected huge page"
    );
    FIRST.check_all(&region);
}

/// A huge page that is only readable stays so when it migrates.
#[test]
fn migration_keeps_read_only() {
    enter!();
    let region = filled(1);
    let away = other_node(&region);
    region.mprotect(region.all(), Prot::READ).expect("mprotect");
    numa::bind(&region, &region.all(), away).expect("mbind");
    thp::assert_huge(&region, 0..1);
    assert_read_only(&region, 0..512);
    FIRST.check_all(&region);
}
