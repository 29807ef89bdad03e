// SPDX-License-Identifier: GPL-2.0-only
//! Shared memory: a split of its PMD entry unmaps the huge page, and the pages
//! come back by faults. Nothing written through the entry may be lost on the
//! way, and accounting must follow.

use std::path::Path;

use selftests::child;
use selftests::counters::{Expect, Snapshot, status_kib};
use selftests::mapping::{Advice, PMD, Prot, Region, pages};
use selftests::pagemap::smaps;
use selftests::pattern::{FIRST, Stamp};
use selftests::settings::{self, Setting, THP};
use selftests::{enter, guard, not_applicable, skip, thp};
use test_case::test_case;

use crate::fixture::*;

/// Huge pages of shared memory, and the settings that allow them.
struct Shared {
    region: Region,
    _settings: Vec<Setting>,
}

/// `count` huge pages of shared memory, mapped by reading: the entry is
/// writable, and nothing has been written yet.
#[track_caller]
fn shared(count: usize) -> Shared {
    let mut settings = settings::quiet();
    settings.push(Setting::set(format!("{THP}/shmem_enabled"), "advise"));
    let per_size = format!("{THP}/hugepages-2048kB/shmem_enabled");
    if Path::new(&per_size).exists() {
        settings.push(Setting::set(per_size, "inherit"));
    }
    let region = Region::shared(count * PMD).expect("address space");
    region
        .madvise(region.all(), Advice::HugePage)
        .expect("madvise");
    for number in 0..count {
        guard::load(region.addr() + number * PMD).expect("a load from our own memory");
        if !thp::is_pmd_mapped(&region, number) {
            skip!("no huge page of shared memory (shmem_enabled, memory)");
        }
    }
    Shared {
        region,
        _settings: settings,
    }
}

/// What was written through the PMD entry is there after the split, also when
/// reclaim takes the pages meanwhile.
#[test_case(|region| region.munmap(pages(9..11)).expect("munmap"); "munmap")]
#[test_case(|region| region.mprotect(pages(9..11), Prot::NONE).expect("mprotect"); "mprotect")]
fn written_pages_survive(operation: fn(&mut Region)) {
    enter!();
    let Shared {
        mut region,
        _settings,
    } = shared(1);
    FIRST.fill_all(&region);
    assert!(
        thp::is_pmd_mapped(&region, 0),
        "no longer mapped by a PMD entry"
    );
    let before = Snapshot::take();
    operation(&mut region);
    Expect::new()
        .delta("thp_split_pmd", 1)
        .unchanged(&[
            "thp_split_pmd_failed",
            "thp_split_page",
            "thp_deferred_split_page",
        ])
        .check(&before);
    assert_eq!(
        smaps::kib(&region, &region.all(), "Rss"),
        0,
        "Rss right after the split"
    );
    for part in others(&region, &(9..11)) {
        // Only the bit in the entry said that these pages are dirty.
        region
            .madvise(pages(part.clone()), Advice::PageOut)
            .expect("madvise");
        FIRST.check(&region, part.clone());
        FIRST.next().fill(&region, part.clone());
        FIRST.next().check(&region, part);
    }
    let rss = smaps::kib(&region, &region.all(), "Rss");
    assert!(
        (2040..=2048).contains(&rss),
        "Rss of {rss} kB after touching 510 pages"
    );
}

/// Resident memory falls by the whole huge page, not by less.
#[test]
fn rss() {
    enter!();
    let Shared { region, _settings } = shared(2);
    FIRST.fill_all(&region);
    let before = status_kib("RssShmem");
    region.mprotect(pages(9..10), Prot::READ).expect("mprotect");
    let fell = before - status_kib("RssShmem");
    if rss_is_exact() {
        assert_eq!(fell, 2048, "kB that RssShmem fell by the split");
    } else {
        not_applicable!("RssShmem", "this kernel reports an approximation");
    }
    FIRST.check_all(&region);
    assert_read_only(&region, 9..10);
}

/// Parent and child share before and after one of them splits.
#[test]
fn sharing_survives() {
    enter!();
    let other = Stamp::of(2);
    let Shared { region, _settings } = shared(1);
    FIRST.fill_all(&region);
    let child = child::start(|parent| {
        FIRST.check_all(&region);
        other.fill(&region, 100..200);
        parent.send(0);
        parent.receive();
        other.next().check(&region, 100..200);
    });
    child.line().receive();
    region.mprotect(pages(9..10), Prot::READ).expect("mprotect");
    other.check(&region, 100..200);
    check_others(&region, &(100..200));
    other.next().fill(&region, 100..200);
    child.line().send(0);
    child.join();
}

/// Shared memory that is only readable when it is split stays so.
#[test]
fn read_only_sharing_stays_read_only() {
    enter!();
    let Shared { region, _settings } = shared(1);
    FIRST.fill_all(&region);
    region.mprotect(region.all(), Prot::READ).expect("mprotect");
    region
        .madvise(pages(9..10), Advice::DontFork)
        .expect("madvise");
    assert_read_only(&region, 0..512);
    FIRST.check_all(&region);
}
