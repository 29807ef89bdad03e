// SPDX-License-Identifier: GPL-2.0-only
//! 1 GiB of anonymous memory, proven to be mapped by one PUD entry or by 512
//! PMD entries, and filled and checked by both CPUs.

use std::ops::{Deref, DerefMut, Range};
use std::path::Path;

use selftests::counters::Expect;
use selftests::mapping::{Advice, PAGE, PMD, PUD, Region};
use selftests::pagetable::{self, Level};
use selftests::pattern::Stamp;
use selftests::settings::{self, Setting, THP};
use selftests::{guard, skip};

/// Pages in 1 GiB.
pub const PAGES: usize = PUD / PAGE;

/// The size of the entries that map the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// One PUD entry, one folio.
    Pud,
    /// 512 PMD entries, a folio each: what mainline has instead.
    Pmd,
}

impl Size {
    /// Level of the entries.
    pub fn level(self) -> Level {
        match self {
            Self::Pud => Level::Pud,
            Self::Pmd => Level::Pmd,
        }
    }

    /// The counters of an operation that splits one entry: of this size once,
    /// of no other size.
    pub fn splits(self, entries: i64) -> Expect {
        match self {
            Self::Pud => Expect::new()
                .delta("thp_split_pud", entries)
                .unchanged(&["thp_split_pmd"]),
            Self::Pmd => Expect::new()
                .delta("thp_split_pmd", entries)
                .unchanged(&["thp_split_pud"]),
        }
    }
}

/// The memory, and the settings that it needs.
#[derive(Debug)]
pub struct Gigabyte {
    region: Region,
    _settings: Vec<Setting>,
}

impl Deref for Gigabyte {
    type Target = Region;
    fn deref(&self) -> &Region {
        &self.region
    }
}

impl DerefMut for Gigabyte {
    fn deref_mut(&mut self) -> &mut Region {
        &mut self.region
    }
}

/// Aligned address space for the memory, nothing present yet. Skips the test
/// where the kernel or the guest cannot have it.
pub fn reserve(size: Size) -> Gigabyte {
    let mut settings = settings::quiet();
    let folder = format!("{THP}/hugepages-1048576kB");
    if size == Size::Pud {
        if !Path::new(&folder).exists() {
            skip!("no hugepages-1048576kB (kernel has no anonymous PUD THP)");
        }
        settings.push(Setting::set(format!("{folder}/enabled"), "always"));
    }
    let needed_mib = if size == Size::Pud { 3072 } else { 1536 };
    let free = selftests::counters::Snapshot::take().get("meminfo/MemAvailable");
    if free.unwrap_or(0) < needed_mib * 1024 {
        skip!(
            "{} MiB of memory available, {needed_mib} needed",
            free.unwrap_or(0) / 1024
        );
    }
    let region = Region::private(PUD).expect("address space");
    region
        .madvise(region.all(), Advice::HugePage)
        .unwrap_or_else(|errno| skip!("MADV_HUGEPAGE: {errno} (CONFIG_TRANSPARENT_HUGEPAGE)"));
    Gigabyte {
        region,
        _settings: settings,
    }
}

/// The memory, present and proven, every page stamped.
pub fn filled(size: Size, stamp: Stamp) -> Gigabyte {
    let memory = reserve(size);
    fill(&memory, stamp);
    memory.prove(size);
    memory
}

impl Gigabyte {
    /// Ends the test where the memory is not mapped by entries of `size` only.
    #[track_caller]
    pub fn prove(&self, size: Size) {
        let leaves = pagetable::leaves(&self.absolute(&self.all()));
        let mapped: usize = leaves
            .iter()
            .filter(|leaf| leaf.level == size.level())
            .map(|leaf| leaf.range.len())
            .sum();
        if mapped != PUD {
            skip!(
                "only {} of 1024 MiB are mapped by {:?} entries: memory is fragmented",
                mapped >> 20,
                size.level()
            );
        }
    }

    /// Checks that entries of `level` and of no other map `range`.
    #[track_caller]
    pub fn assert_level(&self, range: Range<usize>, level: Level) {
        let at = self.absolute(&range);
        let leaves = pagetable::leaves(&at);
        let covered: usize = leaves
            .iter()
            .map(|leaf| leaf.range.end.min(at.end) - leaf.range.start.max(at.start))
            .sum();
        let others = leaves.iter().filter(|leaf| leaf.level != level).count();
        assert!(
            covered == at.len() && others == 0,
            "{covered:#x} of {:#x} bytes are mapped, {others} runs not by {level:?} entries",
            at.len()
        );
    }
}

/// Runs `work` on two parts of the pages at the same time.
fn on_both_cpus(pages: Range<usize>, work: impl Fn(Range<usize>) + Sync) {
    let middle = pages.start + pages.len() / 2;
    std::thread::scope(|scope| {
        let first = scope.spawn(|| work(pages.start..middle));
        work(middle..pages.end);
        if let Err(panic) = first.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Stamps every page.
pub fn fill(region: &Region, stamp: Stamp) {
    on_both_cpus(0..PAGES, |pages| stamp.fill(region, pages));
}

/// Checks every byte of `pages`.
pub fn check(region: &Region, stamp: Stamp, pages: Range<usize>) {
    on_both_cpus(pages, |pages| stamp.check(region, pages));
}

/// Checks every byte but those of `hole`.
pub fn check_around(region: &Region, stamp: Stamp, hole: &Range<usize>) {
    check(region, stamp, 0..hole.start);
    check(region, stamp, hole.end..PAGES);
}

/// Checks that loads of the first and last of `pages` fault.
#[track_caller]
pub fn assert_hole(region: &Region, pages: &Range<usize>) {
    for number in [pages.start, pages.end - 1] {
        let fault = guard::load(region.page_addr(number)).expect_err("a hole");
        assert_eq!(fault.code, guard::SEGV_MAPERR, "page {number}: {fault}");
    }
}

/// Pages of 2 MiB in the middle, aligned, or one page inside it.
pub fn middle(bytes: usize) -> Range<usize> {
    let start = (PUD / 2 + if bytes < PMD { 5 * PAGE } else { 0 }) / PAGE;
    start..start + bytes / PAGE
}

/// Entries of `size` that losing `bytes` in the middle splits.
pub fn splits_of(size: Size, bytes: usize) -> i64 {
    i64::from(size == Size::Pud || bytes < PMD)
}
