// SPDX-License-Identifier: GPL-2.0-only
//! What an entry says besides its frame, and must still say after a collapse: permission to
//! write, soft-dirty, userfaultfd's write-protection, whose page it is.

use selftests::child;
use selftests::collapse::Khugepaged;
use selftests::collapse_model::{Knobs, MAX_NONE, Orders, PMD_ORDER, PTES};
use selftests::guard::{self, SEGV_ACCERR};
use selftests::mapping::{Prot, Region};
use selftests::outcome::xfail;
use selftests::pagemap::{self, ptdump, soft_dirty_supported};
use selftests::pattern::FIRST;
use selftests::{enter, not_applicable, skip, swap};
use test_case::test_case;

use crate::mthp::{take, take_knobs};
use crate::tables::{self, Tables};

/// Collapses one full table to folios of `order`. khugepaged must be kept as long as the table:
/// with its own settings back it would collapse it once more.
#[must_use]
fn collapsed(order: u8, prepare: impl FnOnce(&Tables)) -> (Khugepaged, Tables) {
    let (khugepaged, knobs) = take(Orders::only(order), 0);
    let mut tables = Tables::full();
    prepare(&tables);
    tables.advise();
    let outcomes = tables.pass_as_modelled(&khugepaged, &knobs);
    assert_eq!(outcomes[0].folios.len(), PTES >> order);
    (khugepaged, tables)
}

/// Runs of the kernel's page-table dump in which the table may be written.
fn writable_bytes(tables: &Tables) -> Option<usize> {
    let at = tables.region.absolute(&tables.all());
    let runs = ptdump::runs(&at).ok()?;
    let inside = |run: &ptdump::Run| run.range.end.min(at.end) - run.range.start.max(at.start);
    Some(
        runs.iter()
            .filter(|run| run.flags.iter().any(|flag| flag == "RW"))
            .map(inside)
            .sum(),
    )
}

fn minor_faults() -> i64 {
    // SAFETY: an all-zero rusage is valid, and getrusage fills it in.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &raw mut usage), 0);
        usage.ru_minflt
    }
}

/// A collapse in a mapping that may not be written gives no permission to write; given back by
/// mprotect, writing works.
#[test_case(2; "order_2")]
#[test_case(4; "order_4")]
#[test_case(8; "order_8")]
#[test_case(9; "pmd")]
fn write_protection_survives(order: u8) {
    enter!();
    tables::needs_collapse_of_read_only();
    let (_khugepaged, mut tables) = collapsed(order, |tables| {
        tables
            .region
            .mprotect(tables.all(), Prot::READ)
            .expect("mprotect");
    });
    let pages = tables.pages(0, 0..PTES);
    match writable_bytes(&tables) {
        Some(bytes) => assert_eq!(bytes, 0, "bytes that the page tables let us write"),
        None => not_applicable!("ptdump", "no CONFIG_PTDUMP_DEBUGFS"),
    }
    for page in pages.clone() {
        let fault = guard::store(tables.region.page_addr(page), 1)
            .expect_err("a store to read-only memory");
        assert_eq!(fault.code, SEGV_ACCERR);
    }
    tables.check_content();
    tables
        .region
        .mprotect(tables.all(), Prot::READ_WRITE)
        .expect("mprotect");
    tables.fill_with(FIRST.next(), pages);
    tables.check_content();
}

/// Writable memory is writable at once after a collapse: no page faults again.
#[test_case(2; "order_2")]
#[test_case(4; "order_4")]
#[test_case(9; "pmd")]
fn writable_memory_does_not_fault_again(order: u8) {
    enter!();
    let (_khugepaged, mut tables) = collapsed(order, |_| {});
    if let Some(bytes) = writable_bytes(&tables) {
        assert_eq!(
            bytes,
            tables.all().len(),
            "bytes that the page tables let us write"
        );
    }
    let pages = tables.pages(0, 0..PTES);
    let addresses: Vec<_> = pages
        .clone()
        .map(|page| tables.region.page_addr(page))
        .collect();
    let before = minor_faults();
    for address in &addresses {
        guard::store(*address, 0x5a).expect("a store to writable memory");
    }
    assert_eq!(minor_faults() - before, 0, "faults of {PTES} stores");
    tables.fill_with(FIRST.next(), pages);
    tables.check_content();
}

/// Each page of a new folio belongs to this process alone, and after a fork each side's writes
/// stay with it.
#[test_case(2; "order_2")]
#[test_case(4; "order_4")]
#[test_case(9; "pmd")]
fn copies_on_write_stay_apart(order: u8) {
    enter!();
    let (_khugepaged, mut tables) = collapsed(order, |_| {});
    let pages = tables.pages(0, 0..PTES);
    let entries = pagemap::entries(&tables.region, pages.start, PTES);
    let shared = entries.iter().position(|entry| !entry.exclusive());
    assert_eq!(
        shared, None,
        "an entry of the new folio that is not exclusive"
    );
    let region = &tables.region;
    let childs = FIRST.next().next();
    let (first, last) = (pages.start, pages.end);
    let child = child::start(|parent| {
        FIRST.check(region, first..last);
        for page in (first..last).step_by(2) {
            childs.fill(region, page..page + 1);
        }
        parent.send(0);
        parent.receive();
        for page in first..last {
            let stamp = if (page - first) % 2 == 0 {
                childs
            } else {
                FIRST
            };
            stamp.check(region, page..page + 1);
        }
    });
    child.line().receive();
    tables.check_content();
    tables.fill_with(FIRST.next(), pages);
    child.line().send(0);
    child.join();
    tables.check_content();
}

/// A page written since soft-dirty was cleared is soft-dirty after the collapse too.
#[test_case(2; "order_2")]
#[test_case(4; "order_4")]
#[test_case(9; "pmd")]
fn soft_dirty_is_not_lost(order: u8) {
    enter!();
    let written = [0, 5, 300, 511];
    let (_khugepaged, tables) = collapsed(order, |tables| write_some(tables, &written));
    assert_soft_dirty(&tables, &written);
}

/// The same in memory that has become read-only, where the new entries are made clean.
#[test_case(2; "order_2")]
#[test_case(4; "order_4")]
#[test_case(9; "pmd")]
fn soft_dirty_is_not_lost_in_read_only_memory(order: u8) {
    enter!();
    tables::needs_collapse_of_read_only();
    let written = [0, 5, 300, 511];
    let (_khugepaged, tables) = collapsed(order, |tables| {
        write_some(tables, &written);
        tables
            .region
            .mprotect(tables.all(), Prot::READ)
            .expect("mprotect");
    });
    if order == PMD_ORDER {
        return assert_soft_dirty(&tables, &written);
    }
    xfail(
        "khugepaged drops soft-dirty when it makes mTHPs in read-only memory: \
         map_anon_folio_pte_nopf() marks entries dirty in writable mappings only (7.3)",
        || assert_soft_dirty(&tables, &written),
    )
}

/// Clears soft-dirty and writes some entries of table 0.
fn write_some(tables: &Tables, entries: &[usize]) {
    if !soft_dirty_supported() {
        skip!("no soft-dirty tracking (CONFIG_MEM_SOFT_DIRTY)");
    }
    pagemap::clear_soft_dirty();
    for entry in entries {
        FIRST.fill(&tables.region, tables.pages(0, *entry..entry + 1));
    }
    let now = pagemap::entries(&tables.region, tables.pages(0, 0..1).start, PTES);
    let dirty: Vec<_> = (0..PTES).filter(|&at| now[at].soft_dirty()).collect();
    assert_eq!(dirty, entries, "precondition: soft-dirty entries");
}

fn assert_soft_dirty(tables: &Tables, written: &[usize]) {
    let now = pagemap::entries(&tables.region, tables.pages(0, 0..1).start, PTES);
    let lost: Vec<_> = written
        .iter()
        .filter(|&&at| !now[at].soft_dirty())
        .collect();
    assert!(
        lost.is_empty(),
        "entries {lost:?} were written and are no longer soft-dirty"
    );
}

/// Memory collapsed and then swapped out comes back as it was: the copy was dirty.
#[test_case(2, Prot::READ_WRITE; "order_2")]
#[test_case(4, Prot::READ_WRITE; "order_4")]
#[test_case(9, Prot::READ_WRITE; "pmd")]
#[test_case(4, Prot::READ; "order_4_read_only")]
#[test_case(9, Prot::READ; "pmd_read_only")]
fn collapsed_memory_survives_swap(order: u8, prot: Prot) {
    enter!();
    if prot == Prot::READ {
        tables::needs_collapse_of_read_only();
    }
    let (_khugepaged, tables) = collapsed(order, |tables| {
        tables
            .region
            .mprotect(tables.all(), prot)
            .expect("mprotect");
    });
    swap::page_out(&tables.region, tables.pages(0, 0..PTES));
    tables.check_content();
}

/// Pages filled in by a collapse, of which the kernel has no older copy, survive swap as zeros
/// beside the data.
#[test]
fn filled_pages_survive_swap() {
    enter!();
    let knobs = Knobs {
        none: MAX_NONE,
        ..Knobs::new(Orders::only(PMD_ORDER))
    };
    let khugepaged = take_knobs(&knobs);
    let mut tables = Tables::new(&[&[7..8, 100..200]]);
    tables.advise();
    tables.pass_as_modelled(&khugepaged, &knobs);
    swap::page_out(&tables.region, tables.pages(0, 0..PTES));
    tables.check_content();
}

/// Code that was collapsed may still be executed, and may not be written.
#[test]
fn execute_permission_survives() {
    enter!();
    let (khugepaged, knobs) = take(Orders::only(4), 0);
    let mut tables = Tables::full();
    tables
        .region
        .mprotect(tables.all(), Prot::READ_EXEC)
        .expect("mprotect");
    tables.advise();
    tables.pass_as_modelled(&khugepaged, &knobs);
    let executable = |region: &Region| {
        let at = region.absolute(&tables.all());
        let runs = ptdump::runs(&at).ok()?;
        let no_exec =
            |run: &&ptdump::Run| run.flags.iter().any(|flag| flag == "NX" || flag == "RW");
        Some(runs.iter().filter(no_exec).count())
    };
    match executable(&tables.region) {
        Some(wrong) => assert_eq!(
            wrong, 0,
            "runs of entries that may be written or not executed"
        ),
        None => skip!("no CONFIG_PTDUMP_DEBUGFS"),
    }
}
