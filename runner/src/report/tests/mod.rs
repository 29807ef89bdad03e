// SPDX-License-Identifier: GPL-2.0-only
//! Snapshots of every reporter on one run in which everything happens, and
//! what must hold of them whatever they look like.

pub mod sample;

use insta::assert_snapshot;

use super::html::Decoded;
use super::ktap::{Form, KtapWriter};
use super::model::Outcome;
use super::*;
use crate::exit::Exit;

fn text(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn everything() -> Report {
    Report {
        run: Some(sample::run_info()),
        ..Report::from_events(&sample::everything())
    }
}

#[test]
fn ktap() {
    assert_snapshot!(text(|out| ktap::write(&everything(), Form::Ktap, out)));
}

#[test]
fn tap_as_kselftest_prints_it() {
    assert_snapshot!(text(|out| ktap::write(&everything(), Form::Kselftest, out)));
}

#[test]
fn junit() {
    assert_snapshot!(text(|out| junit::write(&everything(), out)));
}

#[test]
fn json() {
    assert_snapshot!(text(|out| json::write(&everything(), out)));
}

#[test]
fn html() {
    assert_snapshot!(text(|out| html::write(&everything(), &Decoded::new(), out)));
}

#[test]
fn closing_words() {
    assert_snapshot!(summary(&everything(), std::path::Path::new("results/x")));
}

/// Every consumer that strips indentation, `# ` nesting or both must find each
/// result once, and nothing that a test only printed.
#[test]
fn quoted_output_is_no_result() {
    let report = everything();
    for form in [Form::Ktap, Form::Kselftest] {
        let text = text(|out| ktap::write(&report, form, out));
        let stripped: Vec<&str> = text
            .lines()
            .map(|line| line.trim_start_matches(['#', ' ']))
            .collect();
        let results = stripped
            .iter()
            .filter(|line| line.starts_with("ok ") || line.starts_with("not ok "))
            .count();
        assert_eq!(results, report.tests.len() + report.targets().len());
        let plans = stripped
            .iter()
            .filter(|line| line.starts_with("1.."))
            .count();
        assert_eq!(plans, 1 + report.targets().len());
        let headers = stripped
            .iter()
            .filter(|line| line.contains("AP version"))
            .count();
        let quoted = stripped
            .iter()
            .filter(|line| line.starts_with("| KTAP version"))
            .count();
        assert_eq!(headers - quoted, 1 + report.targets().len());
    }
}

#[test]
fn live_order_does_not_matter() {
    let report = everything();
    let plan: Vec<_> = report.tests.iter().map(|test| test.id.clone()).collect();
    let in_order = text(|out| ktap::write(&report, Form::Ktap, out));
    let backwards = text(|out| {
        let mut writer = KtapWriter::begin(out, Form::Ktap, super::ktap::Detail::Full, &plan)?;
        for test in report.tests.iter().rev() {
            writer.test(test.clone())?;
        }
        writer.end(&report)
    });
    assert_eq!(in_order, backwards);
}

#[test]
fn a_cut_off_stream_still_has_one_verdict_for_each_test() {
    let events = sample::everything();
    for end in 1..events.len() {
        let report = Report::from_events(&events[..end]);
        assert_eq!(report.tests.len(), 9, "after {end} events");
        let unfinished = report.count(Outcome::NotRun) > 0;
        assert!(
            !unfinished || report.exit() != Exit::Passed,
            "after {end} events"
        );
    }
}

#[test]
fn exit_codes() {
    assert_eq!(everything().exit(), Exit::Failed);
    assert_eq!(
        Report::from_events(&sample::all("pass")).exit(),
        Exit::Passed
    );
    assert_eq!(
        Report::from_events(&sample::all("xfail")).exit(),
        Exit::Passed
    );
    assert_eq!(
        Report::from_events(&sample::all("skip")).exit(),
        Exit::NothingRan
    );
    assert_eq!(
        Report::from_events(&sample::all("timeout")).exit(),
        Exit::Failed
    );
    assert_eq!(Report::from_events(&sample::stray()).exit(), Exit::Failed);
    assert_eq!(
        Report::from_events(&sample::no_boot()).exit(),
        Exit::Infrastructure
    );
    assert_eq!(
        Report::from_events(&sample::interrupted()).exit(),
        Exit::Interrupted
    );
}
