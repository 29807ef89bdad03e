// SPDX-License-Identifier: GPL-2.0-only
//! Splitting of huge pages that hold cached pages of a file on a disk.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use selftests::counters::{Expect, Snapshot};
use selftests::filesystem::Filesystem;
use selftests::folios::{Piece, census, pieces};
use selftests::mapping::{Advice, PAGE, PAGES_PER_PMD, PMD, Region, page};
use selftests::pattern::{Content, FIRST, Stamp};
use selftests::release::release;
use selftests::{enter, guard, pagemap, settings, skip, thp};
use test_case::test_case;

use crate::split::{halves_without, split, uniform};

/// Pages of the file that are written and read at once.
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
    let folios: Vec<Vec<Piece>> = (0..ways.len())
        .map(|number| check_split(&region, number, order, ways[number]))
        .collect();
    for (number, folios) in folios.into_iter().enumerate() {
        for folio in folios {
            let first = number * PAGES_PER_PMD + folio.offset;
            // One page through memory: for each such, the file system goes through its folio.
            FIRST.next().fill(&region, first..first + 1);
            write(&file, FIRST.next(), first + 1..first + folio.pages);
        }
    }
    FIRST.next().check_all(&region);
    file.sync_all().expect("fsync");
    assert_on_disk(&disk, FIRST.next(), ways.len());
}

/// Splits huge page `number` of the region, by way of its first page; returns the folios.
#[track_caller]
fn check_split(region: &Region, number: usize, order: u8, around: Option<usize>) -> Vec<Piece> {
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
    found
}

/// A file of some huge pages with content [`FIRST`], of which nothing is in memory.
fn written(disk: &Filesystem, huge_pages: usize) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path(disk))
        .expect("a file on our own file system");
    write(&file, FIRST, 0..huge_pages * PAGES_PER_PMD);
    file.sync_all().expect("fsync");
    // SAFETY: concerns the cache of a file only.
    let status = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(status, 0, "POSIX_FADV_DONTNEED");
    file
}

fn path(disk: &Filesystem) -> PathBuf {
    disk.path().join("file")
}

/// Writes pages of a file.
fn write(file: &File, stamp: Stamp, pages: Range<usize>) {
    for first in pages.clone().step_by(CHUNK) {
        let mut bytes = Vec::with_capacity(CHUNK * PAGE);
        for number in first..pages.end.min(first + CHUNK) {
            bytes.extend_from_slice(stamp.page(number).map(u64::to_ne_bytes).as_flattened());
        }
        file.write_all_at(&bytes, (first * PAGE) as u64)
            .expect("room on our own file system");
    }
}

/// Checks every byte of the file as the disk has it, past the cache.
#[track_caller]
fn assert_on_disk(disk: &Filesystem, stamp: Stamp, huge_pages: usize) {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path(disk))
        .expect("our own file");
    let buffer = Region::private(CHUNK * PAGE).expect("memory for some pages");
    for first in (0..huge_pages * PAGES_PER_PMD).step_by(CHUNK) {
        let (to, at) = (buffer.addr() as *mut _, (first * PAGE) as libc::off_t);
        // SAFETY: the kernel writes at most as much as the mapping has, which is ours and to which
        // there is no reference.
        let read = unsafe { libc::pread(file.as_raw_fd(), to, buffer.len(), at) };
        assert_eq!(read, buffer.len() as isize, "a direct read of our own file");
        let base = buffer.addr().wrapping_sub(first * PAGE);
        let wrong = Content::Stamped(stamp).mismatches(base, first..first + CHUNK);
        assert!(wrong.is_empty(), "the file on the disk: {wrong:?}");
    }
}
