// SPDX-License-Identifier: GPL-2.0-only
//! Racing blocks: steps in a row that have a schedule are carried out at the
//! same time. Each pair of process and lane is a thread of that process; it
//! carries out its steps in order, in rounds. Even lanes share the CPU on which
//! the rest of the program runs, odd ones have the first.
//!
//! In text a schedule follows the arguments of a step: `lane=1 times=20 wait=3`.

use std::fmt::Write as _;
use std::ops::Range;

use arbitrary::{Result, Unstructured};

use super::{Program, Step};

/// Lanes of a process.
pub const LANES: usize = 4;
/// Most rounds of a lane.
pub const MAX_TIMES: u8 = 200;

/// When a step of a racing block is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Which thread of its process carries it out.
    pub lane: u8,
    /// In how many rounds, the first ones; from 1.
    pub times: u8,
    /// What the lane does before it: 0 nothing, 1 gives the CPU up, more: spins
    /// so long.
    pub wait: u16,
}

impl Schedule {
    /// Once, at once.
    pub fn of_lane(lane: u8) -> Self {
        Self {
            lane,
            times: 1,
            wait: 0,
        }
    }

    /// Appends the text form, with a space in front.
    pub fn write(&self, out: &mut String) {
        let _ = write!(out, " lane={}", self.lane);
        if self.times != 1 {
            let _ = write!(out, " times={}", self.times);
        }
        if self.wait != 0 {
            let _ = write!(out, " wait={}", self.wait);
        }
    }

    /// Reads the text form: none without `lane=`. Fails with the name of what
    /// is wrong.
    pub fn parse<'a>(
        find: &dyn Fn(&str) -> Option<&'a str>,
    ) -> std::result::Result<Option<Self>, &'static str> {
        let Some(lane) = find("lane") else {
            return Ok(None);
        };
        let lane = lane.parse().ok().filter(|lane| *lane < LANES as u8);
        let times = find("times").map_or(Some(1), |text| text.parse().ok());
        let times = times.filter(|times| (1..=MAX_TIMES).contains(times));
        let wait = find("wait").map_or(Some(0), |text| text.parse().ok());
        Ok(Some(Self {
            lane: lane.ok_or("lane")?,
            times: times.ok_or("times")?,
            wait: wait.ok_or("wait")?,
        }))
    }

    /// Draws a schedule in the given lane.
    pub fn draw(u: &mut Unstructured<'_>, lane: u8) -> Result<Self> {
        Ok(Self {
            lane,
            times: *u.choose(&[1, 2, 4, 10, 20, 40])?,
            wait: draw_wait(u)?,
        })
    }

    /// Changes one part of it.
    pub fn redraw(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0u8..=2)? {
            0 => self.lane = u.int_in_range(0..=LANES as u8 - 1)?,
            1 => self.times = *u.choose(&[1, 2, 4, 10, 20, 40, 100])?,
            _ => self.wait = draw_wait(u)?,
        }
        Ok(())
    }
}

fn draw_wait(u: &mut Unstructured<'_>) -> Result<u16> {
    Ok(match u.int_in_range(0u8..=7)? {
        0..=3 => 0,
        4 => 1,
        5 => u.int_in_range(2..=50)?,
        6 => u.int_in_range(2..=500)?,
        _ => u.int_in_range(2..=5000)?,
    })
}

/// The racing block around step `index`, or after it; none if that step has no schedule.
pub fn block_at(steps: &dyn Fn(usize) -> Option<Step>, index: usize) -> Option<Range<usize>> {
    let races = |index: usize| steps(index).is_some_and(|step| step.race.is_some());
    if !races(index) {
        return None;
    }
    let first = (0..index).rev().take_while(|i| races(*i)).last();
    let end = (index..).find(|i| !races(*i)).unwrap_or(index + 1);
    Some(first.unwrap_or(index)..end)
}

impl Program {
    /// Whether any of its steps race.
    pub fn races(&self) -> bool {
        self.steps.iter().any(|step| step.race.is_some())
    }

    /// The racing block around step `index`; none if that step has no schedule.
    pub fn block(&self, index: usize) -> Option<Range<usize>> {
        block_at(&|index| self.steps.get(index).copied(), index)
    }
}

#[cfg(test)]
mod tests {
    use crate::text;

    const RACE: &str = "p0 verify\n\
        p0 write at=0.0 len=1 lane=0 times=20\np1 read at=0.0 len=1 lane=3 wait=7\np0 verify\n\
        p0 write at=0.0 len=1 lane=0\n";

    #[test]
    fn a_block_is_what_stands_in_a_row_with_a_schedule() {
        let program = text::parse(RACE).unwrap();
        let blocks: Vec<_> = (0..6).map(|index| program.block(index)).collect();
        let first = Some(1..3);
        assert_eq!(blocks, [None, first.clone(), first, None, Some(4..5), None]);
    }

    #[test]
    fn a_schedule_reads_back_and_its_errors_are_named() {
        let program = text::parse(RACE).unwrap();
        assert_eq!(text::print(&program), RACE);
        let error = |line: &str| text::parse(line).unwrap_err().reason;
        assert!(error("p0 verify lane=4").contains("`lane=`"));
        assert!(error("p0 verify lane=0 times=0").contains("`times=`"));
        assert!(error("p0 verify lane=0 wait=x").contains("`wait=`"));
    }
}
