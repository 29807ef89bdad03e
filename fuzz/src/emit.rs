// SPDX-License-Identifier: GPL-2.0-only
//! A program as one C file that needs nothing but a C compiler and libc. It
//! does the same system calls in the same processes, and checks the contents
//! that the model expects, at each `read` and `verify` and at the end.

use std::fmt::Write as _;

use crate::model::page::WORDS;
use crate::model::{Effect, Model};
use crate::program::{
    ARENA, Advice, Backing, Clear, Move, Op, PAGES, PROCESSES, Program, Prot, Step,
};
use crate::text;

/// An operation without a C form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("operation `{0}` has no form in C")]
pub struct NoForm(pub &'static str);

/// The C source of a program.
///
/// # Errors
/// When an operation needs more than libc, for instance a device.
pub fn c_source(program: &Program) -> Result<String, NoForm> {
    let mut model = Model::boxed();
    model.start();
    let mut steps = String::new();
    for (index, step) in program.steps.iter().enumerate() {
        if model.skips(step) {
            let _ = writeln!(steps, "\tcase {index}: break; /* {} */", text::step(step));
            continue;
        }
        let stamps = stores(&mut model, step);
        let code = statement(step, &stamps)?;
        let check = matches!(step.op, Op::Read { .. } | Op::Verify {});
        let checks = if check {
            checks(&model, step.process.index())
        } else {
            String::new()
        };
        let _ = writeln!(
            steps,
            "\tcase {index}: /* {} */\n\t\t{code}\n{checks}\t\tbreak;",
            text::step(step)
        );
    }
    let mut last = String::new();
    for process in (0..PROCESSES).filter(|p| model.alive(*p)) {
        let _ = writeln!(
            last,
            "\tcase {process}:\n{}\t\tbreak;",
            checks(&model, process)
        );
    }
    let owners: Vec<String> = program
        .steps
        .iter()
        .map(|step| step.process.0.to_string())
        .collect();
    let words: Vec<String> = WORDS.iter().map(usize::to_string).collect();
    Ok(FRAME
        .replace("@ARENA@", &format!("{ARENA:#x}UL"))
        .replace("@OWNERS@", &owners.join(", "))
        .replace("@COUNT@", &program.steps.len().to_string())
        .replace("@WORDS@", &words.join(", "))
        .replace("@STEPS@", &steps)
        .replace("@LAST@", &last))
}

/// Applies a step; for a store the first stamp that the model gave, by runs.
fn stores(model: &mut Model, step: &Step) -> Vec<Run> {
    let who = step.process.index();
    let Op::Write { at, len } = step.op else {
        model.assume(step);
        return Vec::new();
    };
    let mut pages = Vec::new();
    for page in at.page()..(at.page() + len.pages()).min(PAGES) {
        if model.effect(who, page, true) == Effect::Done {
            let stamp = model.next_stamp(who, page);
            model.stored(who, page, stamp);
            pages.push((page, stamp, false));
        }
    }
    runs(&pages)
}

/// Pages whose stamps follow one another.
struct Run {
    page: usize,
    count: usize,
    stamp: u64,
    step: u64,
    lazy: bool,
}

fn runs(pages: &[(usize, u64, bool)]) -> Vec<Run> {
    let mut found: Vec<Run> = Vec::new();
    for (page, stamp, lazy) in pages {
        if let Some(run) = found.last_mut()
            && run.page + run.count == *page
            && run.lazy == *lazy
            && stamp.wrapping_sub(run.stamp) == run.step.wrapping_mul(run.count as u64)
        {
            run.count += 1;
        } else {
            let step = if *stamp == 0 { 0 } else { (1 << 20) + 1 };
            found.push(Run {
                page: *page,
                count: 1,
                stamp: *stamp,
                step,
                lazy: *lazy,
            });
        }
    }
    found
}

/// Calls of `check` for everything that the process can read.
fn checks(model: &Model, process: usize) -> String {
    let readable = (0..PAGES).filter(|page| model.effect(process, *page, false) == Effect::Done);
    let pages: Vec<_> = readable
        .map(|page| {
            let (stamp, lazy) = model.content(process, page);
            (page, stamp, lazy)
        })
        .collect();
    let mut out = String::new();
    for Run {
        page,
        count,
        stamp,
        step,
        lazy,
    } in runs(&pages)
    {
        let _ = writeln!(
            out,
            "\t\tcheck({page}, {count}, {stamp:#x}UL, {step:#x}UL, {});",
            u8::from(lazy)
        );
    }
    out
}

fn statement(step: &Step, stamps: &[Run]) -> Result<String, NoForm> {
    let prot = |prot| match prot {
        Prot::None => "PROT_NONE",
        Prot::Read => "PROT_READ",
        Prot::Write => "PROT_READ | PROT_WRITE",
    };
    Ok(match step.op {
        Op::Mmap {
            at,
            len,
            prot: p,
            backing,
        } => {
            let flags = match backing {
                Backing::Anon => "MAP_PRIVATE",
                Backing::Shared => "MAP_SHARED",
                Backing::File => return Err(NoForm("mmap of the stamped file")),
            };
            let bytes = format!("P({}), {} * 4096UL", at.0, cut(at.page(), len.pages()));
            format!(
                "say(mmap({bytes}, {}, {flags} | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED);",
                prot(p)
            )
        }
        Op::Munmap { at, len } => call("munmap", at.page(), len.pages(), ""),
        Op::Mprotect { at, len, prot: p } => call("mprotect", at.page(), len.pages(), prot(p)),
        Op::Mlock { at, len } => call("mlock", at.page(), len.pages(), ""),
        Op::MlockOnfault { at, len } => call("mlock2", at.page(), len.pages(), "MLOCK_ONFAULT"),
        Op::Munlock { at, len } => call("munlock", at.page(), len.pages(), ""),
        Op::Madvise { at, len, advice } => call(
            "madvise",
            at.page(),
            len.pages(),
            &format!("{} /* {} */", number(advice), advice.name()),
        ),
        Op::Mremap {
            at,
            len,
            to,
            new,
            how,
        } => {
            let flags = match how {
                Move::Inplace => "0",
                Move::Fixed => "MREMAP_MAYMOVE | MREMAP_FIXED",
                Move::Dontunmap => "MREMAP_MAYMOVE | MREMAP_FIXED | 4 /* MREMAP_DONTUNMAP */",
            };
            let (old, new) = (len.0, new.0);
            format!(
                "say(mremap(P({}), {old} * 4096UL, {new} * 4096UL, {flags}, P({})) == MAP_FAILED);",
                at.0, to.0
            )
        }
        Op::Write { .. } => stamps
            .iter()
            .map(|run| {
                format!(
                    "store({}, {}, {:#x}UL, {:#x}UL);",
                    run.page, run.count, run.stamp, run.step
                )
            })
            .collect::<Vec<_>>()
            .join("\n\t\t"),
        Op::Read { .. } | Op::Verify {} => ";".to_owned(),
        Op::Fork { child } => format!("spawn({});", child.0),
        Op::Exit {} => "leave();".to_owned(),
        Op::ClearRefs { what } => {
            let value = if what == Clear::SoftDirty { 4 } else { 1 };
            format!("say(put(\"/proc/self/clear_refs\", \"{value}\"));")
        }
        _ => return Err(NoForm(step.op.name())),
    })
}

fn cut(at: usize, len: usize) -> usize {
    len.min(PAGES - at)
}

fn call(name: &str, at: usize, len: usize, last: &str) -> String {
    let comma = if last.is_empty() { "" } else { ", " };
    format!(
        "say({name}(P({at}), {} * 4096UL{comma}{last}));",
        cut(at, len)
    )
}

/// By number, because headers are older than advice.
fn number(advice: Advice) -> i32 {
    crate::exec::advice_number(advice)
}

const FRAME: &str = include_str!("emit.c.in");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_checked_by_runs() {
        let source = "p0 mmap at=0.0 len=8 prot=rw backing=anon\np0 write at=0.2 len=2\np0 fork child=p1\np1 verify\n";
        let c = c_source(&text::parse(source).unwrap()).unwrap();
        assert!(c.contains("check(0, 2, 0x0UL, 0x0UL, 0);"));
        assert!(c.contains("store(2, 2, 0x108002UL, 0x100001UL);"));
        assert!(c.contains("check(2, 2, 0x108002UL, 0x100001UL, 0);"));
        assert!(!c.contains('@'));
    }

    #[test]
    fn what_needs_a_device_has_no_form() {
        let source = "p0 device mirror=a what=to-dev at=0.0 len=512\n";
        assert_eq!(
            c_source(&text::parse(source).unwrap()),
            Err(NoForm("device"))
        );
    }
}
