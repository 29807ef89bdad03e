// SPDX-License-Identifier: GPL-2.0-only
//! Mutation and crossover of programs, step by step and argument by argument;
//! never of bytes.

use arbitrary::{Result, Unstructured};

use crate::decode::{draw_step, wish_for_huge};
use crate::draw_race;
use crate::model::Model;
use crate::program::{Context, MAX_STEPS, Program, Target};

/// Changes the program in one to four ways. `entropy` decides which; the same
/// entropy gives the same result.
pub fn mutate(program: &mut Program, entropy: &[u8], target: Target) {
    let mut u = Unstructured::new(entropy);
    let rounds = u.int_in_range(1..=4).unwrap_or(1);
    for _ in 0..rounds {
        if change(program, &mut u, target).is_err() {
            break;
        }
    }
}

/// The head of one program and the tail of another, or one inside the other.
pub fn cross(a: &Program, b: &Program, entropy: &[u8]) -> Program {
    let mut u = Unstructured::new(entropy);
    let mut point = |len: usize| u.int_in_range(0..=len).unwrap_or(0);
    let (cut_a, cut_b) = (point(a.steps.len()), point(b.steps.len()));
    let end_b = cut_b + point(b.steps.len() - cut_b);
    let mut steps = a.steps[..cut_a].to_vec();
    steps.extend_from_slice(&b.steps[cut_b..end_b]);
    if entropy.first().is_some_and(|byte| byte % 2 == 0) {
        steps.extend_from_slice(&a.steps[cut_a..]);
    }
    steps.truncate(MAX_STEPS);
    Program { steps }
}

/// The state before step `index`.
fn state_before(program: &Program, index: usize) -> Box<Model> {
    let mut model = Model::boxed();
    model.start();
    program.steps[..index]
        .iter()
        .for_each(|step| model.assume(step));
    model
}

fn change(program: &mut Program, u: &mut Unstructured<'_>, target: Target) -> Result<()> {
    let count = program.steps.len();
    match u.int_in_range(0u8..=14)? {
        12 if target != Target::Pfnmap && count > 0 => insert_race(program, u, target),
        13 | 14 if draw_race::reschedule(program, u)? => Ok(()),
        0..=4 if count < MAX_STEPS => insert(program, u, target),
        5 if count > 1 => {
            let first = u.int_in_range(0..=count - 1)?;
            let many = u.int_in_range(1..=3)?.min(count - first);
            program.steps.drain(first..first + many);
            Ok(())
        }
        6 if count > 0 && count < MAX_STEPS => {
            let from = u.int_in_range(0..=count - 1)?;
            let to = u.int_in_range(0..=count)?;
            program.steps.insert(to, program.steps[from]);
            Ok(())
        }
        7 if count > 1 => {
            let (a, b) = (
                u.int_in_range(0..=count - 1)?,
                u.int_in_range(0..=count - 1)?,
            );
            program.steps.swap(a, b);
            Ok(())
        }
        8 if count > 0 => {
            let index = u.int_in_range(0..=count - 1)?;
            let model = state_before(program, index);
            program.steps[index] = draw_step(u, &model, target)?;
            Ok(())
        }
        _ if count > 0 => redraw(program, u),
        _ => insert(program, u, target),
    }
}

/// Inserts up to three steps that fit the state there.
fn insert(program: &mut Program, u: &mut Unstructured<'_>, target: Target) -> Result<()> {
    let at = u.int_in_range(0..=program.steps.len())?;
    let mut model = state_before(program, at);
    let mut fresh = Vec::new();
    for _ in 0..u.int_in_range(1..=3usize)? {
        let step = draw_step(u, &model, target)?;
        model.assume(&step);
        fresh.push(step);
        fresh.extend(wish_for_huge(u, &step)?);
    }
    fresh.truncate(MAX_STEPS - program.steps.len());
    program.steps.splice(at..at, fresh);
    Ok(())
}

/// Inserts a racing block that fits the state there.
fn insert_race(program: &mut Program, u: &mut Unstructured<'_>, target: Target) -> Result<()> {
    let at = u.int_in_range(1..=program.steps.len())?;
    let model = state_before(program, at);
    let mut block = draw_race::block(u, &model, target)?;
    block.truncate(MAX_STEPS.saturating_sub(program.steps.len()));
    program.steps.splice(at..at, block);
    Ok(())
}

/// Draws one argument of one step anew.
fn redraw(program: &mut Program, u: &mut Unstructured<'_>) -> Result<()> {
    let index = u.int_in_range(0..=program.steps.len() - 1)?;
    let model = state_before(program, index);
    let step = &mut program.steps[index];
    let context = Context {
        model: &model,
        process: step.process.index(),
    };
    let which = u.arbitrary::<u8>()?;
    step.op.redraw(usize::from(which), u, &context)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{decode, text};

    proptest! {
        #[test]
        fn a_mutated_program_is_a_program(a in prop::collection::vec(any::<u8>(), 0..800),
                                          b in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut program = decode::from_bytes(&a, Target::Mm);
            mutate(&mut program, &b, Target::Mm);
            prop_assert!(program.steps.len() <= MAX_STEPS);
            prop_assert_eq!(text::parse(&text::print(&program)), Ok(program));
        }

        #[test]
        fn a_cross_has_only_steps_of_its_parents(a in prop::collection::vec(any::<u8>(), 0..400),
                                                 b in prop::collection::vec(any::<u8>(), 0..400),
                                                 e in prop::collection::vec(any::<u8>(), 0..32)) {
            let (a, b) = (decode::from_bytes(&a, Target::Mm), decode::from_bytes(&b, Target::Mm));
            let child = cross(&a, &b, &e);
            prop_assert!(child.steps.len() <= MAX_STEPS);
            prop_assert!(child.steps.iter().all(|s| a.steps.contains(s) || b.steps.contains(s)));
        }
    }
}
