// SPDX-License-Identifier: GPL-2.0-only
//! Programs: what a fuzzer runs. A program is a list of steps; a step is one
//! operation by one process. Programs have a text form (`text`), come from
//! bytes (`decode`) and change (`mutate`).

mod arg;
mod choice;
mod named;
mod op;
pub mod race;

pub use arg::{Addr, Arg, Context, Len, Nth, Proc};
pub use choice::{Category, Fill, Knob, Look, Room, Setting, Spawn, Switch, Via, Watch};
pub use named::{
    Access, Advice, Backing, Break, Clear, Device, Mirror, Move, Node, Prot, Pulse, Track,
};
pub use op::Op;
pub use race::Schedule;

/// Bytes of a base page.
pub const PAGE: usize = 4096;
/// Base pages under one PMD.
pub const SLOT_PAGES: usize = 512;
/// PMD-sized slots of the arena.
pub const SLOTS: usize = 4;
/// Base pages of the arena.
pub const PAGES: usize = SLOTS * SLOT_PAGES;
/// Where the arena starts in every process; a multiple of 1 GiB, so that a
/// slot never shares its page-table page with anything else.
pub const ARENA: usize = 0x40_0000_0000;
/// Processes of a program, the first included.
pub const PROCESSES: usize = 4;
/// Pages of device memory that programs map; page `n` of the arena shows page `n`
/// modulo this, so that two ranges of the arena can show the same.
pub const DEVICE_PAGES: usize = 2 * SLOT_PAGES;
/// More steps than this are cut off when a program is read.
pub const MAX_STEPS: usize = 64;

/// One operation by one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which process acts; 0 is the first. A step of a process that does not
    /// live is passed over.
    pub process: Proc,
    /// What it does.
    pub op: Op,
    /// With its neighbours that have one too it is carried out at the same time.
    pub race: Option<Schedule>,
}

impl Step {
    /// A step that races with nothing.
    pub fn new(process: Proc, op: Op) -> Self {
        Self {
            process,
            op,
            race: None,
        }
    }
}

/// The families of operations that a fuzz target draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Memory and process operations.
    Mm,
    /// The same and the two dmirror devices.
    Hmm,
    /// Collapse, swap, reclaim.
    Collapse,
    /// Device memory mapped by page frame number.
    Pfnmap,
}

impl Target {
    /// All targets, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Mm, Self::Hmm, Self::Collapse, Self::Pfnmap];

    /// The target's name on command lines and in folders.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mm => "mm",
            Self::Hmm => "hmm",
            Self::Collapse => "collapse",
            Self::Pfnmap => "pfnmap",
        }
    }

    /// The target of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }
}

/// A program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The steps, in the order in which they run.
    pub steps: Vec<Step>,
}
