// SPDX-License-Identifier: GPL-2.0-only
//! PMD-sized collapse of anonymous memory, by khugepaged and by `MADV_COLLAPSE`: the scenarios
//! of the kernel's own khugepaged test, with every byte and counter checked.

use selftests::child;
use selftests::collapse::Khugepaged;
use selftests::collapse_model::{Knobs, MAX_NONE, Orders, Outcome, PMD_ORDER, PTES, Pte};
use selftests::counters::{Expect, Snapshot};
use selftests::mapping::{Advice, PAGE, PMD, Prot, Region, Source, page};
use selftests::pattern::FIRST;
use selftests::release::release;
use selftests::{enter, guard, pagemap, skip, swap, thp};
use test_case::test_case;

use crate::mthp::take_knobs;
use crate::tables::{self, Held, Tables};

/// Who collapses.
#[derive(Clone, Copy, PartialEq)]
pub enum By {
    /// A pass of khugepaged, which keeps to its limits.
    Khugepaged,
    /// `MADV_COLLAPSE`, which has none.
    Madvise,
}

impl By {
    /// Collapses `tables`, of which all must become huge pages.
    #[track_caller]
    fn collapse_all(self, khugepaged: &Khugepaged, tables: &mut Tables) {
        let outcomes = vec![Outcome::one_huge_page(); tables.count()];
        self.collapse(khugepaged, tables, &outcomes);
        thp::assert_huge(&tables.region, 1..tables.count() + 1);
    }

    #[track_caller]
    fn collapse(self, khugepaged: &Khugepaged, tables: &mut Tables, outcomes: &[Outcome]) {
        match self {
            By::Khugepaged => {
                tables.advise();
                tables.pass(khugepaged, outcomes);
            }
            By::Madvise => {
                // With every size off: MADV_COLLAPSE does not ask for permission.
                khugepaged.enable(Orders::default());
                tables.collapse(outcomes, Ok(()));
                khugepaged.enable(Orders::only(PMD_ORDER));
            }
        }
    }
}

fn take_pmd(none: u16) -> (Khugepaged, Knobs) {
    let knobs = Knobs {
        none,
        ..Knobs::new(Orders::only(PMD_ORDER))
    };
    (take_knobs(&knobs), knobs)
}

/// A huge page allocated at fault is split into entries by giving up one page of it.
#[test]
fn fault_allocates_and_dontneed_splits() {
    enter!();
    let _khugepaged = take_pmd(MAX_NONE);
    let region = thp::obtain(1);
    FIRST.fill_all(&region);
    let before = Snapshot::take();
    region
        .madvise(page(0), Advice::DontNeed)
        .expect("MADV_DONTNEED");
    Expect::new()
        .delta("thp_split_pmd", 1)
        .unchanged(&["thp_split_page"])
        .check(&before);
    thp::assert_split(&region, 0);
    FIRST.check(&region, 1..PTES);
}

/// Four full tables become four huge pages.
#[test_case(By::Khugepaged; "khugepaged")]
#[test_case(By::Madvise; "madvise")]
fn full_tables_become_huge_pages(by: By) {
    enter!();
    let (khugepaged, _) = take_pmd(0);
    let mut tables = Tables::new(&[&[0..PTES], &[0..PTES], &[0..PTES], &[0..PTES]]);
    by.collapse_all(&khugepaged, &mut tables);
}

/// One page anywhere in a table is enough, and the other 511 are zero.
#[test_case(By::Khugepaged; "khugepaged")]
#[test_case(By::Madvise; "madvise")]
fn single_page_becomes_a_huge_page(by: By) {
    enter!();
    let (khugepaged, _) = take_pmd(MAX_NONE);
    let mut tables = Tables::new(&[&[0..1], &[511..512], &[77..78]]);
    by.collapse_all(&khugepaged, &mut tables);
}

/// `MADV_COLLAPSE` fills any number of holes, whatever `max_ptes_none` says.
#[test]
fn madvise_ignores_the_limit_of_empty_entries() {
    enter!();
    let (khugepaged, _) = take_pmd(0);
    let mut tables = Tables::new(&[&[0..256], &[3..4, 500..501]]);
    By::Madvise.collapse_all(&khugepaged, &mut tables);
}

/// A huge page mapped by entries, all of them or one, is replaced by a new one; the old one is freed.
#[test_case(By::Khugepaged, PTES; "khugepaged_full")]
#[test_case(By::Madvise, PTES; "madvise_full")]
#[test_case(By::Khugepaged, 1; "khugepaged_one_entry")]
#[test_case(By::Madvise, 1; "madvise_one_entry")]
fn entries_of_a_huge_page_become_a_huge_page(by: By, left: usize) {
    enter!();
    if left == PTES && release() < (6, 18) {
        skip!(
            "this kernel queues the old huge page for a deferred split on the way (seen on 6.12)"
        );
    }
    let (khugepaged, _) = take_pmd(MAX_NONE);
    let mut tables = Tables::full();
    By::Madvise.collapse_all(&khugepaged, &mut tables);
    // A flag on a part of the mapping splits its entry, not the page.
    tables
        .region
        .madvise(tables.bytes(0, 0..1), Advice::NoHugePage)
        .expect("MADV_NOHUGEPAGE");
    tables
        .region
        .madvise(tables.all(), Advice::HugePage)
        .expect("MADV_HUGEPAGE");
    thp::assert_split(&tables.region, 1);
    if left < PTES {
        tables
            .region
            .madvise(tables.bytes(0, left..PTES), Advice::DontNeed)
            .expect("MADV_DONTNEED");
        tables.now_hold(tables.pages(0, left..PTES), Held::Hole);
    }
    assert!(
        tables.ptes(0)[..left]
            .iter()
            .all(|pte| *pte == Pte::Mapped(PMD_ORDER)),
        "precondition"
    );
    by.collapse_all(&khugepaged, &mut tables);
}

/// A table in which each entry maps a page of another large folio becomes one huge page, and all
/// those folios are freed.
#[test_case(By::Khugepaged, 2; "khugepaged_order_2")]
#[test_case(By::Madvise, 2; "madvise_order_2")]
#[test_case(By::Khugepaged, 4; "khugepaged_order_4")]
#[test_case(By::Madvise, 4; "madvise_order_4")]
fn entries_of_512_folios_become_a_huge_page(by: By, order: u8) {
    enter!();
    let (khugepaged, _) = take_pmd(0);
    let mut tables = Tables::new(&[&[]]);
    scatter(&khugepaged, &mut tables, order);
    by.collapse_all(&khugepaged, &mut tables);
}

/// Fills table 0 with one page of each of 512 folios of `order`, a different one of each. Page
/// `n` of the table comes from page `n` of the source, so that all are one mapping in the end.
fn scatter(khugepaged: &Khugepaged, tables: &mut Tables, order: u8) {
    let pages = 1 << order;
    khugepaged.enable(Orders::only(order));
    // The page after the table keeps a mapping next to the group, whose owner the group takes.
    let mut source = Region::private(2 * PMD).expect("memory for two tables");
    FIRST.fill(&source, PTES..PTES + 1);
    source
        .madvise(source.all(), Advice::HugePage)
        .expect("MADV_HUGEPAGE");
    for number in 0..PTES {
        let group = selftests::mapping::pages(number / pages * pages..(number / pages + 1) * pages);
        source
            .renew(group.clone())
            .expect("a fresh mapping in place of the group");
        source
            .madvise(group, Advice::HugePage)
            .expect("MADV_HUGEPAGE");
        guard::store(source.page_addr(number), 1).expect("a store to our own memory");
        let to = tables.pages(0, number..number + 1).start * PAGE;
        source
            .mremap_into(page(number), &mut tables.region, to, Source::Goes)
            .expect("mremap of a page");
    }
    drop(source);
    khugepaged.enable(Orders::only(PMD_ORDER));
    tables.fill(tables.pages(0, 0..PTES));
    let found = tables.ptes(0);
    assert!(
        found.iter().all(|pte| *pte == Pte::Mapped(order)),
        "precondition: 512 folios of order {order}: {found:?}"
    );
    let mappings = pagemap::smaps::vmas(&tables.region, &tables.all()).len();
    assert_eq!(mappings, 1, "precondition: mappings of the table");
}

/// Swapped pages are read in and collapsed: up to `max_ptes_swap` by khugepaged, which counts
/// what it refuses, any number by `MADV_COLLAPSE`.
#[test_case(By::Khugepaged, 1, true; "khugepaged_one")]
#[test_case(By::Khugepaged, 64, true; "khugepaged_at_the_limit")]
#[test_case(By::Khugepaged, 65, false; "khugepaged_one_too_many")]
#[test_case(By::Madvise, 1, true; "madvise_one")]
#[test_case(By::Madvise, 65, true; "madvise_above_the_limit")]
#[test_case(By::Madvise, 512, true; "madvise_all")]
fn swapped_pages_are_read_in(by: By, swapped: usize, collapses: bool) {
    enter!();
    if swapped == PTES {
        // Pages that a read brings back are not writable until they are written.
        tables::needs_collapse_of_read_only();
    }
    let (khugepaged, knobs) = take_pmd(0);
    let mut tables = Tables::full();
    swap::page_out(&tables.region, tables.pages(0, PTES - swapped..PTES));
    if collapses {
        return by.collapse_all(&khugepaged, &mut tables);
    }
    let outcomes = tables.model(&knobs);
    assert_eq!(outcomes[0].stats[usize::from(PMD_ORDER)].exceed_swap, 1);
    by.collapse(&khugepaged, &mut tables, &outcomes);
}

/// Reading pages in is worth it for khugepaged only when half of the table has been used lately;
/// without swapped pages one used page is enough, and none is not.
#[test_case(1, 255, false; "swapped_and_255_used")]
#[test_case(1, 256, true; "swapped_and_256_used")]
#[test_case(0, 0, false; "unused")]
#[test_case(0, 1, true; "one_used")]
fn unused_memory_is_left_alone(swapped: usize, used: usize, collapses: bool) {
    enter!();
    let (khugepaged, _) = take_pmd(0);
    let mut tables = Tables::full();
    if swapped > 0 {
        swap::page_out(&tables.region, tables.pages(0, 0..swapped));
    }
    pagemap::clear_referenced();
    // clear_refs leaves the TLB as it is, and a load through it marks nothing: mprotect flushes.
    for prot in [Prot::READ, Prot::READ_WRITE] {
        tables
            .region
            .mprotect(tables.all(), prot)
            .expect("mprotect");
    }
    for page in tables.pages(0, PTES - used..PTES) {
        guard::load(tables.region.page_addr(page)).expect("a load from our own memory");
    }
    if collapses {
        return By::Khugepaged.collapse_all(&khugepaged, &mut tables);
    }
    By::Khugepaged.collapse(&khugepaged, &mut tables, &[Outcome::default()]);
}

/// A child collapses pages it shares with its parent: the parent keeps its small pages and its data.
#[test_case(By::Khugepaged; "khugepaged")]
#[test_case(By::Madvise; "madvise")]
fn child_collapses_shared_pages(by: By) {
    enter!();
    tables::needs_collapse_of_read_only();
    let (khugepaged, _) = take_pmd(MAX_NONE);
    let mut tables = Tables::new(&[&[0..1, 100..200]]);
    let before = pagemap::entries(&tables.region, 0, tables.region.len() / PAGE);
    child::run_to_end(|_| {
        by.collapse_all(&khugepaged, &mut tables);
        tables.fill_with(FIRST.next(), tables.pages(0, 0..PTES));
        tables.check_content();
    });
    tables.check_content();
    let after = pagemap::entries(&tables.region, 0, tables.region.len() / PAGE);
    let moved = (0..before.len()).find(|&at| before[at].pfn() != after[at].pfn());
    assert_eq!(
        moved, None,
        "a page of the parent that the child's collapse changed"
    );
    // What the parent writes now is its own again.
    tables.fill_with(FIRST.next(), tables.pages(0, 100..200));
    tables.check_content();
}

/// The same where the parent has a huge page and the child maps it by entries.
#[test_case(By::Khugepaged; "khugepaged")]
#[test_case(By::Madvise; "madvise")]
fn child_collapses_entries_of_a_shared_huge_page(by: By) {
    enter!();
    let knobs = Knobs {
        none: 0,
        shared: 511,
        ..Knobs::new(Orders::only(PMD_ORDER))
    };
    let khugepaged = take_knobs(&knobs);
    let mut tables = Tables::full();
    By::Madvise.collapse_all(&khugepaged, &mut tables);
    child::run_to_end(|_| {
        tables
            .region
            .madvise(tables.bytes(0, 0..1), Advice::NoHugePage)
            .expect("MADV_NOHUGEPAGE");
        tables
            .region
            .madvise(tables.all(), Advice::HugePage)
            .expect("MADV_HUGEPAGE");
        thp::assert_split(&tables.region, 1);
        // Its own copy of one page: 511 stay shared.
        tables.fill_with(FIRST.next(), tables.pages(0, 0..1));
        by.collapse_all(&khugepaged, &mut tables);
        tables.fill_with(FIRST.next(), tables.pages(0, 0..PTES));
        tables.check_content();
    });
    thp::assert_huge(&tables.region, 1..2);
    tables.check_content();
}
