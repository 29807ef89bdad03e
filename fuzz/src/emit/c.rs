// SPDX-License-Identifier: GPL-2.0-only
//! A program as one C file that needs nothing but a C compiler and libc. It
//! does the same system calls in the same processes and checks after each what
//! the model expects: contents, permissions, soft-dirty and uffd-wp bits, huge
//! pages that must survive, and the counters of each process at its end; and
//! what shows the finding beside that.

use super::c_race::with_races;
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

/// What a page must contain depends on what a device has done.
const SETTLE: &str = "\tstamp = settled(stamp);\n";

/// The C source of a program.
pub fn c_source(program: &Program, shows: &Shows) -> String {
    let listing = Listing::of(program, shows, true);
    let words = WORDS.iter().map(usize::to_string);
    let settle = if listing.stored.is_empty() {
        ""
    } else {
        SETTLE
    };
    let source = source::<C>(program, &listing)
        .replace("@ARENA@", &format!("{ARENA:#x}UL"))
        .replace("@COUNT@", &program.steps.len().to_string())
        .replace("@WORDS@", &words.collect::<Vec<_>>().join(", "))
        .replace("@SETTLE@", settle)
        .replace("@WATCH@", WATCH)
        .replace("@RUN@", &run(shows, !listing.blocks.is_empty()));
    // what stands between the functions of the frame and those that run the program
    let steps = with_races(
        source.split("@SUPPORT@").nth(1).unwrap_or_default(),
        program,
        &listing,
    );
    let source = source.replace("@SUPPORT@", &support(&steps));
    prune::needed(&with_races(&source, program, &listing))
}

/// How `main` runs the program, and what it looks at before and after that.
fn run(shows: &Shows, races: bool) -> String {
    let (mut before, mut after) = (String::new(), String::new());
    // a race that goes wrong mostly tells the kernel first
    if *shows == Shows::Log || races {
        before.push_str("\topen_log();\n");
        after.push_str("\tif (complaint())\n\t\tresult = 1;\n");
    }
    if *shows == Shows::Baseline {
        before.push_str("\tbaseline();\n");
        after.push_str("\tif (!result)\n\t\tresult = unlike();\n");
    }
    if shows.marks_memory() {
        before.push_str("\tmark_memory();\n");
    }
    let mut run = match shows {
        Shows::Leak(which) => format!("\tresult = leaks({which});\n"),
        _ => "\tresult = program();\n".to_owned(),
    };
    if races {
        run.push_str("\tfor (int n = 1; n < 20 && !result; n++)\n\t\tresult = program();\n");
    }
    format!("{before}{run}{after}")
}

/// C.
struct C;

impl Language for C {
    const FRAME: &'static str = concat!(include_str!("frame.c.in"), include_str!("main.c.in"));

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
