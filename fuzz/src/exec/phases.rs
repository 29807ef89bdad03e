// SPDX-License-Identifier: GPL-2.0-only
//! Where the time of programs goes. Always on: a look at the clock costs less
//! than anything that is measured by it.

use std::time::Instant;

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A process starts, up to its first turn.
    Start,
    /// Looking for huge pages and their counters, before and after a step.
    Huge,
    /// The operation itself.
    Call,
    /// The model takes the step.
    Model,
    /// Coverage is collected.
    Cover,
    /// Checks after a step.
    Check,
    /// Checks of a whole process at its end.
    End,
    /// All of the program, the other phases included.
    Program,
    /// Kernel log and counters of the whole system.
    System,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Start,
        Self::Huge,
        Self::Call,
        Self::Model,
        Self::Cover,
        Self::Check,
        Self::End,
        Self::Program,
        Self::System,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Huge => "huge",
            Self::Call => "call",
            Self::Model => "model",
            Self::Cover => "cover",
            Self::Check => "check",
            Self::End => "end",
            Self::Program => "program",
            Self::System => "system",
        }
    }
}

/// Nanoseconds spent, by phase; all zeros is a valid value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Phases([u64; Phase::ALL.len()]);

impl Phases {
    /// Adds what went by since `start`, and starts anew.
    pub fn add(&mut self, phase: Phase, start: &mut Instant) {
        let now = Instant::now();
        self.0[phase as usize] += now.duration_since(*start).as_nanos() as u64;
        *start = now;
    }

    /// Every phase with its microseconds.
    pub fn iter(&self) -> impl Iterator<Item = (Phase, u64)> {
        let spent = self.0;
        Phase::ALL
            .into_iter()
            .map(move |phase| (phase, spent[phase as usize] / 1000))
    }
}
