// SPDX-License-Identifier: GPL-2.0-only
//! A picture of coverage over time. Pure.

use std::fmt::Write;

use super::stats::Sample;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 56.0;

/// Kernel call sites covered against seconds, as an SVG document.
pub fn coverage(samples: &[Sample]) -> String {
    let last = samples.last().map_or(1, |s| s.seconds).max(1);
    let most = samples
        .iter()
        .map(|s| s.counts.pcs)
        .max()
        .unwrap_or(1)
        .max(1);
    let x = |seconds: u64| MARGIN + seconds as f64 / last as f64 * (WIDTH - 2.0 * MARGIN);
    let y = |pcs: u64| HEIGHT - MARGIN - pcs as f64 / most as f64 * (HEIGHT - 2.0 * MARGIN);
    let mut points = String::new();
    for sample in samples {
        let _ = write!(
            points,
            "{:.1},{:.1} ",
            x(sample.seconds),
            y(sample.counts.pcs)
        );
    }
    let (left, right, top, bottom) = (MARGIN, WIDTH - MARGIN, MARGIN, HEIGHT - MARGIN);
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">
<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>
<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#444"/>
<polyline points="{}" fill="none" stroke="#06c" stroke-width="2"/>
<text x="{left}" y="{:.0}" fill="#222">Kernel call sites covered: {most} after {last} s</text>
<text x="{:.0}" y="{:.0}" text-anchor="end" fill="#222">{most}</text>
<text x="{:.0}" y="{bottom}" text-anchor="end" fill="#222">0</text>
<text x="{right}" y="{:.0}" text-anchor="end" fill="#222">{last} s</text>
</svg>
"##,
        points.trim_end(),
        top - 20.0,
        left - 6.0,
        top + 5.0,
        left - 6.0,
        bottom + 20.0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::lines::Counts;

    #[test]
    fn curve_stays_inside_the_axes() {
        let sample = |seconds, pcs| Sample {
            seconds,
            counts: Counts {
                pcs,
                ..Counts::default()
            },
            ..Sample::default()
        };
        let svg = coverage(&[sample(0, 0), sample(60, 4000), sample(120, 8000)]);
        assert!(
            svg.contains(r#"points="56.0,264.0 360.0,160.0 664.0,56.0""#),
            "{svg}"
        );
        assert!(svg.contains("8000 after 120 s"));
        assert!(coverage(&[]).contains("</svg>"));
    }
}
