// SPDX-License-Identifier: GPL-2.0-only
//! Programs from bytes. Each step is drawn from the state that the steps before
//! it would leave (`model`), so that most operations meet live memory.

use arbitrary::{Result, Unstructured};

use crate::draw_race;
use crate::model::Model;
use crate::model::page::Flags;
use crate::program::{
    Addr, Advice, Backing, Break, Context, DEVICE_PAGES, Len, MAX_STEPS, Op, PAGES, PROCESSES,
    Proc, Program, SLOT_PAGES, Step, Target,
};
use crate::text;

/// Reads a fuzzer's input: the text form, or, if it is not that, bytes from
/// which a program is drawn. Never fails; the empty input is the empty program.
pub fn from_input(data: &[u8], target: Target) -> Program {
    match std::str::from_utf8(data).map(text::parse) {
        Ok(Ok(program)) => program,
        _ => from_bytes(data, target),
    }
}

/// Draws a program from bytes; ends when they are used up.
pub fn from_bytes(data: &[u8], target: Target) -> Program {
    let mut u = Unstructured::new(data);
    let mut model = Model::boxed();
    model.start();
    let mut program = Program::default();
    while !u.is_empty() && program.steps.len() < MAX_STEPS {
        if wants_race(&mut u, &model, &program, target)
            && let Ok(block) = draw_race::block(&mut u, &model, target)
        {
            block.iter().for_each(|step| model.assume(step));
            program.steps.extend(block);
            continue;
        }
        let Ok(step) = draw_step(&mut u, &model, target) else {
            break;
        };
        model.assume(&step);
        program.steps.push(step);
        if let Ok(Some(advice)) = wish_for_huge(&mut u, &step)
            && program.steps.len() < MAX_STEPS
        {
            program.steps.push(advice);
        }
    }
    program
}

/// Whether a racing block comes next: now and then, where something is mapped.
fn wants_race(u: &mut Unstructured<'_>, model: &Model, program: &Program, target: Target) -> bool {
    const MOST_RACING: usize = 2 * draw_race::MOST;
    let racing = program.steps.iter().filter(|step| step.race.is_some());
    let separate = program.steps.last().is_some_and(|step| step.race.is_none());
    separate
        && target != Target::Pfnmap
        && program.steps.len() + draw_race::MOST <= MAX_STEPS
        && racing.count() <= MOST_RACING
        && model.in_use(0)
        && u.ratio(1, 14).unwrap_or(false)
}

/// Mostly, a new mapping asks for huge pages: without, there are none.
pub fn wish_for_huge(u: &mut Unstructured<'_>, step: &Step) -> Result<Option<Step>> {
    let (Op::Mmap { at, len, .. }
    | Op::Brk {
        at,
        len,
        how: Break::Grow,
    }) = step.op
    else {
        return Ok(None);
    };
    let advice = Advice::Hugepage;
    let op = Op::Madvise { at, len, advice };
    let process = step.process;
    Ok(u.ratio(3, 4)?.then_some(Step::new(process, op)))
}

/// Draws one step that fits the state `model`.
pub fn draw_step(u: &mut Unstructured<'_>, model: &Model, target: Target) -> Result<Step> {
    let process = draw_process(u, model)?;
    let context = Context { model, process };
    let name = draw_name(u, target, model, process)?;
    let mut op = Op::draw(name, u, &context)?;
    if let Op::Mmap { backing, .. } = &mut op
        && target == Target::Pfnmap
        && u.ratio(4, 5)?
    {
        *backing = *u.choose(&DEVICE)?;
    }
    fit(&mut op, u, &context)?;
    Ok(Step::new(Proc(process as u8), op))
}

/// Mappings of device memory.
const DEVICE: [Backing; 4] = [
    Backing::PfnRemap,
    Backing::PfnPrivate,
    Backing::PfnPte,
    Backing::PfnPmd,
];

/// A process that lives.
fn draw_process(u: &mut Unstructured<'_>, model: &Model) -> Result<usize> {
    let first = if u.ratio(1, 2)? {
        0
    } else {
        u.int_in_range(0..=PROCESSES - 1)?
    };
    Ok((0..PROCESSES)
        .map(|i| (first + i) % PROCESSES)
        .find(|&p| model.alive(p))
        .unwrap_or(0))
}

/// How often each operation is drawn, by target: mm, hmm, collapse, pfnmap.
const WEIGHTS: &[(&str, [u16; 4])] = &[
    ("mmap", [8, 8, 8, 4]),
    ("munmap", [5, 5, 3, 5]),
    ("brk", [3, 2, 2, 1]),
    ("mprotect", [7, 5, 3, 5]),
    ("mremap", [7, 5, 3, 5]),
    ("madvise", [16, 12, 30, 4]),
    ("mlock", [2, 2, 1, 1]),
    ("mlock-onfault", [1, 1, 1, 1]),
    ("munlock", [2, 1, 1, 1]),
    ("read", [6, 6, 6, 6]),
    ("write", [16, 16, 16, 10]),
    ("fork", [4, 4, 3, 5]),
    ("exit", [1, 1, 1, 2]),
    ("clear-refs", [4, 3, 2, 1]),
    ("verify", [1, 1, 1, 1]),
    ("uffd-register", [3, 2, 1, 0]),
    ("uffd-unregister", [1, 1, 0, 0]),
    ("uffd-protect", [4, 3, 1, 0]),
    ("uffd-unprotect", [2, 1, 1, 0]),
    ("uffd-watch", [4, 2, 2, 0]),
    ("uffd-fill", [3, 1, 1, 0]),
    ("uffd-move", [5, 2, 2, 0]),
    ("uffd-close", [4, 2, 2, 0]),
    ("uffd-mode", [1, 1, 1, 0]),
    ("splice", [2, 2, 1, 1]),
    ("drain", [1, 1, 1, 1]),
    ("direct", [2, 2, 1, 0]),
    ("inspect", [1, 2, 1, 1]),
    ("scan", [1, 1, 1, 0]),
    ("idle", [1, 1, 1, 0]),
    ("zap", [0, 0, 0, 4]),
    ("exec", [1, 1, 1, 1]),
    ("kill", [1, 1, 1, 1]),
    ("spawn", [1, 1, 1, 2]),
    ("thp-disable", [1, 1, 1, 0]),
    ("poke", [2, 2, 1, 1]),
    ("knob", [1, 1, 3, 0]),
    ("limit", [1, 1, 1, 0]),
    ("system", [2, 2, 6, 1]),
    ("remote", [2, 2, 1, 1]),
    ("pin", [2, 2, 1, 1]),
    ("buffer", [2, 2, 1, 1]),
    ("fixed", [2, 2, 1, 1]),
    ("unpin", [1, 1, 1, 1]),
    ("place", [2, 2, 2, 0]),
    ("scan-protect", [2, 1, 0, 0]),
    ("fail", [2, 2, 2, 1]),
    ("device", [0, 34, 0, 0]),
];

/// The name of an operation. Where nothing is mapped, `mmap`.
fn draw_name(
    u: &mut Unstructured<'_>,
    target: Target,
    model: &Model,
    process: usize,
) -> Result<&'static str> {
    if !model.in_use(process) {
        return Ok("mmap");
    }
    let column = Target::ALL.iter().position(|t| *t == target).unwrap_or(0);
    let total: u16 = WEIGHTS.iter().map(|(_, w)| w[column]).sum();
    let mut at = u.int_in_range(0..=total - 1)?;
    for (name, weights) in WEIGHTS {
        if at < weights[column] {
            return Ok(name);
        }
        at -= weights[column];
    }
    Ok("verify")
}

/// Mostly cuts the range to what is mapped, so that the operation succeeds.
fn fit(op: &mut Op, u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<()> {
    let inside = u.ratio(9, 10)?;
    let grows = matches!(
        op,
        Op::Brk {
            how: Break::Grow,
            ..
        }
    );
    let maps = grows || matches!(op, Op::Mmap { .. });
    if let Op::Mremap { len, new, how, .. } = op
        && (*how == crate::program::Move::Dontunmap || u.ratio(2, 3)?)
    {
        *new = *len;
    }
    let touches = matches!(
        op,
        Op::Read { .. } | Op::Write { .. } | Op::Remote { .. } | Op::Poke { .. }
    );
    let Some((at, len)) = op.span() else {
        return Ok(());
    };
    // Where a whole slot is mapped, its first touch makes a huge page.
    if maps && u.ratio(3, 4)? {
        at.0 = (at.page() / SLOT_PAGES * SLOT_PAGES) as u16;
        len.0 = len.0.next_multiple_of(SLOT_PAGES as u16);
    }
    // Each page may cost a fault: mostly few, except where one PMD maps all.
    if touches && (at.page() % SLOT_PAGES != 0 || u.ratio(1, 2)?) {
        len.0 = len.0.min(33);
    }
    if grows && inside {
        fit_growth(at, len, context);
    }
    if inside && !maps {
        let live = context.model.run(context.process, at.page());
        if live > 0 {
            *len = Len(len.0.min(live as u16));
        }
    }
    *len = Len(len.0.min((PAGES - at.page()) as u16));
    if let Op::Mmap {
        at, len, backing, ..
    } = op
        && backing.is_device()
    {
        len.0 = len.0.min((DEVICE_PAGES - at.page() % DEVICE_PAGES) as u16);
    }
    let Some((_, len)) = op.span() else {
        return Ok(());
    };
    let pages = *len;
    if let Op::Mremap {
        new,
        how: crate::program::Move::Dontunmap,
        ..
    } = op
    {
        *new = pages;
    }
    Ok(())
}

/// Moves a range to where nothing is mapped, and cuts it there: `brk` replaces nothing, and
/// leaves a page between itself and what comes behind.
fn fit_growth(at: &mut Addr, len: &mut Len, context: &Context<'_>) {
    let pages = context.model.pages(context.process);
    let is_free = |page: usize| !pages[page].flags.has(Flags::MAPPED);
    let Some(first) = (at.page()..PAGES).chain(0..at.page()).find(|p| is_free(*p)) else {
        return;
    };
    let free = (first..PAGES).take_while(|p| is_free(*p)).count();
    let gap = usize::from(first + free < PAGES);
    *at = Addr(first as u16);
    *len = Len(len.0.min((free - gap).max(1) as u16));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_weight() {
        for name in Op::NAMES {
            assert!(
                WEIGHTS.iter().any(|(n, _)| n == name),
                "{name} is never drawn"
            );
        }
        assert_eq!(WEIGHTS.len(), Op::NAMES.len());
    }

    #[test]
    fn a_text_input_is_read_as_text() {
        let program = from_input(b"p0 verify\n", Target::Mm);
        assert_eq!(text::print(&program), "p0 verify\n");
    }
}
