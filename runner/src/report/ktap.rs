// SPDX-License-Identifier: GPL-2.0-only
//! KTAP, in the two forms that its consumers read: nested by two spaces with
//! the plan first, as `tools/testing/kunit/kunit.py` wants it
//! (Documentation/dev-tools/ktap.rst), and nested by `# ` as
//! `tools/testing/selftests/kselftest/runner.sh` prints it, which LKFT and
//! KernelCI read.
//!
//! Tests are written in the order of the plan, as soon as all before them are
//! there, so that one writer serves the terminal and the files.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};

use hugeprobe_vm::event::TestId;

use super::model::{Outcome, Report, TestReport};
use super::{meaning, quote};

/// Which of the two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `kunit.py`'s.
    Ktap,
    /// `runner.sh`'s.
    Kselftest,
    /// One target alone, as a test program under `runner.sh` prints it.
    Flat,
}

/// How much of a test's output is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Of tests that passed only what was not applicable.
    Brief,
    /// Everything.
    Full,
}

/// Writes KTAP as tests end.
pub struct KtapWriter<W> {
    out: W,
    form: Form,
    detail: Detail,
    groups: VecDeque<Group>,
    early: HashMap<TestId, TestReport>,
    number: usize,
}

/// The tests of one target.
struct Group {
    target: String,
    left: VecDeque<TestId>,
    planned: usize,
    written: Vec<Outcome>,
}

/// Writes the whole of `report`.
pub fn write(report: &Report, form: Form, out: impl Write) -> io::Result<()> {
    let plan: Vec<TestId> = report.tests.iter().map(|test| test.id.clone()).collect();
    let mut writer = KtapWriter::begin(out, form, Detail::Full, &plan)?;
    for test in &report.tests {
        writer.test(test.clone())?;
    }
    writer.end(report)
}

impl<W: Write> KtapWriter<W> {
    /// Writes the header and the plan of `plan`.
    pub fn begin(mut out: W, form: Form, detail: Detail, plan: &[TestId]) -> io::Result<Self> {
        let mut groups: VecDeque<Group> = VecDeque::new();
        for id in plan {
            let group = match groups.iter().position(|group| group.target == id.target) {
                Some(index) => &mut groups[index],
                None => {
                    groups.push_back(Group {
                        target: id.target.clone(),
                        left: VecDeque::new(),
                        planned: 0,
                        written: Vec::new(),
                    });
                    groups.back_mut().expect("just pushed")
                }
            };
            group.left.push_back(id.clone());
            group.planned += 1;
        }
        let planned = match form {
            Form::Ktap | Form::Kselftest => groups.len(),
            Form::Flat => plan.len(),
        };
        writeln!(out, "{}\n1..{planned}", form.version())?;
        out.flush()?;
        Ok(Self {
            out,
            form,
            detail,
            groups,
            early: HashMap::new(),
            number: 1,
        })
    }

    /// Takes a test that ended; writes it and those that waited for it.
    pub fn test(&mut self, test: TestReport) -> io::Result<()> {
        self.early.insert(test.id.clone(), test);
        while let Some(group) = self.groups.front_mut() {
            if let Some(id) = group.left.front() {
                let Some(test) = self.early.remove(id) else {
                    break;
                };
                group.left.pop_front();
                if group.written.is_empty() {
                    self.form
                        .begin_group(&mut self.out, &group.target, group.planned)?;
                }
                group.written.push(test.outcome);
                self.form
                    .test(&mut self.out, self.detail, group.written.len(), &test)?;
            }
            if group.left.is_empty() {
                self.form.end_group(&mut self.out, self.number, group)?;
                self.number += 1;
                self.groups.pop_front();
            }
        }
        self.out.flush()
    }

    /// Writes what never came, and the closing lines.
    pub fn end(mut self, report: &Report) -> io::Result<()> {
        let missing: Vec<TestId> = self
            .groups
            .iter()
            .flat_map(|group| group.left.iter().cloned())
            .collect();
        for id in missing {
            if !self.early.contains_key(&id) {
                let known = report.tests.iter().find(|test| test.id == id).cloned();
                self.test(known.unwrap_or_else(|| TestReport::not_run(id)))?;
            }
        }
        for splat in &report.stray {
            writeln!(
                self.out,
                "# outside any test: {}",
                quote::inline(&splat.title)
            )?;
            for line in &splat.lines {
                writeln!(self.out, "# {}", quote::line(line))?;
            }
        }
        writeln!(self.out, "# Totals: {}", report.tally())?;
        self.out.flush()
    }
}

impl Form {
    fn version(self) -> &'static str {
        match self {
            Self::Ktap => "KTAP version 1",
            Self::Kselftest | Self::Flat => "TAP version 13",
        }
    }

    /// What each line of a nested test begins with.
    fn indent(self) -> &'static str {
        match self {
            Self::Ktap => "  ",
            Self::Kselftest => "# ",
            Self::Flat => "",
        }
    }

    fn group_name(self, target: &str) -> String {
        match self {
            Self::Ktap | Self::Flat => target.into(),
            Self::Kselftest => format!("selftests: hugeprobe: {target}"),
        }
    }

    fn begin_group(self, out: &mut impl Write, target: &str, planned: usize) -> io::Result<()> {
        let (indent, name) = (self.indent(), self.group_name(target));
        match self {
            Self::Ktap => writeln!(out, "{indent}{}\n{indent}# Subtest: {name}", self.version())?,
            Self::Kselftest => writeln!(out, "# {name}\n{indent}{}", self.version())?,
            Self::Flat => return Ok(()),
        }
        writeln!(out, "{indent}1..{planned}")
    }

    fn test(
        self,
        out: &mut impl Write,
        detail: Detail,
        number: usize,
        test: &TestReport,
    ) -> io::Result<()> {
        let indent = self.indent();
        let full = detail == Detail::Full || test.outcome.is_failure();
        for line in &test.output {
            if full || line.line.starts_with("NOT APPLICABLE: ") {
                writeln!(out, "{indent}# {}", quote::line(&line.line))?;
            }
        }
        for line in test.splats.iter().flat_map(|splat| &splat.lines) {
            writeln!(out, "{indent}# {}", quote::line(line))?;
        }
        if let Some(meaning) = meaning::of(&test.id).filter(|_| test.outcome.is_failure()) {
            writeln!(
                out,
                "{indent}# {}",
                quote::line(&format!("checks: {meaning}"))
            )?;
        }
        let name = quote::inline(&test.id.name);
        writeln!(
            out,
            "{indent}{}",
            result(test.outcome, number, &name, &test.reason)
        )
    }

    fn end_group(self, out: &mut impl Write, number: usize, group: &Group) -> io::Result<()> {
        if self == Self::Flat {
            return Ok(());
        }
        let count = |wanted: fn(Outcome) -> bool| {
            group
                .written
                .iter()
                .filter(|&&outcome| wanted(outcome))
                .count()
        };
        let bad = count(|outcome| outcome.is_failure() || outcome == Outcome::NotRun);
        let skipped = count(|outcome| outcome == Outcome::Skip);
        let name = self.group_name(&group.target);
        let (outcome, reason) = if bad > 0 {
            (Outcome::Fail, format!("{bad} of {} tests", group.planned))
        } else if skipped == group.planned {
            (Outcome::Skip, "every test".to_owned())
        } else {
            (Outcome::Pass, String::new())
        };
        writeln!(out, "{}", result(outcome, number, &name, &reason))
    }
}

/// A result line. What is not a plain pass carries its kind and reason as the
/// directive.
fn result(outcome: Outcome, number: usize, name: &str, reason: &str) -> String {
    let reason = quote::inline(reason);
    match outcome {
        Outcome::Pass => format!("ok {number} {name}"),
        Outcome::Skip => format!("ok {number} {name} # SKIP {reason}"),
        Outcome::Xfail => format!("ok {number} {name} # XFAIL {reason}"),
        Outcome::Fail => format!("not ok {number} {name} # FAIL {reason}"),
        Outcome::Timeout => format!("not ok {number} {name} # TIMEOUT {reason}"),
        Outcome::Crashed => format!("not ok {number} {name} # ERROR crashed the kernel: {reason}"),
        Outcome::NotRun => format!("not ok {number} {name} # ERROR not run: {reason}"),
    }
}
