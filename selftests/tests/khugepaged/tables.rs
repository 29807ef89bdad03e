// SPDX-License-Identifier: GPL-2.0-only
//! Page tables full of small pages for khugepaged to find, and all that must hold after it
//! has been there: which folios are new, every byte, every counter, and that whatever was
//! not collapsed is the very page it was.

use std::ops::Range;

use nix::errno::Errno;
use selftests::collapse::{Khugepaged, drain_lru, madvise_collapse};
use selftests::collapse_model::{Folio, Knobs, Outcome, PTES, Pte, scan};
use selftests::counters::Snapshot;
use selftests::folios::census;
use selftests::mapping::{Advice, PAGE, PMD, Region};
use selftests::pagemap;
use selftests::pattern::{Stamp, check_zero};
use selftests::release::release;
use selftests::{skip, thp};

use crate::verify::{self, Growth, Look, Own};

/// Pages next to the tables, in mappings of their own, which must never change.
const BORDER: usize = 16;

/// What a page of the tables holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Nothing is mapped.
    Hole,
    /// The stamp with its page number.
    Stamped(Stamp),
    /// Zeros, mapped.
    Zeros,
    /// Something that the test checks itself.
    Other,
}

/// The page tables of one mapping, between two bordering ones.
pub struct Tables {
    /// Everything: a border of one PMD, the tables, a border of one PMD.
    pub region: Region,
    held: Vec<Held>,
    /// Which PMD ranges ever had a page, and so a page table.
    touched: Vec<bool>,
}

impl Tables {
    /// One table for each pattern, with small pages in the given ranges of it.
    #[track_caller]
    pub fn new(patterns: &[&[Range<usize>]]) -> Self {
        let region =
            Region::private((patterns.len() + 2) * PMD).expect("memory for some page tables");
        let held = vec![Held::Hole; region.len() / PAGE];
        let touched = vec![false; region.len() / PMD];
        let mut tables = Tables {
            region,
            held,
            touched,
        };
        let end = (patterns.len() + 1) * PTES;
        tables.fill(PTES - BORDER..PTES);
        tables.fill(end..end + BORDER);
        for (number, pattern) in patterns.iter().enumerate() {
            for range in *pattern {
                tables.fill(tables.pages(number, range.clone()));
            }
        }
        tables.assert_small();
        tables
    }

    /// One table, entirely populated.
    #[track_caller]
    pub fn full() -> Self {
        Self::new(&[&[0..PTES]])
    }

    /// Region page numbers of a range of table `number`.
    pub fn pages(&self, number: usize, range: Range<usize>) -> Range<usize> {
        let first = (number + 1) * PTES;
        first + range.start..first + range.end
    }

    /// Byte range of some pages of table `number` in the region.
    pub fn bytes(&self, number: usize, range: Range<usize>) -> Range<usize> {
        selftests::mapping::pages(self.pages(number, range))
    }

    /// How many tables there are.
    pub fn count(&self) -> usize {
        self.region.len() / PMD - 2
    }

    /// Byte range of all tables.
    pub fn all(&self) -> Range<usize> {
        PMD..self.region.len() - PMD
    }

    /// Stamps region pages and remembers it.
    #[track_caller]
    pub fn fill(&mut self, pages: Range<usize>) {
        self.fill_with(selftests::pattern::FIRST, pages);
    }

    /// As [`Self::fill`], with another stamp.
    #[track_caller]
    pub fn fill_with(&mut self, stamp: Stamp, pages: Range<usize>) {
        stamp.fill(&self.region, pages.clone());
        self.now_hold(pages, Held::Stamped(stamp));
    }

    /// Replaces pages of table `number` by fresh small ones, also where a fault would make large ones.
    #[track_caller]
    pub fn refill(&mut self, number: usize, range: Range<usize>) {
        self.region
            .madvise(self.all(), Advice::NoHugePage)
            .expect("MADV_NOHUGEPAGE");
        self.region
            .madvise(self.bytes(number, range.clone()), Advice::DontNeed)
            .expect("MADV_DONTNEED");
        self.fill(self.pages(number, range));
        self.advise();
    }

    /// Remembers what the test did to some region pages.
    pub fn now_hold(&mut self, pages: Range<usize>, held: Held) {
        if !pages.is_empty() {
            self.touched[pages.start / PTES..=(pages.end - 1) / PTES].fill(true);
        }
        self.held[pages].fill(held);
    }

    /// Lets khugepaged at the tables.
    #[track_caller]
    pub fn advise(&self) {
        self.region
            .madvise(self.all(), Advice::HugePage)
            .expect("MADV_HUGEPAGE on anonymous memory");
    }

    /// `MADV_COLLAPSE` of all tables at once must answer `answer`, have these outcomes and no
    /// other effect.
    #[track_caller]
    pub fn collapse(&mut self, outcomes: &[Outcome], answer: Result<(), Errno>) {
        let range = self.region.absolute(&self.all());
        self.expect(outcomes, || {
            assert_eq!(
                madvise_collapse(range.start, range.len()),
                answer,
                "MADV_COLLAPSE"
            );
        });
    }

    /// Proves that exactly the stamped pages are present, each of them small.
    #[track_caller]
    pub fn assert_small(&self) {
        let look = self.look();
        for (at, held) in self.held.iter().enumerate() {
            let order = look.pages[at].map(|page| page.order);
            let wanted = matches!(held, Held::Stamped(_)).then_some(0);
            assert_eq!(
                order, wanted,
                "precondition: page {at} of the region, {held:?}: order of its folio"
            );
        }
    }

    /// Table `number` as the model takes it.
    pub fn ptes(&self, number: usize) -> [Pte; PTES] {
        let look = self.look();
        let range = self.pages(number, 0..PTES);
        std::array::from_fn(|at| {
            let at = range.start + at;
            match (look.entries[at], look.pages[at]) {
                (entry, _) if entry.swapped() => Pte::Swapped,
                (_, Some(page)) if !page.flags.zero_page() => Pte::Mapped(page.order),
                _ => Pte::Empty,
            }
        })
    }

    /// What the model says of one pass over each table as it is now.
    pub fn model(&self, knobs: &Knobs) -> Vec<Outcome> {
        self.model_with(knobs, |_, _| {})
    }

    /// As [`Self::model`], after `mark` has put in what pagemap does not show.
    pub fn model_with(
        &self,
        knobs: &Knobs,
        mark: impl Fn(usize, &mut [Pte; PTES]),
    ) -> Vec<Outcome> {
        let outcome = |number: usize| {
            // Where there is no page table, or one huge page already, there is nothing to look into.
            if !self.touched[number + 1] || thp::is_pmd_mapped(&self.region, number + 1) {
                return Outcome::default();
            }
            let mut table = self.ptes(number);
            mark(number, &mut table);
            scan(&table, knobs)
        };
        (0..self.count()).map(outcome).collect()
    }

    /// One pass of khugepaged must have these outcomes, and no other effect.
    #[track_caller]
    pub fn pass(&mut self, khugepaged: &Khugepaged, outcomes: &[Outcome]) {
        self.expect(outcomes, || {
            let passes = khugepaged.pass().expect("khugepaged scans when asked");
            assert_eq!(
                passes, 1,
                "khugepaged made more than the pass it was asked for"
            );
        });
    }

    /// As [`Self::pass`], with the outcomes of the model.
    #[track_caller]
    pub fn pass_as_modelled(&mut self, khugepaged: &Khugepaged, knobs: &Knobs) -> Vec<Outcome> {
        let outcomes = self.model(knobs);
        self.pass(khugepaged, &outcomes);
        outcomes
    }

    /// Runs `operate`, which must have these outcomes and no other effect.
    #[track_caller]
    pub fn expect(&mut self, outcomes: &[Outcome], operate: impl FnOnce()) {
        let tables: Vec<_> = (0..self.count()).map(|number| self.ptes(number)).collect();
        let before = self.look();
        let counters = Snapshot::all_sizes();
        let own = Own::read();
        operate();
        let own_now = Own::read();
        drain_lru();
        let now = Snapshot::all_sizes();
        let after = self.look();
        let collapsed = self.collapsed(outcomes);
        verify::folios(&before, &after, &collapsed);
        let growth = Growth::of(outcomes, &tables);
        verify::counters(&counters, &now, outcomes, &before.large_folios_gone(&after));
        verify::own(&own, &own_now, &growth);
        let elsewhere = verify::old_frames(&before, &after);
        verify::anon_total(&counters, &now, growth.pages() + elsewhere);
        for (range, _) in &collapsed {
            self.held[range.clone()]
                .iter_mut()
                .filter(|held| **held == Held::Hole)
                .for_each(|held| *held = Held::Zeros);
        }
        self.check_content();
    }

    /// Checks every byte of the tables and their borders; holes must still be holes.
    #[track_caller]
    pub fn check_content(&self) {
        let entries = pagemap::entries(&self.region, 0, self.held.len());
        let mut at = 0;
        for run in self.held.chunk_by(|a, b| a == b) {
            let pages = at..at + run.len();
            match run[0] {
                Held::Stamped(stamp) => stamp.check(&self.region, pages.clone()),
                Held::Zeros => check_zero(&self.region, pages.clone()),
                Held::Other => {}
                Held::Hole => {
                    let filled = pages
                        .clone()
                        .find(|&page| entries[page].present() || entries[page].swapped());
                    assert_eq!(
                        filled, None,
                        "a page of the region where nothing was mapped"
                    );
                }
            }
            at = pages.end;
        }
    }

    fn collapsed(&self, outcomes: &[Outcome]) -> Vec<(Range<usize>, Folio)> {
        let of = |(number, outcome): (usize, &Outcome)| {
            let place = |f: &Folio| (self.pages(number, f.offset..f.offset + (1 << f.order)), *f);
            outcome.folios.iter().map(place).collect::<Vec<_>>()
        };
        outcomes.iter().enumerate().flat_map(of).collect()
    }

    /// Pages of isolated folios return to their lists by way of a cache of each CPU, so those
    /// are emptied before flags are read.
    #[track_caller]
    fn look(&self) -> Look {
        drain_lru();
        let entries = pagemap::entries(&self.region, 0, self.held.len());
        let pages = census(&entries).expect("root may read kpageflags");
        Look { entries, pages }
    }
}

/// Skips the test on kernels that collapse only where a page is writable.
pub fn needs_collapse_of_read_only() {
    if release() < (6, 18) {
        skip!("this kernel collapses only where a page is writable (before 6.18)");
    }
}
