// SPDX-License-Identifier: GPL-2.0-only
//! A program as a selftest: one test of the library `selftests::replay`.

use std::fmt::Write as _;

use super::call::Call;
use super::listing::{Entry, Listing, Stored};
use super::rust_statement::statements;
use super::shows::Shows;
use super::source::{Language, source};
use crate::program::Program;
use crate::text;

/// Said of a program whose steps race.
const RACES: &str = " Steps that race (those with a lane)\n\
    //! are done one after another here: what only a race shows, this does not show.";
/// What a test may have to import beside the frame's own.
const MAPPING: [&str; 1] = ["Prot"];
const REPLAY: [&str; 7] = [
    "Backing", "Fill", "Move", "Pfn", "Process", "Program", "Stored",
];

/// The source of a test of that name.
pub fn rust_source(program: &Program, name: &str, shows: &Shows) -> String {
    let listing = Listing::of(program, shows, false);
    let comment = |line: &str| format!("//! {line}\n");
    let text: String = text::print(program).lines().map(comment).collect();
    let source = source::<Rust>(program, &listing)
        .replace("@PROGRAM@\n", &text)
        .replace("@RACES@", if program.races() { RACES } else { "" })
        .replace("@NAME@", name)
        .replace("@INJECTS@", &listing.injects.to_string())
        .replace("@BASELINE@", &(*shows == Shows::Baseline).to_string());
    let used = |names: &[&str]| -> Vec<String> {
        let body = source.split("@USE@").nth(1).unwrap_or_default();
        let occurs = |name: &&&str| {
            [":", " {", ","]
                .iter()
                .any(|behind| body.contains(&format!("{name}{behind}")))
        };
        names
            .iter()
            .filter(occurs)
            .map(|name| (*name).to_owned())
            .collect()
    };
    let mut imports = String::new();
    for name in used(&MAPPING) {
        let _ = writeln!(imports, "use selftests::mapping::{name};");
    }
    let _ = write!(
        imports,
        "use selftests::replay::{{self, {}}};",
        used(&REPLAY).join(", ")
    );
    source.replace("@USE@", &imports)
}

/// Rust.
struct Rust;

impl Language for Rust {
    const FRAME: &'static str = include_str!("test.rs.in");

    fn statements(entry: &Entry) -> Vec<String> {
        statements(entry)
    }

    fn call(call: &Call) -> String {
        call.rust()
    }

    fn noted(name: &str, call: &str) -> String {
        format!("let {name} = p.{call}();")
    }

    fn armed(nth: u8, mut statements: Vec<String>) -> Vec<String> {
        statements.insert(0, format!("p.fail_nth({nth});"));
        statements
    }

    fn step(number: usize, name: &str, body: Result<&[String], &str>) -> String {
        match body {
            Ok(body) => format!(
                "        // {name}\n        {number} => {{\n{}        }}\n",
                indented(body)
            ),
            Err(why) => format!("        // {name}: {why}\n        {number} => {{}}\n"),
        }
    }

    fn last(process: usize, body: &[String]) -> String {
        format!("        {process} => {{\n{}        }}\n", indented(body))
    }

    fn row(stored: &Stored) -> String {
        let Stored {
            by,
            count,
            new,
            old,
        } = stored;
        format!(
            "\n            Stored {{\n                by: {by},\n                count: {count},\n                \
             new: ({:#x}, {:#x}),\n                old: ({:#x}, {:#x}),\n            }},",
            new.0, new.1, old.0, old.1
        )
    }
}

fn indented(lines: &[String]) -> String {
    let indent = |line: &String| format!("            {line}\n");
    lines.iter().map(indent).collect()
}
