// SPDX-License-Identifier: GPL-2.0-only
//! Memory of one folio size, for the other modules.

use std::path::Path;

use selftests::counters::thp_sizes_kib;
use selftests::folios::{Piece, census, pieces};
use selftests::guard;
use selftests::mapping::{Advice, PAGES_PER_PMD, PMD, Region};
use selftests::pagemap;
use selftests::pattern::FIRST;
use selftests::settings::{self, Setting, THP};
use selftests::skip;

/// Only folios of one order are made by faults in memory that asks for huge pages; with order 0
/// none but small pages.
pub struct OneSize {
    pub order: u8,
    _settings: Vec<Setting>,
}

impl OneSize {
    /// Skips the test where the kernel does not know the size.
    pub fn of(order: u8) -> Self {
        let kib = 4 << order;
        let mut settings = settings::quiet();
        if order > 0 && !thp_sizes_kib().contains(&kib) {
            skip!("no folios of {kib} kB (mTHP, since 6.8)");
        }
        for other in thp_sizes_kib() {
            let path = format!("{THP}/hugepages-{other}kB/enabled");
            // 8 kB exists for shmem only.
            if Path::new(&path).exists() {
                let value = if other == kib { "madvise" } else { "never" };
                settings.push(Setting::set(path, value));
            }
        }
        // A change of sizes may start khugepaged: it shall find nothing to fill.
        let none = format!("{THP}/khugepaged/max_ptes_none");
        settings.push(Setting::set(none, "0"));
        Self {
            order,
            _settings: settings,
        }
    }

    /// Pages of a folio.
    pub fn pages(&self) -> usize {
        1 << self.order
    }

    /// The counter `name` of this size.
    pub fn counter(&self, name: &str) -> String {
        format!("{}kB/{name}", 4 << self.order)
    }

    /// As much untouched memory as one page table maps, which asks for huge pages.
    #[track_caller]
    pub fn untouched(&self) -> Region {
        let region = Region::private(PMD).expect("address space");
        region
            .madvise(region.all(), Advice::HugePage)
            .unwrap_or_else(|errno| skip!("MADV_HUGEPAGE: {errno}"));
        region
    }

    /// The same, all of it in folios of this size, each page stamped by [`FIRST`].
    #[track_caller]
    pub fn filled(&self) -> Region {
        let region = self.untouched();
        for first in (0..PAGES_PER_PMD).step_by(self.pages()) {
            guard::store(region.page_addr(first), 0).expect("a store to our own memory");
        }
        let found = found(&region);
        if !found.iter().all(|p| p.order == self.order && p.is_whole()) {
            skip!("no folios of order {} to be had: {found:?}", self.order);
        }
        FIRST.fill_all(&region);
        region
    }
}

/// The folios that a page table's worth of memory consists of.
#[track_caller]
pub fn found(region: &Region) -> Vec<Piece> {
    let entries = pagemap::entries(region, 0, PAGES_PER_PMD);
    pieces(&census(&entries).expect("root may read kpageflags"))
}
