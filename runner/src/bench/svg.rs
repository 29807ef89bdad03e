// SPDX-License-Identifier: GPL-2.0-only
//! Measurements as a picture: for each direction bars of median throughput by
//! size, huge pages beside small ones, with the extremes as whiskers.

use std::fmt::Write as _;

use super::{Sample, Shape, find, size_name, sizes};

const WIDTH: f64 = 760.0;
const PANEL: f64 = 240.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 40.0;
const COLOURS: [&str; 3] = ["#2b6cb0", "#c05621", "#2f855a"];

/// The whole picture.
pub fn write(samples: &[Sample]) -> String {
    let shape = Shape::of(samples);
    let height = 2.0 * (PANEL + TOP) + 40.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, (direction, title)) in shape.panels.iter().enumerate() {
        let top = TOP + number as f64 * (PANEL + TOP + 10.0);
        panel(&mut svg, samples, shape.kinds, (direction, title), top);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(
    svg: &mut String,
    samples: &[Sample],
    kinds: &[&str],
    (direction, title): (&str, &str),
    top: f64,
) {
    let shown: Vec<Sample> = samples
        .iter()
        .filter(|sample| sample.direction == direction)
        .cloned()
        .collect();
    let sizes = sizes(&shown);
    let highest = shown
        .iter()
        .map(|sample| sample.value().high)
        .fold(1.0, f64::max);
    let step = round_step(highest);
    let ticks = (highest / step).ceil();
    let decimals = usize::from(step < 1.0);
    let y = |value: f64| top + PANEL - value / (ticks * step) * (PANEL - 30.0);
    text(svg, LEFT, top - 8.0, "start", title);
    for tick in 0..=ticks as u32 {
        let value = step * f64::from(tick);
        let at = y(value);
        line(svg, (LEFT, at), (WIDTH - 20.0, at), "#ddd");
        text(
            svg,
            LEFT - 6.0,
            at + 4.0,
            "end",
            &format!("{value:.*}", decimals),
        );
    }
    let group = (WIDTH - 20.0 - LEFT) / sizes.len().max(1) as f64;
    let bar = group / (kinds.len() as f64 + 1.5);
    for (at, bytes) in sizes.iter().enumerate() {
        let middle = LEFT + group * (at as f64 + 0.5);
        text(
            svg,
            middle,
            top + PANEL + 16.0,
            "middle",
            &size_name(*bytes),
        );
        for (number, (pages, colour)) in kinds.iter().zip(COLOURS).enumerate() {
            let Some(sample) = find(&shown, *bytes, pages, direction) else {
                continue;
            };
            let spread = sample.value();
            let left = middle + (number as f64 - kinds.len() as f64 / 2.0) * bar;
            let (high, base) = (y(spread.median), y(0.0));
            // A String takes whatever is written.
            let _ = writeln!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{high:.1}\" width=\"{:.1}\" height=\"{:.1}\" \
                 fill=\"{colour}\"><title>{pages} {}: {:.0} {}</title></rect>",
                bar * 0.9,
                base - high,
                size_name(*bytes),
                spread.median,
                sample.unit()
            );
            let centre = left + bar * 0.45;
            line(
                svg,
                (centre, y(spread.low)),
                (centre, y(spread.high)),
                "#222",
            );
        }
    }
    for (number, (pages, colour)) in kinds.iter().zip(COLOURS).enumerate() {
        let x = WIDTH - 20.0 - 60.0 * kinds.len() as f64 + 60.0 * number as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
            top - 17.0
        );
        text(svg, x + 14.0, top - 8.0, "start", pages);
    }
}

/// A step of 1, 2 or 5 times a power of ten, of which three to six reach `highest`.
fn round_step(highest: f64) -> f64 {
    let power = 10_f64.powf((highest / 3.0).log10().floor());
    [5.0, 2.0, 1.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| highest / step >= 3.0)
        .unwrap_or(power)
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1
    );
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn ticks_are_round_numbers() {
        let of = [641.0, 1920.0, 31.0, 1000.0, 7.0].map(round_step);
        assert_eq!(of, [200.0, 500.0, 10.0, 200.0, 2.0]);
    }

    #[test]
    fn every_sample_is_a_bar_with_its_value() {
        let samples = [
            sample("THP", "to_dev", &[1_000_000]),
            sample("4K", "to_dev", &[2_000_000]),
            sample("THP", "to_sys", &[4_000_000]),
        ];
        let svg = write(&samples);
        assert_eq!(svg.matches("<title>").count(), 3);
        assert!(svg.contains("<title>THP 2M: 2000 MiB/s</title>"), "{svg}");
        assert!(svg.contains("<title>THP 2M: 500 MiB/s</title>"), "{svg}");
        assert!(svg.ends_with("</svg>\n"));
    }
}
