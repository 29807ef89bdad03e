// SPDX-License-Identifier: GPL-2.0-only
//! Obtains PMD-mapped huge pages and proves what they are: by smaps, by the
//! flags of their frames and, where the kernel has it, by PAGEMAP_SCAN.

use std::ops::Range;

use crate::mapping::{Advice, PAGE, PAGES_PER_PMD, PMD, Region};
use crate::pagemap::{self, Entry, kpage, scan, smaps};
use crate::{guard, skip};

/// How often [`obtain`] tries before it gives up.
const TRIES: usize = 3;

/// Private anonymous memory of `count` huge pages, each present, mapped by a
/// PMD entry and zero except for what the first touch wrote (one zero byte).
///
/// Skips the test when no huge page can be had. The caller has set up THP
/// (see [`crate::settings::quiet`]).
///
/// # Panics
/// When memory cannot be mapped at all.
#[track_caller]
pub fn obtain(count: usize) -> Region {
    let mut why = String::new();
    for _ in 0..TRIES {
        let region = Region::private(count * PMD).expect("address space for huge pages");
        region
            .madvise(region.all(), Advice::HugePage)
            .unwrap_or_else(|errno| skip!("MADV_HUGEPAGE: {errno} (CONFIG_TRANSPARENT_HUGEPAGE)"));
        for number in 0..count {
            guard::store(region.addr() + number * PMD, 0).expect("a store to our own memory");
        }
        match proof(&region, 0..count) {
            Ok(()) => return region,
            Err(text) => why = text,
        }
    }
    skip!("no huge page in {TRIES} tries: {why}; give the guest more memory")
}

/// The byte range of huge page `number` of a region.
pub fn huge(number: usize) -> Range<usize> {
    number * PMD..(number + 1) * PMD
}

/// Checks that each of the huge pages `numbers` of `region` is mapped by one
/// PMD entry to one THP.
///
/// # Errors
/// What does not hold, in words.
pub fn proof(region: &Region, numbers: Range<usize>) -> Result<(), String> {
    for number in numbers {
        let range = huge(number);
        if !is_pmd_mapped(region, number) {
            return Err(format!("huge page {number} is not mapped by a PMD entry"));
        }
        let entries = pagemap::entries(region, range.start / PAGE, PAGES_PER_PMD);
        one_folio(&entries).map_err(|text| format!("huge page {number}: {text}"))?;
    }
    Ok(())
}

/// As [`proof`], as an assertion.
///
/// # Panics
/// When it does not hold.
#[track_caller]
pub fn assert_huge(region: &Region, numbers: Range<usize>) {
    if let Err(text) = proof(region, numbers) {
        panic!("{text}");
    }
}

/// Checks that huge page `number` is no longer mapped by a PMD entry.
///
/// # Panics
/// When it still is.
#[track_caller]
pub fn assert_split(region: &Region, number: usize) {
    assert!(
        !is_pmd_mapped(region, number),
        "huge page {number} is still mapped by a PMD entry"
    );
}

/// Whether a PMD entry maps the whole of huge page `number`.
///
/// # Panics
/// When neither PAGEMAP_SCAN nor smaps can tell.
#[track_caller]
pub fn is_pmd_mapped(region: &Region, number: usize) -> bool {
    let range = huge(number);
    match scan::runs(region, &range, scan::Is::HUGE) {
        Ok(runs) => runs.iter().map(|(run, _)| run.len()).sum::<usize>() == PMD,
        // Before 6.7. smaps counts per mapping, so it can only tell when the
        // mapping is fully huge or not at all.
        Err(_) => {
            let vmas = smaps::vmas(region, &range);
            let huge_kib = |vma: &smaps::Vma| vma.kib.get("AnonHugePages").copied().unwrap_or(0);
            !vmas.is_empty()
                && vmas
                    .iter()
                    .all(|vma| huge_kib(vma) as usize * 1024 == vma.range.len())
        }
    }
}

/// Checks that the entries of one huge page are the 512 consecutive frames of
/// one THP.
fn one_folio(entries: &[Entry]) -> Result<(), String> {
    let Some(head) = entries.first().and_then(|entry| entry.pfn()) else {
        return Err(format!(
            "no frame of the first page ({:?}); pagemap shows frames to root only",
            entries.first()
        ));
    };
    if let Some(at) = (0..entries.len()).find(|at| entries[*at].pfn() != Some(head + *at as u64)) {
        return Err(format!(
            "page {at} is {:?}, the first one {:?}",
            entries[at], entries[0]
        ));
    }
    let flags = kpage::flags(head, entries.len()).map_err(|error| error.to_string())?;
    if !(flags[0].thp() && flags[0].compound_head()) {
        return Err(format!("frame {head:#x} is no THP head: {:?}", flags[0]));
    }
    match flags[1..].iter().position(|tail| !tail.compound_tail()) {
        Some(at) => Err(format!("page {} is not part of the THP", at + 1)),
        None => Ok(()),
    }
}

/// Frame numbers of the pages of huge page `number`.
///
/// # Panics
/// When a page is not present, or the caller may not see frames.
#[track_caller]
pub fn frames(region: &Region, number: usize) -> Vec<u64> {
    pagemap::entries(region, number * PAGES_PER_PMD, PAGES_PER_PMD)
        .iter()
        .enumerate()
        .map(|(at, entry)| {
            entry
                .pfn()
                .unwrap_or_else(|| panic!("page {at} of huge page {number} is {entry:?}"))
        })
        .collect()
}

/// Maps the huge zero page over `count` huge pages by reading.
///
/// Skips the test where the kernel does not use one.
///
/// # Panics
/// When memory cannot be mapped.
#[track_caller]
pub fn obtain_huge_zero(count: usize) -> Region {
    let region = Region::private(count * PMD).expect("address space for huge pages");
    region
        .madvise(region.all(), Advice::HugePage)
        .unwrap_or_else(|errno| skip!("MADV_HUGEPAGE: {errno} (CONFIG_TRANSPARENT_HUGEPAGE)"));
    for number in 0..count {
        guard::load(region.addr() + number * PMD).expect("a load from our own memory");
        let pfn = pagemap::entries(&region, number * PAGES_PER_PMD, 1)[0].pfn();
        let zero = pfn
            .and_then(|pfn| kpage::flags(pfn, 1).ok())
            .is_some_and(|f| f[0].zero_page());
        if !(zero && is_pmd_mapped(&region, number)) {
            skip!("reading did not map the huge zero page (transparent_hugepage/use_zero_page)");
        }
    }
    region
}
