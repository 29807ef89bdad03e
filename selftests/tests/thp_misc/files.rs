// SPDX-License-Identifier: GPL-2.0-only
//! Files that are written through a mapping: whatever takes the mapping or the memory away, the
//! content is the file's.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use selftests::collapse::drain_lru;
use selftests::counters::status_kib;
use selftests::filesystem::Filesystem;
use selftests::mapping::{Advice, PAGE, PAGES_PER_PMD, PMD, Region, memfd, pages};
use selftests::pattern::{Content, FIRST, Stamp};
use selftests::settings::{self, Setting, THP};
use selftests::uffd::{Mode, Uffd, feature};
use selftests::{enter, guard, pagemap, skip, swap};
use test_case::test_case;

/// Where a file is, and how large the folios of its cache may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// shmem with folios of this order.
    Shmem(u8),
    /// A file system on a disk, with whatever it likes.
    Ext4,
}

/// One file of 2 MiB, empty, and what keeps it in existence.
pub struct Cached {
    pub file: File,
    kind: Kind,
    _disk: Option<Filesystem>,
    _settings: Vec<Setting>,
}

/// Takes all of a mapping's shmem to swap: only what is mapped can be asked out.
#[track_caller]
pub fn page_out(region: &Region) {
    let count = region.len() / PAGE;
    load_each(region);
    swap::page_out_shared(region, 0..count);
}

/// Maps each page, for reading.
#[track_caller]
pub fn load_each(region: &Region) {
    for number in 0..region.len() / PAGE {
        guard::load(region.page_addr(number)).expect("a page of the file");
    }
}

impl Cached {
    pub fn new(kind: Kind) -> Self {
        let mut settings = settings::quiet();
        let mut disk = None;
        let file = match kind {
            Kind::Shmem(order) => {
                if !swap::is_on() {
                    skip!("no swap: the guest needs CONFIG_ZRAM or a swap device");
                }
                for size in 1..=9 {
                    let path = format!("{THP}/hugepages-{}kB/shmem_enabled", 4 << size);
                    let value = if size == order { "always" } else { "never" };
                    // Kernels without these sizes, since 6.11, have small pages only.
                    if order > 0 || fs::exists(&path).unwrap_or(false) {
                        settings.push(Setting::set(path, value));
                    }
                }
                memfd("files", PMD).expect("a memfd")
            }
            Kind::Ext4 => {
                let made = Filesystem::ext4().unwrap_or_else(|error| skip!("{error}"));
                let path = made.path().join("file");
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(path)
                    .expect("a new file");
                file.set_len(PMD as u64).expect("space for 2 MiB");
                disk = Some(made);
                file
            }
        };
        Self {
            file,
            kind,
            _disk: disk,
            _settings: settings,
        }
    }

    pub fn map(&self) -> Region {
        Region::shared_file(&self.file, 0, PMD).expect("a mapping of the file")
    }

    /// Takes the file's content out of memory: to swap, or to its disk.
    pub fn reclaim(&self) {
        match self.kind {
            Kind::Shmem(_) => page_out(&self.map()),
            Kind::Ext4 => {
                self.file.sync_all().expect("fsync");
                drain_lru();
                fs::write("/proc/sys/vm/drop_caches", "1").expect("root may ask for it");
            }
        }
    }

    /// Checks the content as read(2) gives it.
    #[track_caller]
    pub fn check(&self, stamp: Stamp) {
        let mut bytes = [0; PAGE];
        for number in 0..PAGES_PER_PMD {
            self.file
                .read_exact_at(&mut bytes, (number * PAGE) as u64)
                .expect("pages of the file");
            let wanted = stamp.page(number).map(u64::to_ne_bytes).concat();
            assert!(bytes[..] == wanted[..], "page {number} has other content");
        }
    }
}

/// What was written through a mapping that is gone is kept when memory gets short after that, also
/// where only the mapping knew that it was written.
#[test_case(Kind::Shmem(0); "shmem_small")]
#[test_case(Kind::Shmem(4); "shmem_order_4")]
#[test_case(Kind::Shmem(9); "shmem_huge")]
#[test_case(Kind::Ext4; "ext4")]
fn written_pages_outlive_their_mapping(kind: Kind) {
    enter!();
    let cached = Cached::new(kind);
    let region = cached.map();
    FIRST.fill_all(&region);
    drop(region);
    cached.reclaim();
    cached.check(FIRST);
    // Once more, in pages that the file has on its disk or in swap.
    let region = cached.map();
    FIRST.next().fill_all(&region);
    drop(region);
    cached.reclaim();
    cached.check(FIRST.next());
}

/// The same while it is mapped: reclaim takes the page tables' word for what was written.
#[test_case(Kind::Shmem(0); "shmem_small")]
#[test_case(Kind::Shmem(4); "shmem_order_4")]
#[test_case(Kind::Shmem(9); "shmem_huge")]
fn written_pages_are_kept_while_mapped(kind: Kind) {
    enter!();
    let cached = Cached::new(kind);
    let region = cached.map();
    for stamp in [FIRST, FIRST.next(), FIRST.next().next()] {
        stamp.fill_all(&region);
        page_out(&region);
        stamp.check_all(&region);
    }
    // Only read since, some of it through a part that is mapped alone.
    region
        .madvise(pages(3..9), Advice::DontNeed)
        .expect("MADV_DONTNEED");
    page_out(&region);
    cached.check(FIRST.next().next());
}

/// Written again after it went to the disk, a page is written there again: writing back takes the
/// permission to write unnoticed away.
#[test]
fn pages_written_after_writeback_reach_the_disk() {
    enter!();
    let cached = Cached::new(Kind::Ext4);
    let region = cached.map();
    for stamp in [FIRST, FIRST.next(), FIRST.next().next()] {
        stamp.fill_all(&region);
        cached.file.sync_all().expect("fsync");
    }
    FIRST.fill_all(&region);
    drop(region);
    cached.reclaim();
    cached.check(FIRST);
}

/// A file that ends inside of a huge page of its cache: the page may be split there, and the file
/// is charged for what it holds, not for what was beyond its end.
#[test_case(100; "page_100")]
#[test_case(256; "half")]
fn huge_page_beyond_the_end_is_given_back(count: usize) {
    enter!();
    let cached = Cached::new(Kind::Shmem(9));
    let region = cached.map();
    FIRST.fill(&region, 0..count);
    cached
        .file
        .set_len((count * PAGE) as u64)
        .expect("a shorter file");
    // To swap it goes in small pages, as the rest of the huge page is not the file's.
    let seen = Region::shared_file(&cached.file, 0, count * PAGE).expect("a mapping");
    page_out(&seen);
    FIRST.check(&seen, 0..count);
    let blocks = std::os::unix::fs::MetadataExt::blocks(&cached.file.metadata().expect("a file"));
    assert_eq!(
        blocks,
        (count * PAGE / 512) as u64,
        "blocks of 512 bytes of a file of {count} pages"
    );
}

/// A folio of the cache that reaches over the end of a mapping is mapped as far as the mapping
/// goes, and counted as that much.
#[test_case(0..8, false; "upper_part_missing")]
#[test_case(8..16, false; "lower_part_missing")]
#[test_case(4..12, false; "both_ends_missing")]
#[test_case(0..8, true; "upper_part_missing_store")]
#[test_case(8..16, true; "lower_part_missing_store")]
#[test_case(4..12, true; "both_ends_missing_store")]
fn folio_is_mapped_no_further_than_its_mapping(part: std::ops::Range<usize>, store: bool) {
    enter!();
    let cached = Cached::new(Kind::Shmem(4));
    let region = cached.map();
    FIRST.fill_all(&region);
    drop(region);
    let rss = status_kib("RssShmem");
    let (offset, count) = (part.start * PAGE, part.len());
    let seen = Region::shared_file(&cached.file, offset, count * PAGE).expect("a mapping");
    if store {
        // Faults of stores map a folio in one go, those of loads what is around.
        let words = FIRST.page(part.start + 2);
        guard::write_words(seen.page_addr(2), &words).expect("a store to our own file");
    }
    let moved = Content::Moved {
        stamp: FIRST,
        by: part.start as isize,
    };
    moved.check(&seen, 0..count);
    assert_eq!(
        status_kib("RssShmem") - rss,
        (count * PAGE / 1024) as i64,
        "kB of shmem that a mapping of {count} pages added"
    );
    drop(seen);
    assert_eq!(status_kib("RssShmem"), rss, "kB of shmem after its end");
    cached.check(FIRST);
}

/// Write-protection of a page of a file stays when its entry goes: what is mapped there next is
/// protected, and marked as such meanwhile.
#[test_case(Kind::Shmem(0); "small")]
#[test_case(Kind::Shmem(4); "order_4")]
#[test_case(Kind::Shmem(9); "huge")]
fn write_protection_outlives_the_entry(kind: Kind) {
    enter!();
    let cached = Cached::new(kind);
    let region = cached.map();
    FIRST.fill_all(&region);
    let uffd = Uffd::open(feature::WP | feature::WP_HUGETLBFS_SHMEM | feature::WP_ASYNC);
    uffd.register(&region, &region.all(), Mode::WP)
        .expect("register");
    uffd.write_protect(&region, &pages(64..256), true)
        .expect("write-protect");
    let check = |when: &str| {
        let entries = pagemap::entries(&region, 0, PAGES_PER_PMD);
        for (number, entry) in entries.iter().enumerate() {
            let protected = (64..256).contains(&number);
            assert_eq!(
                entry.uffd_wp(),
                protected,
                "{when}: page {number} is {entry:?}"
            );
        }
    };
    check("mapped");
    region
        .madvise(region.all(), Advice::DontNeed)
        .expect("MADV_DONTNEED");
    check("not mapped");
    FIRST.check_all(&region);
    check("mapped again");
    region
        .madvise(region.all(), Advice::PageOut)
        .expect("MADV_PAGEOUT");
    check("asked out");
    FIRST.next().fill(&region, 100..110);
    let entries = pagemap::entries(&region, 90, 30);
    for (number, entry) in (90..).zip(entries) {
        let protected = !(100..110).contains(&number);
        assert_eq!(
            entry.uffd_wp(),
            protected,
            "written: page {number} is {entry:?}"
        );
    }
    FIRST.next().check(&region, 100..110);
    FIRST.check(&region, 110..256);
}
