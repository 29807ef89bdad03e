// SPDX-License-Identifier: GPL-2.0-only
//! What looks for idle memory, while huge pages are on a device.

use std::fs;

use selftests::counters::{Expect, Snapshot};
use selftests::damon::{Action, Kdamond};
use selftests::hmm::Memory::Private;
use selftests::hmm::{Access, Dmirror};
use selftests::mapping::Advice;
use selftests::pattern::FIRST;
use selftests::{enter, not_applicable, numa, pagemap};
use test_case::test_case;

use crate::scene::{self, Baseline, send_huge};

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    ClearReferenced,
    ClearSoftDirty,
    Cold,
    PageOut,
    LruGen,
    Compaction,
}

/// Aging, reclaim and compaction leave a huge page on the device where it is,
/// with its data.
#[test_case(Who::ClearReferenced; "clear_referenced")]
#[test_case(Who::ClearSoftDirty; "clear_soft_dirty")]
#[test_case(Who::Cold; "madv_cold")]
#[test_case(Who::PageOut; "madv_pageout")]
#[test_case(Who::LruGen; "lru_gen")]
#[test_case(Who::Compaction; "compaction")]
fn dpthp_aging(who: Who) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = scene::huge(1);
    send_huge(&dev, &region);
    match who {
        Who::ClearReferenced => pagemap::clear_referenced(),
        Who::ClearSoftDirty => pagemap::clear_soft_dirty(),
        Who::Cold => region.madvise(region.all(), Advice::Cold).unwrap(),
        Who::PageOut => region.madvise(region.all(), Advice::PageOut).unwrap(),
        Who::LruGen => age(),
        Who::Compaction => fs::write("/proc/sys/vm/compact_memory", "1").unwrap(),
    }
    scene::on_device_huge(&dev, &region, Access::Write);
    FIRST.check_all(&region);
    scene::in_system_huge(&dev, &region);
    FIRST.next().fill_all(&region);
    FIRST.next().check_all(&region);
}

/// What DAMON shall do with the memory it watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Watch,
    PageOut,
    Migrate,
}

/// DAMON sees that a huge page in the system is used. On the device it sees no use, and neither
/// ages, pages out nor migrates it there.
#[test_case(Scheme::Watch; "watch")]
#[test_case(Scheme::PageOut; "page_out")]
#[test_case(Scheme::Migrate; "migrate")]
fn dpthp_damon(scheme: Scheme) {
    enter!();
    scene::needs_huge_pages_on_device();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = scene::huge(1);
    let watch = Kdamond::watch(&region, Action::Stat);
    watch.wait(
        |done| done.accesses > 0,
        || {
            pagemap::flush_tlb();
            FIRST.fill(&region, 0..1);
        },
    );
    drop(watch);
    send_huge(&dev, &region);
    let action = match scheme {
        Scheme::Watch => Action::Stat,
        Scheme::PageOut => Action::PageOut,
        Scheme::Migrate => Action::MigrateTo(numa::two_nodes().1),
    };
    let before = Snapshot::take();
    let watch = Kdamond::watch(&region, action);
    let done = watch.wait(|done| done.tried >= 3, || ());
    assert_eq!(done.accesses, 0, "uses of a page that no CPU can reach");
    if scheme == Scheme::Migrate {
        assert_eq!(done.applied, 0, "bytes that DAMON has moved");
    }
    scene::on_device_huge(&dev, &region, Access::Write);
    Expect::new()
        .unchanged(&[
            "thp_split_pmd",
            "thp_split_page",
            "2048kB/nr_anon",
            "VmSwap",
        ])
        .check(&before);
    drop(watch);
    FIRST.check_all(&region);
    scene::in_system_huge(&dev, &region);
}

/// Makes a new generation of the root group on every node.
fn age() {
    let path = "/sys/kernel/debug/lru_gen";
    let Ok(text) = fs::read_to_string(path) else {
        not_applicable!("lru_gen aging", "no {path} (CONFIG_LRU_GEN)");
        return;
    };
    let mut node = None;
    let mut newest = None;
    let mut commands = Vec::new();
    for line in text.lines().chain(["memcg end"]) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["node", number] | ["memcg", number, ..] => {
                if let (Some(node), Some(newest)) = (node.take(), newest.take()) {
                    commands.push(format!("+ 1 {node} {newest} 1 1"));
                }
                node = (words[0] == "node").then(|| number.to_string());
            }
            [generation, ..] => newest = generation.parse::<u64>().ok(),
            [] => {}
        }
    }
    // The root group is first; others need not exist.
    for command in commands.iter().take(2) {
        if let Err(error) = fs::write(path, command) {
            println!("{command}: {error}");
        }
    }
}
