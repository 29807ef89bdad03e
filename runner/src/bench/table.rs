// SPDX-License-Identifier: GPL-2.0-only
//! Measurements as a Markdown table, which is also readable as it is.

use std::fmt::Write as _;

use super::{Sample, find, size_name, sizes};

/// Median throughput of huge and small pages with the extremes, and their ratio.
pub fn write(samples: &[Sample]) -> String {
    let mut text = String::from(
        "| size | direction | THP MiB/s (min..max) | 4K MiB/s (min..max) | THP/4K | huge on device |\n\
         |---|---|---|---|---|---|\n",
    );
    for bytes in sizes(samples) {
        for direction in ["to_dev", "to_sys"] {
            let huge = find(samples, bytes, "THP", direction);
            let small = find(samples, bytes, "4K", direction);
            let (Some(huge), Some(small)) = (huge, small) else {
                continue;
            };
            let cell = |sample: &Sample| {
                let spread = sample.mib_per_s();
                format!(
                    "{:.0} ({:.0}..{:.0})",
                    spread.median, spread.low, spread.high
                )
            };
            let ratio = huge.mib_per_s().median / small.mib_per_s().median;
            let held = if huge.huge_on_device { "yes" } else { "no" };
            // A String takes whatever is written.
            let _ = writeln!(
                text,
                "| {} | {direction} | {} | {} | {ratio:.2} | {held} |",
                size_name(bytes),
                cell(huge),
                cell(small),
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn a_row_compares_both() {
        let samples = [
            sample("THP", "to_dev", &[1_000_000]),
            sample("4K", "to_dev", &[2_000_000]),
            sample("THP", "to_sys", &[1_000_000]),
        ];
        let table = write(&samples);
        assert!(
            table.ends_with(
                "| 2M | to_dev | 2000 (2000..2000) | 1000 (1000..1000) | 2.00 | yes |\n"
            ),
            "{table}"
        );
    }
}
