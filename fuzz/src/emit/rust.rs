// SPDX-License-Identifier: GPL-2.0-only
//! A program as a selftest: one test of the library `selftests::replay`.

use std::fmt::Write as _;

use super::call::Call;
use super::listing::{Entry, Listing, Stored};
use super::rust_statement::statement;
use crate::program::Program;
use crate::text;

const FRAME: &str = include_str!("test.rs.in");
/// Said of a program whose steps race.
const RACES: &str = " Steps that race (those with a lane)\n\
    //! are done one after another here: what only a race shows, this does not show.";
/// What a test may have to import beside the frame's own.
const MAPPING: [&str; 1] = ["Prot"];
const REPLAY: [&str; 7] = [
    "Backing", "Fill", "Move", "Pfn", "Process", "Program", "Stored",
];

/// The source of a test of that name.
pub fn rust_source(program: &Program, name: &str) -> String {
    let listing = Listing::of(program);
    let mut steps = String::new();
    for (index, entry) in listing.entries.iter().enumerate() {
        steps.push_str(&arm(index, entry));
    }
    let mut last = String::new();
    for (process, calls) in &listing.last {
        let _ = write!(
            last,
            "        {process} => {{\n{}        }}\n",
            lines(calls)
        );
    }
    let owners = program.steps.iter().map(|step| step.process.0.to_string());
    let stored: String = listing.stored.iter().map(row).collect();
    let comment = |line: &str| format!("//! {line}\n");
    let source = FRAME
        .replace(
            "@PROGRAM@\n",
            &text::print(program)
                .lines()
                .map(comment)
                .collect::<String>(),
        )
        .replace("@RACES@", if program.races() { RACES } else { "" })
        .replace("@NAME@", name)
        .replace("@OWNERS@", &owners.collect::<Vec<_>>().join(", "))
        .replace("@STORED@", &stored)
        .replace("@INJECTS@", if listing.injects { "true" } else { "false" })
        .replace("@STEPS@", &steps)
        .replace("@LAST@", &last);
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

fn arm(index: usize, entry: &Entry) -> String {
    let name = &entry.name;
    if let Some(why) = entry.left_out {
        return format!("        // {name}: {why}\n        {index} => {{}}\n");
    }
    let mut body = String::new();
    if !entry.kept.is_empty() {
        body.push_str("            let before = p.huge();\n");
    }
    if entry.nth > 0 {
        let _ = writeln!(body, "            p.fail_nth({});", entry.nth);
    }
    for line in statement(entry) {
        let _ = writeln!(body, "            {line}");
    }
    for (slot, place) in &entry.kept {
        let _ = writeln!(body, "            p.kept(before, {slot}, {place});");
    }
    body.push_str(&lines(&entry.checks));
    format!("        // {name}\n        {index} => {{\n{body}        }}\n")
}

fn lines(calls: &[Call]) -> String {
    let lines = calls
        .iter()
        .map(|call| format!("            {}\n", call.rust()));
    lines.collect()
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
