// SPDX-License-Identifier: GPL-2.0-only
//! A program as one C file that needs nothing but a C compiler and libc. It
//! does the same system calls in the same processes and checks after each what
//! the model expects: contents, permissions, soft-dirty and uffd-wp bits, huge
//! pages that must survive, and the counters of each process at its end.

use std::fmt::Write as _;

use super::call::Call;
use super::listing::{Entry, Listing, Stored};
use super::prune;
use super::statement::statement;
use crate::model::page::WORDS;
use crate::program::{ARENA, Program};

const FRAME: &str = include_str!("frame.c.in");
/// Functions that only some operations need, each block behind its name.
const SUPPORT: &str = include_str!("support.c.in");

/// Said of a program whose steps race.
const RACES: &str = "\n * Steps that race (those with a lane) are done one after another here: what\n * \
    only a race shows, this does not show.";

/// What a page must contain depends on what a device has done.
const SETTLE: &str = "\tstamp = settled(stamp);\n";

/// The C source of a program.
pub fn c_source(program: &Program) -> String {
    let listing = Listing::of(program);
    let mut steps = String::new();
    for (index, entry) in listing.entries.iter().enumerate() {
        steps.push_str(&case(index, entry));
    }
    let mut last = String::new();
    for (process, calls) in &listing.last {
        let _ = write!(last, "\tcase {process}:\n{}\t\tbreak;\n", lines(calls));
    }
    let owners = program.steps.iter().map(|step| step.process.0.to_string());
    let words = WORDS.iter().map(usize::to_string);
    let stored: String = listing.stored.iter().map(row).collect();
    let source = FRAME
        .replace("@ARENA@", &format!("{ARENA:#x}UL"))
        .replace("@OWNERS@", &owners.collect::<Vec<_>>().join(", "))
        .replace("@COUNT@", &program.steps.len().to_string())
        .replace("@RACES@", if program.races() { RACES } else { "" })
        .replace("@WORDS@", &words.collect::<Vec<_>>().join(", "))
        .replace("@STORED@", &stored)
        .replace("@SETTLE@", if stored.is_empty() { "" } else { SETTLE })
        .replace("@SUPPORT@", &support(&steps))
        .replace("@STEPS@", &steps)
        .replace("@LAST@", &last);
    prune::needed(&source)
}

fn case(index: usize, entry: &Entry) -> String {
    let name = &entry.name;
    if let Some(why) = entry.left_out {
        return format!("\tcase {index}: break; /* {name}: {why} */\n");
    }
    let mut code = String::new();
    if !entry.kept.is_empty() {
        code.push_str("\t\tbefore = huge();\n");
    }
    let statement = statement(entry);
    match entry.nth {
        0 => {
            let _ = writeln!(code, "\t\t{statement}");
        }
        nth => {
            let _ = writeln!(code, "\t\tarm({nth});\n\t\t{statement}\n\t\tdisarm();");
        }
    }
    for (slot, place) in &entry.kept {
        let _ = writeln!(code, "\t\tkept(before, {slot}, {place});");
    }
    code.push_str(&lines(&entry.checks));
    format!("\tcase {index}: /* {name} */\n{code}\t\tbreak;\n")
}

fn lines(calls: &[Call]) -> String {
    let lines = calls.iter().map(|call| format!("\t\t{}\n", call.c()));
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
        "\t{{ {by}, {count}, {:#x}UL, {:#x}UL, {:#x}UL, {:#x}UL }},\n",
        new.0, new.1, old.0, old.1
    )
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
        if steps.contains(called) {
            out.push_str(code);
        }
    }
    out
}
