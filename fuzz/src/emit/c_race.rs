// SPDX-License-Identifier: GPL-2.0-only
//! Racing blocks in C: threads that do their steps in rounds, and tables of what
//! any order of these may leave.

use std::fmt::Write as _;

use super::c_statement::{mirror_file, statements};
use super::call::known;
use super::cut;
use super::listing::{Entry, Listing};
use super::race::Rest;
use crate::program::{Access, Op, Program};

/// What threads do and check while they run; then how they run, and what is left.
const RACE: &str = concat!(include_str!("race.c.in"), include_str!("race_threads.c.in"));

/// Said in the first comment.
const NOTE: &str = "\n * Steps that race (those with a lane) are done by threads, in rounds; what is\n * \
    checked then is what any order of them may leave. Up to 20 runs, as races are lost.";

/// What processes share for a race.
const SHARED: &str =
    "\t/* of a race: threads ready and at work, who looks, what accesses come to */
\tint ready, set_up, working, looking, looked, finished[4], generation[4], unmoved[4];
\tshort rest[4][2048];
\tunsigned char can[4][2048];
\t/* one clock for all stores; the last ones of each thread to each page */
\tunsigned int clock, begin, forked[4];
\tstruct { unsigned int full, full_end, part, part_end, words; } stores[16][4][2048];
";

/// A process comes to a race.
const TAKE_PART: &str = "\t\tif (now < STEPS && races[now].end) {
\t\t\ttake_part();
\t\t\tcontinue;
\t\t}
";

/// One that ends in a race does not end it.
const KEEP_TURN: &str = "\t\tif (turn < STEPS && races[turn].end)\n\t\t\tcontinue;\n";

/// Fills in what a program with races needs, or nothing.
pub fn with_races(source: &str, program: &Program, listing: &Listing) -> String {
    let races = !listing.blocks.is_empty();
    let only = |text: &'static str| if races { text } else { "" };
    let race = if races {
        race(program, listing)
    } else {
        String::new()
    };
    source
        .replace("@RACE@", &race)
        .replace("@NOTE@", only(NOTE))
        .replace("@SHARED@", only(SHARED))
        .replace("@TAKE_PART@", only(TAKE_PART))
        .replace("@KEEP_TURN@", only(KEEP_TURN))
        .replace(
            "@BEGIN@",
            only("\tshared->clock = shared->begin = 1 << 20;\n"),
        )
        .replace("@THREAD@", only("__thread "))
        .replace(
            "@CPU@",
            if races {
                "sysconf(_SC_NPROCESSORS_ONLN) - 1"
            } else {
                "0"
            },
        )
}

fn race(program: &Program, listing: &Listing) -> String {
    let (mut rows, mut ready, mut steps, mut rests) = Default::default();
    for block in &listing.blocks {
        for index in block.first..block.end {
            let entry = &listing.entries[index];
            let end = if index == block.first { block.end } else { 0 };
            row(&mut rows, index, end, entry);
            step(&mut steps, index, entry);
        }
        opened(&mut ready, program, listing, block.first..block.end);
        for rest in &block.rests {
            rest_row(&mut rests, block.first, rest);
        }
    }
    let pins = steps.contains("pin(");
    RACE.replace("@RACING@", &rows)
        .replace("@RESTS@", &rests)
        .replace("@READY@", &ready)
        .replace("@STEPS_THAT_RACE@", &steps)
        .replace("@UNPIN@", if pins { "\tunpin();\n" } else { "" })
}

/// A row of the table of schedules.
fn row(out: &mut String, index: usize, end: usize, entry: &Entry) {
    let race = entry.step.race.filter(|_| entry.racing.is_some());
    let (lane, times, wait) = race.map_or((0, 0, 0), |race| (race.lane, race.times, race.wait));
    let plain = matches!(entry.step.op, Op::Read { .. } | Op::Write { .. });
    let plain = u8::from(plain);
    let _ = writeln!(
        out,
        "\t[{index}] = {{ {end}, {lane}, {times}, {wait}, {plain} }},"
    );
}

fn rest_row(out: &mut String, block: usize, rest: &Rest) {
    let run = &rest.run;
    let _ = writeln!(
        out,
        "\t{{ {block}, {}, {}, {}, {:#x}UL, {:#x}UL, {}, {:#x}, {:#x}, {} }},",
        rest.process,
        run.page,
        run.count,
        run.stamp,
        run.step,
        known(run.flags),
        rest.can,
        rest.may,
        rest.other
    );
}

/// A step as its thread does it.
fn step(out: &mut String, index: usize, entry: &Entry) {
    let Some(racing) = &entry.racing else { return };
    let mut body = match entry.step.op {
        Op::Write { at, len } => vec![format!("race_store({}, {});", at.0, cut(at, len))],
        Op::Read { at, len } => vec![format!("race_load({}, {});", at.0, cut(at, len))],
        Op::Remote {
            peer,
            at,
            len,
            access,
        } => {
            let store = u8::from(access == Access::Store);
            let (page, count) = (at.0, cut(at, len));
            vec![format!(
                "race_remote({}, {page}, {count}, {store});",
                peer.0
            )]
        }
        Op::Fork { child } => vec![format!("race_fork({}, last);", child.0)],
        Op::Exit {} => vec!["leave();".to_owned()],
        _ => statements(entry)
            .iter()
            .map(|line| line.replace("say(", "did("))
            .collect(),
    };
    if racing.controls {
        body.insert(0, "change();".to_owned());
        body.extend(racing.knows.iter().map(super::call::Call::c));
        body.push("changed();".to_owned());
    }
    let body: String = body.iter().map(|line| format!("\t\t{line}\n")).collect();
    let name = &entry.name;
    let _ = write!(out, "\tcase {index}: /* {name} */\n{body}\t\tbreak;\n");
}

/// Devices of each process, which threads must not open at once.
fn opened(out: &mut String, program: &Program, listing: &Listing, block: std::ops::Range<usize>) {
    let mut lines: Vec<String> = Vec::new();
    for index in block.clone() {
        let step = &program.steps[index];
        if let Op::Device { mirror, .. } = step.op
            && listing.entries[index].racing.is_some()
        {
            let (who, file) = (step.process.0, mirror_file(mirror));
            lines.push(format!("\t\tif (me == {who})\n\t\t\tmirror({file});\n"));
        }
    }
    lines.sort();
    lines.dedup();
    if !lines.is_empty() {
        let _ = write!(
            out,
            "\tcase {}:\n{}\t\tbreak;\n",
            block.start,
            lines.concat()
        );
    }
}
