// SPDX-License-Identifier: GPL-2.0-only
//! A program thought through: what each step does and what must hold after it,
//! in no language yet. Every step is taken to succeed.
//!
//! Two things are only known when the program runs. Whether a device loads and
//! stores depends on where pages are: what it stores is in the table of
//! [`Stored`], and counts only if it did. An allocation that is made to fail may
//! or may not matter: where a call failed nothing is checked any more
//! (`settle`).

use super::call::Call;
use super::known::{self, Run};
use super::race::{Racing, RacingBlock};
use super::shows::Shows;
use super::thinker::Thinker;
use crate::program::{Access, Op, PROCESSES, Program, Step, Via};
use crate::text;

/// A step.
pub struct Entry {
    /// Its text.
    pub name: String,
    /// The step.
    pub step: Step,
    /// Nothing is done, and why.
    pub left_out: Option<&'static str>,
    /// Which allocation of it fails; 0 for none.
    pub nth: u8,
    /// The pages that it stores to or loads from, with their stamps.
    pub runs: Vec<Run>,
    /// Huge pages that must survive: slot before, slot after.
    pub kept: Vec<(usize, usize)>,
    /// The slots whose PMD must be split, one bit each, where that is counted.
    pub splits: Option<u32>,
    /// Whether the device still may have exclusive access to the range.
    pub exclusive: bool,
    /// What is checked afterwards.
    pub checks: Vec<Call>,
    /// What it does in a racing block, if it is in one.
    pub racing: Option<Racing>,
}

/// Pages in a row that a device stores to in a step, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The step.
    pub by: usize,
    /// How many pages.
    pub count: usize,
    /// The first stamp, and the distance of one to the next.
    pub new: (u64, u64),
    /// The same of those before.
    pub old: (u64, u64),
}

/// A program.
pub struct Listing {
    /// Its steps.
    pub entries: Vec<Entry>,
    /// What each process that is left checks at the end.
    pub last: Vec<(usize, Vec<Call>)>,
    /// What devices store.
    pub stored: Vec<Stored>,
    /// Whether allocations are made to fail.
    pub injects: bool,
    /// Its racing blocks.
    pub blocks: Vec<RacingBlock>,
}

impl Entry {
    /// A step of which nothing is known yet.
    pub fn of(step: &Step) -> Self {
        Self {
            name: text::step(step),
            step: *step,
            left_out: None,
            nth: 0,
            runs: Vec::new(),
            kept: Vec::new(),
            splits: None,
            exclusive: false,
            checks: Vec::new(),
            racing: None,
        }
    }

    /// The loads and stores of the step, which are calls of the same name in each
    /// language; none for what is a step of another kind.
    pub fn accesses(&self) -> Option<Vec<Call>> {
        let runs = self.runs.iter();
        let stores = |access: Access| i64::from(access == Access::Store);
        let known = |name, first: &[usize], run: &Run, access| {
            let call = Call::of_stamps(name, first, run);
            call.and(stores(access)).and_known(run.flags)
        };
        Some(match self.step.op {
            Op::Write { .. } => runs.map(|run| Call::of_stamps("store", &[], run)).collect(),
            Op::Read { .. } | Op::Verify {} => {
                runs.map(|run| Call::of_run("check", &[], run)).collect()
            }
            Op::Remote { peer, access, .. } => runs
                .map(|run| known("remote", &[peer.index()], run, access))
                .collect(),
            Op::Direct { access, .. } => {
                runs.map(|run| known("direct", &[], run, access)).collect()
            }
            Op::Fixed { access } => runs.map(|run| known("fixed", &[], run, access)).collect(),
            // traced, /proc/PID/mem does not ask for permission either (FOLL_FORCE)
            Op::Poke {
                peer, access, via, ..
            } => runs
                .map(|run| known("poke", &[peer.index()], run, access))
                .map(|call| call.and((via == Via::Ptrace).into()))
                .collect(),
            _ => return None,
        })
    }
}

impl Listing {
    /// Thinks a program through, with the checks that show something. `races`: steps
    /// that have a schedule do; else they are taken one after another.
    pub fn of(program: &Program, shows: &Shows, races: bool) -> Self {
        let races = races && program.races();
        let mut thinker = Thinker::new(program, shows, races);
        let (mut entries, mut blocks) = (Vec::new(), Vec::new());
        while let Some(step) = program.steps.get(entries.len()) {
            let index = entries.len();
            match program.block(index).filter(|_| races) {
                Some(block) => {
                    let (block, steps) = thinker.block(program, block);
                    blocks.push(block);
                    entries.extend(steps);
                }
                None => entries.push(thinker.entry(index, step)),
            }
        }
        let left = (0..PROCESSES).filter(|process| thinker.model.alive(*process));
        Self {
            entries,
            last: left
                .map(|process| (process, known::last_checks(&thinker.model, process)))
                .collect(),
            stored: thinker.stored,
            injects: thinker.injects,
            blocks,
        }
    }
}
