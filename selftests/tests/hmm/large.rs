// SPDX-License-Identifier: GPL-2.0-only
//! Large pages in system memory as a device sees them: THP and hugetlb.

use std::fs::File;
use std::os::fd::FromRawFd;

use selftests::counters::{Expect, Snapshot};
use selftests::hmm::Memory::{Coherent, Private};
use selftests::hmm::{Access, Dmirror, Level, Memory, PageState};
use selftests::mapping::{PMD, Prot, Region};
use selftests::pattern::FIRST;
use selftests::settings::Setting;
use selftests::{enter, skip, thp};
use test_case::test_case;

use crate::scene::{Baseline, HUGE, all, empty_huge, whole, words};

/// Sets aside hugetlb pages of the default size.
const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

/// WRITE to untouched memory that may be huge allocates one THP and fills it.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn anon_write_huge(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let region = empty_huge(1);
    let before = Snapshot::take();
    let reply = dev.write(whole(&region), &words(FIRST, 0..HUGE)).unwrap();
    assert_eq!((reply.cpages, reply.faults), (HUGE as u64, 1));
    Expect::new()
        .delta("thp_fault_alloc", 1)
        .delta("2048kB/anon_fault_alloc", 1)
        .delta("2048kB/nr_anon", 1)
        .unchanged(&["thp_split_pmd", "thp_split_page", "thp_fault_fallback"])
        .check(&before);
    thp::assert_huge(&region, 0..1);
    dev.check_states(whole(&region), PageState::system(Access::Write, Level::Pmd));
    FIRST.check_all(&region);
}

/// WRITE to an untouched hugetlb page arrives whole.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn anon_write_hugetlbfs(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let (_pool, region) = hugetlb();
    let reply = dev.write(whole(&region), &words(FIRST, 0..HUGE)).unwrap();
    assert_eq!((reply.cpages, reply.faults), (HUGE as u64, 1));
    FIRST.check_all(&region);
}

/// SNAPSHOT of a hugetlb page shows one PMD entry for all its pages, with the
/// permission of the mapping.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn compound(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let (_pool, region) = hugetlb();
    FIRST.fill_all(&region);
    dev.check_states(whole(&region), PageState::system(Access::Write, Level::Pmd));
    region.mprotect(region.all(), Prot::READ).unwrap();
    dev.check_states(whole(&region), PageState::system(Access::Read, Level::Pmd));
    FIRST.check_all(&region);
    assert_eq!(all(&region).len(), HUGE);
}

/// A mapping of one hugetlb page of 2 MiB that the test sets aside itself.
fn hugetlb() -> (Setting, Region) {
    let wanted = selftests::settings::current(NR_HUGEPAGES)
        .ok()
        .and_then(|text| text.parse::<u32>().ok())
        .unwrap_or_else(|| skip!("no {NR_HUGEPAGES}: the kernel needs CONFIG_HUGETLBFS"))
        + 1;
    let pool = Setting::try_set(NR_HUGEPAGES, &wanted.to_string())
        .unwrap_or_else(|error| skip!("no free hugetlb page: {error}; boot with hugepages=2"));
    // SAFETY: the name is a C string; the new descriptor belongs to nobody yet.
    let file = unsafe {
        let flags = libc::MFD_CLOEXEC | libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
        let fd = libc::memfd_create(c"hugetlb".as_ptr(), flags);
        if fd < 0 {
            skip!("no hugetlb page of 2 MiB: {}", nix::errno::Errno::last());
        }
        File::from_raw_fd(fd)
    };
    match Region::private_file(&file, 0, PMD) {
        Ok(region) => (pool, region),
        Err(errno) => skip!("no hugetlb page of 2 MiB: {errno}; boot with hugepages=2"),
    }
}
