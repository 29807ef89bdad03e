// SPDX-License-Identifier: GPL-2.0-only
//! What a measurement in the guest says, and what it amounts to. Pure: the
//! verb is `commands/bench.rs`.

pub mod levels;
pub mod svg;
pub mod table;

use serde::{Deserialize, Serialize};

/// The mark of a measurement in the output of a test.
const MARK: &str = "BENCH ";

/// Times of one operation on a buffer of one size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Which measurement, for instance `hmm`.
    pub bench: String,
    /// Size of the buffer.
    pub bytes: u64,
    /// What it consists of: `THP`, or the size of the entries that map it.
    pub pages: String,
    /// Whether the device really held huge pages.
    #[serde(default)]
    pub huge_on_device: bool,
    /// `to_dev` or `to_sys`; `chase` (time of one load) or `copy`.
    pub direction: String,
    /// Time of each round in nanoseconds, in order.
    pub ns: Vec<u64>,
}

impl Sample {
    /// The JSON in a line of output, if it is one. libtest may have written
    /// the name of the test before it.
    pub fn json_in(line: &str) -> Option<&str> {
        let at = line.find(MARK)?;
        Some(&line[at + MARK.len()..])
    }

    /// What to compare: time of a load, or throughput.
    pub fn value(&self) -> Spread {
        if self.direction != "chase" {
            return self.mib_per_s();
        }
        let mut ns = self.ns.clone();
        ns.sort_unstable();
        let of = |ns: Option<&u64>| ns.map_or(0.0, |ns| *ns as f64);
        Spread {
            median: of(ns.get(ns.len() / 2)),
            low: of(ns.first()),
            high: of(ns.last()),
        }
    }

    /// Unit of [`Self::value`].
    pub fn unit(&self) -> &'static str {
        if self.direction == "chase" {
            "ns"
        } else {
            "MiB/s"
        }
    }

    /// Throughput of the median, slowest and fastest round, in MiB/s.
    pub fn mib_per_s(&self) -> Spread {
        let mut ns = self.ns.clone();
        ns.sort_unstable();
        let mib = self.bytes as f64 / f64::from(1 << 20);
        let of = |ns: Option<&u64>| ns.map_or(0.0, |ns| mib * 1e9 / (*ns).max(1) as f64);
        Spread {
            median: of(ns.get(ns.len() / 2)),
            low: of(ns.last()),
            high: of(ns.first()),
        }
    }
}

/// What the samples of one measurement are compared by.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Kinds of pages, side by side.
    pub kinds: &'static [&'static str],
    /// Directions and their titles with the unit, one below the other.
    pub panels: &'static [(&'static str, &'static str)],
}

impl Shape {
    /// The shape that fits the samples: all are of one measurement.
    pub fn of(samples: &[Sample]) -> Self {
        if levels::are(samples) {
            return Self {
                kinds: &levels::KINDS,
                panels: &[
                    ("chase", "dependent loads of stride 64, ns per load"),
                    ("copy", "copying, MiB/s"),
                ],
            };
        }
        Self {
            kinds: &["THP", "4K"],
            panels: &[
                ("to_dev", "system to device, MiB/s"),
                ("to_sys", "device to system, MiB/s"),
            ],
        }
    }
}

/// A median and the extremes around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

/// All sizes that occur, in order.
pub fn sizes(samples: &[Sample]) -> Vec<u64> {
    let mut sizes: Vec<u64> = samples.iter().map(|sample| sample.bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// The sample of one size, kind of pages and direction.
pub fn find<'a>(
    samples: &'a [Sample],
    bytes: u64,
    pages: &str,
    direction: &str,
) -> Option<&'a Sample> {
    samples.iter().find(|sample| {
        sample.bytes == bytes && sample.pages == pages && sample.direction == direction
    })
}

/// `512K`, `16M`.
pub fn size_name(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{}K", bytes >> 10),
        mib => format!("{mib}M"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn sample(pages: &str, direction: &str, ns: &[u64]) -> Sample {
        Sample {
            bench: "hmm".into(),
            bytes: 2 << 20,
            pages: pages.into(),
            huge_on_device: pages == "THP",
            direction: direction.into(),
            ns: ns.to_vec(),
        }
    }

    #[test]
    fn median_and_extremes_are_throughput() {
        let spread = sample("THP", "to_dev", &[4_000_000, 1_000_000, 2_000_000]).mib_per_s();
        assert_eq!(spread.median, 1000.0);
        assert_eq!((spread.low, spread.high), (500.0, 2000.0));
    }

    #[test]
    fn the_json_is_found_behind_the_name_of_the_test() {
        let line = r#"test hmm::migration::m002 ... BENCH {"bench":"hmm"}"#;
        assert_eq!(Sample::json_in(line), Some(r#"{"bench":"hmm"}"#));
        assert_eq!(Sample::json_in("test result: ok"), None);
    }

    #[test]
    fn sizes_have_short_names() {
        assert_eq!(size_name(512 << 10), "512K");
        assert_eq!(size_name(256 << 20), "256M");
    }
}
