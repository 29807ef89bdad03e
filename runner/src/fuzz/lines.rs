// SPDX-License-Identifier: GPL-2.0-only
//! What the fuzzers in the guest say on standard output. Pure.

use serde::{Deserialize, Serialize};

/// Totals of one process of a fuzzer since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Programs run.
    pub programs: u64,
    /// System calls made.
    pub calls: u64,
    /// Those that succeeded.
    pub succeeded: u64,
    /// Page faults that were answered with a THP.
    pub thp_faults: u64,
    /// Different kernel call sites seen by KCOV; 0 without KCOV.
    pub pcs: u64,
    /// Times that a KCOV area was full.
    pub overflows: u64,
}

/// A broken promise of the kernel, as the guest reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Violation {
    /// Which oracle, for instance `O1 content`.
    pub oracle: String,
    /// The step after which it was seen; `None` at the end of the program.
    pub step: Option<u64>,
    /// One line, the same for the same bug.
    pub title: String,
    /// What was expected and what was found.
    pub detail: String,
    /// The program, in text form.
    pub program: String,
}

/// A program that `hugeprobe-exec` has run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ran {
    /// The file it came from.
    pub file: String,
    /// Whether one of its runs violated a promise.
    pub violated: bool,
    /// What it reached that none before it did: call sites, or without KCOV
    /// pairs of operations and their results.
    pub new: u64,
}

/// One line of a guest program.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// `HP stats`.
    Stats(Counts),
    /// `HP violation`.
    Violation(Violation),
    /// `HP known`: a violation with this title was seen again.
    Known(String),
    /// `HP ran`.
    Ran(Ran),
    /// Anything else: libFuzzer's own output.
    Log,
}

#[derive(Deserialize)]
struct Known {
    title: String,
}

/// Reads a line. One that begins like ours and is damaged is taken for log.
pub fn parse(line: &str) -> Line {
    let Some((kind, json)) = line
        .strip_prefix("HP ")
        .and_then(|rest| rest.split_once(' '))
    else {
        return Line::Log;
    };
    let parsed = match kind {
        "stats" => serde_json::from_str(json).map(Line::Stats),
        "violation" => serde_json::from_str(json).map(Line::Violation),
        "known" => serde_json::from_str(json).map(|known: Known| Line::Known(known.title)),
        "ran" => serde_json::from_str(json).map(Line::Ran),
        _ => Ok(Line::Log),
    };
    parsed.unwrap_or(Line::Log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_kinds_are_told_apart() {
        let stats = parse(r#"HP stats {"programs":7,"calls":40,"pcs":123}"#);
        let Line::Stats(counts) = stats else {
            panic!("{stats:?}");
        };
        assert_eq!((counts.programs, counts.calls, counts.pcs), (7, 40, 123));
        assert_eq!(
            parse(r#"HP known {"title":"wrong content after fork"}"#),
            Line::Known("wrong content after fork".into())
        );
        let violation = parse(r#"HP violation {"oracle":"O1 content","step":3,"title":"t"}"#);
        assert!(matches!(violation, Line::Violation(v) if v.step == Some(3)));
        let ran = parse(r#"HP ran {"file":"/x","violated":true}"#);
        assert!(matches!(ran, Line::Ran(ran) if ran.violated));
    }

    #[test]
    fn other_and_damaged_lines_are_log() {
        assert_eq!(parse("#1024 pulse cov: 812 ft: 900"), Line::Log);
        assert_eq!(parse("HP stats {\"programs\":"), Line::Log);
        assert_eq!(parse("HP unknown {}"), Line::Log);
    }
}
