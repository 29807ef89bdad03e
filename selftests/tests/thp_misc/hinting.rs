// SPDX-License-Identifier: GPL-2.0-only
//! Memory that NUMA balancing has closed: the next access opens it, to what the mapping allows and no more,
//! brings it to the node where it is wanted, and whatever else happens to it meets what was there before.

use selftests::counters::{Expect, Snapshot, minor_faults};
use selftests::mapping::{Advice, PAGE, PAGES_PER_PMD, PMD, Prot, Region, Source, page, pages};
use selftests::pattern::{FIRST, check_zero};
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{child, enter, guard, hinting, numa, pagemap, skip, swap, thp};
use test_case::test_case;

use crate::sizes::OneSize;

/// Filled memory of folios of one size.
struct Hinted<'a> {
    region: Region,
    /// A page apart.
    spare: Region,
    size: &'a OneSize,
}

fn faults_of_loads(region: &Region) -> i64 {
    let faults = minor_faults();
    for at in region.absolute(&region.all()).step_by(PAGE) {
        guard::load(at).expect("our own memory");
    }
    minor_faults() - faults
}

impl Hinted<'_> {
    /// Runs `body` in a process of its own. Of a process of one thread each scan begins at once; in one of two, as the
    /// tests' is, a second after the start of the other (`init_numa_balancing()`).
    #[track_caller]
    fn of(order: u8, body: impl FnOnce(&mut Hinted<'_>)) {
        hinting::required();
        let size = OneSize::of(order);
        drop(size.filled());
        child::run_to_end(|_| {
            let spare = Region::private(PAGE).expect("address space");
            FIRST.fill_all(&spare);
            let region = size.filled();
            body(&mut Hinted {
                region,
                spare,
                size: &size,
            });
        });
    }

    fn is_huge(&self) -> bool {
        self.size.pages() == PAGES_PER_PMD
    }

    fn folios(&self) -> i64 {
        (PAGES_PER_PMD / self.size.pages()) as i64
    }

    #[track_caller]
    fn close(&self) {
        if self.is_huge() {
            hinting::close(1, 0);
        } else {
            hinting::close(0, PAGES_PER_PMD as i64);
        }
    }

    /// Loads each page; the number of faults of that. What the loads themselves need is opened before.
    #[track_caller]
    fn load_all(&self) -> i64 {
        faults_of_loads(&self.spare);
        faults_of_loads(&self.region)
    }
}

/// A load of each closed folio is one fault, which is counted and opens all of it.
#[test_case(0; "small")]
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn load_opens_what_is_closed(order: u8) {
    enter!();
    Hinted::of(order, |hinted| {
        hinted.close();
        let before = Snapshot::take();
        assert_eq!(
            hinted.load_all(),
            hinted.folios(),
            "faults of the first loads"
        );
        assert_eq!(hinted.load_all(), 0, "faults of the loads after that");
        let counted = before
            .delta(&Snapshot::take(), "numa_hint_faults")
            .unwrap_or_default();
        assert!(
            counted >= hinted.folios(),
            "numa_hint_faults grew by {counted}"
        );
        FIRST.check_all(&hinted.region);
    });
}

/// What a load has opened takes stores without a further fault, as the memory belongs to nobody else.
#[test_case(0; "small")]
#[test_case(9; "huge")]
fn load_of_writable_memory_opens_it_for_stores(order: u8) {
    enter!();
    Hinted::of(order, |hinted| {
        hinted.close();
        hinted.load_all();
        let faults = minor_faults();
        FIRST.next().fill_all(&hinted.region);
        assert_eq!(minor_faults() - faults, 0, "faults of the stores");
        FIRST.next().check_all(&hinted.region);
    });
}

/// A load of closed memory that is read-only leaves it so.
#[test_case(0; "small")]
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn read_only_memory_is_opened_for_loads_only(order: u8) {
    enter!();
    Hinted::of(order, |hinted| {
        let region = &hinted.region;
        region.mprotect(region.all(), Prot::READ).expect("mprotect");
        hinted.close();
        assert_eq!(hinted.load_all(), hinted.folios(), "faults of the loads");
        for number in [0, 1, 255, 511] {
            guard::store(region.page_addr(number), 0xff).expect_err("a store to read-only memory");
        }
        FIRST.check_all(region);
    });
}

/// Closed memory of which a part becomes read-only is closed no longer in that part, and takes stores in the rest.
#[test_case(0; "small")]
#[test_case(9; "huge")]
fn closed_memory_becomes_read_only_in_part(order: u8) {
    enter!();
    Hinted::of(order, |hinted| {
        let region = &hinted.region;
        hinted.close();
        region
            .mprotect(pages(100..200), Prot::READ)
            .expect("mprotect");
        for number in [100, 150, 199] {
            guard::store(region.page_addr(number), 0xff).expect_err("a store to read-only memory");
        }
        FIRST.check_all(region);
        FIRST.next().fill(region, 0..100);
        FIRST.next().fill(region, 200..PAGES_PER_PMD);
        FIRST.check(region, 100..200);
        FIRST.next().check(region, 0..100);
        FIRST.next().check(region, 200..PAGES_PER_PMD);
    });
}

/// What was closed and shared after that is copied by a store, on either side.
#[test_case(0; "small")]
#[test_case(4; "order_4")]
#[test_case(9; "huge")]
fn closed_memory_is_copied_after_fork(order: u8) {
    enter!();
    Hinted::of(order, |hinted| {
        let region = &hinted.region;
        hinted.close();
        let other = child::start(|line| {
            assert_eq!(line.receive(), 1);
            FIRST.check_all(region);
            FIRST.next().next().fill_all(region);
            line.send(2);
            assert_eq!(line.receive(), 3);
            FIRST.next().next().check_all(region);
        });
        hinted.load_all();
        FIRST.next().fill_all(region);
        other.line().send(1);
        assert_eq!(other.line().receive(), 2);
        FIRST.next().check_all(region);
        other.line().send(3);
        other.join();
    });
}

/// userfaultfd's write protection outlives closing, and the load that opens the memory again.
#[test_case(0; "small")]
#[test_case(9; "huge")]
fn opened_memory_is_still_write_protected(order: u8) {
    enter!();
    let features = feature::WP_ASYNC | feature::WP_UNPOPULATED;
    drop(Uffd::open(features));
    Hinted::of(order, |hinted| {
        let region = &hinted.region;
        let uffd = Uffd::open(features);
        uffd.register(region, &region.all(), Mode::WP)
            .expect("UFFDIO_REGISTER_MODE_WP");
        uffd.write_protect(region, &region.all(), true)
            .expect("UFFDIO_WRITEPROTECT");
        hinted.close();
        hinted.load_all();
        let protected = |number: usize| pagemap::entries(region, number, 1)[0].uffd_wp();
        for number in [0, 1, 255, 511] {
            assert!(protected(number), "page {number} is no longer protected");
            guard::store(region.page_addr(number), FIRST.page(number)[0] as u8).expect("WP_ASYNC");
            assert!(
                !protected(number),
                "a store to page {number} was not noticed"
            );
            if hinted.is_huge() {
                break;
            }
        }
        FIRST.check_all(region);
    });
}

/// A load that opens memory is no store: what was clean of soft-dirty stays so, and a store makes it dirty.
#[test_case(0; "small")]
#[test_case(9; "huge")]
fn opened_memory_is_not_soft_dirty(order: u8) {
    enter!();
    if !pagemap::soft_dirty_supported() {
        skip!("no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)");
    }
    Hinted::of(order, |hinted| {
        let region = &hinted.region;
        pagemap::clear_soft_dirty();
        hinted.close();
        hinted.load_all();
        let dirty = |number: usize| pagemap::entries(region, number, 1)[0].soft_dirty();
        for number in [0, 1, 255, 511] {
            assert!(
                !dirty(number),
                "page {number} is soft-dirty without a store"
            );
        }
        guard::store(region.page_addr(255), FIRST.page(255)[0] as u8).expect("our own memory");
        assert!(dirty(255), "a store left no soft-dirty bit");
        FIRST.check_all(region);
    });
}

/// A closed huge page on another node comes whole to the node of the task that touches it, and is counted.
#[test]
fn huge_page_comes_to_the_node_of_its_user() {
    enter!();
    let (one, other) = numa::two_nodes();
    let here = numa::stay_here();
    Hinted::of(9, |hinted| {
        let region = &hinted.region;
        let node = || numa::nodes_of(region, &page(0)).expect("move_pages")[0].expect("a node");
        let away = if here == one { other } else { one };
        // Not by mbind, whose policy would forbid the way back.
        numa::move_to(region, &region.all(), away).expect("move_pages");
        assert_eq!(node(), away, "the node before");
        hinted.close();
        let before = Snapshot::take();
        guard::load(region.page_addr(300)).expect("our own memory");
        assert_eq!(node(), here, "the node after a load");
        Expect::new()
            .delta("numa_pages_migrated", PAGES_PER_PMD as i64)
            .delta("thp_migration_success", 1)
            .unchanged(&["thp_split_pmd", "thp_split_page", "thp_migration_fail"])
            .check(&before);
        thp::assert_huge(region, 0..1);
        FIRST.check_all(region);
    });
}

/// What a program can do to closed memory before it touches it again.
#[derive(Clone, Copy)]
enum Act {
    DiscardPart,
    Move,
    PageOut,
    SplitPmd,
    Lock,
}

/// Closed memory that is discarded in part, moved, swapped out, split or locked has its content afterwards.
#[test_case(0, Act::DiscardPart; "small_discarded")]
#[test_case(9, Act::DiscardPart; "huge_discarded")]
#[test_case(0, Act::Move; "small_moved")]
#[test_case(9, Act::Move; "huge_moved")]
#[test_case(0, Act::PageOut; "small_swapped")]
#[test_case(9, Act::PageOut; "huge_swapped")]
#[test_case(9, Act::SplitPmd; "huge_split")]
#[test_case(0, Act::Lock; "small_locked")]
#[test_case(9, Act::Lock; "huge_locked")]
fn closed_memory_keeps_its_content(order: u8, act: Act) {
    enter!();
    Hinted::of(order, |hinted| {
        hinted.close();
        if matches!(act, Act::Move) {
            let mut place = Region::reserved(PMD).expect("address space");
            hinted
                .region
                .mremap_into(0..PMD, &mut place, 0, Source::Goes)
                .expect("mremap");
            hinted.region = place;
        }
        let region = &hinted.region;
        match act {
            Act::Move => {}
            Act::DiscardPart => {
                region
                    .madvise(pages(7..40), Advice::DontNeed)
                    .expect("MADV_DONTNEED");
                check_zero(region, 7..40);
                FIRST.fill(region, 7..40);
            }
            Act::PageOut => swap::page_out(region, 0..PAGES_PER_PMD),
            Act::SplitPmd => {
                region.mprotect(page(9), Prot::NONE).expect("mprotect");
                guard::load(region.page_addr(9)).expect_err("PROT_NONE");
                region
                    .mprotect(page(9), Prot::READ_WRITE)
                    .expect("mprotect");
            }
            Act::Lock => region.mlock(region.all()).expect("mlock"),
        }
        FIRST.check_all(region);
        FIRST.next().fill_all(region);
        FIRST.next().check_all(region);
    });
}
