// SPDX-License-Identifier: GPL-2.0-only
//! A program as one C file that needs nothing but a C compiler and libc. It
//! does the same system calls in the same processes and checks after each what
//! the model expects: contents, permissions, soft-dirty and uffd-wp bits, huge
//! pages that must survive, and the counters of each process at its end.

mod statement;

use std::fmt::Write as _;

use crate::model::huge::Fate;
use crate::model::page::{Flags, WORDS};
use crate::model::{Effect, MAX_DIRECT, MAX_FILLED, MAX_POKED, Model};
use crate::program::{
    ARENA, Access, Addr, Len, Op, PAGES, PROCESSES, Program, SLOT_PAGES, SLOTS, Step, Via,
};
use crate::text;
use statement::statement;

const FRAME: &str = include_str!("frame.c.in");
/// Functions that only some operations need, each block behind its name.
const SUPPORT: &str = include_str!("support.c.in");

const LAZY: u32 = 1;
const DIRTY: u32 = 2;
const WP: u32 = 4;
const WP_ANY: u32 = 8;
const READABLE: u32 = 16;

/// An operation without a C form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("operation `{0}` has no form in C")]
pub struct NoForm(pub &'static str);

/// The C source of a program.
///
/// # Errors
/// When what an operation does depends on more than the program tells.
pub fn c_source(program: &Program) -> Result<String, NoForm> {
    let mut model = Model::boxed();
    model.start();
    let mut steps = String::new();
    for (index, step) in program.steps.iter().enumerate() {
        let name = text::step(step);
        if model.skips(step) {
            let _ = writeln!(steps, "\tcase {index}: break; /* {name} */");
            continue;
        }
        let code = code(&mut model, step)?;
        let _ = writeln!(steps, "\tcase {index}: /* {name} */\n\t\t{code}\t\tbreak;");
    }
    let mut last = String::new();
    for process in (0..PROCESSES).filter(|p| model.alive(*p)) {
        let checks = last_checks(&model, process);
        let _ = writeln!(last, "\tcase {process}:\n{checks}\t\tbreak;");
    }
    let owners = program.steps.iter().map(|step| step.process.0.to_string());
    let words = WORDS.iter().map(usize::to_string);
    Ok(FRAME
        .replace("@ARENA@", &format!("{ARENA:#x}UL"))
        .replace("@OWNERS@", &owners.collect::<Vec<_>>().join(", "))
        .replace("@COUNT@", &program.steps.len().to_string())
        .replace("@WORDS@", &words.collect::<Vec<_>>().join(", "))
        .replace("@SUPPORT@", &support(&steps))
        .replace("@STEPS@", &steps)
        .replace("@LAST@", &last))
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
            "execute" => "execute()",
            "another" => "start_another(",
            "stamped" => "stamped()",
            "uffd" => "uffd_",
            "fill" => "uffd_fill(",
            name => &format!("{name}("),
        };
        if steps.contains(called) {
            out.push_str(code);
        }
    }
    out
}

/// What a step does and checks; the model is brought past it.
fn code(model: &mut Model, step: &Step) -> Result<String, NoForm> {
    let who = step.process.index();
    let mut kept = String::new();
    for slot in (0..SLOTS).filter(|slot| model.slot_in_use(who, *slot)) {
        let place = match model.fate(step, slot) {
            Fate::Kept => slot,
            Fate::MovedTo(place) => place,
            _ => continue,
        };
        let _ = writeln!(kept, "\t\tkept(before, {slot}, {place});");
    }
    let refused = refusals(model, step);
    let runs = accessed(model, step);
    let statement = statement(step, &runs)?;
    let looks = if matches!(step.op, Op::Exit {} | Op::Exec {}) {
        String::new()
    } else {
        looks(model, who)
    };
    let (open, close) = if kept.is_empty() {
        ("", "")
    } else {
        ("{ int before = huge();\n\t\t", "\t\t}\n")
    };
    Ok(format!("{open}{statement}\n{kept}{refused}{looks}{close}"))
}

/// Pages in a row of which the same is known, with stamps that follow one another.
struct Run {
    page: usize,
    count: usize,
    stamp: u64,
    step: u64,
    flags: u32,
}

impl Run {
    fn check(&self) -> String {
        let Self {
            page,
            count,
            stamp,
            step,
            flags,
        } = self;
        format!("check({page}, {count}, {stamp:#x}UL, {step:#x}UL, {flags});")
    }
}

/// Differences of stamps in a row: zeros, pages of the file, stores.
const STEPS: [u64; 3] = [0, 1, (1 << 20) + 1];

fn runs(pages: impl Iterator<Item = (usize, u64, u32)>) -> Vec<Run> {
    let mut found: Vec<Run> = Vec::new();
    for (page, stamp, flags) in pages {
        let run = found
            .last_mut()
            .filter(|run| run.page + run.count == page && run.flags == flags);
        if let Some(run) = run {
            let distance = stamp.wrapping_sub(run.stamp);
            if run.count == 1 && STEPS.contains(&distance) {
                run.step = distance;
            }
            if (run.count == 1 && STEPS.contains(&distance))
                || distance == run.step.wrapping_mul(run.count as u64)
            {
                run.count += 1;
                continue;
            }
        }
        found.push(Run {
            page,
            count: 1,
            stamp,
            step: 0,
            flags,
        });
    }
    found
}

/// The pages that a step loads from or stores to itself; the model is brought
/// past the step.
fn accessed(model: &mut Model, step: &Step) -> Vec<Run> {
    let who = step.process.index();
    let (owner, store, pages) = match step.op {
        Op::Write { at, len } => (who, true, range(at, len)),
        Op::Read { at, len } => (who, false, range(at, len)),
        Op::Verify {} => (who, false, 0..PAGES),
        Op::Remote {
            peer,
            at,
            len,
            access,
        } => (peer.index(), access == Access::Store, range(at, len)),
        Op::Direct { at, len, access } => {
            let pages = range(at, Len(len.0.min(MAX_DIRECT as u16)));
            return transferred(model, step, pages, access == Access::Store);
        }
        Op::Poke {
            peer,
            at,
            len,
            access,
            via,
        } => {
            let len = Len(len.0.min(MAX_POKED as u16));
            return poked(model, step, peer.index(), range(at, len), (access, via));
        }
        Op::UffdFill { at, len, .. } => {
            model.assume(step);
            let pages = range(at, Len(len.0.min(MAX_FILLED as u16)));
            return runs(pages.map(|page| (page, model.content(who, page).0, 0)));
        }
        _ => {
            model.assume(step);
            return Vec::new();
        }
    };
    let allowed: Vec<usize> = pages
        .filter(|page| {
            let effect = if matches!(step.op, Op::Remote { .. }) {
                model.kernel_effect(owner, *page, store)
            } else {
                model.effect(owner, *page, store)
            };
            effect == Effect::Done
        })
        .collect();
    let stamped = allowed.into_iter().map(|page| {
        if store {
            let stamp = model.next_stamp(who, page);
            model.stored(owner, page, stamp);
            return (page, stamp, 0);
        }
        let (stamp, lazy) = model.content(owner, page);
        (page, stamp, if lazy { LAZY } else { 0 })
    });
    runs(stamped)
}

/// The pages that a direct read or write transfers: all or none.
fn transferred(
    model: &mut Model,
    step: &Step,
    pages: std::ops::Range<usize>,
    store: bool,
) -> Vec<Run> {
    let who = step.process.index();
    let allowed = |page| model.kernel_effect(who, page, store) == Effect::Done;
    if !pages.clone().all(allowed) {
        return Vec::new();
    }
    model.assume(step);
    runs(pages.map(|page| {
        let (stamp, lazy) = model.content(who, page);
        (page, stamp, if lazy { LAZY } else { 0 })
    }))
}

/// The pages that a debugger's access of another process reaches.
fn poked(
    model: &mut Model,
    step: &Step,
    peer: usize,
    pages: std::ops::Range<usize>,
    (access, via): (Access, Via),
) -> Vec<Run> {
    let store = access == Access::Store;
    let allowed: Vec<usize> = pages
        .filter(|page| model.poke_effect(peer, *page, store, via) == Effect::Done)
        .collect();
    runs(allowed.into_iter().map(|page| {
        if store {
            let stamp = model.next_stamp(step.process.index(), page);
            model.stored(peer, page, stamp);
            return (page, stamp, 0);
        }
        let (stamp, lazy) = model.content(peer, page);
        (page, stamp, if lazy { LAZY } else { 0 })
    }))
}

/// Accesses of a read or write step that must get a signal.
fn refusals(model: &Model, step: &Step) -> String {
    let (store, pages) = match step.op {
        Op::Write { at, len } => (true, range(at, len)),
        Op::Read { at, len } => (false, range(at, len)),
        _ => return String::new(),
    };
    refused(model, step.process.index(), store, pages)
}

fn refused(model: &Model, who: usize, store: bool, pages: std::ops::Range<usize>) -> String {
    let signals = pages.filter_map(|page| match model.effect(who, page, store) {
        Effect::Segv => Some((page, 0, 11)),
        Effect::Bus => Some((page, 0, 7)),
        _ => None,
    });
    let line = |run: &Run| {
        let Run {
            page, count, flags, ..
        } = run;
        format!(
            "\t\trefuses({page}, {count}, {}, {flags});\n",
            u8::from(store)
        )
    };
    runs(signals).iter().map(line).collect()
}

/// Looks at everything that the process has mapped.
fn looks(model: &Model, who: usize) -> String {
    let mapped = (0..PAGES).filter(|page| model.pages(who)[*page].flags.has(Flags::MAPPED));
    let known = mapped.map(|page| {
        let (stamp, lazy) = model.content(who, page);
        let flags = model.pages(who)[page].flags;
        let readable = model.effect(who, page, false) == Effect::Done;
        let parts = [
            (lazy, LAZY),
            (
                flags.has(Flags::DIRTY) && !flags.has(Flags::MERGEABLE),
                DIRTY,
            ),
            (flags.has(Flags::PROTECTED), WP),
            (flags.has(Flags::PROTECTED_UNSURE), WP_ANY),
            (readable, READABLE),
        ];
        let known = parts
            .iter()
            .filter(|(is, _)| *is)
            .fold(0, |sum, (_, bit)| sum | bit);
        (page, stamp, known)
    });
    let line = |run: &Run| {
        let Run {
            page,
            count,
            stamp,
            step,
            flags,
        } = run;
        format!("\t\tlook({page}, {count}, {stamp:#x}UL, {step:#x}UL, {flags});\n")
    };
    runs(known).iter().map(line).collect()
}

/// What a process checks before it ends.
fn last_checks(model: &Model, who: usize) -> String {
    let mut pages = model.pages(who).iter();
    let shmem = pages.any(|page| page.flags.any(Flags::SHARED.with(Flags::FILE)));
    let locked = model.locked(who).map_or(-1, |pages| pages as i64 * 4);
    let mut out = looks(model, who);
    let _ = writeln!(out, "\t\tcounters({}, {locked});", u8::from(!shmem));
    let readable = (0..PAGES).filter(|page| model.effect(who, *page, false) == Effect::Done);
    let contents = readable.map(|page| {
        let (stamp, lazy) = model.content(who, page);
        (page, stamp, if lazy { LAZY } else { 0 })
    });
    for run in runs(contents) {
        let _ = writeln!(out, "\t\t{}", run.check());
    }
    let mapped = |page: &usize| model.pages(who)[*page].flags.has(Flags::MAPPED);
    for slot in 0..SLOTS {
        let pages = slot * SLOT_PAGES..(slot + 1) * SLOT_PAGES;
        if pages.clone().any(|page| mapped(&page)) {
            out.push_str(&refused(model, who, false, pages.clone()));
            out.push_str(&refused(model, who, true, pages));
        }
    }
    out
}

fn range(at: Addr, len: Len) -> std::ops::Range<usize> {
    at.page()..at.page() + cut(at, len)
}

/// Pages of a range, cut at the end of the arena.
fn cut(at: Addr, len: Len) -> usize {
    len.pages().min(PAGES - at.page())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_checked_by_runs() {
        let source = "p0 mmap at=0.0 len=8 prot=rw backing=anon\np0 write at=0.2 len=2\np0 fork child=p1\np1 verify\n";
        let c = c_source(&text::parse(source).unwrap()).unwrap();
        assert!(c.contains("check(0, 2, 0x0UL, 0x0UL, 0);"));
        assert!(c.contains("store(2, 2, 0x108002UL, 0x100001UL);"));
        assert!(c.contains("look(2, 2, 0x108002UL, 0x100001UL, 18);"));
        assert!(c.contains("{ int before = huge();\n\t\tspawn(1);\n\t\tkept(before, 0, 0);"));
        assert!(!c.contains('@') && !c.contains("uffd_open"));
    }

    #[test]
    fn every_seed_that_is_determined_by_its_text_has_a_form() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds/mm");
        for seed in std::fs::read_dir(folder).unwrap() {
            let source = std::fs::read_to_string(seed.unwrap().path()).unwrap();
            c_source(&text::parse(&source).unwrap()).unwrap();
        }
    }

    #[test]
    fn a_failure_that_is_injected_has_no_form() {
        let source = "p0 fail nth=2\n";
        assert_eq!(c_source(&text::parse(source).unwrap()), Err(NoForm("fail")));
    }
}
