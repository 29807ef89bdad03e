// SPDX-License-Identifier: GPL-2.0-only
//! Latency of dependent loads and speed of copying from a PFN mapping, by the
//! level of its entries: the measurements of the PMD-level PFNMAP series.

use selftests::mapping::{PUD, Prot, Region};
use selftests::membench;
use selftests::pagetable::{self, Level};
use selftests::pfndev::{Cache, Mode, PfnFile};
use selftests::{enter, guard, skip};
use test_case::test_case;

/// Measured rounds.
const ROUNDS: usize = 5;
/// Loads of one round.
const LOADS: usize = 1 << 20;

/// 1 GiB mapped by entries of one level: dependent loads of stride 64, and copies.
#[test_case(Mode::FaultPte, Level::Pte, "4K"; "k004")]
#[test_case(Mode::FaultPmd, Level::Pmd, "2M"; "m002")]
#[test_case(Mode::FaultPud, Level::Pud, "1G"; "g001")]
fn latency_and_copy(mode: Mode, level: Level, pages: &str) {
    enter!();
    let region = map(mode, level);
    for bytes in [64 << 20, 128 << 20, 256 << 20, 512 << 20, PUD] {
        membench::lay_chain(&region, bytes);
        let times: Vec<u128> = (0..ROUNDS)
            .map(|_| membench::chase(&region, bytes, LOADS).as_nanos() / LOADS as u128)
            .collect();
        report("chase", bytes, pages, &times);
    }
    for bytes in [256 << 20, PUD] {
        let times: Vec<u128> = (0..ROUNDS)
            .map(|_| membench::copy(&region, bytes).as_nanos())
            .collect();
        report("copy", bytes, pages, &times);
    }
}

/// 1 GiB of the device, present, proven to be mapped by `level` only.
fn map(mode: Mode, level: Level) -> Region {
    let device = PfnFile::module().unwrap_or_else(|reason| skip!("{reason}"));
    if device.len() < PUD {
        skip!("{:#x} bytes reserved, 1 GiB needed", device.len());
    }
    if let Err(errno) = device.setup(mode, Cache::WriteBack, None) {
        skip!("{level:?} entries: {errno}");
    }
    let (file, offset) = device.at(0);
    let mut region = Region::reserved(PUD).expect("address space");
    region
        .map_file(0..PUD, file, offset, Prot::READ_WRITE)
        .expect("1 GiB of the device");
    for at in (0..PUD).step_by(level.bytes()) {
        guard::store(region.addr() + at, 0).expect("mapped memory");
    }
    let leaves = pagetable::leaves(&region.absolute(&region.all()));
    assert!(
        leaves.len() == 1 && leaves[0].level == level && leaves[0].range.len() == PUD,
        "{leaves:x?}"
    );
    region
}

/// `ns` is for one load, or for the whole copy.
fn report(what: &str, bytes: usize, pages: &str, ns: &[u128]) {
    println!(
        "BENCH {{\"bench\":\"pfnmap\",\"bytes\":{bytes},\"pages\":\"{pages}\",\
         \"direction\":\"{what}\",\"ns\":{ns:?}}}"
    );
}
