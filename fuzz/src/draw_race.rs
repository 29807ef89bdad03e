// SPDX-License-Identifier: GPL-2.0-only
//! Racing blocks for generators: two to four threads that meet at one or two
//! huge pages; and changes of schedules, apart from what the steps do.

use arbitrary::{Result, Unstructured};

use crate::model::Model;
use crate::model::race::refuses;
use crate::program::race::LANES;
use crate::program::{
    Addr, Advice, Context, Device, Len, Mirror, Move, Node, Op, PROCESSES, Proc, Program, Prot,
    SLOT_PAGES, SLOTS, Schedule, Step, Target,
};

/// Longest block that is drawn.
pub const MOST: usize = 10;
/// Draws of an operation that races, before another one stands in.
const TRIES: usize = 4;

/// How often each operation is drawn: mm, hmm, collapse.
const WEIGHTS: &[(&str, [u16; 3])] = &[
    ("write", [10, 10, 10]),
    ("read", [6, 5, 5]),
    ("madvise", [8, 5, 14]),
    ("mprotect", [5, 3, 2]),
    ("mremap", [5, 3, 2]),
    ("munmap", [3, 3, 2]),
    ("mmap", [2, 1, 1]),
    ("fork", [4, 4, 3]),
    ("exit", [1, 1, 1]),
    ("place", [4, 3, 4]),
    ("system", [4, 3, 4]),
    ("remote", [3, 2, 2]),
    ("pin", [2, 2, 2]),
    ("mlock", [1, 1, 1]),
    ("munlock", [1, 1, 1]),
    ("clear-refs", [2, 1, 1]),
    ("scan-protect", [2, 1, 1]),
    ("uffd-protect", [2, 1, 1]),
    ("uffd-unprotect", [1, 1, 1]),
    ("device", [0, 18, 0]),
];

/// Draws a block that fits the state `model`, in which something is mapped.
pub fn block(u: &mut Unstructured<'_>, model: &Model, target: Target) -> Result<Vec<Step>> {
    let alive: Vec<usize> = (0..PROCESSES).filter(|p| model.alive(*p)).collect();
    let first = *u.choose(&alive)?;
    let hot = hot_slot(u, model, first)?;
    let mut steps = if u.ratio(1, 3)? {
        disturbed_store(u, model, target, first, hot)?
    } else {
        Vec::new()
    };
    let mut lanes = u.int_in_range(if steps.is_empty() { 2..=4usize } else { 0..=2 })?;
    while lanes > 0 && steps.len() < MOST {
        lanes -= 1;
        let process = if u.ratio(2, 3)? {
            first
        } else {
            *u.choose(&alive)?
        };
        let lane = u.int_in_range(0..=LANES as u8 - 1)?;
        let schedule = Schedule::draw(u, lane)?;
        for _ in 0..u.int_in_range(1..=3usize)? {
            let op = racing_op(u, model, target, process, hot)?;
            let mut step = Step::new(Proc(process as u8), op);
            step.race = Some(schedule);
            steps.push(step);
        }
    }
    steps.truncate(MOST);
    Ok(steps)
}

/// A slot in which something is mapped, if there is one.
fn hot_slot(u: &mut Unstructured<'_>, model: &Model, process: usize) -> Result<usize> {
    let first = u.int_in_range(0..=SLOTS - 1)?;
    let slots = (0..SLOTS).map(|i| (first + i) % SLOTS);
    let mut used = slots.filter(|slot| model.slot_in_use(process, *slot));
    Ok(used.next().unwrap_or(first))
}

/// One operation that may race, around the slot.
fn racing_op(
    u: &mut Unstructured<'_>,
    model: &Model,
    target: Target,
    process: usize,
    hot: usize,
) -> Result<Op> {
    let context = Context { model, process };
    for _ in 0..TRIES {
        let mut op = Op::draw(draw_name(u, target)?, u, &context)?;
        if let Op::Mremap { len, new, how, .. } = &mut op {
            *new = *len;
            if *how == Move::Inplace {
                *how = Move::Fixed;
            }
        }
        let touches = matches!(op, Op::Read { .. } | Op::Write { .. } | Op::Remote { .. });
        if let Some((at, len)) = op.span() {
            move_to(at, len, hot);
            if touches && u.ratio(1, 2)? {
                len.0 = len.0.min(33);
            }
        }
        if let Op::Mremap { len, new, .. } = &mut op {
            *new = *len;
        }
        let step = Step::new(Proc(process as u8), op);
        if !model.skips(&step) && !refuses(model, &step) {
            return Ok(op);
        }
    }
    let (at, len) = (slot_start(hot), Len(SLOT_PAGES as u16));
    Ok(Op::Write { at, len })
}

fn draw_name(u: &mut Unstructured<'_>, target: Target) -> Result<&'static str> {
    let column = match target {
        Target::Hmm => 1,
        Target::Collapse => 2,
        Target::Mm | Target::Pfnmap => 0,
    };
    let total: u16 = WEIGHTS.iter().map(|(_, weights)| weights[column]).sum();
    let mut at = u.int_in_range(0..=total - 1)?;
    for (name, weights) in WEIGHTS {
        if at < weights[column] {
            return Ok(name);
        }
        at -= weights[column];
    }
    Ok("write")
}

fn slot_start(slot: usize) -> Addr {
    Addr((slot * SLOT_PAGES) as u16)
}

/// Moves a range into the slot; it may reach over its end.
fn move_to(at: &mut Addr, len: &mut Len, slot: usize) {
    let slots = (SLOT_PAGES * SLOTS) as u16;
    at.0 = slot_start(slot).0 + at.0 % SLOT_PAGES as u16;
    len.0 = len.0.min(slots - at.0);
}

/// A thread that stores to a slot all the time while another one moves, splits,
/// protects or migrates it: a store that is lost or comes too late is seen.
fn disturbed_store(
    u: &mut Unstructured<'_>,
    model: &Model,
    target: Target,
    process: usize,
    hot: usize,
) -> Result<Vec<Step>> {
    let at = slot_start(hot);
    let who = Proc(process as u8);
    let times = *u.choose(&[4, 10, 20, 40])?;
    let mut steps = Vec::new();
    let mut add = |op: Op, lane: u8, wait: u16| {
        let mut step = Step::new(who, op);
        step.race = Some(Schedule { lane, times, wait });
        steps.push(step);
    };
    let few = Len(*u.choose(&[1, 2, 33, 512])?);
    add(Op::Write { at, len: few }, 1, 0);
    if u.ratio(1, 3)? {
        add(Op::Read { at, len: few }, 3, 0);
    }
    let wait = *u.choose(&[0, 20, 300, 2000, 5000])?;
    for op in disturbance(u, model, target, process, hot)? {
        add(op, 0, wait);
    }
    Ok(steps)
}

/// Operations that leave the content of a slot as it is.
fn disturbance(
    u: &mut Unstructured<'_>,
    model: &Model,
    target: Target,
    process: usize,
    hot: usize,
) -> Result<Vec<Op>> {
    let (at, len) = (slot_start(hot), Len(SLOT_PAGES as u16));
    let kinds = if target == Target::Hmm { 8 } else { 6 };
    Ok(match u.int_in_range(0u8..=kinds)? {
        0 => {
            let mut free = (0..SLOTS).filter(|slot| !model.slot_in_use(process, *slot));
            let to = slot_start(free.next().unwrap_or((hot + 1) % SLOTS));
            let part = Len(*u.choose(&[512, 512, 1, 33])?);
            let how = Move::Fixed;
            let fixed = |at, to| Op::Mremap {
                at,
                len: part,
                to,
                new: part,
                how,
            };
            vec![fixed(at, to), fixed(to, at)]
        }
        1 => {
            let part = Len(*u.choose(&[512, 512, 1, 511])?);
            let prot = *u.choose(&[Prot::Read, Prot::None])?;
            let protect = |prot| Op::Mprotect {
                at,
                len: part,
                prot,
            };
            vec![protect(prot), protect(Prot::Write)]
        }
        2 => {
            let advice = Advice::Collapse;
            let pulse = crate::program::Pulse::Split;
            vec![Op::System { pulse }, Op::Madvise { at, len, advice }]
        }
        3 => {
            let place = |node| Op::Place { at, len, node };
            vec![place(Node::Move1), place(Node::Move0)]
        }
        4 => {
            let advice = *u.choose(&[Advice::Pageout, Advice::Cold])?;
            vec![Op::Madvise { at, len, advice }]
        }
        5 => {
            let mut free = (0..PROCESSES).filter(|p| !model.alive(*p));
            let child = Proc(free.next().unwrap_or(PROCESSES - 1) as u8);
            vec![Op::Fork { child }]
        }
        6 => {
            let len = Len(*u.choose(&[1, 32, 64])?);
            vec![Op::Pin { at, len }, Op::Unpin {}]
        }
        kind => {
            let device = |what| Op::Device {
                mirror: Mirror::A,
                what,
                at,
                len,
            };
            let mut both = vec![device(Device::ToDev)];
            if kind == 8 {
                both.push(device(Device::ToSys));
            }
            both
        }
    })
}

/// Changes when steps of the program run, not what they do: the schedule of one
/// step, the order of two, steps that begin or cease to race. False if nothing races.
pub fn reschedule(program: &mut Program, u: &mut Unstructured<'_>) -> Result<bool> {
    let racing: Vec<usize> = (0..program.steps.len())
        .filter(|index| program.steps[*index].race.is_some())
        .collect();
    if racing.is_empty() {
        return Ok(false);
    }
    let index = *u.choose(&racing)?;
    let block = program.block(index).unwrap_or(index..index + 1);
    match u.int_in_range(0u8..=5)? {
        0 => {
            let other = u.int_in_range(block.start..=block.end - 1)?;
            program.steps.swap(index, other);
        }
        1 => {
            let near = [block.start.wrapping_sub(1), block.end];
            let near = *u.choose(&near)?;
            let schedule = program.steps[index].race;
            if let Some(step) = program.steps.get_mut(near) {
                step.race = schedule;
            }
        }
        2 => program.steps[block.end - 1].race = None,
        3 => {
            // all of a lane: as often as this
            let times = *u.choose(&[1, 4, 20, 40, 100])?;
            let lane = program.steps[index].race.map(|race| race.lane);
            let steps = program.steps[block].iter_mut();
            for race in steps.filter_map(|step| step.race.as_mut()) {
                if Some(race.lane) == lane {
                    race.times = times;
                }
            }
        }
        _ => {
            if let Some(race) = &mut program.steps[index].race {
                race.redraw(u)?;
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{decode, text};

    #[test]
    fn every_name_is_an_operation_that_may_race() {
        for (name, _) in WEIGHTS {
            assert!(Op::NAMES.contains(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn most_drawn_steps_are_carried_out(bytes in prop::collection::vec(any::<u8>(), 300..400)) {
            let mut model = Model::boxed();
            model.start();
            let setup = text::parse("p0 mmap at=0.0 len=1024 prot=rw backing=anon\np0 fork child=p1\n");
            setup.unwrap().steps.iter().for_each(|step| model.assume(step));
            let mut u = Unstructured::new(&bytes);
            let steps = block(&mut u, &model, Target::Hmm).unwrap();
            prop_assert!(!steps.is_empty() && steps.len() <= MOST);
            let refused = steps.iter().filter(|step| refuses(&model, step)).count();
            prop_assert_eq!(refused, 0);
            prop_assert!(steps.iter().all(|step| step.race.is_some()));
        }

        #[test]
        fn a_new_schedule_changes_no_operation(bytes in prop::collection::vec(any::<u8>(), 0..800),
                                               entropy in prop::collection::vec(any::<u8>(), 0..64)) {
            let before = decode::from_bytes(&bytes, Target::Mm);
            let mut after = before.clone();
            let changed = reschedule(&mut after, &mut Unstructured::new(&entropy)).unwrap_or(true);
            prop_assert!(changed || before == after);
            let ops = |program: &Program| {
                let mut ops: Vec<String> = program.steps.iter().map(|step| text::step(&Step::new(step.process, step.op))).collect();
                ops.sort();
                ops
            };
            prop_assert_eq!(ops(&before), ops(&after));
        }
    }
}
