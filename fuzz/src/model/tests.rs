// SPDX-License-Identifier: GPL-2.0-only
//! The model against a simple reference, and programs with their inverses.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::apply::Assumed;
use super::*;
use crate::decode;
use crate::program::{Addr, Advice, Backing, Len, Move, Op, Proc, Program, Prot, Step, Target};
use crate::text;

/// What is there, written down the obvious way: page -> (permission, content).
type Reference = [BTreeMap<usize, (Prot, u64)>; PROCESSES];

fn model_of(program: &Program) -> Box<Model> {
    let mut model = Model::boxed();
    model.start();
    program.steps.iter().for_each(|step| model.assume(step));
    model
}

fn run(source: &str) -> Box<Model> {
    model_of(&text::parse(source).unwrap())
}

fn step(process: u8, op: Op) -> Step {
    Step::new(Proc(process), op)
}

/// Operations whose meaning is plain, for private anonymous memory.
fn plain_op() -> impl Strategy<Value = Step> {
    let range = (
        0..PAGES as u16,
        prop::sample::select(vec![1u16, 2, 511, 512, 513, 1024]),
    )
        .prop_map(|(at, len)| (Addr(at), Len(len.min(PAGES as u16 - at))));
    let prot = prop::sample::select(Prot::ALL);
    let who = 0u8..PROCESSES as u8;
    (who, range, prot, 0u8..7, 0u8..PROCESSES as u8).prop_map(
        |(who, (at, len), prot, kind, child)| {
            let op = match kind {
                0 => Op::Mmap {
                    at,
                    len,
                    prot,
                    backing: Backing::Anon,
                },
                1 => Op::Munmap { at, len },
                2 => Op::Mprotect { at, len, prot },
                3 => Op::Madvise {
                    at,
                    len,
                    advice: Advice::Dontneed,
                },
                4 | 5 => Op::Write { at, len },
                _ => Op::Fork { child: Proc(child) },
            };
            step(who, op)
        },
    )
}

/// The reference's idea of a step; `stamps` are those that the model gave out.
fn refer(reference: &mut Reference, alive: &mut [bool; PROCESSES], step: &Step, version: &mut u32) {
    let who = step.process.index();
    if !alive[who] {
        return;
    }
    match step.op {
        Op::Mmap { at, len, prot, .. } => {
            (at.page()..at.page() + len.pages())
                .for_each(|p| _ = reference[who].insert(p, (prot, 0)));
        }
        Op::Munmap { at, len } => {
            (at.page()..at.page() + len.pages()).for_each(|p| _ = reference[who].remove(&p));
        }
        Op::Mprotect { at, len, prot } => {
            for p in at.page()..at.page() + len.pages() {
                let Some(page) = reference[who].get_mut(&p) else {
                    break;
                };
                page.0 = prot;
            }
        }
        Op::Madvise { at, len, .. } => {
            reference[who]
                .range_mut(at.page()..at.page() + len.pages())
                .for_each(|(_, page)| page.1 = 0);
        }
        Op::Write { at, len } => {
            for (p, page) in reference[who].range_mut(at.page()..at.page() + len.pages()) {
                if page.0 == Prot::Write {
                    *version += 1;
                    page.1 = stamp(*version, who, *p);
                }
            }
        }
        Op::Fork { child } if !alive[child.index()] => {
            alive[child.index()] = true;
            reference[child.index()] = reference[who].clone();
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn model_agrees_with_a_simple_reference(steps in prop::collection::vec(plain_op(), 0..40)) {
        let program = Program { steps };
        let model = model_of(&program);
        let mut reference = Reference::default();
        let mut alive = [true, false, false, false];
        let mut version = 0;
        program.steps.iter().for_each(|s| refer(&mut reference, &mut alive, s, &mut version));
        for who in 0..PROCESSES {
            prop_assert_eq!(model.alive(who), alive[who]);
            for page in 0..PAGES {
                let found = reference[who].get(&page);
                let effect = |store| model.effect(who, page, store) == Effect::Done;
                prop_assert_eq!(effect(true), found.is_some_and(|p| p.0 == Prot::Write));
                prop_assert_eq!(effect(false), found.is_some_and(|p| p.0 != Prot::None));
                prop_assert_eq!(model.content(who, page), (found.map_or(0, |p| p.1), false));
            }
        }
    }

    /// Moving a range away and back, locking and unlocking it, leaves all as it was.
    #[test]
    fn a_program_and_its_inverse_change_nothing(bytes in prop::collection::vec(any::<u8>(), 0..600), at in 0u16..512, len in 1u16..512) {
        let program = decode::from_bytes(&bytes, Target::Mm);
        let mut model = model_of(&program);
        let (at, len, to) = (Addr(at), Len(len), Addr(1024));
        let clear = step(0, Op::Munmap { at: to, len: Len(1024) });
        let fresh = step(0, Op::Mmap { at, len, prot: Prot::Write, backing: Backing::Anon });
        let write = step(0, Op::Write { at, len });
        for each in [clear, fresh, write] {
            model.assume(&each);
        }
        let before = *model.pages(0);
        let there = Op::Mremap { at, len, to, new: len, how: Move::Fixed };
        let back = Op::Mremap { at: to, len, to: at, new: len, how: Move::Fixed };
        for op in [there, back, Op::Mlock { at, len }, Op::Munlock { at, len }] {
            model.assume(&step(0, op));
        }
        prop_assert!(before == *model.pages(0));
    }

    /// What the model says of a process does not depend on what others do to private memory.
    #[test]
    fn private_memory_is_not_changed_by_others(steps in prop::collection::vec(plain_op(), 0..30)) {
        let mut model = run("p0 mmap at=0.0 len=1024 prot=rw backing=anon\np0 write at=0.0 len=1024\np0 fork child=p1\n");
        let before = *model.pages(1);
        for mut each in steps {
            each.process = Proc(0);
            model.assume(&each);
        }
        prop_assert!(before == *model.pages(1));
    }
}

#[test]
fn brk_maps_what_is_free_with_a_page_behind_it_and_unmaps_what_is_not() {
    let source = "p0 mmap at=0.8 len=1 prot=r backing=anon\n";
    let returns = |how: &str, at: u16, len: u16, got: i32| {
        let mut model = run(source);
        let text = format!("p0 brk at=0.{at} len={len} how={how}\n");
        let step = text::parse(&text).unwrap().steps[0];
        let found = model.apply(&step, got, &Assumed);
        (found.map(drop), model.effect(0, usize::from(at), true))
    };
    let wrong = |wanted, got| Err(Unexpected { wanted, got });
    let no = libc::ENOMEM;
    assert_eq!(returns("grow", 0, 7, 0), (Ok(()), Effect::Done));
    assert_eq!(returns("grow", 0, 7, no).0, wrong(0, no));
    assert_eq!(returns("grow", 0, 8, no), (Ok(()), Effect::Segv));
    assert_eq!(returns("grow", 0, 8, 0).0, wrong(no, 0));
    assert_eq!(returns("grow", 8, 1, 0).0, wrong(no, 0));
    assert_eq!(returns("shrink", 4, 5, 0).0, Ok(()));
    assert_eq!(returns("shrink", 4, 5, no).0, wrong(0, no));
    assert_eq!(returns("shrink", 9, 5, 0).0, wrong(no, 0));
    assert_eq!(
        run(&format!("{source}p0 brk at=0.4 len=5 how=shrink\n")).run(0, 8),
        0
    );
}

#[test]
fn madvise_stops_at_an_area_that_it_does_not_suit() {
    let source = "p0 mmap at=0.0 len=512 prot=rw backing=anon\np0 write at=0.0 len=512\np0 mlock-onfault at=0.100 len=10\n";
    let mut model = run(source);
    let dontneed = step(
        0,
        Op::Madvise {
            at: Addr(0),
            len: Len(512),
            advice: Advice::Dontneed,
        },
    );
    assert_eq!(
        model.apply(&dontneed, 0, &Assumed),
        Err(Unexpected {
            wanted: libc::EINVAL,
            got: 0
        })
    );
    assert_eq!(model.content(0, 99).0, 0);
    assert_ne!(model.content(0, 110).0, 0);
}

#[test]
fn a_hole_ends_mprotect_but_not_madvise() {
    let source = "p0 mmap at=0.0 len=512 prot=rw backing=anon\np0 write at=0.0 len=512\np0 munmap at=0.10 len=1\n\
                  p0 mprotect at=0.0 len=512 prot=r\np0 madvise at=0.0 len=512 advice=dontneed\n";
    let model = run(source);
    assert_eq!(model.effect(0, 9, true), Effect::Segv);
    assert_eq!(model.effect(0, 11, true), Effect::Done);
    assert_eq!(model.content(0, 11).0, 0);
}

#[test]
fn shared_memory_is_seen_by_both_and_private_by_one() {
    let model = run(
        "p0 mmap at=0.0 len=4 prot=rw backing=shared\np0 mmap at=0.4 len=4 prot=rw backing=anon\n\
                     p0 fork child=p1\np1 write at=0.0 len=8\n",
    );
    assert_eq!(model.content(0, 3), model.content(1, 3));
    assert_ne!(model.content(1, 3).0, 0);
    assert_eq!(model.content(0, 4).0, 0);
    assert_ne!(model.content(1, 4).0, 0);
}

#[test]
fn protection_bit_follows_mremap_and_ends_with_a_store() {
    let model = run(
        "p0 mmap at=0.0 len=512 prot=rw backing=anon\np0 uffd-register at=0.0 len=512 track=async\n\
                     p0 uffd-protect at=0.0 len=512\np0 mremap at=0.0 len=512 to=2.0 new=512 how=fixed\n\
                     p0 write at=2.5 len=1\n",
    );
    let flags = |page: usize| model.pages(0)[page].flags;
    assert!(flags(1024).has(Flags::PROTECTED));
    assert!(!flags(1029).has(Flags::PROTECTED));
    assert_eq!(flags(0), Flags(0));
}

#[test]
fn lazily_freed_page_may_be_zero_until_it_is_written() {
    let source = "p0 mmap at=0.0 len=2 prot=rw backing=anon\np0 write at=0.0 len=2\np0 madvise at=0.0 len=2 advice=free\np0 write at=0.1 len=1\n";
    let model = run(source);
    assert!(model.content(0, 0).1);
    assert!(!model.content(0, 1).1);
}
