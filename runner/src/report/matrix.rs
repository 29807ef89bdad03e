// SPDX-License-Identifier: GPL-2.0-only
//! Several runs side by side: kernel x target x test.

use std::collections::BTreeMap;
use std::fmt::Write;

use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;

use super::model::{Outcome, Report};

const TEMPLATE: &str = include_str!("matrix.html");

/// All columns of the matrix.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Matrix {
    /// One for each kernel, in the order they ran.
    pub columns: Vec<Column>,
}

/// What one kernel did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Column {
    /// What the user calls the kernel.
    pub label: String,
    /// What the kernel calls itself; empty if it did not boot.
    pub release: String,
    /// Why there are no results, if there are none.
    pub error: Option<String>,
    /// Outcomes by target, then test.
    pub targets: BTreeMap<String, BTreeMap<String, Cell>>,
}

/// One test on one kernel.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// How it ended.
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
}

impl Column {
    /// The column of a run.
    pub fn ran(label: &str, report: &Report) -> Self {
        let mut column = Self {
            label: label.into(),
            release: report.release.clone(),
            ..Self::default()
        };
        column.add(report);
        column
    }

    /// The column of a kernel that could not be run.
    pub fn failed(label: &str, error: &str) -> Self {
        Self {
            label: label.into(),
            error: Some(error.into()),
            ..Self::default()
        }
    }

    /// Adds the tests of another run on the same kernel.
    pub fn add(&mut self, report: &Report) {
        for test in &report.tests {
            let cell = Cell {
                outcome: test.outcome,
                reason: test.reason.clone(),
            };
            let target = self.targets.entry(test.id.target.clone()).or_default();
            target.insert(test.id.name.clone(), cell);
        }
    }

    /// `40 passed, 2 skipped` for one target.
    fn tally(&self, target: &str) -> String {
        if self.error.is_some() {
            return "no results".into();
        }
        let Some(tests) = self.targets.get(target) else {
            return "not run".into();
        };
        let counts = Outcome::ALL.iter().filter_map(|&outcome| {
            let count = tests
                .values()
                .filter(|cell| cell.outcome == outcome)
                .count();
            (count > 0).then(|| format!("{count} {}", outcome.words()))
        });
        counts.collect::<Vec<_>>().join(", ")
    }
}

impl Matrix {
    /// The targets that ran on any kernel.
    fn targets(&self) -> Vec<&str> {
        let all = self.columns.iter().flat_map(|column| column.targets.keys());
        let mut names: Vec<&str> = all.map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The tests of a target that ran on any kernel.
    fn tests(&self, target: &str) -> Vec<&str> {
        let all = self
            .columns
            .iter()
            .filter_map(|column| column.targets.get(target));
        let mut names: Vec<&str> = all.flat_map(BTreeMap::keys).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// One row for each target, as a Markdown table.
    pub fn markdown_summary(&self) -> String {
        let rows = self.targets().into_iter().map(|target| {
            let cells = self.columns.iter().map(|column| column.tally(target));
            (target.to_owned(), cells.collect())
        });
        self.table("target", rows)
    }

    /// The summary, and one row for each test that did not pass everywhere.
    pub fn markdown(&self) -> String {
        let mut text = self.markdown_summary();
        for column in &self.columns {
            if let Some(error) = &column.error {
                // Writing to a String does not fail.
                let _ = writeln!(
                    text,
                    "\n{}: {}",
                    column.label,
                    error.lines().next().unwrap_or("")
                );
            }
        }
        for target in self.targets() {
            let rows: Vec<_> = self
                .tests(target)
                .into_iter()
                .filter(|test| self.cells(target, test).any(|cell| cell != "passed"))
                .map(|test| {
                    (
                        test.to_owned(),
                        self.cells(target, test).map(str::to_owned).collect(),
                    )
                })
                .collect();
            if !rows.is_empty() {
                let _ = write!(
                    text,
                    "\n## {target}\n\n{}",
                    self.table("test", rows.into_iter())
                );
            }
        }
        text
    }

    /// What one test did on each kernel, in words.
    fn cells(&self, target: &str, test: &str) -> impl Iterator<Item = &'static str> {
        self.columns.iter().map(move |column| {
            let cell = column.targets.get(target).and_then(|tests| tests.get(test));
            cell.map_or("not run", |cell| cell.outcome.words())
        })
    }

    fn table(&self, head: &str, rows: impl Iterator<Item = (String, Vec<String>)>) -> String {
        let labels: Vec<&str> = self
            .columns
            .iter()
            .map(|column| column.label.as_str())
            .collect();
        let mut text = format!("| {head} | {} |\n|---|", labels.join(" | "));
        text.push_str(&"---|".repeat(labels.len()));
        text.push('\n');
        for (name, cells) in rows {
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
        text
    }

    /// The whole matrix as a page.
    pub fn html(&self) -> Result<String, minijinja::Error> {
        #[derive(Serialize)]
        struct Row<'a> {
            test: &'a str,
            cells: Vec<Option<&'a Cell>>,
        }
        #[derive(Serialize)]
        struct Target<'a> {
            name: &'a str,
            tallies: Vec<String>,
            rows: Vec<Row<'a>>,
        }
        #[derive(Serialize)]
        struct Page<'a> {
            columns: &'a [Column],
            targets: Vec<Target<'a>>,
        }
        fn cell<'a>(column: &'a Column, target: &str, test: &str) -> Option<&'a Cell> {
            column.targets.get(target).and_then(|tests| tests.get(test))
        }
        let targets = self.targets().into_iter().map(|name| Target {
            name,
            tallies: self
                .columns
                .iter()
                .map(|column| column.tally(name))
                .collect(),
            rows: self
                .tests(name)
                .into_iter()
                .map(|test| Row {
                    test,
                    cells: self
                        .columns
                        .iter()
                        .map(|column| cell(column, name, test))
                        .collect(),
                })
                .collect(),
        });
        let page = Page {
            columns: &self.columns,
            targets: targets.collect(),
        };
        let mut environment = Environment::new();
        environment.add_template("matrix.html", TEMPLATE)?;
        environment
            .get_template("matrix.html")?
            .render(Serde(&page))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    fn matrix() -> Matrix {
        let report = |verdict| Report::from_events(&sample::all(verdict));
        let mut passing = Column::ran("7.3", &report("pass"));
        passing.add(&Report::from_events(&sample::everything()));
        Matrix {
            columns: vec![
                Column::ran("6.12", &report("skip")),
                passing,
                Column::failed("7.4", "the kernel did not build:\nmm/rmap.c:1: error"),
            ],
        }
    }

    #[test]
    fn markdown() {
        insta::assert_snapshot!(matrix().markdown());
    }

    #[test]
    fn html_has_a_cell_for_each_kernel_and_test() {
        let page = matrix().html().unwrap();
        let tests = 2 + 9;
        assert_eq!(page.matches("<td class=").count(), tests * 3);
        assert!(page.contains("<td class=\"crashed\""));
    }
}
