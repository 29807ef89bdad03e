// SPDX-License-Identifier: GPL-2.0-only
//! Lines on standard output that are for the host; see docs/fuzzing.md.

use std::time::Duration;

use serde_json::json;

use crate::exec::{Stats, Violation};
use crate::program::Program;
use crate::text;

/// `HP stats`: totals of this process.
pub fn stats(programs: u64, stats: &Stats, pcs: usize) -> String {
    let thp_faults = thp_faults().unwrap_or(0);
    let json = json!({"programs": programs, "calls": stats.calls, "succeeded": stats.succeeded,
                      "thp_faults": thp_faults, "pcs": pcs, "overflows": stats.overflows});
    format!("HP stats {json}")
}

/// `HP violation`.
pub fn violation(violation: &Violation, program: &Program) -> String {
    let json = json!({"oracle": violation.oracle.to_string(), "step": violation.step, "title": violation.title,
                      "detail": violation.detail, "program": text::print(program)});
    format!("HP violation {json}")
}

/// `HP known`: a violation that the host knows already.
pub fn known(title: &str) -> String {
    format!("HP known {}", json!({ "title": title }))
}

/// `HP ran`: a replayed program, what each step returned, and how much it reached
/// that none before it did.
pub fn ran(file: &str, violated: bool, results: &[i32], pcs: usize, new: usize) -> String {
    let json = json!({"file": file, "violated": violated, "calls": results.len(), "results": results,
                      "pcs": pcs, "new": new});
    format!("HP ran {json}")
}

/// `HP compared`: how long the same programs took checked and bare.
pub fn compared(runs: u64, calls: u64, checked: Duration, bare: Duration) -> String {
    let share = bare.as_secs_f64() / checked.as_secs_f64().max(1e-9);
    let json = json!({"programs": runs, "calls": calls, "checked_ms": checked.as_millis() as u64,
                      "bare_ms": bare.as_millis() as u64, "share": (share * 100.0).round() / 100.0});
    format!("HP compared {json}")
}

/// `HP phases`: where the time of the programs went, in milliseconds.
pub fn phases(stats: &Stats) -> String {
    let spent = stats.phases.iter();
    let json: serde_json::Map<_, _> = spent
        .map(|(phase, micros)| (phase.name().to_owned(), json!(micros / 1000)))
        .collect();
    format!("HP phases {}", serde_json::Value::Object(json))
}

/// Faults of the whole system that got a huge page.
fn thp_faults() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/vmstat").ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("thp_fault_alloc "))?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Oracle;

    #[test]
    fn a_line_is_one_line_and_carries_the_program() {
        let found = Violation {
            oracle: Oracle::Content,
            step: Some(1),
            title: "wrong content after fork".into(),
            detail: "expected\nfound".into(),
        };
        let line = violation(&found, &text::parse("p0 verify\n").unwrap());
        assert!(!line.contains('\n') && line.starts_with("HP violation {"));
        assert!(line.contains(r#""program":"p0 verify\n""#) && line.contains(r#""step":1"#));
        assert_eq!(known("t"), r#"HP known {"title":"t"}"#);
    }
}
