// SPDX-License-Identifier: GPL-2.0-only
//! Huge pages of which parts or all are unmapped while they are on the device.

use std::collections::BTreeSet;
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use selftests::counters::{Expect, Snapshot};
use selftests::hmm::Memory::Private;
use selftests::hmm::{Access, Dmirror, Level, PageState, Span};
use selftests::mapping::{Advice, PAGE, PMD, Region, page, pages};
use selftests::pagemap::smaps;
use selftests::pattern::{Content, FIRST, Stamp, check_zero};
use selftests::{child, enter, guard, outcome, thp};
use test_case::test_case;

use crate::scene::{self, Baseline, HUGE, send_huge, whole};

/// The pages between holes.
fn between(holes: &[usize]) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut start = 0;
    for hole in holes.iter().copied().chain([HUGE]) {
        if start < hole {
            runs.push(start..hole);
        }
        start = hole + 1;
    }
    runs
}

/// After munmap of single pages on the device, TO_SYS brings all others back
/// with their data, and each can migrate again, twice: none is left locked.
#[test_case(vec![0]; "first_page")]
#[test_case(vec![256]; "middle_page")]
#[test_case(vec![511]; "last_page")]
#[test_case((1..64).step_by(2).collect(); "every_second_page")]
#[test_case((0..500).collect(); "all_but_the_last")]
fn dpthp_partial_unmap_then_to_sys(holes: Vec<usize>) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let mut region = scene::huge(1);
    send_huge(&dev, &region);
    let before = Snapshot::take();
    for run in holes.chunk_by(|a, b| a + 1 == *b) {
        region.munmap(pages(run[0]..run[0] + run.len())).unwrap();
    }
    Expect::new()
        .delta("thp_split_pmd", 1)
        .unchanged(&[
            "thp_split_page",
            "2048kB/nr_anon",
            "thp_deferred_split_page",
        ])
        .check(&before);
    for round in 0..3 {
        for run in between(&holes) {
            let span = Span::of(&region, run.clone());
            let here = PageState::device(Access::Write, Level::Pte);
            dev.check_states(span, here);
            let reply = dev.to_sys(span).unwrap();
            assert_eq!(reply.cpages as usize, run.len(), "round {round}, {run:?}");
            scene::in_system(&dev, &region, run.clone());
        }
        for run in between(&holes) {
            FIRST.check(&region, run.clone());
            let reply = dev.to_dev(Span::of(&region, run.clone())).unwrap();
            assert_eq!(reply.cpages as usize, run.len(), "round {round}, {run:?}");
            dev.check_seen(Content::Stamped(FIRST), run);
        }
    }
    for run in between(&holes) {
        FIRST.check(&region, run);
    }
    for hole in holes {
        assert!(
            guard::load(region.page_addr(hole)).is_err(),
            "page {hole} is a hole"
        );
    }
}

/// A touch of any page next to a hole brings back that page's data, wherever
/// the hole and the first touch are.
#[test_case(0, 1; "hole_first_touch_next")]
#[test_case(0, 511; "hole_first_touch_last")]
#[test_case(511, 0; "hole_last_touch_first")]
#[test_case(200, 199; "hole_middle_touch_before")]
#[test_case(200, 201; "hole_middle_touch_after")]
fn dpthp_partial_unmap_first_touch(hole: usize, touch: usize) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let mut region = scene::huge(1);
    send_huge(&dev, &region);
    region.munmap(page(hole)).unwrap();
    FIRST.check(&region, touch..touch + 1);
    for run in between(&[hole]) {
        FIRST.check(&region, run.clone());
        Stamp::of(2).fill(&region, run.clone());
    }
    for run in between(&[hole]) {
        Stamp::of(2).check(&region, run);
    }
}

/// Pages of zeros in a huge page that is split on the device stay private
/// pages, each with a frame of its own.
#[test]
fn dpthp_zero_subpages_split() {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let mut region = thp::obtain(1);
    FIRST.fill(&region, 0..50);
    FIRST.fill(&region, 450..HUGE);
    assert_eq!(dev.to_dev(whole(&region)).unwrap().cpages, HUGE as u64);
    scene::on_device_huge(&dev, &region, Access::Write);
    region.munmap(page(100)).unwrap();
    FIRST.check(&region, 0..50);
    check_zero(&region, 50..100);
    check_zero(&region, 101..450);
    FIRST.check(&region, 450..HUGE);
    let entries = selftests::pagemap::entries(&region, 101, 349);
    let frames: BTreeSet<_> = entries.iter().map(|entry| entry.pfn()).collect();
    assert_eq!(
        frames.len(),
        349,
        "every page of zeros has a frame of its own"
    );
    Stamp::of(2).fill(&region, 200..201);
    check_zero(&region, 101..200);
    check_zero(&region, 201..450);
    Stamp::of(2).check(&region, 200..201);
}

/// TO_DEV of 512 pages that straddle two huge pages splits both and moves
/// exactly these pages.
#[test]
fn dpthp_unaligned_window() {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = scene::huge(2);
    let before = Snapshot::take();
    let moved = Span::of(&region, 1..HUGE + 1);
    assert_eq!(dev.to_dev(moved).unwrap().cpages, HUGE as u64);
    dev.check_seen(Content::Stamped(FIRST), 1..HUGE + 1);
    dev.check_states(moved, PageState::device(Access::Write, Level::Pte));
    scene::in_system(&dev, &region, 0..1);
    scene::in_system(&dev, &region, HUGE + 1..2 * HUGE);
    Expect::new()
        .delta("2048kB/nr_anon", -2)
        .delta("thp_split_page", 2)
        .unchanged(&["thp_deferred_split_page", "thp_split_page_failed"])
        .check(&before);
    FIRST.check_all(&region);
}

/// How memory on the device goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zap {
    DontNeed,
    Munmap,
    InSteps,
    Backwards,
    Exit,
    Exec,
}

/// However memory on the device goes away: nothing of it is counted any more,
/// and RELEASE ends, which waits for every reference to a device page.
#[test_case(Zap::DontNeed; "dontneed")]
#[test_case(Zap::Munmap; "munmap_at_once")]
#[test_case(Zap::InSteps; "munmap_in_steps")]
#[test_case(Zap::Backwards; "munmap_backwards")]
#[test_case(Zap::Exit; "exit")]
#[test_case(Zap::Exec; "exec")]
fn dpthp_zap_variants(zap: Zap) {
    enter!();
    scene::needs_huge_pages_on_device();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let before = Snapshot::take();
    if matches!(zap, Zap::Exit | Zap::Exec) {
        let child = child::start(|_| {
            let dev = Dmirror::open(Private);
            let region = scene::huge(2);
            send_huge(&dev, &region);
            if zap == Zap::Exec {
                use std::os::unix::process::CommandExt;
                let error = Command::new("/proc/self/exe").arg("--list").exec();
                panic!("exec: {error}");
            }
            // Ends with everything in place.
            std::mem::forget((region, dev));
        });
        child.join();
    } else {
        zap_here(&dev, zap);
    }
    Expect::new()
        .unchanged(&["2048kB/nr_anon", "nr_anon_transparent_hugepages"])
        .check(&before);
    dev.release();
    let region = scene::huge(1);
    send_huge(&dev, &region);
    FIRST.check_all(&region);
}

fn zap_here(dev: &Dmirror, zap: Zap) {
    // The neighbours keep the PMD table, so that page tables can be counted.
    let mut region = scene::empty_huge(4);
    guard::store(region.addr(), 1).unwrap();
    guard::store(region.addr() + 3 * PMD, 1).unwrap();
    let before = Snapshot::take();
    let rss = smaps::kib(&region, &region.all(), "Rss");
    let middle = HUGE..3 * HUGE;
    FIRST.fill(&region, middle.clone());
    let span = Span::of(&region, middle.clone());
    assert_eq!(dev.to_dev(span).unwrap().cpages, 2 * HUGE as u64);
    dev.check_states(span, PageState::device(Access::Write, Level::Pmd));
    let bytes = pages(middle);
    let step = PMD / 8;
    let steps = (bytes.start..bytes.end).step_by(step);
    match zap {
        Zap::DontNeed => region.madvise(bytes.clone(), Advice::DontNeed).unwrap(),
        Zap::InSteps => steps.for_each(|at| region.munmap(at..at + step).unwrap()),
        Zap::Backwards => steps
            .rev()
            .for_each(|at| region.munmap(at..at + step).unwrap()),
        _ => region.munmap(bytes.clone()).unwrap(),
    }
    Expect::new()
        .unchanged(&["2048kB/nr_anon", "nr_anon_transparent_hugepages"])
        .check(&before);
    assert_eq!(smaps::kib(&region, &region.all(), "Rss"), rss);
    if zap == Zap::DontNeed {
        Expect::new().unchanged(&["VmPTE"]).check(&before);
        check_zero(&region, HUGE..HUGE + 1);
    } else {
        assert!(guard::load(region.addr() + bytes.start).is_err());
    }
}

/// A huge page on the device that was taken apart by mremap page by page comes
/// back with the data of every page at its new place.
#[test]
fn dpthp_mremap_pages() {
    use selftests::mapping::Source;
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let mut region = scene::huge(1);
    let mut target = Region::reserved(PMD).unwrap();
    send_huge(&dev, &region);
    for number in [0, 7, 8, 300, 511] {
        let to = (HUGE - 1 - number) * PAGE;
        region
            .mremap_into(page(number), &mut target, to, Source::Goes)
            .unwrap();
        let there = HUGE - 1 - number;
        dev.check_states(
            Span::of(&target, there..there + 1),
            PageState::device(Access::Write, Level::Pte),
        );
        let content = Content::Moved {
            stamp: FIRST,
            by: number as isize - there as isize,
        };
        content.check(&target, there..there + 1);
        assert!(guard::load(region.page_addr(number)).is_err());
    }
    for run in between(&[0, 7, 8, 300, 511]) {
        FIRST.check(&region, run);
    }
}

/// Memory that is discarded while it comes back from the device is gone, once:
/// neither a reference nor a mapping is given up twice.
#[test]
fn dpthp_discarded_on_the_way_back() {
    const ROUNDS: usize = 400;
    enter!();
    scene::needs_huge_pages_on_device();
    outcome::known_bug(
        (7, 3),
        "zap_huge_pmd() asks the folio whether it is device-private, not the entry, and gives up a \
         mapping and a reference that a migration entry does not have",
    );
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = scene::huge(1);
    let over = AtomicBool::new(false);
    let mut back = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut pause = 0;
            while !over.load(Ordering::Relaxed) {
                region.madvise(region.all(), Advice::DontNeed).unwrap();
                pause = (pause + 50) % 20_000;
                for _ in 0..pause {
                    std::hint::spin_loop();
                }
            }
        });
        for _ in 0..ROUNDS {
            // Both commands fail where the memory was discarded before.
            let _ = guard::store(region.page_addr(0), 1);
            let _ = dev.to_dev(whole(&region));
            back += usize::from(
                dev.to_sys(whole(&region))
                    .is_ok_and(|reply| reply.cpages > 0),
            );
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(back > 0, "nothing came back from the device");
    region.madvise(region.all(), Advice::DontNeed).unwrap();
    check_zero(&region, 0..HUGE);
}
