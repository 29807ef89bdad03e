// SPDX-License-Identifier: GPL-2.0-only
//! Giving huge pages back must not need memory.

use selftests::counters::{Expect, Snapshot};
use selftests::failnth::{Injected, Injection};
use selftests::mapping::Advice;
use selftests::pattern::FIRST;
use selftests::{child, enter, settings, thp};

/// Pages that the kernel allocates while a process with `count` huge pages
/// exits.
fn allocations_of_exit(injection: &Injection, count: usize) -> u32 {
    let child = child::start(|_| {
        let region = (count > 0).then(|| thp::obtain(count));
        if let Some(region) = &region {
            FIRST.fill_all(region);
        }
        injection.arm_until_exit();
        // The exit shall find the memory still mapped.
        std::mem::forget(region);
    });
    child.join_and(Injection::counted)
}

/// Neither `MADV_DONTNEED` nor the exit of a process needs memory to give huge
/// pages back.
#[test]
fn zap_allocates_nothing() {
    enter!();
    let _quiet = settings::quiet();
    let injection = Injection::of_pages(0);
    // Up to eight entries of a batch need no page for the batch itself.
    let region = thp::obtain(6);
    FIRST.fill_all(&region);
    let before = Snapshot::take();
    let (zapped, injected) = injection.call(1, || region.madvise(region.all(), Advice::DontNeed));
    assert_eq!(
        (zapped, injected),
        (Ok(()), Injected::No),
        "MADV_DONTNEED of six huge pages"
    );
    Expect::new()
        .delta("2048kB/nr_anon", -6)
        .unchanged(&["thp_split_pmd"])
        .check(&before);
    let (without, with) = (
        allocations_of_exit(&injection, 0),
        allocations_of_exit(&injection, 6),
    );
    assert_eq!(
        with, without,
        "pages allocated by an exit with six huge pages, and without"
    );
}
