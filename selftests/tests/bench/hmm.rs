// SPDX-License-Identifier: GPL-2.0-only
//! Time to migrate a buffer to a device-private device and back, as huge pages
//! and as small ones. Only the ioctls are timed.

use std::time::Duration;

use selftests::hmm::{Dmirror, Level, Memory, Span};
use selftests::mapping::{Advice, PAGE, Region};
use selftests::pattern::{Content, FIRST};
use selftests::{enter, settings};
use test_case::test_case;

/// Measured rounds; one more comes first and is not counted.
const ROUNDS: usize = 7;
/// Pages that one ioctl moves: as many as the device returns content for.
const STEP: usize = 1024;

/// A buffer of this size goes to the device and back, huge and small.
#[test_case(512 << 10; "k512")]
#[test_case(1 << 20; "m001")]
#[test_case(2 << 20; "m002")]
#[test_case(4 << 20; "m004")]
#[test_case(8 << 20; "m008")]
#[test_case(16 << 20; "m016")]
#[test_case(256 << 20; "m256")]
fn migration(bytes: usize) {
    enter!();
    let _settings = settings::quiet();
    for (advice, name) in [(Advice::HugePage, "THP"), (Advice::NoHugePage, "4K")] {
        let dev = Dmirror::open(Memory::Private);
        let region = Region::private(bytes).unwrap();
        region.madvise(region.all(), advice).unwrap();
        FIRST.fill_all(&region);
        let mut to_dev = Vec::new();
        let mut to_sys = Vec::new();
        let mut huge = true;
        for _ in 0..=ROUNDS {
            to_dev.push(send(&dev, &region));
            huge &= dev.snapshot(Span::of(&region, 0..1))[0].level == Level::Pmd;
            to_sys.push(fetch(&dev, &region));
        }
        FIRST.check_all(&region);
        for (direction, times) in [("to_dev", &to_dev[1..]), ("to_sys", &to_sys[1..])] {
            let ns: Vec<String> = times.iter().map(|t| t.as_nanos().to_string()).collect();
            println!(
                "BENCH {{\"bench\":\"hmm\",\"bytes\":{bytes},\"pages\":\"{name}\",\
                 \"huge_on_device\":{huge},\"direction\":\"{direction}\",\"ns\":[{}]}}",
                ns.join(",")
            );
        }
    }
}

fn steps(region: &Region) -> impl Iterator<Item = std::ops::Range<usize>> {
    let pages = region.len() / PAGE;
    (0..pages)
        .step_by(STEP)
        .map(move |first| first..(first + STEP).min(pages))
}

fn send(dev: &Dmirror, region: &Region) -> Duration {
    steps(region)
        .map(|numbers| {
            let reply = dev.to_dev(Span::of(region, numbers.clone())).unwrap();
            assert_eq!(reply.cpages as usize, numbers.len());
            let time = dev.last_time();
            dev.check_seen(Content::Stamped(FIRST), numbers);
            time
        })
        .sum()
}

fn fetch(dev: &Dmirror, region: &Region) -> Duration {
    steps(region)
        .map(|numbers| {
            dev.to_sys(Span::of(region, numbers)).unwrap();
            dev.last_time()
        })
        .sum()
}
