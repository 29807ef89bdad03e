// SPDX-License-Identifier: GPL-2.0-only
//! Simpler variants of a program with as many steps: smaller ranges, rounder
//! places, fewer processes, steps that race with fewer others or less often. The minimiser tries them one after another.

use crate::program::race::LANES;
use crate::program::{Addr, Len, Op, Proc, Program, SLOT_PAGES, Schedule, Step};

/// Every program that differs in one step and is simpler there; and those in
/// which all steps of one process are those of the first.
pub fn variants(program: &Program) -> Vec<Program> {
    let mut found = sequential(program);
    found.extend(fewer_lanes(program));
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

/// Simpler schedules: none, then less of each part.
fn simpler_schedules(step: &Step) -> Vec<Step> {
    let Some(race) = step.race else {
        return Vec::new();
    };
    let with = |race: Option<Schedule>| Step { race, ..*step };
    let changed = [
        Schedule { wait: 0, ..race },
        Schedule { times: 1, ..race },
        Schedule {
            times: race.times.div_ceil(2),
            ..race
        },
        Schedule {
            wait: race.wait / 2,
            ..race
        },
    ];
    let changed = changed.into_iter().filter(|other| *other != race);
    std::iter::once(with(None))
        .chain(changed.map(|race| with(Some(race))))
        .collect()
}

/// The program with one racing block turned into steps one after another.
fn sequential(program: &Program) -> Vec<Program> {
    let mut found = Vec::new();
    let mut index = 0;
    while index < program.steps.len() {
        let Some(block) = program.block(index) else {
            index += 1;
            continue;
        };
        index = block.end;
        let mut variant = program.clone();
        variant.steps[block]
            .iter_mut()
            .for_each(|step| step.race = None);
        found.push(variant);
    }
    found
}

/// The program with the steps of one lane in another of the same process.
fn fewer_lanes(program: &Program) -> Vec<Program> {
    let lanes = 1..LANES as u8;
    let merged = lanes.map(|lane| {
        let mut variant = program.clone();
        let races = variant
            .steps
            .iter_mut()
            .filter_map(|step| step.race.as_mut());
        for race in races.filter(|race| race.lane == lane) {
            race.lane = 0;
        }
        variant
    });
    merged.collect()
}

fn simpler_steps(step: &Step) -> Vec<Step> {
    let mut found = simpler_schedules(step);
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
    fn a_race_is_first_tried_as_steps_in_a_row() {
        let source = "p0 write at=0.0 len=1 lane=1 times=9 wait=4\np0 read at=0.0 len=1 lane=2\n";
        let all = variants(&text::parse(source).unwrap());
        let texts: Vec<String> = all.iter().map(text::print).collect();
        assert_eq!(texts[0], "p0 write at=0.0 len=1\np0 read at=0.0 len=1\n");
        assert_eq!(texts[1], source.replace("lane=1", "lane=0"));
        for simpler in ["lane=1 wait=4", "lane=1 times=9", "lane=1 times=5 wait=4"] {
            let wanted = source.replace("lane=1 times=9 wait=4", simpler);
            assert!(texts.contains(&wanted), "{wanted}");
        }
        let mut program = text::parse(source).unwrap();
        let mut rounds = 0;
        while let Some(simpler) = variants(&program).into_iter().next_back() {
            program = simpler;
            rounds += 1;
            assert!(rounds < 100);
        }
    }

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
