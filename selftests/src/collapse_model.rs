// SPDX-License-Identifier: GPL-2.0-only
//! What one pass of khugepaged must do to one page table of anonymous memory.
//!
//! Pure: a table of 512 entries and the knobs go in, the folios that must appear and the
//! exact counter deltas come out. The rule is the one that
//! `Documentation/admin-guide/mm/transhuge.rst` gives for `max_ptes_none`, `max_ptes_swap`,
//! `max_ptes_shared` and the per-size statistics; where the document is silent (which orders
//! are tried after a refusal, what counts as an attempt), the comment says what was chosen.
//! The `khugepaged` tests compare the kernel with it.

/// Entries of one page table, so small pages of one PMD.
pub const PTES: usize = 512;

/// The order of a PMD-sized folio.
pub const PMD_ORDER: u8 = 9;

/// The smallest order khugepaged collapses to: 16 KiB.
pub const MIN_ORDER: u8 = 2;

/// Greatest value of `max_ptes_none`: "collapse to the highest possible order".
pub const MAX_NONE: u16 = 511;

/// One entry of the page table as khugepaged sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pte {
    /// Nothing mapped, or the shared zero page.
    Empty,
    /// A recently used anonymous page of a folio of this order, mapped by this process alone.
    Mapped(u8),
    /// The same, but mapped by another process as well.
    Shared(u8),
    /// In swap.
    Swapped,
    /// Protected by userfaultfd, pinned, or lazily freed: nothing of the table may be collapsed.
    Barrier,
}

/// A set of folio orders, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orders(pub u16);

impl Orders {
    /// The set with only `order` in it.
    pub const fn only(order: u8) -> Self {
        Orders(1 << order)
    }

    /// Every order from `low` to `high`, both included.
    pub const fn range(low: u8, high: u8) -> Self {
        Orders(((1 << (high + 1)) - 1) & !((1 << low) - 1))
    }

    /// Whether `order` is in the set.
    pub const fn contains(self, order: u8) -> bool {
        self.0 & (1 << order) != 0
    }

    /// The members, smallest first.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..16).filter(move |&order| self.contains(order))
    }

    /// The largest member below `order`.
    fn next_below(self, order: u8) -> Option<u8> {
        (MIN_ORDER..order).rev().find(|&lower| self.contains(lower))
    }
}

/// khugepaged's settings, as far as they decide what it collapses.
#[derive(Debug, Clone, Copy)]
pub struct Knobs {
    /// Sizes that are enabled for the VMA.
    pub orders: Orders,
    /// `max_ptes_none`.
    pub none: u16,
    /// `max_ptes_swap`; counts for the PMD size only.
    pub swap: u16,
    /// `max_ptes_shared`; counts for the PMD size only.
    pub shared: u16,
    /// Sizes whose allocation fails (fault injection).
    pub alloc_fails: Orders,
    /// The VMA is registered with userfaultfd, so no empty entry may be filled.
    pub uffd_armed: bool,
}

impl Knobs {
    /// The kernel's defaults for the limits, with `orders` enabled.
    pub fn new(orders: Orders) -> Self {
        Knobs {
            orders,
            none: MAX_NONE,
            swap: 64,
            shared: 256,
            alloc_fails: Orders::default(),
            uffd_armed: false,
        }
    }

    /// How many empty entries a range of `order` may have. Sizes below PMD know only "none"
    /// and "all but one"; the value between them means none.
    fn none_limit(&self, order: u8) -> usize {
        match (order, self.none) {
            (PMD_ORDER, none) => none.into(),
            (_, MAX_NONE) => (1 << order) - 1,
            _ => 0,
        }
    }

    fn only_pmd(&self) -> bool {
        self.orders == Orders::only(PMD_ORDER)
    }
}

/// A folio that the pass makes: `1 << order` pages from entry `offset` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Folio {
    /// First entry of the table.
    pub offset: usize,
    /// Its order.
    pub order: u8,
}

/// Deltas of the files in `hugepages-<size>kB/stats` of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SizeStats {
    /// `collapse_alloc`: also counts folios that an attempt got and gave back.
    pub alloc: u64,
    /// `collapse_alloc_failed`.
    pub alloc_failed: u64,
    /// `collapse_exceed_none_pte`.
    pub exceed_none: u64,
    /// `collapse_exceed_swap_pte`.
    pub exceed_swap: u64,
    /// `collapse_exceed_shared_pte`.
    pub exceed_shared: u64,
}

/// The result of one pass over one table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// New folios by offset.
    pub folios: Vec<Folio>,
    /// Counter deltas by order.
    pub stats: [SizeStats; PMD_ORDER as usize + 1],
}

impl Outcome {
    /// Entries that were empty and get a zeroed page: how much RSS grows, in pages.
    pub fn filled(&self, table: &[Pte; PTES]) -> usize {
        self.covered(table, Pte::Empty)
    }

    /// Entries whose page was swapped in.
    pub fn swapped_in(&self, table: &[Pte; PTES]) -> usize {
        self.covered(table, Pte::Swapped)
    }

    fn covered(&self, table: &[Pte; PTES], kind: Pte) -> usize {
        let ptes = |f: &Folio| table[f.offset..f.offset + (1 << f.order)].iter();
        self.folios
            .iter()
            .flat_map(ptes)
            .filter(|&&pte| pte == kind)
            .count()
    }

    /// What a successful `MADV_COLLAPSE` of a table does, whatever the knobs say.
    pub fn one_huge_page() -> Self {
        let mut out = Outcome {
            folios: vec![Folio {
                offset: 0,
                order: PMD_ORDER,
            }],
            ..Outcome::default()
        };
        out.stats[PMD_ORDER as usize].alloc = 1;
        out
    }

    /// The table after the pass.
    pub fn apply(&self, table: &[Pte; PTES]) -> [Pte; PTES] {
        let mut after = *table;
        for folio in &self.folios {
            after[folio.offset..folio.offset + (1 << folio.order)].fill(Pte::Mapped(folio.order));
        }
        after
    }
}

/// How an attempt to collapse one range ended.
enum Attempt {
    Collapsed,
    /// The range holds a folio that is as large already: it is left alone as a whole.
    LargeAlready,
    Refused,
}

/// What one pass of khugepaged does to `table`.
pub fn scan(table: &[Pte; PTES], knobs: &Knobs) -> Outcome {
    let mut out = Outcome::default();
    if !admits(table, knobs, &mut out) {
        return out;
    }
    let mut offset = 0;
    while offset < PTES {
        // The largest naturally aligned order goes first, then each smaller enabled one.
        let mut next = highest_enabled(offset, knobs.orders);
        let mut step = 1 << MIN_ORDER;
        while let Some(order) = next {
            step = 1 << order;
            next = match attempt(table, knobs, Folio { offset, order }, &mut out) {
                Attempt::Collapsed => {
                    out.folios.push(Folio { offset, order });
                    None
                }
                Attempt::LargeAlready => None,
                Attempt::Refused => knobs.orders.next_below(order),
            };
        }
        offset += step;
    }
    out
}

/// The look at the whole table which comes before any attempt. Limits for swapped and shared
/// entries are those of the PMD size whatever sizes are enabled. `max_ptes_none` is applied here
/// only when no smaller size could do with less.
fn admits(table: &[Pte; PTES], knobs: &Knobs, out: &mut Outcome) -> bool {
    let none_limit = match (knobs.only_pmd(), knobs.uffd_armed) {
        (true, true) => 0,
        (true, false) => knobs.none,
        (false, _) => MAX_NONE,
    };
    let stats = &mut out.stats[PMD_ORDER as usize];
    let (mut none, mut swapped, mut shared, mut used) = (0, 0, 0, 0);
    for pte in table {
        let (count, limit, counter) = match pte {
            Pte::Empty => (&mut none, none_limit, &mut stats.exceed_none),
            Pte::Swapped => (&mut swapped, knobs.swap, &mut stats.exceed_swap),
            Pte::Shared(_) => {
                used += 1;
                (&mut shared, knobs.shared, &mut stats.exceed_shared)
            }
            Pte::Mapped(_) => {
                used += 1;
                continue;
            }
            Pte::Barrier => return false,
        };
        *count += 1;
        if *count > limit {
            *counter += 1;
            return false;
        }
    }
    // Swapping in is worth it only when at least half of the entries are in use.
    used > 0 && (swapped == 0 || used >= PTES / 2)
}

/// The highest order that is naturally aligned at `offset` and enabled.
fn highest_enabled(offset: usize, orders: Orders) -> Option<u8> {
    let aligned = if offset == 0 {
        PMD_ORDER
    } else {
        (offset.trailing_zeros() as u8).min(PMD_ORDER)
    };
    orders.next_below(aligned + 1)
}

fn attempt(table: &[Pte; PTES], knobs: &Knobs, range: Folio, out: &mut Outcome) -> Attempt {
    let Folio { offset, order } = range;
    let ptes = &table[offset..offset + (1 << order)];
    let stats = &mut out.stats[order as usize];
    let pmd = order == PMD_ORDER;
    let occupied = |pte: &&Pte| {
        matches!(pte, Pte::Mapped(_) | Pte::Shared(_)) || (pmd && **pte == Pte::Swapped)
    };
    // Too few pages is found by counting, without an attempt, so it moves no counter.
    if ptes.iter().filter(occupied).count() < ptes.len() - knobs.none_limit(order) {
        return Attempt::Refused;
    }
    if knobs.alloc_fails.contains(order) {
        stats.alloc_failed += 1;
        return Attempt::Refused;
    }
    stats.alloc += 1;
    if !pmd && ptes.contains(&Pte::Swapped) {
        stats.exceed_swap += 1;
        return Attempt::Refused;
    }
    let none_limit = if knobs.uffd_armed {
        0
    } else {
        knobs.none_limit(order)
    };
    let mut none = 0;
    for pte in ptes {
        match pte {
            Pte::Empty => {
                none += 1;
                if none > none_limit {
                    stats.exceed_none += 1;
                    return Attempt::Refused;
                }
            }
            Pte::Shared(_) if !pmd => {
                stats.exceed_shared += 1;
                return Attempt::Refused;
            }
            Pte::Mapped(folio) if !pmd && *folio >= order => return Attempt::LargeAlready,
            _ => {}
        }
    }
    Attempt::Collapsed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with one populated range.
    fn one(range: std::ops::Range<usize>) -> [Pte; PTES] {
        table(std::slice::from_ref(&range))
    }

    const SMALL: Pte = Pte::Mapped(0);

    fn table(ranges: &[std::ops::Range<usize>]) -> [Pte; PTES] {
        let mut table = [Pte::Empty; PTES];
        for range in ranges {
            table[range.clone()].fill(SMALL);
        }
        table
    }

    fn knobs(orders: Orders, none: u16) -> Knobs {
        Knobs {
            none,
            ..Knobs::new(orders)
        }
    }

    #[test]
    fn full_table_becomes_folios_of_the_only_enabled_order() {
        for order in MIN_ORDER..=PMD_ORDER {
            let out = scan(&[SMALL; PTES], &knobs(Orders::only(order), 0));
            assert_eq!(out.folios.len(), PTES >> order);
            assert!(
                out.folios
                    .iter()
                    .enumerate()
                    .all(|(i, f)| f.order == order && f.offset == i << order)
            );
            assert_eq!(out.stats[order as usize].alloc as usize, PTES >> order);
        }
    }

    #[test]
    fn second_pass_leaves_large_folios_alone() {
        let knobs = knobs(Orders::only(4), 0);
        let once = scan(&[SMALL; PTES], &knobs).apply(&[SMALL; PTES]);
        let twice = scan(&once, &knobs);
        assert_eq!(twice.folios, []);
        assert_eq!(twice.stats[4].alloc, 32);
    }

    #[test]
    fn patchy_table_takes_the_highest_aligned_order_at_each_offset() {
        let out = scan(
            &table(&[0..16, 24..32, 36..40, 64..128]),
            &knobs(Orders::range(2, 8), 0),
        );
        let expected =
            [(0, 4), (24, 3), (36, 2), (64, 6)].map(|(offset, order)| Folio { offset, order });
        assert_eq!(out.folios, expected);
    }

    #[test]
    fn full_allowance_lets_one_page_grow_to_the_highest_enabled_order() {
        let table = one(100..101);
        let out = scan(&table, &knobs(Orders::range(2, 6), MAX_NONE));
        assert_eq!(
            out.folios,
            [Folio {
                offset: 64,
                order: 6
            }]
        );
        assert_eq!(out.filled(&table), 63);
    }

    #[test]
    fn allowance_between_the_ends_means_none_below_pmd_order() {
        let table = one(0..12);
        assert_eq!(
            scan(&table, &knobs(Orders::range(2, 4), 255)).folios,
            scan(&table, &knobs(Orders::range(2, 4), 0)).folios
        );
    }

    #[test]
    fn pmd_limit_is_inclusive() {
        let pmd = Orders::only(PMD_ORDER);
        assert_eq!(scan(&one(0..256), &knobs(pmd, 256)).folios.len(), 1);
        let refused = scan(&one(0..255), &knobs(pmd, 256));
        assert_eq!((refused.folios.len(), refused.stats[9].exceed_none), (0, 1));
    }

    #[test]
    fn one_shared_page_costs_an_attempt_at_each_order_and_spares_its_neighbours() {
        let mut table = [SMALL; PTES];
        table[5] = Pte::Shared(0);
        let out = scan(&table, &knobs(Orders::range(2, 8), 0));
        assert!((2..=8).all(|order| out.stats[order].exceed_shared == 1));
        let covered: usize = out.folios.iter().map(|f| 1 << f.order).sum();
        assert_eq!(covered, PTES - 4);
        assert!(
            out.folios
                .iter()
                .all(|f| !(f.offset..f.offset + (1 << f.order)).contains(&5))
        );
    }

    #[test]
    fn one_swapped_page_is_an_attempt_only_when_it_could_be_empty() {
        let mut table = [SMALL; PTES];
        table[5] = Pte::Swapped;
        assert_eq!(
            scan(&table, &knobs(Orders::only(4), 0)).stats[4].exceed_swap,
            0
        );
        assert_eq!(
            scan(&table, &knobs(Orders::only(4), MAX_NONE)).stats[4].exceed_swap,
            1
        );
    }

    #[test]
    fn failed_allocation_falls_to_the_next_smaller_order() {
        let mut knobs = knobs(Orders::range(2, 9), 0);
        knobs.alloc_fails = Orders::range(5, 9);
        let out = scan(&[SMALL; PTES], &knobs);
        assert!(out.folios.iter().all(|f| f.order == 4));
        // Once at the whole, twice at the halves, and so on.
        assert!((5..=9).all(|order| out.stats[order].alloc_failed as usize == PTES >> order));
    }

    #[test]
    fn barrier_stops_the_whole_table() {
        let mut table = [SMALL; PTES];
        table[511] = Pte::Barrier;
        assert_eq!(
            scan(&table, &knobs(Orders::range(2, 9), MAX_NONE)),
            Outcome::default()
        );
    }
}
