// SPDX-License-Identifier: GPL-2.0-only
//! Splitting of huge pages that hold cached pages of a file on a disk.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use selftests::counters::{Expect, Snapshot};
use selftests::filesystem::Filesystem;
use selftests::folios::{Piece, census, pieces};
use selftests::mapping::{Advice, PAGE, PAGES_PER_PMD, PMD, Region, page};
use selftests::pattern::{Content, FIRST};
use selftests::release::release;
use selftests::{enter, guard, pagemap, settings, skip, thp};
use test_case::test_case;

use crate::split::{halves_without, split, uniform};

/// Pages of the file that are read at once.
const CHUNK: usize = 64;

/// First release that splits unevenly, around the page it is told.
const FIRST_AROUND: (u32, u32) = (6, 15);

/// A huge page of a file on a disk is split in the cache to folios of one order, or around a page
/// of it: the folios are those that were asked for, and what memory and the file hold is what it
/// was, also for what is written then.
#[test_case(0; "order_0")]
#[test_case(1; "order_1")]
#[test_case(2; "order_2")]
#[test_case(3; "order_3")]
#[test_case(4; "order_4")]
#[test_case(5; "order_5")]
#[test_case(6; "order_6")]
#[test_case(7; "order_7")]
#[test_case(8; "order_8")]
fn cached_huge_page_splits(order: u8) {
    enter!();
    let _quiet = settings::quiet();
    let step = (PAGES_PER_PMD / 4).max(1 << order);
    let mut ways = vec![None];
    if release() >= FIRST_AROUND {
        ways.extend((0..PAGES_PER_PMD).step_by(step).map(Some));
    }
    let disk = Filesystem::ext4().unwrap_or_else(|error| skip!("{error}"));
    let file = written(&disk, ways.len());
    let region = Region::shared_file(&file, 0, ways.len() * PMD).expect("a mapping of it");
    region
        .madvise(region.all(), Advice::HugePage)
        .expect("MADV_HUGEPAGE of a file");
    for number in 0..ways.len() {
        guard::load(region.page_addr(number * PAGES_PER_PMD)).expect("a load from a file");
    }
    if let Err(why) = thp::proof(&region, 0..ways.len()) {
        skip!("ext4 of this kernel caches no huge pages (large folios, since 6.16): {why}");
    }
    for (number, around) in ways.iter().enumerate() {
        check_split(&region, number, order, *around);
    }
    FIRST.next().fill_all(&region);
    FIRST.next().check_all(&region);
    file.sync_all().expect("fsync");
    // The cache lets go of what nobody maps.
    drop(region);
    assert_on_disk(&file, ways.len());
}

/// Splits huge page `number` of the region, by way of its first page.
#[track_caller]
fn check_split(region: &Region, number: usize, order: u8, around: Option<usize>) {
    let first = number * PAGES_PER_PMD;
    let before = Snapshot::take();
    split(region, &page(first), order, around);
    Expect::new()
        .delta("thp_split_page", 1)
        .delta("nr_file_hugepages", -1)
        .unchanged(&["thp_split_page_failed"])
        .check(&before);
    FIRST.check(region, first..first + PAGES_PER_PMD);
    let wanted = match around {
        None => uniform(order),
        Some(around) => halves_without(around, order, false),
    };
    let entries = pagemap::entries(region, first, PAGES_PER_PMD);
    let found = pieces(&census(&entries).expect("root may read kpageflags"));
    let orders: Vec<_> = found.iter().map(|p| (p.offset, p.order)).collect();
    assert_eq!(orders, wanted, "folios split around {around:?}");
    assert!(found.iter().all(Piece::is_whole), "{found:?}");
}

/// A file of some huge pages with content [`FIRST`], of which nothing is in memory.
fn written(disk: &Filesystem, huge_pages: usize) -> File {
    let path = disk.path().join("file");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .expect("a file on our own file system");
    for number in 0..huge_pages * PAGES_PER_PMD {
        let bytes = FIRST.page(number).map(u64::to_ne_bytes);
        file.write_all_at(bytes.as_flattened(), (number * PAGE) as u64)
            .expect("room on our own file system");
    }
    file.sync_all().expect("fsync");
    drop_cache(&file);
    file
}

/// Checks every byte of the file against what was written last.
#[track_caller]
fn assert_on_disk(file: &File, huge_pages: usize) {
    drop_cache(file);
    let wanted = Content::Stamped(FIRST.next());
    let mut found = vec![0; CHUNK * PAGE];
    for first in (0..huge_pages * PAGES_PER_PMD).step_by(CHUNK) {
        file.read_exact_at(&mut found, (first * PAGE) as u64)
            .expect("our own file");
        let base = (found.as_ptr() as usize).wrapping_sub(first * PAGE);
        let wrong = wanted.mismatches(base, first..first + CHUNK);
        assert!(wrong.is_empty(), "the file on the disk: {wrong:?}");
    }
}

fn drop_cache(file: &File) {
    // SAFETY: concerns the cache of a file only.
    let status = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(status, 0, "POSIX_FADV_DONTNEED");
}
