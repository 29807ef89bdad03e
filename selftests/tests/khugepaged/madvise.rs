// SPDX-License-Identifier: GPL-2.0-only
//! `MADV_COLLAPSE`: what it answers, and that a refusal changes nothing. The answers are those
//! of madvise(2): ENOMEM without a huge page, EBUSY where a limit of the control group or of
//! userfaultfd stands against it, EAGAIN where trying again may help, EINVAL otherwise.

use nix::errno::Errno;
use selftests::collapse::{Khugepaged, madvise_collapse};
use selftests::collapse_model::{Knobs, Orders, Outcome, PMD_ORDER, PTES};
use selftests::counters::Snapshot;
use selftests::failnth::{Injected, Injection};
use selftests::mapping::{Advice, PAGE, PMD, Prot, Region};
use selftests::pattern::FIRST;
use selftests::release::release;
use selftests::{child, enter, skip, thp};
use test_case::test_case;

use crate::eligible::set_thp_disable;
use crate::mthp::take_knobs;
use crate::refuse::hold_page;
use crate::tables::Tables;

/// Quiets khugepaged; the sizes make no difference here.
fn quiet() -> Khugepaged {
    take_knobs(&Knobs::new(Orders::only(PMD_ORDER)))
}

fn pmd_stats(set: impl FnOnce(&mut selftests::collapse_model::SizeStats)) -> Outcome {
    let mut outcome = Outcome::default();
    set(&mut outcome.stats[usize::from(PMD_ORDER)]);
    outcome
}

/// Memory that was never touched: EINVAL, whether or not its mapping is in use elsewhere.
#[test_case(false; "unused_mapping")]
#[test_case(true; "used_mapping")]
fn untouched_memory_is_einval(used: bool) {
    enter!();
    let _khugepaged = quiet();
    let region = Region::private(2 * PMD).expect("memory of two huge pages");
    if used {
        FIRST.fill(&region, 0..1);
    }
    let before = Snapshot::take();
    assert_eq!(
        region.madvise(PMD..2 * PMD, Advice::Collapse),
        Err(Errno::EINVAL)
    );
    let after = Snapshot::take();
    assert_eq!(before.delta(&after, "thp_collapse_alloc"), Some(0));
}

/// A range without a whole aligned huge page: nothing to do, which is success.
#[test_case(1, 511; "less_than_a_table")]
#[test_case(256, 768; "across_two_tables")]
fn range_without_a_whole_table_is_nothing_to_do(first: usize, last: usize) {
    enter!();
    let _khugepaged = quiet();
    let mut tables = Tables::new(&[&[0..PTES], &[0..PTES]]);
    let start = tables.region.page_addr(tables.pages(0, first..first).start);
    let none = [Outcome::default(), Outcome::default()];
    tables.expect(&none, || {
        let result = madvise_collapse(start, (last - first) * PAGE);
        if result == Err(Errno::EINVAL) && release() < (6, 18) {
            skip!("this kernel refuses a range that is too small (seen on 6.12)");
        }
        assert_eq!(result, Ok(()));
    });
}

/// A range that is not aligned is rounded inwards: only the whole tables in it are collapsed.
#[test]
fn range_is_rounded_inwards() {
    enter!();
    let _khugepaged = quiet();
    let mut tables = Tables::new(&[&[0..PTES], &[0..PTES], &[0..PTES]]);
    let start = tables.region.page_addr(tables.pages(0, 1..1).start);
    let outcomes = [
        Outcome::default(),
        Outcome::one_huge_page(),
        Outcome::default(),
    ];
    tables.expect(&outcomes, || {
        assert_eq!(madvise_collapse(start, 3 * PMD - 2 * PAGE), Ok(()))
    });
}

/// An address inside a page, or a hole in the mapping: EINVAL and ENOMEM, as for any advice.
#[test]
fn wrong_ranges_are_refused() {
    enter!();
    let _khugepaged = quiet();
    let mut tables = Tables::full();
    let start = tables.region.absolute(&tables.all()).start;
    let untouched = [Outcome::default()];
    tables.expect(&untouched, || {
        assert_eq!(madvise_collapse(start + 1, PMD), Err(Errno::EINVAL))
    });
    let hole = Region::reserved(PMD).expect("address space");
    let end = hole.absolute(&hole.all()).end;
    drop(hole);
    tables.expect(&untouched, || {
        assert_eq!(madvise_collapse(end - PMD, PMD), Err(Errno::ENOMEM))
    });
}

/// Memory that asked for no huge pages: EINVAL.
#[test]
fn nohugepage_is_einval() {
    enter!();
    let _khugepaged = quiet();
    let mut tables = Tables::full();
    tables
        .region
        .madvise(tables.all(), Advice::NoHugePage)
        .expect("MADV_NOHUGEPAGE");
    tables.collapse(&[Outcome::default()], Err(Errno::EINVAL));
}

/// A process that has disabled huge pages: EINVAL; enabled again, the collapse succeeds.
#[test]
fn process_without_huge_pages_is_einval() {
    enter!();
    let _khugepaged = quiet();
    let mut tables = Tables::full();
    set_thp_disable(true);
    tables.collapse(&[Outcome::default()], Err(Errno::EINVAL));
    set_thp_disable(false);
    tables.collapse(&[Outcome::one_huge_page()], Ok(()));
}

/// A mapping smaller than a table: EINVAL, whatever range is asked for.
#[test]
fn small_mapping_is_einval() {
    enter!();
    let _khugepaged = quiet();
    let mut tables = Tables::full();
    // Another flag on a part makes two mappings of the table, and the border is a third one.
    tables
        .region
        .madvise(tables.bytes(0, 0..8), Advice::HugePage)
        .expect("MADV_HUGEPAGE");
    tables
        .region
        .mprotect(tables.all().end..tables.region.len(), Prot::READ)
        .expect("mprotect");
    let rest = tables.region.absolute(&tables.bytes(0, 8..PTES));
    tables.expect(&[Outcome::default()], || {
        assert_eq!(madvise_collapse(rest.start, rest.len()), Err(Errno::EINVAL))
    });
}

/// A page that a pipe holds on to: EAGAIN; released, the collapse succeeds.
#[test]
fn held_page_is_eagain() {
    enter!();
    let _khugepaged = quiet();
    let mut tables = Tables::full();
    let pipe = hold_page(&tables.region, tables.pages(0, 77..78).start);
    tables.collapse(&[Outcome::default()], Err(Errno::EAGAIN));
    drop(pipe);
    tables.collapse(&[Outcome::one_huge_page()], Ok(()));
}

/// No huge page to be had: ENOMEM, counted as a failed allocation.
#[test]
fn failed_allocation_is_enomem() {
    enter!();
    let _khugepaged = quiet();
    let injection = Injection::of_pages(PMD_ORDER.into());
    let mut tables = Tables::full();
    let range = tables.region.absolute(&tables.all());
    let failed = pmd_stats(|stats| stats.alloc_failed = 1);
    tables.expect(&[failed], || {
        let answer = injection.call(1, || madvise_collapse(range.start, range.len()));
        assert_eq!(answer, (Err(Errno::ENOMEM), Injected::Yes));
    });
    tables.collapse(&[Outcome::one_huge_page()], Ok(()));
}

/// One bad table of three: its answer is returned, and the other two are collapsed all the same.
#[test]
fn other_tables_are_collapsed_beside_a_bad_one() {
    enter!();
    let _khugepaged = quiet();
    let mut tables = Tables::new(&[&[0..PTES], &[0..PTES], &[0..PTES]]);
    let pipe = hold_page(&tables.region, tables.pages(1, 0..1).start);
    let good = Outcome::one_huge_page();
    tables.collapse(
        &[good.clone(), Outcome::default(), good],
        Err(Errno::EAGAIN),
    );
    drop(pipe);
    tables.collapse(
        &[
            Outcome::default(),
            Outcome::one_huge_page(),
            Outcome::default(),
        ],
        Ok(()),
    );
}

/// What is a huge page already stays that very page, and counts as success.
#[test]
fn huge_pages_stay() {
    enter!();
    let _khugepaged = quiet();
    let mut tables = Tables::new(&[&[0..PTES], &[5..6]]);
    tables.collapse(
        &[Outcome::one_huge_page(), Outcome::one_huge_page()],
        Ok(()),
    );
    let frames = [
        thp::frames(&tables.region, 1),
        thp::frames(&tables.region, 2),
    ];
    tables.collapse(&[Outcome::default(), Outcome::default()], Ok(()));
    assert_eq!(
        frames,
        [
            thp::frames(&tables.region, 1),
            thp::frames(&tables.region, 2)
        ]
    );
}

/// Sizes below PMD are nothing that `MADV_COLLAPSE` makes, though they are enabled.
#[test]
fn smaller_sizes_are_not_made() {
    enter!();
    let khugepaged = take_knobs(&Knobs::new(Orders::only(PMD_ORDER)));
    khugepaged.enable(Orders::range(2, 8));
    let mut tables = Tables::new(&[&[0..16], &[0..PTES]]);
    tables.advise();
    tables.collapse(
        &[Outcome::one_huge_page(), Outcome::one_huge_page()],
        Ok(()),
    );
}

/// process_madvise(2) collapses another process's memory: there, and only there.
#[test]
fn another_process_can_be_collapsed() {
    enter!();
    let _khugepaged = quiet();
    let mut tables = Tables::full();
    let range = tables.region.absolute(&tables.all());
    let child = child::start(|parent| {
        // Its own copies, which only it maps.
        tables.fill_with(FIRST.next(), tables.pages(0, 0..PTES));
        tables.assert_small();
        tables.expect(&[Outcome::one_huge_page()], || {
            parent.send(0);
            parent.receive();
        });
        thp::assert_huge(&tables.region, 1..2);
    });
    child.line().receive();
    let answer = process_collapse(child.pid(), range.start, range.len());
    child.line().send(0);
    child.join();
    assert_eq!(answer, Ok(PMD));
    tables.assert_small();
    tables.check_content();
}

fn process_collapse(pid: i32, start: usize, len: usize) -> Result<usize, Errno> {
    let part = libc::iovec {
        iov_base: start as *mut _,
        iov_len: len,
    };
    // SAFETY: the descriptor is closed below; the advice changes no content.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid, 0))? as i32;
        let done = libc::syscall(
            libc::SYS_process_madvise,
            fd,
            &raw const part,
            1,
            Advice::Collapse as i32,
            0,
        );
        let done = Errno::result(done);
        libc::close(fd);
        done.map(|bytes| bytes as usize)
    }
}
