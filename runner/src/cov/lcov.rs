// SPDX-License-Identifier: GPL-2.0-only
//! Coverage as a tracefile of lcov, which `genhtml` and many services read.

use std::fmt::Write;
use std::path::Path;

use lcov::Record;

use super::coverage::{Coverage, File};

/// The tracefile. Paths are those of the kernel's tree at `source`; KCOV keeps
/// no counts, so what was reached counts once.
pub fn write(coverage: &Coverage, source: &Path) -> String {
    let mut text = String::new();
    for file in coverage.files.iter().filter(|file| !file.lines.is_empty()) {
        for record in records(file, source) {
            let _ = writeln!(text, "{record}");
        }
    }
    text
}

fn records(file: &File, source: &Path) -> Vec<Record> {
    let mut records = vec![
        Record::TestName {
            name: String::new(),
        },
        Record::SourceFile {
            path: source.join(&file.name),
        },
    ];
    for function in &file.functions {
        records.push(Record::FunctionName {
            name: function.name.clone(),
            start_line: function.line,
        });
    }
    for function in &file.functions {
        records.push(Record::FunctionData {
            name: function.name.clone(),
            count: u64::from(function.sites.hit > 0),
        });
    }
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let reached = file.functions.iter().filter(|f| f.sites.hit > 0).count();
    records.push(Record::FunctionsFound {
        found: number(file.functions.len()),
    });
    records.push(Record::FunctionsHit {
        hit: number(reached),
    });
    for (line, hit) in &file.lines {
        records.push(Record::LineData {
            line: *line,
            count: u64::from(*hit),
            checksum: None,
        });
    }
    let lines = file.line_share();
    records.push(Record::LinesFound { found: lines.all });
    records.push(Record::LinesHit { hit: lines.hit });
    records.push(Record::EndOfRecord);
    records
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cov::coverage::{Function, Share};

    #[test]
    fn tracefile_is_one_that_lcov_reads() {
        let function = |name: &str, line, hit| Function {
            name: name.into(),
            line,
            sites: Share { hit, all: 3 },
        };
        let coverage = Coverage {
            files: vec![File {
                name: "mm/memory.c".into(),
                functions: vec![function("zap", 10, 2), function("wp", 40, 0)],
                lines: BTreeMap::from([(10, true), (12, true), (40, false)]),
                ..File::default()
            }],
            ..Coverage::default()
        };
        let text = write(&coverage, Path::new("/linux"));
        insta::assert_snapshot!(text, @r"
        TN:
        SF:/linux/mm/memory.c
        FN:10,zap
        FN:40,wp
        FNDA:1,zap
        FNDA:0,wp
        FNF:2
        FNH:1
        DA:10,1
        DA:12,1
        DA:40,0
        LF:3
        LH:2
        end_of_record
        ");
        let read: Result<Vec<Record>, _> = lcov::Reader::new(text.as_bytes()).collect();
        assert_eq!(read.unwrap().len(), text.lines().count());
    }
}
