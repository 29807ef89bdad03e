// SPDX-License-Identifier: GPL-2.0-only
//! Which sizes khugepaged makes of which patterns: the kernel against the model.

use std::fs;
use std::ops::Range;

use selftests::collapse::{Khugepaged, collapses_mthp};
use selftests::collapse_model::{Folio, Knobs, MAX_NONE, Orders, Outcome, PMD_ORDER, PTES};
use selftests::mapping::{Advice, PMD, Region};
use selftests::pattern::{FIRST, check_zero};
use selftests::{enter, skip};
use test_case::test_case;

use crate::tables::{Held, Tables};

/// Takes khugepaged with `orders` enabled and `none` empty entries allowed.
pub fn take(orders: Orders, none: u16) -> (Khugepaged, Knobs) {
    let knobs = Knobs {
        none,
        ..Knobs::new(orders)
    };
    (take_knobs(&knobs), knobs)
}

/// Takes khugepaged; skips where it cannot make the sizes that are asked for.
pub fn take_knobs(knobs: &Knobs) -> Khugepaged {
    if knobs.orders != Orders::only(PMD_ORDER) && !collapses_mthp() {
        skip!(
            "khugepaged of this kernel collapses to the PMD size only (no stats/collapse_alloc per size)"
        );
    }
    Khugepaged::take(knobs).unwrap_or_else(|error| panic!("{error}"))
}

/// Ranges of a page table that look random and are the same every time: runs and gaps of all
/// lengths, often aligned to the sizes under test.
fn patchy(seed: u64) -> Vec<Range<usize>> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |below: usize| {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % below
    };
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < PTES {
        let align = 1 << random(8);
        let start = (at + random(24)).next_multiple_of(align).min(PTES);
        let longest = 1 << (1 + random(7));
        let end = (start + 1 + random(longest)).min(PTES);
        if start < end {
            ranges.push(start..end);
        }
        // At least one hole, so that runs do not merge.
        at = end + 1;
    }
    ranges
}

/// A page table full of small pages becomes folios of the only enabled size, side by side.
#[test_case(2; "order_2")]
#[test_case(3; "order_3")]
#[test_case(4; "order_4")]
#[test_case(5; "order_5")]
#[test_case(6; "order_6")]
#[test_case(7; "order_7")]
#[test_case(8; "order_8")]
#[test_case(9; "order_9")]
fn full_table_becomes_folios(order: u8) {
    enter!();
    let (khugepaged, knobs) = take(Orders::only(order), 0);
    let mut tables = Tables::full();
    tables.advise();
    let outcomes = tables.pass_as_modelled(&khugepaged, &knobs);
    assert_eq!(outcomes[0].folios.len(), PTES >> order);
    // What is large already stays, though khugepaged tries its luck again.
    let outcomes = tables.pass_as_modelled(&khugepaged, &knobs);
    assert_eq!(outcomes[0].folios, []);
}

/// One aligned group of pages becomes one folio at its own place, wherever in the table it is;
/// a group that lacks its first, its last or a middle page, or is not aligned, is left alone.
#[test_case(2; "order_2")]
#[test_case(3; "order_3")]
#[test_case(4; "order_4")]
#[test_case(5; "order_5")]
#[test_case(6; "order_6")]
#[test_case(7; "order_7")]
#[test_case(8; "order_8")]
fn single_group_becomes_one_folio(order: u8) {
    enter!();
    let (khugepaged, knobs) = take(Orders::only(order), 0);
    let size = 1 << order;
    let middle = (PTES / size / 2) * size;
    let mut tables = Tables::new(&[
        &[0..size],
        &[middle..middle + size],
        &[PTES - size..PTES],
        &[1..size],
        &[PTES - size..PTES - 1],
        &[middle..middle + 1, middle + 2..middle + size],
        &[size / 2..size / 2 + size],
    ]);
    tables.advise();
    let outcomes = tables.pass_as_modelled(&khugepaged, &knobs);
    let made: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.folios.clone())
        .collect();
    let at = |offset| vec![Folio { offset, order }];
    assert_eq!(
        made,
        [
            at(0),
            at(middle),
            at(PTES - size),
            vec![],
            vec![],
            vec![],
            vec![]
        ]
    );
}

/// A page table without a page is never collapsed, whatever may be empty.
#[test_case(Orders::only(9); "pmd")]
#[test_case(Orders::range(2, 8); "mthp")]
#[test_case(Orders::range(2, 9); "all_sizes")]
fn empty_table_is_left_alone(orders: Orders) {
    enter!();
    let (khugepaged, knobs) = take(orders, MAX_NONE);
    let mut tables = Tables::new(&[&[0..PTES], &[]]);
    // In two halves, because the kernel may free the page table of a whole one.
    for half in [0..PTES / 2, PTES / 2..PTES] {
        tables
            .region
            .madvise(tables.bytes(0, half), Advice::DontNeed)
            .expect("MADV_DONTNEED");
    }
    tables.now_hold(tables.pages(0, 0..PTES), Held::Hole);
    tables.advise();
    let mut outcomes = tables.model(&knobs);
    assert_eq!(outcomes[0].folios, []);
    // Where no page table is, there is nothing to count.
    outcomes[1] = Outcome::default();
    tables.pass(&khugepaged, &outcomes);
}

/// With `max_ptes_none` 511 a single page is enough for the highest enabled size around it,
/// and the rest of the folio is zero.
#[test_case(2; "order_2")]
#[test_case(3; "order_3")]
#[test_case(4; "order_4")]
#[test_case(5; "order_5")]
#[test_case(6; "order_6")]
#[test_case(7; "order_7")]
#[test_case(8; "order_8")]
#[test_case(9; "order_9")]
fn one_page_grows_to_the_highest_size(order: u8) {
    enter!();
    let (khugepaged, knobs) = take(Orders::range(2, order), MAX_NONE);
    let mut tables = Tables::new(&[&[0..1], &[300..301], &[511..512]]);
    tables.advise();
    let outcomes = tables.pass_as_modelled(&khugepaged, &knobs);
    for (outcome, page) in outcomes.iter().zip([0, 300, 511]) {
        assert_eq!(
            outcome.folios,
            [Folio {
                offset: page >> order << order,
                order
            }]
        );
    }
}

/// Below the PMD size only 0 and 511 of `max_ptes_none` count: what lies between is 0.
#[test_case(1; "one")]
#[test_case(255; "half")]
#[test_case(510; "all_but_two")]
fn intermediate_allowance_means_none(none: u16) {
    enter!();
    let (khugepaged, knobs) = take(Orders::range(2, 8), none);
    let mut tables = Tables::new(&[&[0..16, 17..32, 40..44]]);
    tables.advise();
    let outcomes = tables.pass_as_modelled(&khugepaged, &knobs);
    let as_if_0 =
        [(0, 4), (20, 2), (24, 3), (40, 2)].map(|(offset, order)| Folio { offset, order });
    assert_eq!(outcomes[0].folios, as_if_0);
}

/// Patchy tables: at each offset the highest aligned size that has its pages, for every
/// combination of enabled sizes and each meaning of `max_ptes_none`.
#[test_case(Orders::range(2, 8), 0; "mthp_strict")]
#[test_case(Orders::range(2, 9), 0; "all_sizes_strict")]
#[test_case(Orders::range(2, 8), MAX_NONE; "mthp_generous")]
#[test_case(Orders::range(2, 9), 255; "all_sizes_half")]
#[test_case(Orders(1 << 3 | 1 << 6), 0; "orders_3_and_6_strict")]
#[test_case(Orders(1 << 2 | 1 << 5 | 1 << 9), 0; "orders_2_5_9_strict")]
#[test_case(Orders(1 << 4 | 1 << 7), MAX_NONE; "orders_4_and_7_generous")]
#[test_case(Orders(1 << 2 | 1 << 9), 500; "orders_2_and_9_with_500")]
fn patchy_tables_follow_the_rule(orders: Orders, none: u16) {
    enter!();
    let (khugepaged, knobs) = take(orders, none);
    let patterns: Vec<_> = (1..=6)
        .map(|seed| patchy(seed + 16 * u64::from(none) + u64::from(orders.0)))
        .collect();
    let patterns: Vec<_> = patterns.iter().map(Vec::as_slice).collect();
    let mut tables = Tables::new(&patterns);
    tables.advise();
    let outcomes = tables.pass_as_modelled(&khugepaged, &knobs);
    assert!(
        outcomes.iter().any(|outcome| !outcome.folios.is_empty()),
        "patterns that collapse nowhere test nothing"
    );
    // The second pass starts from large folios.
    tables.pass_as_modelled(&khugepaged, &knobs);
}

/// With the PMD size alone `max_ptes_none` is a limit to the page: so many empty entries are
/// filled with zeros, one more is refused and counted.
#[test_case(0; "none_0")]
#[test_case(1; "none_1")]
#[test_case(255; "none_255")]
#[test_case(256; "none_256")]
#[test_case(510; "none_510")]
#[test_case(511; "none_511")]
fn pmd_allowance_is_exact(none: u16) {
    enter!();
    let (khugepaged, knobs) = take(Orders::only(PMD_ORDER), none);
    let least = PTES - usize::from(none);
    let mut tables = Tables::new(&[
        &[0..least],
        &[0..least - 1],
        &[PTES - least..PTES],
        &[PTES - least + 1..PTES],
    ]);
    tables.advise();
    let outcomes = tables.pass_as_modelled(&khugepaged, &knobs);
    let made: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.folios.len())
        .collect();
    // A table without any page was never in use, so it has no page table to look at.
    assert_eq!(made, [1, 0, 1, 0]);
}

/// A folio as large as the wanted size is left alone; smaller folios grow when a larger size is
/// enabled.
#[test]
fn large_folios_stay_and_small_ones_grow() {
    enter!();
    let (khugepaged, knobs) = take(Orders::only(5), 0);
    let mut tables = Tables::new(&[&[0..PTES], &[0..64]]);
    tables.advise();
    tables.pass_as_modelled(&khugepaged, &knobs);
    for orders in [Orders::range(2, 4), Orders::only(7)] {
        khugepaged.enable(orders);
        let knobs = Knobs {
            none: 0,
            ..Knobs::new(orders)
        };
        tables.pass_as_modelled(&khugepaged, &knobs);
    }
}

/// The shared zero page counts as an empty entry: refused when none is allowed, otherwise
/// replaced by zeros of the folio's own.
#[test_case(0; "refused")]
#[test_case(MAX_NONE; "replaced")]
fn zero_page_is_an_empty_entry(none: u16) {
    enter!();
    let (khugepaged, knobs) = take(Orders::only(4), none);
    let mut tables = Tables::new(&[&[0..8, 64..80]]);
    let read = tables.pages(0, 8..16);
    check_zero(&tables.region, read.clone());
    tables.now_hold(read, Held::Zeros);
    tables.advise();
    let outcomes = tables.pass_as_modelled(&khugepaged, &knobs);
    assert_eq!(outcomes[0].folios.len(), if none == 0 { 1 } else { 2 });
}

/// Each table of a long mapping is judged by itself.
#[test]
fn tables_of_one_mapping_are_judged_one_by_one() {
    enter!();
    let (khugepaged, knobs) = take(Orders::range(2, 9), 0);
    let mut tables = Tables::new(&[&[0..PTES], &[], &[0..256], &[0..PTES], &[511..512]]);
    tables.advise();
    let outcomes = tables.pass_as_modelled(&khugepaged, &knobs);
    let made: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.folios.len())
        .collect();
    assert_eq!(made, [1, 0, 1, 1, 0]);
}

/// khugepaged's own progress counter moves once for each table in which it made something.
#[test]
fn pages_collapsed_counts_tables() {
    enter!();
    let (khugepaged, knobs) = take(Orders::range(2, 9), 0);
    let mut tables = Tables::new(&[&[0..PTES], &[0..16, 64..96], &[0..1]]);
    tables.advise();
    let before = pages_collapsed();
    tables.pass_as_modelled(&khugepaged, &knobs);
    assert_eq!(pages_collapsed() - before, 2);
}

fn pages_collapsed() -> u64 {
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/khugepaged/pages_collapsed");
    text.expect("khugepaged shows its progress")
        .trim()
        .parse()
        .expect("a number")
}

/// Memory collapsed and then unmapped is gone: no folio of any size is left behind.
#[test]
fn collapsed_memory_is_freed() {
    enter!();
    let (khugepaged, knobs) = take(Orders::range(2, 9), 0);
    let before = selftests::counters::Snapshot::all_sizes();
    let mut tables = Tables::new(&[&[0..PTES], &[0..16, 64..96, 100..104]]);
    tables.advise();
    tables.pass_as_modelled(&khugepaged, &knobs);
    drop(tables);
    selftests::collapse::drain_lru();
    let sizes = selftests::counters::thp_sizes_kib();
    let names: Vec<_> = sizes.iter().map(|kib| format!("{kib}kB/nr_anon")).collect();
    let names: Vec<_> = names
        .iter()
        .map(String::as_str)
        .chain(["nr_anon_transparent_hugepages"])
        .collect();
    selftests::counters::Expect::new()
        .unchanged(&names)
        .check(&before);
    // The address space can be used again.
    let region = Region::private(PMD).expect("memory for one huge page");
    FIRST.fill_all(&region);
    FIRST.check_all(&region);
}
