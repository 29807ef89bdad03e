// SPDX-License-Identifier: GPL-2.0-only
//! Files for khugepaged to find: page cache in small pages, of shmem or of a disk, stamped and
//! mapped, and what must hold after its collapse.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::errno::Errno;
use selftests::collapse::{Khugepaged, drain_lru, madvise_collapse};
use selftests::collapse_model::{Knobs, Orders, PMD_ORDER, PTES};
use selftests::counters::{Expect, Snapshot};
use selftests::filesystem::Filesystem;
use selftests::folios::census;
use selftests::mapping::{Advice, PAGE, PMD, Region, memfd};
use selftests::pattern::{FIRST, Stamp};
use selftests::release::release;
use selftests::{guard, pagemap, skip, thp};

use crate::mthp::take_knobs;
use crate::verify::Own;

/// Before, only files that nobody had open for writing were collapsed.
const FIRST_WITH_WRITABLE_FILES: (u32, u32) = (7, 2);

/// Where the file lies and how it is open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A memory file.
    Shmem,
    /// On ext4, open for reading only.
    ReadOnly,
    /// On ext4, open for writing too.
    ReadWrite,
}

/// A mapped file of some huge pages.
pub struct Cache {
    /// Its mapping.
    pub region: Region,
    /// The open file.
    pub file: File,
    kind: Kind,
    // Unmounted last: fields are dropped in their order.
    _filesystem: Option<Filesystem>,
}

/// Takes khugepaged for files: they go by the switch for all of memory, shmem has its own.
pub fn take(none: u16) -> Khugepaged {
    let knobs = Knobs {
        none,
        ..Knobs::new(Orders::only(PMD_ORDER))
    };
    let mut khugepaged = take_knobs(&knobs);
    khugepaged.set("enabled", "madvise");
    khugepaged.set("shmem_enabled", "advise");
    let by_size = "hugepages-2048kB/shmem_enabled";
    if selftests::collapse::size_dir(PMD_ORDER)
        .join("shmem_enabled")
        .exists()
    {
        khugepaged.set(by_size, "inherit");
    }
    khugepaged
}

impl Cache {
    /// A file of `tables` huge pages. On shmem only `present` pages exist and the rest are
    /// holes; on a disk all have content and only `present` ones are in memory.
    #[track_caller]
    pub fn new(kind: Kind, tables: usize, present: &[Range<usize>]) -> Self {
        let cache = match kind {
            Kind::Shmem => Self::shmem(tables),
            _ => Self::disk(kind, tables),
        };
        for range in present {
            match kind {
                Kind::Shmem => FIRST.fill(&cache.region, range.clone()),
                _ => cache.touch(range.clone()),
            }
        }
        cache.assert_small(present);
        cache
    }

    fn shmem(tables: usize) -> Self {
        let file = memfd("hugeprobe-collapse", tables * PMD).expect("a memory file");
        let region = Region::shared_file(&file, 0, tables * PMD).expect("a mapping of it");
        // No large pages at fault, so that there is something to collapse.
        region
            .madvise(region.all(), Advice::NoHugePage)
            .expect("MADV_NOHUGEPAGE");
        Cache {
            region,
            file,
            kind: Kind::Shmem,
            _filesystem: None,
        }
    }

    fn disk(kind: Kind, tables: usize) -> Self {
        if kind == Kind::ReadWrite && release() < FIRST_WITH_WRITABLE_FILES {
            skip!("khugepaged of this kernel leaves files alone that are open for writing");
        }
        let filesystem = Filesystem::ext4().unwrap_or_else(|error| skip!("{error}"));
        let path = filesystem.path().join("file");
        let file = File::create(&path).expect("a file on our own file system");
        for page in 0..tables * PTES {
            let bytes: Vec<u8> = FIRST
                .page(page)
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect();
            file.write_all_at(&bytes, (page * PAGE) as u64)
                .expect("room on our own file system");
        }
        file.sync_all().expect("fsync");
        drop_cache(&file);
        drop(file);
        let file = OpenOptions::new()
            .read(true)
            .write(kind == Kind::ReadWrite)
            .open(&path)
            .expect("our own file");
        let region = match kind {
            Kind::ReadWrite => Region::shared_file(&file, 0, tables * PMD),
            _ => Region::read_only_file(&file, 0, tables * PMD),
        };
        let region = region.expect("a mapping of the file");
        // Random access: a fault reads its own page and none beside it.
        let advice = 1;
        // SAFETY: concerns reading ahead only.
        let status = unsafe { libc::madvise(region.addr() as *mut _, region.len(), advice) };
        assert_eq!(status, 0, "MADV_RANDOM");
        Cache {
            region,
            file,
            kind,
            _filesystem: Some(filesystem),
        }
    }

    /// Loads a byte of each page.
    #[track_caller]
    pub fn touch(&self, pages: Range<usize>) {
        for page in pages {
            guard::load(self.region.page_addr(page)).expect("a load from a mapped file");
        }
    }

    #[track_caller]
    fn assert_small(&self, present: &[Range<usize>]) {
        let entries = pagemap::entries(&self.region, 0, self.region.len() / PAGE);
        let pages = census(&entries).expect("root may read kpageflags");
        for page in present.iter().cloned().flatten() {
            let order = pages[page].map(|page| page.order);
            assert!(
                order.is_some_and(|order| order < PMD_ORDER),
                "precondition: page {page}: order {order:?}"
            );
        }
    }

    /// Lets khugepaged at it.
    #[track_caller]
    pub fn advise(&self) {
        self.region
            .madvise(self.region.all(), Advice::HugePage)
            .expect("MADV_HUGEPAGE of a file");
    }

    fn huge_counter(&self) -> &'static str {
        match self.kind {
            Kind::Shmem => "nr_shmem_hugepages",
            _ => "nr_file_hugepages",
        }
    }

    /// Runs `operate`; it must make `made` huge pages of the cache in `allocated` attempts.
    #[track_caller]
    pub fn expect(&self, made: usize, allocated: usize, operate: impl FnOnce()) {
        let before = Snapshot::all_sizes();
        operate();
        drain_lru();
        Expect::new()
            .delta("thp_collapse_alloc", allocated as i64)
            .delta("2048kB/collapse_alloc", allocated as i64)
            .delta(self.huge_counter(), made as i64)
            .unchanged(&[
                "thp_collapse_alloc_failed",
                "nr_isolated_anon",
                "nr_isolated_file",
                "thp_split_page",
                "2048kB/nr_anon",
            ])
            .check(&before);
    }

    /// One pass of khugepaged that makes `made` huge pages, of which it takes away the page
    /// tables; the next access maps them as huge pages.
    #[track_caller]
    pub fn pass(&self, khugepaged: &Khugepaged, made: usize) {
        self.pass_with(khugepaged, made, made);
    }

    /// As [`Self::pass`], of which `allocated` attempts got a huge page.
    #[track_caller]
    pub fn pass_with(&self, khugepaged: &Khugepaged, made: usize, allocated: usize) {
        let own = Own::read();
        self.expect(made, allocated, || {
            khugepaged.pass().expect("khugepaged scans when asked");
        });
        assert_eq!(
            Own::read().page_tables_since(&own),
            -4 * made as i64,
            "change of VmPTE in kB"
        );
    }

    /// Passes of khugepaged until there is one huge page more: pages that it reads from a disk
    /// may still be in use by the reading when it wants to take them over.
    #[track_caller]
    pub fn pass_until_made(&self, khugepaged: &Khugepaged) {
        const MOST: usize = 20;
        let before = Snapshot::take();
        for _ in 0..MOST {
            khugepaged.pass().expect("khugepaged scans when asked");
            if before.delta(&Snapshot::take(), self.huge_counter()) == Some(1) {
                return;
            }
        }
        panic!("no huge page of the file after {MOST} passes");
    }

    /// `MADV_COLLAPSE` of the whole file that makes `made` huge pages and maps them.
    #[track_caller]
    pub fn collapse(&self, made: usize) {
        self.collapse_with(made, made);
    }

    /// As [`Self::collapse`], in `allocated` attempts: it tries again once when it has written
    /// back dirty pages.
    #[track_caller]
    pub fn collapse_with(&self, made: usize, allocated: usize) {
        self.advise();
        self.expect(made, allocated, || {
            let answer = madvise_collapse(self.region.addr(), self.region.len());
            assert_eq!(answer, Ok(()), "MADV_COLLAPSE");
        });
        thp::assert_huge(&self.region, 0..self.region.len() / PMD);
    }

    /// `MADV_COLLAPSE` that is refused after `allocated` huge pages were got and given back.
    #[track_caller]
    pub fn refuse(&self, errno: Errno, allocated: usize) {
        self.advise();
        let blocks = self.blocks();
        self.expect(0, allocated, || {
            assert_eq!(
                madvise_collapse(self.region.addr(), self.region.len()),
                Err(errno),
                "MADV_COLLAPSE"
            );
        });
        assert_eq!(self.blocks(), blocks, "memory charged to the file");
    }

    /// Blocks of 512 bytes that the file takes.
    #[track_caller]
    pub fn blocks(&self) -> u64 {
        self.file
            .metadata()
            .expect("fstat of our own file")
            .blocks()
    }

    /// Checks pages through the mapping and through read(2), which must agree.
    #[track_caller]
    pub fn check(&self, stamp: Stamp, pages: Range<usize>) {
        stamp.check(&self.region, pages.clone());
        for page in pages {
            assert_eq!(
                self.read(page),
                stamp.page(page),
                "page {page} through read(2)"
            );
        }
    }

    /// Checks that pages are zero, likewise.
    #[track_caller]
    pub fn check_zero(&self, pages: Range<usize>) {
        selftests::pattern::check_zero(&self.region, pages.clone());
        for page in pages {
            assert!(
                self.read(page).iter().all(|word| *word == 0),
                "page {page} through read(2) is not zero"
            );
        }
    }

    #[track_caller]
    fn read(&self, page: usize) -> [u64; PAGE / 8] {
        let mut bytes = [0; PAGE];
        self.file
            .read_exact_at(&mut bytes, (page * PAGE) as u64)
            .expect("a page of our own file");
        std::array::from_fn(|at| {
            u64::from_ne_bytes(bytes[at * 8..][..8].try_into().expect("eight bytes"))
        })
    }
}

/// Drops clean pages of a file from memory.
pub fn drop_cache(file: &File) {
    // SAFETY: advice about a file of our own.
    let status = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(status, 0, "POSIX_FADV_DONTNEED");
}
