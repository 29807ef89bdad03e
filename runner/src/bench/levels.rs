// SPDX-License-Identifier: GPL-2.0-only
//! The table of `hugeprobe bench pfnmap`: one memory, mapped by entries of each
//! level. What the PMD-level PFNMAP series reports is the column "2M saves".

use std::fmt::Write as _;

use super::{Sample, find, size_name, sizes};

/// Sizes of the entries, as the guest names them.
pub const KINDS: [&str; 3] = ["4K", "2M", "1G"];

/// Whether these are samples of this measurement.
pub fn are(samples: &[Sample]) -> bool {
    samples.iter().any(|sample| sample.bench == "pfnmap")
}

/// Medians and extremes by level, and what huge entries save of the time.
pub fn write(samples: &[Sample]) -> String {
    let mut text = String::from(
        "| size | what | 4K (min..max) | 2M (min..max) | 1G (min..max) | 2M saves | 1G saves |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for (direction, what) in [("chase", "ns per load"), ("copy", "copy, MiB/s")] {
        for bytes in sizes(samples) {
            let found = KINDS.map(|kind| find(samples, bytes, kind, direction));
            if found.iter().all(Option::is_none) {
                continue;
            }
            let [small, huge, larger] = found;
            // A String takes whatever is written.
            let _ = writeln!(
                text,
                "| {} | {what} | {} | {} | {} | {} | {} |",
                size_name(bytes),
                cell(small),
                cell(huge),
                cell(larger),
                saved(small, huge),
                saved(small, larger),
            );
        }
    }
    text
}

fn cell(sample: Option<&Sample>) -> String {
    sample.map_or_else(
        || "-".to_owned(),
        |sample| {
            let spread = sample.value();
            format!(
                "{:.0} ({:.0}..{:.0})",
                spread.median, spread.low, spread.high
            )
        },
    )
}

/// Share of the median time that the second sample does without.
fn saved(slow: Option<&Sample>, fast: Option<&Sample>) -> String {
    let time = |sample: &Sample| {
        let mut ns = sample.ns.clone();
        ns.sort_unstable();
        ns.get(ns.len() / 2).copied().filter(|ns| *ns > 0)
    };
    match (slow.and_then(time), fast.and_then(time)) {
        (Some(slow), Some(fast)) => {
            format!("{:.1} %", (1.0 - fast as f64 / slow as f64) * 100.0)
        }
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pages: &str, direction: &str, ns: &[u64]) -> Sample {
        Sample {
            bench: "pfnmap".into(),
            bytes: 64 << 20,
            pages: pages.into(),
            huge_on_device: true,
            direction: direction.into(),
            ns: ns.to_vec(),
        }
    }

    #[test]
    fn row_shows_each_level_and_what_it_saves() {
        let samples = [
            sample("4K", "chase", &[150, 149, 151]),
            sample("2M", "chase", &[100, 105, 99]),
            sample("4K", "copy", &[64_000_000]),
        ];
        assert!(are(&samples));
        let table = write(&samples);
        assert!(
            table.contains(
                "| 64M | ns per load | 150 (149..151) | 100 (99..105) | - | 33.3 % | - |"
            ),
            "{table}"
        );
        assert!(
            table.contains("| 64M | copy, MiB/s | 1000 (1000..1000) | - |"),
            "{table}"
        );
    }
}
