// SPDX-License-Identifier: GPL-2.0-only
//! What must hold after a collapse of anonymous memory, or after one that was refused.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::ops::Range;

use selftests::collapse_model::{Folio, Outcome, PTES, Pte, SizeStats};
use selftests::counters::{Expect, Snapshot};
use selftests::folios::{Page, pieces};
use selftests::pagemap::Entry;
use selftests::pagemap::kpage;
use selftests::release::release;

/// Since then `/proc/PID/status` adds up the counters of all CPUs; before, it may be off by some
/// pages for each of them.
const FIRST_WITH_EXACT_RSS: (u32, u32) = (6, 17);

/// Pages which other processes may map or unmap while a test runs, in `nr_anon_pages`.
const NOISE: i64 = 96;

/// A moment's state of all pages.
pub struct Look {
    /// What pagemap says.
    pub entries: Vec<Entry>,
    /// Which folios that is.
    pub pages: Vec<Option<Page>>,
}

impl Look {
    /// Orders of large folios that were mapped here, are no longer in `after`, and are not
    /// mapped by another process either.
    #[track_caller]
    pub fn large_folios_gone(&self, after: &Look) -> Vec<u8> {
        let heads = |look: &Look| -> HashSet<(u64, u8)> {
            let large = look.pages.iter().flatten().filter(|page| page.order > 0);
            large
                .map(|page| (page.pfn - page.index, page.order))
                .collect()
        };
        let elsewhere = |pfn| {
            let flags = kpage::flags(pfn, 1).expect("root may read kpageflags")[0];
            flags.anon() && flags.mmap() && flags.compound_head()
        };
        let now = heads(after);
        // A frame that is ours again, in another folio, is no proof that the old one lives on.
        let reused: HashSet<u64> = after.pages.iter().flatten().map(|page| page.pfn).collect();
        heads(self)
            .difference(&now)
            .filter(|(pfn, _)| reused.contains(pfn) || !elsewhere(*pfn))
            .map(|&(_, order)| order)
            .collect()
    }
}

/// Pages of the new folios that were not in memory before.
pub struct Growth {
    filled: usize,
    swapped_in: usize,
}

impl Growth {
    /// That of some tables with these outcomes.
    pub fn of(outcomes: &[Outcome], tables: &[[Pte; PTES]]) -> Self {
        let sum = |count: fn(&Outcome, &[Pte; PTES]) -> usize| -> usize {
            outcomes
                .iter()
                .zip(tables)
                .map(|(outcome, table)| count(outcome, table))
                .sum()
        };
        Growth {
            filled: sum(Outcome::filled),
            swapped_in: sum(Outcome::swapped_in),
        }
    }

    /// All of them.
    pub fn pages(&self) -> usize {
        self.filled + self.swapped_in
    }
}

/// This process's own memory in kB. Read without the heap, so that reading does not change it.
pub struct Own {
    /// RSS of anonymous memory by the process's counter, less what a walk of its page tables finds.
    unexplained: i64,
    swap: i64,
    page_tables: i64,
}

impl Own {
    /// Its state now.
    #[track_caller]
    pub fn read() -> Self {
        let [rss, swap, page_tables] = kib("/proc/self/status", ["RssAnon:", "VmSwap:", "VmPTE:"]);
        let [walked] = kib("/proc/self/smaps_rollup", ["Anonymous:"]);
        let exact = release() >= FIRST_WITH_EXACT_RSS;
        Own {
            unexplained: if exact { rss - walked } else { 0 },
            swap,
            page_tables,
        }
    }
}

impl Own {
    /// Change of `VmPTE` in kB since an earlier state.
    pub fn page_tables_since(&self, before: &Own) -> i64 {
        self.page_tables - before.page_tables
    }
}

/// The values of some lines of a file.
#[track_caller]
fn kib<const N: usize>(path: &str, names: [&str; N]) -> [i64; N] {
    let mut buffer = [0; 8192];
    let length = File::open(path).and_then(|mut file| file.read(&mut buffer));
    let length = length.expect("a process may read its own status");
    let text = str::from_utf8(&buffer[..length]).expect("status is text");
    names.map(|name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .expect("the file has the line")
    })
}

/// New folios where they must be, the same pages everywhere else.
#[track_caller]
pub fn folios(before: &Look, after: &Look, collapsed: &[(Range<usize>, Folio)]) {
    let mut rest = after.entries.clone();
    for (range, folio) in collapsed {
        let found = pieces(&after.pages[range.clone()]);
        let whole = found.len() == 1 && found[0].is_whole() && found[0].order == folio.order;
        assert!(
            whole,
            "expected one new folio of order {} at entry {}, found {found:?}",
            folio.order, folio.offset
        );
        let head = after.pages[range.start].expect("a whole folio was found here");
        // Frames freed a moment ago may be used again, but not as the same folio in the same place.
        let same = before.pages[range.start]
            .is_some_and(|old| (old.pfn, old.order) == (head.pfn, head.order));
        assert!(!same, "the folio at entry {} is the old one", folio.offset);
        let counts = kpage::mapcounts(head.pfn, range.len()).expect("root may read kpagecount");
        assert!(
            counts.iter().all(|&count| count == 1),
            "the folio at entry {}: mapped {counts:?} times",
            folio.offset
        );
        rest[range.clone()].copy_from_slice(&before.entries[range.clone()]);
    }
    let moved = rest
        .iter()
        .zip(&before.entries)
        .position(|(now, then)| now != then);
    if let Some(at) = moved {
        let (then, now) = (before.entries[at], after.entries[at]);
        panic!(
            "page {at} of the region (entry {}) should be as it was, {then:?}, found {now:?}",
            at % PTES
        );
    }
    for (at, page) in after.pages.iter().enumerate() {
        let Some(page) = page.filter(|page| page.flags.anon()) else {
            continue;
        };
        assert!(
            page.head.lru(),
            "page {at} of the region is on no LRU list: isolated and not put back"
        );
        assert!(
            !page.head.locked(),
            "page {at} of the region is still locked"
        );
    }
}

/// Every counter of khugepaged exactly as the outcomes say, and no split or fault of a huge page.
#[track_caller]
pub fn counters(before: &Snapshot, now: &Snapshot, outcomes: &[Outcome], gone: &[u8]) {
    let mut expect = Expect::new();
    for order in 2..=9 {
        let sum = |get: fn(&SizeStats) -> u64| -> i64 {
            outcomes
                .iter()
                .map(|outcome| get(&outcome.stats[order]) as i64)
                .sum()
        };
        let new = outcomes
            .iter()
            .flat_map(|o| &o.folios)
            .filter(|f| usize::from(f.order) == order)
            .count();
        let old = gone
            .iter()
            .filter(|&&gone| usize::from(gone) == order)
            .count();
        let deltas = [
            ("collapse_alloc", "thp_collapse_alloc", sum(|s| s.alloc)),
            (
                "collapse_alloc_failed",
                "thp_collapse_alloc_failed",
                sum(|s| s.alloc_failed),
            ),
            (
                "collapse_exceed_none_pte",
                "thp_scan_exceed_none_pte",
                sum(|s| s.exceed_none),
            ),
            (
                "collapse_exceed_swap_pte",
                "thp_scan_exceed_swap_pte",
                sum(|s| s.exceed_swap),
            ),
            (
                "collapse_exceed_shared_pte",
                "thp_scan_exceed_share_pte",
                sum(|s| s.exceed_shared),
            ),
        ];
        let kib = 4 << order;
        for (by_size, global, delta) in deltas {
            expect = expect.delta(&format!("{kib}kB/{by_size}"), delta);
            // vmstat counts the PMD size only.
            expect = if order == 9 {
                expect.delta(global, delta)
            } else {
                expect
            };
        }
        expect = expect
            .delta(&format!("{kib}kB/nr_anon"), new as i64 - old as i64)
            .unchanged(&[
                &format!("{kib}kB/split"),
                &format!("{kib}kB/anon_fault_alloc"),
            ]);
    }
    expect
        .unchanged(&["nr_isolated_anon", "nr_isolated_file", "nr_mlock"])
        .unchanged(&[
            "thp_split_page",
            "thp_split_pmd",
            "thp_fault_alloc",
            "thp_deferred_split_page",
        ])
        .check_between(before, now);
}

/// The RSS counter still agrees with the page tables, swap gives up what was read in, and a
/// collapse neither takes nor frees a page table: the PMD size keeps it for a later split.
#[track_caller]
pub fn own(before: &Own, now: &Own, growth: &Growth) {
    assert_eq!(
        now.unexplained - before.unexplained,
        0,
        "RssAnon moved away from the mapped pages, in kB"
    );
    assert_eq!(
        now.swap - before.swap,
        -4 * growth.swapped_in as i64,
        "change of VmSwap in kB"
    );
    assert_eq!(now.page_tables_since(before), 0, "change of VmPTE in kB");
}

/// All anonymous pages of the machine: `more` than before, but for what other processes do.
#[track_caller]
pub fn anon_total(before: &Snapshot, now: &Snapshot, more: usize) {
    let mapped = before
        .delta(now, "nr_anon_pages")
        .expect("vmstat has nr_anon_pages");
    let lost = mapped - more as i64;
    assert!(
        lost.abs() < NOISE,
        "nr_anon_pages moved by {mapped}, expected {more}: pages were lost or counted twice"
    );
}

/// The small pages that a folio replaced must be free, unless another process maps them: an
/// anonymous page that nobody maps is lost. Returns the number of those still mapped.
#[track_caller]
pub fn old_frames(before: &Look, after: &Look) -> usize {
    let now: HashSet<u64> = after
        .entries
        .iter()
        .filter_map(|entry| entry.pfn())
        .collect();
    let replaced = before
        .pages
        .iter()
        .flatten()
        .filter(|page| page.flags.anon() && !now.contains(&page.pfn));
    let still_mapped = |page: &&Page| {
        let flags = kpage::flags(page.pfn, 1).expect("root may read kpageflags")[0];
        let lost = flags.anon() && !flags.mmap() && !flags.swapcache();
        assert!(
            !lost,
            "frame {:#x} was replaced and is not freed: {flags:?}",
            page.pfn
        );
        flags.anon() && flags.mmap()
    };
    replaced.filter(still_mapped).count()
}
