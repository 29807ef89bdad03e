// SPDX-License-Identifier: GPL-2.0-only
//! Memory that khugepaged must not touch at all: mappings that are too small, that did not ask
//! for huge pages, or whose process does not want any.

use std::ops::Range;

use selftests::collapse_model::{MAX_NONE, Orders, Outcome};
use selftests::enter;
use selftests::mapping::Advice;
use test_case::test_case;

use crate::mthp::take;
use crate::tables::Tables;

/// A mapping that does not span the whole page table is left alone, though the group would fit:
/// another mapping may share the table.
#[test_case(0..511; "one_page_short_at_the_end")]
#[test_case(1..512; "one_page_short_at_the_start")]
#[test_case(128..384; "in_the_middle")]
fn mapping_smaller_than_a_table_is_left_alone(part: Range<usize>) {
    enter!();
    let (khugepaged, _) = take(Orders::range(2, 8), 0);
    let mut tables = Tables::full();
    let advised = tables.bytes(0, part);
    tables
        .region
        .madvise(advised, Advice::HugePage)
        .expect("MADV_HUGEPAGE");
    tables.pass(&khugepaged, &[Outcome::default()]);
}

/// Memory that did not ask for huge pages, or asked for none, is left alone.
#[test_case(Advice::Normal; "without_advice")]
#[test_case(Advice::NoHugePage; "nohugepage")]
fn memory_without_advice_is_left_alone(advice: Advice) {
    enter!();
    let (khugepaged, _) = take(Orders::range(2, 9), MAX_NONE);
    let mut tables = Tables::full();
    tables.advise();
    if advice == Advice::Normal {
        // Fresh tables that never had the flag.
        tables = Tables::full();
    }
    tables
        .region
        .madvise(tables.all(), advice)
        .expect("madvise of anonymous memory");
    tables.pass(&khugepaged, &[Outcome::default()]);
}

/// A process that has disabled huge pages for itself is left alone.
#[test]
fn process_without_huge_pages_is_left_alone() {
    enter!();
    let (khugepaged, knobs) = take(Orders::range(2, 9), 0);
    let mut tables = Tables::full();
    tables.advise();
    set_thp_disable(true);
    tables.pass(&khugepaged, &[Outcome::default()]);
    set_thp_disable(false);
    tables.pass_as_modelled(&khugepaged, &knobs);
}

/// Disables huge pages for this process, or enables them again.
pub fn set_thp_disable(disable: bool) {
    // SAFETY: sets a flag of this process and takes no pointer.
    let status = unsafe {
        libc::prctl(
            libc::PR_SET_THP_DISABLE,
            libc::c_ulong::from(disable),
            0,
            0,
            0,
        )
    };
    assert_eq!(status, 0, "PR_SET_THP_DISABLE");
}
