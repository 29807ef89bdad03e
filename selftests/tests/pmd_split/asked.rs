// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel answers when asked about huge pages, and stores that it does itself on request:
//! mincore, PAGEMAP_SCAN, idle page tracking, `/proc/PID/mem`.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use selftests::collapse::drain_lru;
use selftests::counters::status_kib;
use selftests::mapping::{Advice, PAGES_PER_PMD, PMD, Prot, Region, pages};
use selftests::pagemap::{self, idle, scan};
use selftests::pattern::FIRST;
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{child, enter, guard, skip, swap, thp};
use test_case::test_case;

use crate::cut::need_soft_dirty;
use crate::fixture::*;
use crate::shared::Mapped;

/// mincore finds each page of a huge page in memory, whatever part is asked for, and none of them
/// when they are in swap.
#[test]
fn mincore_knows_each_page() {
    enter!();
    let region = filled(2);
    for part in [0..1024, 0..512, 511..513, 77..78, 100..1000] {
        let found = swap::resident(&region, part.clone());
        let missing = found.iter().position(|page| !page);
        assert_eq!(missing, None, "a page of {part:?} that is in memory");
    }
    if !swap::is_on() {
        skip!("no swap: the guest needs CONFIG_ZRAM or a swap device");
    }
    swap::page_out(&region, 512..1024);
    let found = swap::resident(&region, 0..1024);
    let wrong = (0..1024).find(|number| found[*number] != (*number < 512));
    assert_eq!(wrong, None, "a page that is taken to be where it is not");
    FIRST.check_all(&region);
}

/// PAGEMAP_SCAN tells the huge zero page from others, whole and split.
#[test]
fn scan_knows_the_huge_zero_page() {
    enter!();
    let _quiet = selftests::settings::quiet();
    let region = thp::obtain_huge_zero(1);
    let look = |region: &Region| match scan::per_page(region, &region.all()) {
        Err(nix::errno::Errno::ENOTTY) => skip!("no PAGEMAP_SCAN (since 6.7)"),
        found => found.expect("PAGEMAP_SCAN"),
    };
    let check = |zero: &dyn Fn(usize) -> bool, huge: bool| {
        for (number, is) in look(&region).iter().enumerate() {
            assert_eq!(
                (is.contains(scan::Is::ZERO), is.contains(scan::Is::HUGE)),
                (zero(number), huge),
                "zero and huge: page {number} is {is:?}"
            );
        }
    };
    check(&|_| true, true);
    let found = scan::runs(&region, &region.all(), scan::Is::ZERO).expect("PAGEMAP_SCAN");
    assert_eq!(found.len(), 1, "runs of zeros: {found:?}");
    region
        .mprotect(pages(5..6), Prot::READ)
        .expect("mprotect of a page");
    check(&|_| true, false);
    FIRST.fill(&region, 9..10);
    check(&|number| number != 9, false);
    let other = filled(1);
    let wrong = look(&other)
        .iter()
        .position(|is| is.contains(scan::Is::ZERO));
    assert_eq!(wrong, None, "a page with content that counts as zero");
}

/// Each entry of the huge zero page has a page table set aside, which counts as the process's, and
/// no more when the entry goes or is split and goes.
#[test]
fn huge_zero_page_counts_its_table() {
    enter!();
    let _quiet = selftests::settings::quiet();
    let region = thp::obtain_huge_zero(4);
    let tables = || status_kib("VmPTE");
    let before = tables();
    region
        .madvise(0..2 * PMD, Advice::DontNeed)
        .expect("MADV_DONTNEED");
    if tables() == before {
        skip!("this kernel sets no page table aside for the huge zero page");
    }
    assert_eq!(tables() - before, -8, "kB of tables after two entries went");
    for number in [0, PAGES_PER_PMD] {
        guard::load(region.page_addr(number)).expect("our own memory");
    }
    assert_eq!(tables() - before, 0, "kB of tables, mapped again");
    region
        .mprotect(pages(5..6), Prot::READ)
        .expect("mprotect of a page");
    thp::assert_split(&region, 0);
    assert_eq!(tables() - before, 0, "kB of tables after a split");
}

/// A huge page that was marked idle stays so until one of its pages is used.
#[test]
fn idle_huge_page_stays_idle_until_used() {
    enter!();
    let region = filled(1);
    drain_lru();
    let head = thp::frames(&region, 0)[0];
    if let Err(error) = idle::mark(head) {
        skip!("no idle page tracking (CONFIG_IDLE_PAGE_TRACKING): {error}");
    }
    let is_idle = || idle::is_idle(head).expect("idle page tracking");
    assert!(is_idle(), "just marked");
    // Where a translation is still cached, a use would not show.
    pagemap::clear_referenced();
    assert!(is_idle(), "not used since");
    guard::load(region.page_addr(300)).expect("our own memory");
    assert!(!is_idle(), "used");
    thp::assert_huge(&region, 0..1);
    FIRST.check_all(&region);
}

/// Has a debugger store [`FIRST`]'s next version into page `number`: a child, which has none of the
/// memory, so that no page of it is shared.
#[track_caller]
fn poke(region: &Region, number: usize) {
    region
        .madvise(region.all(), Advice::DontFork)
        .expect("MADV_DONTFORK");
    let bytes = FIRST.next().page(number).map(u64::to_ne_bytes).concat();
    child::run_to_end(|_| {
        let pid = Pid::parent();
        // Kernels may permit it to who traces the process only.
        ptrace::seize(pid, ptrace::Options::empty()).expect("PTRACE_SEIZE of our parent");
        ptrace::interrupt(pid).expect("PTRACE_INTERRUPT");
        waitpid(pid, Some(WaitPidFlag::__WALL)).expect("our parent stops");
        let stored = File::options()
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .and_then(|file| file.write_all_at(&bytes, region.page_addr(number) as u64));
        ptrace::detach(pid, None).expect("PTRACE_DETACH");
        stored.expect("a store by /proc/PID/mem");
    });
}

/// A store that the kernel does for a debugger, to memory that is read-only, is noticed as any
/// other by who tracks stores, and in its own page alone.
#[test_case(Mapped::Huge, true; "huge_uffd_wp")]
#[test_case(Mapped::Split, true; "split_uffd_wp")]
#[test_case(Mapped::Small, true; "small_uffd_wp")]
#[test_case(Mapped::Huge, false; "huge_soft_dirty")]
#[test_case(Mapped::Split, false; "split_soft_dirty")]
#[test_case(Mapped::Small, false; "small_soft_dirty")]
fn forced_store_is_noticed(mapped: Mapped, uffd_wp: bool) {
    enter!();
    let region = mapped.memory();
    region.mprotect(region.all(), Prot::READ).expect("mprotect");
    let uffd = uffd_wp.then(|| Uffd::open(feature::WP | feature::WP_ASYNC));
    match &uffd {
        Some(uffd) => uffd
            .register(&region, &region.all(), Mode::WP)
            .and_then(|()| uffd.write_protect(&region, &region.all(), true))
            .expect("write-protect"),
        None => {
            need_soft_dirty();
            pagemap::clear_soft_dirty();
        }
    }
    let noticed = || -> Vec<usize> {
        let entries = pagemap::entries(&region, 0, PAGES_PER_PMD);
        let is = |number: &usize| match uffd_wp {
            true => !entries[*number].uffd_wp(),
            false => entries[*number].soft_dirty(),
        };
        (0..PAGES_PER_PMD).filter(is).collect()
    };
    assert_eq!(noticed(), [0; 0], "before the store");
    poke(&region, 77);
    let found = noticed();
    match mapped {
        // One entry, one mark.
        Mapped::Huge => assert!(found.contains(&77), "noticed in {found:?}"),
        _ => assert_eq!(found, [77], "pages written"),
    }
    FIRST.next().check(&region, 77..78);
    check_others(&region, &(77..78));
    assert_read_only(&region, 0..PAGES_PER_PMD);
}
