// SPDX-License-Identifier: GPL-2.0-only
//! Huge pages of private anonymous memory that migrate to a device and back.

use nix::errno::Errno;
use selftests::counters::{Expect, Snapshot};
use selftests::hmm::Memory::{Coherent, Private};
use selftests::hmm::{Access, Dmirror, Level, Memory, PageState};
use selftests::mapping::{Advice, PMD, Prot, Region};
use selftests::pattern::{Content, FIRST, check_zero};
use selftests::{enter, guard, not_applicable, thp};
use test_case::test_case;

use crate::scene::{self, Baseline, HUGE, all, bring_back, send_huge, send_huge_with, whole};

/// TO_DEV of a huge range that nobody has touched makes one huge page of zeros
/// on the device, readable only, as the mapping is.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn migrate_anon_huge_empty(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = scene::open_for_huge(memory);
    let region = scene::empty_huge(1);
    region.mprotect(region.all(), Prot::READ).unwrap();
    let before = Snapshot::take();
    send_huge_with(&dev, &region, Content::Zero, Access::Read);
    one_huge_fault().check(&before);
    check_zero(&region, 0..HUGE);
    assert!(guard::store(region.addr(), 1).is_err(), "read-only");
}

/// TO_DEV of the huge zero page makes one huge page of zeros on the device.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn migrate_anon_huge_zero(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = scene::open_for_huge(memory);
    let region = thp::obtain_huge_zero(1);
    region.mprotect(region.all(), Prot::READ).unwrap();
    let before = Snapshot::take();
    send_huge_with(&dev, &region, Content::Zero, Access::Read);
    one_huge_fault().unchanged(&["VmPTE"]).check(&before);
    check_zero(&region, 0..HUGE);
    assert!(guard::store(region.addr(), 1).is_err(), "read-only");
}

/// What a huge page that TO_DEV makes itself counts as.
fn one_huge_fault() -> Expect {
    Expect::new()
        .delta("thp_fault_alloc", 1)
        .delta("2048kB/anon_fault_alloc", 1)
        .delta("2048kB/nr_anon", 1)
        .unchanged(&["thp_fault_fallback", "thp_split_pmd", "thp_split_page"])
}

/// MADV_FREE of a huge page on the device succeeds; afterwards each page has
/// its old content or zeros, and a new content stays.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn migrate_anon_huge_free(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = scene::open_for_huge(memory);
    let region = scene::huge(1);
    send_huge(&dev, &region);
    region.madvise(region.all(), Advice::Free).unwrap();
    let base = region.addr();
    let kept = Content::Stamped(FIRST).mismatches(base, 0..HUGE);
    let freed = Content::Zero.mismatches(base, 0..HUGE);
    let neither: Vec<_> = kept
        .iter()
        .filter(|(page, _)| freed.iter().any(|(other, _)| other == page))
        .collect();
    assert!(neither.is_empty(), "neither old nor zero: {:?}", neither[0]);
    FIRST.next().fill_all(&region);
    FIRST.next().check_all(&region);
}

/// A huge page moves to the device as one and comes back as one, with its data
/// and without a split.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn migrate_anon_huge_fault(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = scene::open_for_huge(memory);
    let region = scene::huge(2);
    let before = Snapshot::take();
    send_huge(&dev, &region);
    scene::bring_back_huge(&dev, &region);
    Expect::new()
        .unchanged(&[
            "2048kB/nr_anon",
            "nr_anon_transparent_hugepages",
            "thp_split_pmd",
            "thp_split_page",
            "2048kB/split",
            "thp_deferred_split_page",
            "thp_migration_split",
        ])
        .check(&before);
    FIRST.next().fill_all(&region);
    FIRST.next().check_all(&region);
}

/// The three places at which C's test cuts a huge page, in pages.
const CUTS: [usize; 3] = [0, HUGE / 4, HUGE / 2];

/// After munmap of half of what is on the device the other half comes back
/// with its data, for small and for huge pages.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn migrate_partial_unmap_fault(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    for cut in CUTS {
        let region = scene::small(HUGE);
        scene::send_small(&dev, &region);
        unmap_half(&dev, region, cut);
    }
    if memory == Coherent {
        not_applicable!("huge pages", "{}", crate::dcthp::NO_PARTIAL_UNMAP);
        return;
    }
    for cut in CUTS {
        let region = scene::huge(1);
        send_huge(&dev, &region);
        unmap_half(&dev, region, cut);
    }
}

#[track_caller]
fn unmap_half(dev: &Dmirror, mut region: Region, cut: usize) {
    let hole = cut..cut + HUGE / 2;
    region
        .munmap(selftests::mapping::pages(hole.clone()))
        .unwrap();
    FIRST.check(&region, 0..hole.start);
    FIRST.check(&region, hole.end..HUGE);
    for page in [hole.start, hole.end - 1] {
        assert!(
            guard::load(region.page_addr(page)).is_err(),
            "page {page} is a hole"
        );
    }
    let states = dev.snapshot(whole(&region));
    let system = PageState::system(Access::Write, Level::Pte);
    let on_device = PageState::device(Access::Write, Level::Pte);
    let expected = match dev.memory() {
        Private => system,
        Coherent => on_device,
    };
    for (page, state) in states.iter().enumerate() {
        let wanted = if hole.contains(&page) {
            PageState::ERROR
        } else {
            expected
        };
        assert_eq!(*state, wanted, "page {page}");
    }
}

/// Memory that mremap moved before or after it went to the device keeps its
/// data, at aligned and unaligned places, also when the source stays mapped.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn migrate_remap_fault(memory: Memory) {
    enter!();
    scene::needs_huge_pages_on_device();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let huge = match memory {
        Private => None,
        Coherent => Some(scene::open_for_huge(memory)),
    };
    for cut in CUTS {
        for stays in [false, true] {
            for before in [true, false] {
                remap(&dev, scene::small(HUGE), cut, stays, before);
                // Cut pages are small, and leave huge coherent ones partly mapped.
                if memory == Private || cut == 0 {
                    let dev = huge.as_ref().unwrap_or(&dev);
                    remap(dev, scene::huge(1), cut, stays, before);
                }
            }
        }
    }
}

fn remap(dev: &Dmirror, mut region: Region, cut: usize, stays: bool, before: bool) {
    use selftests::mapping::{PAGE, Source};
    let huge = thp::is_pmd_mapped(&region, 0);
    let source = if stays { Source::Stays } else { Source::Goes };
    let mut target = Region::reserved(2 * PMD).unwrap();
    let offset = cut * PAGE;
    if !before {
        dev.to_dev(whole(&region)).unwrap();
        dev.check_seen(Content::Stamped(FIRST), all(&region));
    }
    region
        .mremap_into(0..PMD, &mut target, offset, source)
        .unwrap();
    let moved = cut..cut + HUGE;
    let span = selftests::hmm::Span::of(&target, moved.clone());
    if before {
        assert_eq!(dev.to_dev(span).unwrap().cpages, HUGE as u64);
    }
    let level = match huge && cut == 0 {
        true => Level::Pmd,
        false => Level::Pte,
    };
    dev.check_states(span, PageState::device(Access::Write, level));
    let content = Content::Moved {
        stamp: FIRST,
        by: -(cut as isize),
    };
    content.check(&target, moved);
    if stays {
        check_zero(&region, 0..HUGE);
    } else {
        assert!(guard::load(region.addr()).is_err(), "the source is gone");
    }
}

/// A huge page that the device has no huge page for arrives in small ones; one
/// that the system has no huge page for comes back in small ones; all data.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn migrate_anon_huge_err(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let region = scene::huge(1);
    send_in_small_ones(&dev, &region, Content::Stamped(FIRST), Access::Write);
    bring_back(&dev, &region);
    scene::in_system(&dev, &region, 0..HUGE);
    drop(region);
    if memory == Coherent {
        not_applicable!("the way back", "{}", crate::dcthp::NO_SPLIT);
        return;
    }
    let region = scene::huge(1);
    send_huge(&dev, &region);
    let failure = dev.fail_alloc();
    let before = Snapshot::take();
    dev.to_sys(whole(&region)).unwrap();
    failure.consumed();
    scene::in_system(&dev, &region, 0..HUGE);
    Expect::new()
        .delta("thp_split_pmd", 1)
        .delta("2048kB/nr_anon", -1)
        .unchanged(&["thp_split_page", "2048kB/split"])
        .check(&before);
    FIRST.check_all(&region);
}

/// An empty range and the huge zero page that the device has no huge page for
/// arrive in small pages of zeros.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn migrate_anon_huge_zero_err(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let empty = scene::empty_huge(1);
    empty.mprotect(empty.all(), Prot::READ).unwrap();
    let zero = thp::obtain_huge_zero(1);
    zero.mprotect(zero.all(), Prot::READ).unwrap();
    for region in [empty, zero] {
        send_in_small_ones(&dev, &region, Content::Zero, Access::Read);
        if memory == Coherent {
            dev.to_sys(whole(&region)).unwrap();
        }
        check_zero(&region, 0..HUGE);
        assert!(guard::store(region.addr(), 1).is_err(), "read-only");
        let back = PageState::system(Access::Read, Level::Pte);
        dev.check_states(whole(&region), back);
    }
}

#[track_caller]
fn send_in_small_ones(dev: &Dmirror, region: &Region, content: Content, access: Access) {
    let failure = dev.fail_alloc();
    let reply = dev.to_dev(whole(region)).unwrap();
    assert_eq!(reply.cpages, HUGE as u64, "every page arrives");
    dev.check_seen(content, 0..HUGE);
    failure.consumed();
    dev.check_states(whole(region), PageState::device(access, Level::Pte));
    scene::check_cpu_view(dev.memory(), region, 0..HUGE);
}

/// Buffers from a quarter of a huge page to four of them go there and back,
/// as huge and as small pages, with all data (its times: `hugeprobe bench hmm`).
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn benchmark_thp_migration(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    for pages in [HUGE / 4, HUGE / 2, HUGE, 2 * HUGE] {
        let dev = Dmirror::open(memory);
        let region = scene::small(pages);
        scene::send_small(&dev, &region);
        let reply = dev.to_sys(whole(&region)).unwrap();
        assert_eq!(reply.cpages, pages as u64);
        FIRST.check_all(&region);
    }
    for count in [1, 2] {
        let dev = scene::open_for_huge(memory);
        let region = scene::huge(count);
        send_huge(&dev, &region);
        if memory == Private {
            let reply = dev.to_sys(whole(&region)).unwrap();
            assert_eq!(reply.cpages, count as u64, "a huge page counts once");
        }
        scene::bring_back_huge(&dev, &region);
    }
    let dev = Dmirror::open(memory);
    let nothing = scene::untouched(1);
    nothing.mprotect(nothing.all(), Prot::NONE).unwrap();
    let refusal = dev.to_sys(whole(&nothing)).unwrap_err();
    assert_eq!(refusal.errno, Errno::EINVAL, "no readable mapping");
}
