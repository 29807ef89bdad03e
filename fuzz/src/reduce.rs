// SPDX-License-Identifier: GPL-2.0-only
//! Simpler variants of a program with as many steps: smaller ranges, rounder
//! places, fewer processes. The minimiser tries them one after another.

use crate::program::{Addr, Len, Op, Proc, Program, SLOT_PAGES, Step};

/// Every program that differs in one step and is simpler there; and those in
/// which all steps of one process are those of the first.
pub fn variants(program: &Program) -> Vec<Program> {
    let mut found = Vec::new();
    for (index, step) in program.steps.iter().enumerate() {
        for simpler in simpler_steps(step) {
            let mut variant = program.clone();
            variant.steps[index] = simpler;
            found.push(variant);
        }
    }
    for process in 1..4 {
        let mut variant = program.clone();
        for step in variant
            .steps
            .iter_mut()
            .filter(|step| step.process == Proc(process))
        {
            step.process = Proc(0);
        }
        found.push(variant);
    }
    found.retain(|variant| variant != program);
    found
}

fn simpler_steps(step: &Step) -> Vec<Step> {
    let mut found = Vec::new();
    let mut edit = |change: &dyn Fn(&mut Addr, &mut Len)| {
        let mut simpler = *step;
        if let Some((at, len)) = simpler.op.span() {
            change(at, len);
            if let (
                Op::Mremap {
                    len: before, new, ..
                },
                Op::Mremap {
                    len, new: after, ..
                },
            ) = (step.op, &mut simpler.op)
                && before == new
            {
                *after = *len;
            }
            if simpler != *step {
                found.push(simpler);
            }
        }
    };
    // each strictly decreases length, distance from a round length, or offset
    edit(&|_, len| len.0 = 1);
    edit(&|_, len| len.0 = (len.0 / 2).max(1));
    edit(&|_, len| {
        len.0 = if len.0 > SLOT_PAGES as u16 {
            SLOT_PAGES as u16
        } else {
            len.0
        }
    });
    edit(&|at, _| at.0 = at.0 / SLOT_PAGES as u16 * SLOT_PAGES as u16);
    edit(&|at, _| at.0 %= SLOT_PAGES as u16);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    #[test]
    fn reduction_comes_to_an_end() {
        let source = "p0 mmap at=2.5 len=700 prot=rw backing=anon\np1 write at=2.511 len=2\np0 fork child=p1\n";
        let mut program = text::parse(source).unwrap();
        let mut rounds = 0;
        while let Some(simpler) = variants(&program).into_iter().next() {
            program = simpler;
            rounds += 1;
            assert!(rounds < 100);
        }
        assert_eq!(
            text::print(&program),
            "p0 mmap at=0.0 len=1 prot=rw backing=anon\np0 write at=0.0 len=1\np0 fork child=p1\n"
        );
    }
}
