// SPDX-License-Identifier: GPL-2.0-only
//! Whose turn it is, what for, and how it goes from one process to the next.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::Board;
use crate::program::{PROCESSES, race};

/// The turn after which everybody stops.
pub const STOP: u32 = u32::MAX;
/// In a turn: the racing block that begins at that step runs.
const RUN: u32 = 1 << 30;
/// In a turn: a process looks at what that block has left.
const LOOK: u32 = 1 << 29;
const LOOKS: u32 = 16;

/// What a turn is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// One process carries out one step.
    Step(usize),
    /// The first process plans the racing block that begins there.
    Plan(usize),
    /// All threads of the block run.
    Run(usize),
    /// A process looks at what the block has left.
    Look(usize),
    /// A process is checked as a whole.
    Check(usize),
}

impl Board {
    /// Where the program is: a step's index; `count() + p` while process `p`
    /// is checked as a whole; `STOP`.
    pub fn turn(&self) -> u32 {
        self.shared_turn().load(Ordering::SeqCst)
    }

    /// What a turn is for; not for `STOP`.
    pub fn duty(&self, turn: u32) -> Duty {
        let index = (turn & 0xffff) as usize;
        if turn & RUN != 0 {
            Duty::Run(index)
        } else if turn & LOOK != 0 {
            Duty::Look(index)
        } else {
            match self.step(index) {
                Some(step) if step.race.is_some() && !self.is_bare() => Duty::Plan(index),
                Some(_) => Duty::Step(index),
                None => Duty::Check(index.saturating_sub(self.count())),
            }
        }
    }

    /// The process that has turn `turn`; in a block that runs, the first.
    pub fn owner(&self, turn: u32) -> usize {
        match self.duty(turn) {
            Duty::Step(index) => self.step(index).map_or(0, |step| step.process.index()),
            Duty::Plan(_) | Duty::Run(_) => 0,
            Duty::Look(_) => (turn >> LOOKS & 0xf) as usize,
            Duty::Check(process) => process,
        }
    }

    /// Step behind the racing block that begins at `first`.
    pub fn block_end(&self, first: usize) -> usize {
        let block = race::block_at(&|index| self.step(index), first);
        block.map_or(first + 1, |block| block.end)
    }

    /// Lets the planned block that begins at `first` run.
    pub fn begin_run(&self, first: usize) {
        self.set_turn(RUN | first as u32);
    }

    /// The block that ran in this turn is over; the first process looks first.
    pub fn end_run(&self, turn: u32) {
        let word = self.shared_turn();
        let look = LOOK | turn & 0xffff;
        if word
            .compare_exchange(turn, look, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
        {
            wake(word);
        }
    }

    /// The first turn from `turn` on at which there is something to do.
    pub(super) fn next(&self, mut turn: u32) -> u32 {
        let shared = self.shared();
        if shared.bare {
            return if turn < shared.count { turn } else { STOP };
        }
        while let Some(step) = self.step(turn as usize) {
            if step.race.is_some() || !shared.model.skips(&step) {
                return turn;
            }
            turn += 1;
        }
        let last = shared.count + PROCESSES as u32;
        while turn < last && !shared.model.alive((turn - shared.count) as usize) {
            turn += 1;
        }
        if turn < last { turn } else { STOP }
    }

    /// Passes the turn on from `turn`.
    pub fn pass(&self, turn: u32) {
        let next = match self.duty(turn) {
            Duty::Plan(first) | Duty::Run(first) => self.next(self.block_end(first) as u32),
            Duty::Look(first) => {
                let mut others = self.owner(turn) + 1..PROCESSES;
                match others.find(|process| self.shared().model.alive(*process)) {
                    Some(process) => LOOK | (process as u32) << LOOKS | first as u32,
                    None => self.next(self.block_end(first) as u32),
                }
            }
            Duty::Step(_) | Duty::Check(_) => self.next(turn + 1),
        };
        self.set_turn(next);
    }

    /// Ends the program for all.
    pub fn stop(&self) {
        self.set_turn(STOP);
    }

    fn set_turn(&self, turn: u32) {
        let word = &self.shared().turn;
        word.store(turn, Ordering::SeqCst);
        wake(word);
    }

    /// Waits while the turn is `turn`, for at most `limit`.
    pub fn wait_turn(&self, turn: u32, limit: Duration) {
        let word = &self.shared().turn;
        let time = libc::timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        // SAFETY: word and time live for the length of the call.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT,
                turn,
                &raw const time,
            )
        };
    }
}

/// Wakes all that wait for the turn.
fn wake(word: &AtomicU32) {
    // SAFETY: wakes waiters on a word that lives as long as the process.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}
