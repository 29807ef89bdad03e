// SPDX-License-Identifier: GPL-2.0-only
//! JUnit XML, one suite for each target.

use std::io::{self, Write};
use std::time::Duration;

use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};

use super::model::{Outcome, Report, TestReport};

/// Writes `report` as JUnit XML.
pub fn write(report: &Report, out: impl Write) -> io::Result<()> {
    let mut junit = quick_junit::Report::new("hugeprobe");
    junit.set_time(Duration::from_millis(report.duration_ms));
    for (target, tests) in report.targets() {
        let mut suite = TestSuite::new(target);
        suite.set_time(Duration::from_millis(
            tests.iter().map(|test| test.duration_ms).sum(),
        ));
        suite.add_test_cases(tests.into_iter().map(case));
        junit.add_test_suite(suite);
    }
    junit.serialize(out).map_err(io::Error::other)
}

fn case(test: &TestReport) -> TestCase {
    let failure = |kind: NonSuccessKind, name: &str| {
        let mut status = TestCaseStatus::non_success(kind);
        status.set_type(name);
        status.set_message(test.reason.as_str());
        let splats = test.splats.iter().flat_map(|splat| &splat.lines);
        status.set_description(splats.fold(test.reason.clone(), |text, line| text + "\n" + line));
        status
    };
    let skipped = |name: &str| {
        let mut status = TestCaseStatus::skipped();
        status.set_type(name);
        status.set_message(test.reason.as_str());
        status
    };
    let status = match test.outcome {
        Outcome::Pass => TestCaseStatus::success(),
        Outcome::Skip => skipped("skip"),
        Outcome::Xfail => skipped("xfail"),
        Outcome::Fail => failure(NonSuccessKind::Failure, "fail"),
        Outcome::Timeout => failure(NonSuccessKind::Failure, "timeout"),
        Outcome::Crashed => failure(NonSuccessKind::Failure, "crashed"),
        Outcome::NotRun => failure(NonSuccessKind::Error, "not-run"),
    };
    let mut case = TestCase::new(test.id.name.as_str(), status);
    case.set_classname(format!("hugeprobe.{}", test.id.target));
    case.set_time(Duration::from_millis(test.duration_ms));
    let output: Vec<&str> = test.output.iter().map(|line| line.line.as_str()).collect();
    if !output.is_empty() {
        case.set_system_out(output.join("\n"));
    }
    if !test.kernel.is_empty() {
        case.set_system_err(test.kernel.join("\n"));
    }
    case
}
