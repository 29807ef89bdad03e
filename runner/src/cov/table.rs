// SPDX-License-Identifier: GPL-2.0-only
//! Coverage as a table for a terminal.

use std::fmt::Write;

use super::coverage::{Coverage, Share, is_core};

/// The files that the project is about, then the others that were reached.
pub fn write(coverage: &Coverage) -> String {
    let mut text = format!(
        "{:<26} {:>7} {:>7} {:>6}   {:>6} {:>6} {:>6}\n",
        "file", "sites", "of", "%", "lines", "of", "%"
    );
    let files = || coverage.files.iter().filter(|file| file.sites.all > 0);
    for file in files().filter(|file| is_core(&file.name)) {
        row(&mut text, &file.name, file.sites, Some(file.line_share()));
    }
    row(&mut text, "these together", coverage.huge_core(), None);
    text.push('\n');
    let others = || files().filter(|file| !is_core(&file.name));
    for file in others().filter(|file| file.sites.hit > 0) {
        row(&mut text, &file.name, file.sites, Some(file.line_share()));
    }
    let untouched: Vec<Share> = others()
        .filter(|file| file.sites.hit == 0)
        .map(|file| file.sites)
        .collect();
    let sum = untouched.iter().fold(Share::default(), |a, b| a.and(*b));
    if sum.all > 0 {
        row(&mut text, &format!("{} others", untouched.len()), sum, None);
    }
    row(&mut text, "all", coverage.sites, None);
    if coverage.unknown > 0 {
        let _ = writeln!(
            text,
            "{} addresses are no call sites: those of callers, where a function ends with a jump to the tracer",
            coverage.unknown
        );
    }
    text
}

fn row(text: &mut String, name: &str, sites: Share, lines: Option<Share>) {
    let _ = write!(
        text,
        "{name:<26} {:>7} {:>7} {:>6.1}",
        sites.hit,
        sites.all,
        sites.percent()
    );
    if let Some(lines) = lines {
        let _ = write!(
            text,
            "   {:>6} {:>6} {:>6.1}",
            lines.hit,
            lines.all,
            lines.percent()
        );
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cov::coverage::File;

    #[test]
    fn huge_page_files_come_first_and_nothing_is_left_out_of_the_sum() {
        let file = |name: &str, hit, all| File {
            name: name.into(),
            sites: Share { hit, all },
            ..File::default()
        };
        let coverage = Coverage {
            sites: Share { hit: 15, all: 160 },
            unknown: 2,
            files: vec![
                file("mm/huge_memory.c", 10, 40),
                file("mm/filemap.c", 5, 50),
                file("mm/ksm.c", 0, 60),
                file("mm/cma.c", 0, 10),
            ],
        };
        insta::assert_snapshot!(write(&coverage), @r"
        file                         sites      of      %    lines     of      %
        mm/huge_memory.c                10      40   25.0        0      0    0.0
        these together                  10      40   25.0

        mm/filemap.c                     5      50   10.0        0      0    0.0
        2 others                         0      70    0.0
        all                             15     160    9.4
        2 addresses are no call sites: those of callers, where a function ends with a jump to the tracer
        ");
    }
}
