// SPDX-License-Identifier: GPL-2.0-only
//! A program as one C file that needs nothing but a C compiler and libc. It
//! does the same system calls in the same processes and checks after each what
//! the model expects: contents, permissions, soft-dirty and uffd-wp bits, huge
//! pages that must survive, and the counters of each process at its end; and
//! what shows the finding beside that.

use super::c_statement::statements;
use super::call::Call;
use super::listing::{Entry, Listing, Stored};
use super::prune;
use super::shows::Shows;
use super::source::{Language, source};
use crate::model::page::WORDS;
use crate::program::{ARENA, Program};

/// Functions that only some operations need, each block behind its name.
const SUPPORT: &str = include_str!("support.c.in");
/// Functions that only some findings need.
const WATCH: &str = include_str!("watch.c.in");

/// Said of a program whose steps race.
const RACES: &str = "\n * Steps that race (those with a lane) are done one after another here: what\n * \
    only a race shows, this does not show.";

/// What a page must contain depends on what a device has done.
const SETTLE: &str = "\tstamp = settled(stamp);\n";

/// The C source of a program.
pub fn c_source(program: &Program, shows: &Shows) -> String {
    let listing = Listing::of(program, shows);
    let words = WORDS.iter().map(usize::to_string);
    let settle = if listing.stored.is_empty() {
        ""
    } else {
        SETTLE
    };
    let source = source::<C>(program, &listing)
        .replace("@ARENA@", &format!("{ARENA:#x}UL"))
        .replace("@COUNT@", &program.steps.len().to_string())
        .replace("@RACES@", if program.races() { RACES } else { "" })
        .replace("@WORDS@", &words.collect::<Vec<_>>().join(", "))
        .replace("@SETTLE@", settle)
        .replace("@WATCH@", WATCH)
        .replace("@RUN@", &run(shows));
    let steps = source.split("static void step(void)").nth(1);
    let support = support(steps.unwrap_or_default());
    prune::needed(&source.replace("@SUPPORT@", &support))
}

/// How `main` runs the program, and what it looks at before and after that.
fn run(shows: &Shows) -> String {
    let marks = if shows.marks_memory() {
        "\tmark_memory();\n"
    } else {
        ""
    };
    let (before, run, after) = match shows {
        Shows::Log => (
            "\topen_log();\n",
            "program()".to_owned(),
            "\tif (complaint())\n\t\tresult = 1;\n",
        ),
        Shows::Baseline => (
            "\tbaseline();\n",
            "program()".to_owned(),
            "\tif (!result)\n\t\tresult = unlike();\n",
        ),
        Shows::Leak(which) => ("", format!("leaks({which})"), ""),
        Shows::Nothing | Shows::Content | Shows::Splits(_) | Shows::Moved => {
            ("", "program()".to_owned(), "")
        }
    };
    format!("{before}{marks}\tresult = {run};\n{after}")
}

/// C.
struct C;

impl Language for C {
    const FRAME: &'static str = include_str!("frame.c.in");

    fn statements(entry: &Entry) -> Vec<String> {
        statements(entry)
    }

    fn call(call: &Call) -> String {
        call.c()
    }

    fn noted(name: &str, call: &str) -> String {
        format!("{name} = {call}();")
    }

    fn armed(nth: u8, mut statements: Vec<String>) -> Vec<String> {
        statements.insert(0, format!("arm({nth});"));
        statements.push("disarm();".to_owned());
        statements
    }

    fn step(number: usize, name: &str, body: Result<&[String], &str>) -> String {
        match body {
            Ok(body) => format!(
                "\tcase {number}: /* {name} */\n{}\t\tbreak;\n",
                indented(body)
            ),
            Err(why) => format!("\tcase {number}: break; /* {name}: {why} */\n"),
        }
    }

    fn last(process: usize, body: &[String]) -> String {
        format!("\tcase {process}:\n{}\t\tbreak;\n", indented(body))
    }

    fn row(stored: &Stored) -> String {
        let Stored {
            by,
            count,
            new,
            old,
        } = stored;
        format!(
            "\t{{ {by}, {count}, {:#x}UL, {:#x}UL, {:#x}UL, {:#x}UL }},\n",
            new.0, new.1, old.0, old.1
        )
    }
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\t\t{line}\n")).collect()
}

/// The blocks of support that the steps call.
fn support(steps: &str) -> String {
    let mut out = String::new();
    for block in SUPPORT.split("/*** ").skip(1) {
        let (name, code) = block.split_once(" */\n").unwrap_or((block, ""));
        let called = match name {
            "scan" => "scan_protect(",
            "pfn" => "pfn_",
            "splice" => "splice_pages(",
            "outside" => "read_all(",
            "scanned" => "scan_all(",
            "idle" => "mark_idle(",
            "split" => "split_arena(",
            "khugepaged" => "khugepaged_pass(",
            "swap" => "swap_off_and_on(",
            "break" => "move_break(",
            "execute" => "execute()",
            "another" => "start_another(",
            "stamped" => "stamped()",
            "uffd" => "uffd_",
            "fill" => "uffd_fill(",
            "settle" => "settle",
            "device" => "device",
            name => &format!("{name}("),
        };
        // a buffer is given up as any pin is
        if steps.contains(called) || name == "pin" && steps.contains("buffer(") {
            out.push_str(code);
        }
    }
    out
}
