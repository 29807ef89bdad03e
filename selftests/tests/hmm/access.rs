// SPDX-License-Identifier: GPL-2.0-only
//! A device that reads and writes memory in place, without migration.

use std::ops::Range;
use std::time::Duration;

use nix::errno::Errno;
use selftests::counters::minor_faults;
use selftests::hmm::Memory::{Coherent, Private};
use selftests::hmm::{Access, Dmirror, Level, Memory, PageState, Span};
use selftests::mapping::{PAGE, Prot, Region, memfd, page, pages};
use selftests::pattern::{Content, FIRST, check_zero};
use selftests::{child, enter, guard, hinting, settings};
use test_case::test_case;

use crate::scene::{Baseline, all, huge, small, untouched, whole, words};

/// More than three of the driver's windows of 32 pages, and not a multiple.
const PAGES: usize = 100;
const ROUNDS: u16 = 10;

/// The device opens and closes, and refuses ranges that are no ranges.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn open_close(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let refused = |addr, pages| dev.to_sys(Span { addr, pages }).unwrap_err().errno;
    assert_eq!(refused(PAGE + 1, 1), Errno::EINVAL, "unaligned");
    assert_eq!(refused(PAGE, 0), Errno::EINVAL, "empty");
    assert_eq!(refused(usize::MAX - PAGE + 1, 2), Errno::EINVAL, "overflow");
    assert_eq!(refused(PAGE, 1), Errno::EINVAL, "nothing mapped");
}

/// READ of a hole, a zero page and read-only data returns zeros, then the data.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn anon_read(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let region = untouched(PAGES);
    assert_eq!(guard::load(region.page_addr(1)), Ok(0));
    FIRST.fill(&region, 2..PAGES);
    region.mprotect(region.all(), Prot::READ).unwrap();

    let reply = dev.read(whole(&region)).unwrap();
    assert_eq!((reply.cpages, reply.faults), (PAGES as u64, 1));
    dev.check_seen_in(Content::Zero, 0..2);
    dev.check_seen_in(Content::Stamped(FIRST), 2..PAGES);
    check_zero(&region, 0..2);
    FIRST.check(&region, 2..PAGES);
}

/// READ of memory without any permission is refused and returns nothing.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn anon_read_prot(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let region = small(PAGES);
    region.mprotect(region.all(), Prot::NONE).unwrap();

    assert_eq!(dev.read(whole(&region)).unwrap_err().errno, Errno::EFAULT);
    dev.check_nothing_seen();
    region.mprotect(region.all(), Prot::READ).unwrap();
    FIRST.check_all(&region);
}

/// Memory that NUMA balancing has closed has no permission in a snapshot. READ meets what it contains, and not through a
/// closed entry: it opens it, so that the process takes no fault after that.
#[test_case(false; "small")]
#[test_case(true; "huge")]
fn closed_memory_is_opened_for_a_read(is_huge: bool) {
    enter!();
    let _end = Baseline::new();
    let _quiet = settings::quiet();
    hinting::required();
    drop((Dmirror::open(Private), is_huge.then(|| huge(1))));
    // A process of one thread, of which each scan begins at once.
    child::run_to_end(|_| {
        let dev = Dmirror::open(Private);
        let (spare, region) = (small(1), if is_huge { huge(1) } else { small(PAGES) });
        hinting::close(i64::from(is_huge), if is_huge { 0 } else { PAGES as i64 });
        let span = Span::of(&region, 0..PAGES);
        let states = dev.snapshot(span);
        let open = states.iter().find(|state| state.access != Access::Nothing);
        assert_eq!(open, None, "closed memory in a snapshot");
        dev.read(span).expect("READ");
        dev.check_seen_in(Content::Stamped(FIRST), 0..PAGES);
        let faults_of = |region: &Region, numbers: Range<usize>| {
            let faults = minor_faults();
            for number in numbers {
                guard::load(region.page_addr(number)).expect("our own memory");
            }
            minor_faults() - faults
        };
        faults_of(&spare, 0..1);
        assert_eq!(
            faults_of(&region, 0..PAGES),
            0,
            "faults of loads after a READ"
        );
        FIRST.check_all(&region);
    });
}

/// WRITE to memory nobody has touched arrives whole.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn anon_write(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let region = untouched(PAGES);

    let reply = dev
        .write(whole(&region), &words(FIRST, all(&region)))
        .unwrap();
    assert_eq!((reply.cpages, reply.faults), (PAGES as u64, 1));
    FIRST.check_all(&region);
}

/// WRITE to read-only memory is refused and changes nothing; with write
/// permission it works, also over the zero page.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn anon_write_prot(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let region = untouched(PAGES);
    region.mprotect(region.all(), Prot::READ).unwrap();
    assert_eq!(guard::load(region.addr()), Ok(0));
    let data = words(FIRST, all(&region));

    let refusal = dev.write(Span::of(&region, 0..1), &data[..PAGE / 8]);
    assert_eq!(refusal.unwrap_err().errno, Errno::EPERM);
    let refusal = dev.write(whole(&region), &data);
    assert_eq!(refusal.unwrap_err().errno, Errno::EPERM);
    check_zero(&region, all(&region));

    region.mprotect(region.all(), Prot::READ_WRITE).unwrap();
    let reply = dev.write(whole(&region), &data).unwrap();
    assert_eq!((reply.cpages, reply.faults), (PAGES as u64, 1));
    FIRST.check_all(&region);
}

/// Each of ten READs returns what the CPU wrote last, never older data.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn anon_read_multiple(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    for round in 1..=ROUNDS {
        let region = untouched(PAGES);
        let stamp = selftests::pattern::Stamp {
            owner: 1,
            version: round,
        };
        stamp.fill_all(&region);
        let reply = dev.read(whole(&region)).unwrap();
        assert_eq!((reply.cpages, reply.faults), (PAGES as u64, 1));
        dev.check_seen(Content::Stamped(stamp), all(&region));
    }
}

/// READ while another thread unmaps half of the range returns the data or
/// EFAULT, and the other half stays intact.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn anon_teardown(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    for round in 0..u64::from(ROUNDS) {
        let mut region = small(PAGES);
        let span = whole(&region);
        let half = pages(PAGES / 2..PAGES);
        let answer = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(round * 40));
                region.munmap(half).unwrap();
            });
            dev.read_known(span)
        });
        match answer {
            Ok(reply) => {
                assert_eq!(reply.cpages, PAGES as u64);
                dev.check_seen(Content::Stamped(FIRST), 0..PAGES);
            }
            Err(refusal) => assert_eq!(refusal.errno, Errno::EFAULT, "{refusal}"),
        }
        FIRST.check(&region, 0..PAGES / 2);
        assert!(guard::load(region.page_addr(PAGES / 2)).is_err());
        assert!(guard::load(region.page_addr(PAGES - 1)).is_err());
    }
}

/// READ of a shared file mapping returns what was written to the file.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn file_read(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let file = memfd("file_read", PAGES * PAGE).unwrap();
    write_file(&file, &words(FIRST, 0..PAGES));
    let region = Region::shared_file(&file, 0, PAGES * PAGE).unwrap();
    region.mprotect(region.all(), Prot::READ).unwrap();

    let reply = dev.read(whole(&region)).unwrap();
    assert_eq!((reply.cpages, reply.faults), (PAGES as u64, 1));
    dev.check_seen(Content::Stamped(FIRST), 0..PAGES);
}

/// WRITE to a shared file mapping is seen by the CPU and by a read of the file.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn file_write(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let file = memfd("file_write", PAGES * PAGE).unwrap();
    let region = Region::shared_file(&file, 0, PAGES * PAGE).unwrap();

    let reply = dev.write(whole(&region), &words(FIRST, 0..PAGES)).unwrap();
    assert_eq!((reply.cpages, reply.faults), (PAGES as u64, 1));
    FIRST.check_all(&region);
    assert!(
        read_file(&file) == words(FIRST, 0..PAGES),
        "the file has other content"
    );
}

/// SNAPSHOT shows pages that a driver mapped by itself as readable memory.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn mixedmap(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let region = Region::private_file(dev.file(), 0, 3 * PAGE).unwrap();
    let readable = PageState::system(Access::Read, Level::Pte);
    dev.check_states(whole(&region), readable);
    let mut region = region;
    region.munmap(page(1)).unwrap();
    let states = dev.snapshot(whole(&region));
    assert_eq!(states, [readable, PageState::ERROR, readable]);
}

fn write_file(file: &std::fs::File, data: &[u64]) {
    use std::os::unix::fs::FileExt;
    let bytes: Vec<u8> = data.iter().flat_map(|word| word.to_ne_bytes()).collect();
    file.write_all_at(&bytes, 0).unwrap();
}

fn read_file(file: &std::fs::File) -> Vec<u64> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; PAGES * PAGE];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
        .chunks_exact(8)
        .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
        .collect()
}
