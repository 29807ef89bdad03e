// SPDX-License-Identifier: GPL-2.0-only
//! Coverage as one page: files, and the functions of each. No script, nothing
//! loaded from elsewhere. Lines are for `genhtml`, which reads the tracefile.

use anyhow::Context;
use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;

use super::coverage::{Coverage, File, Function, Share, is_core};

/// The name ends in `.html`, which makes minijinja escape what is put in.
const NAME: &str = "page.html";
const TEMPLATE: &str = include_str!("page.html");

#[derive(Serialize)]
struct Page<'a> {
    kernel: &'a str,
    facts: &'a [(String, String)],
    all: Cell,
    core: Vec<Row<'a>>,
    core_sum: Cell,
    others: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    sites: Cell,
    lines: Cell,
    reached: Cell,
    functions: Vec<FunctionRow<'a>>,
}

#[derive(Serialize)]
struct FunctionRow<'a> {
    name: &'a str,
    line: u32,
    sites: Cell,
}

#[derive(Serialize)]
struct Cell {
    hit: u32,
    all: u32,
    percent: String,
}

impl From<Share> for Cell {
    fn from(share: Share) -> Self {
        Self {
            hit: share.hit,
            all: share.all,
            percent: format!("{:.1}", share.percent()),
        }
    }
}

/// The page; `facts` say what was run.
///
/// # Errors
/// Never on data; the template is part of the program.
pub fn write(
    coverage: &Coverage,
    kernel: &str,
    facts: &[(String, String)],
) -> anyhow::Result<String> {
    let rows = |core: bool| {
        let files = coverage.files.iter().filter(|file| file.sites.all > 0);
        files
            .filter(|file| is_core(&file.name) == core)
            .map(row)
            .collect()
    };
    let page = Page {
        kernel,
        facts,
        all: coverage.sites.into(),
        core: rows(true),
        core_sum: coverage.huge_core().into(),
        others: rows(false),
    };
    let mut environment = Environment::new();
    environment.add_template(NAME, TEMPLATE)?;
    let template = environment.get_template(NAME)?;
    template.render(Serde(&page)).context("render the page")
}

fn row(file: &File) -> Row<'_> {
    let mut functions: Vec<&Function> = file.functions.iter().collect();
    functions.sort_by_key(|f| std::cmp::Reverse(f.sites.all - f.sites.hit));
    let reached = functions.iter().fold(Share::default(), |sum, f| {
        sum.and(Share {
            hit: u32::from(f.sites.hit > 0),
            all: 1,
        })
    });
    Row {
        name: &file.name,
        sites: file.sites.into(),
        lines: file.line_share().into(),
        reached: reached.into(),
        functions: functions
            .into_iter()
            .map(|f| FunctionRow {
                name: &f.name,
                line: f.line,
                sites: f.sites.into(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_most_comes_first() {
        let function = |name: &str, hit, all| Function {
            name: name.into(),
            line: 7,
            sites: Share { hit, all },
        };
        let coverage = Coverage {
            sites: Share { hit: 5, all: 20 },
            files: vec![File {
                name: "mm/huge_memory.c".into(),
                sites: Share { hit: 5, all: 20 },
                functions: vec![function("done", 5, 5), function("left<b>", 0, 15)],
                ..File::default()
            }],
            ..Coverage::default()
        };
        let page = write(&coverage, "7.3", &[("tests".into(), "hmm".into())]).unwrap();
        let (left, done) = (page.find("left&lt;b&gt;"), page.find(">done<"));
        assert!(left.is_some() && left < done, "{page}");
        assert!(page.contains("5 of 20 call sites, 25.0 %"));
    }
}
