// SPDX-License-Identifier: GPL-2.0-only
//! Argument types. Each knows its text, and how to draw a value that is
//! likely to matter: at the edges of a huge page, in live memory.

use std::fmt::Write as _;

use arbitrary::{Result, Unstructured};

use super::{PAGES, PROCESSES, SLOT_PAGES, SLOTS};
use crate::model::Model;

/// What is known where an argument is drawn: the state that the steps before
/// would leave if each of them succeeded.
pub struct Context<'a> {
    /// That state.
    pub model: &'a Model,
    /// The process that acts.
    pub process: usize,
}

/// An argument of an operation.
pub trait Arg {
    /// Appends the text form.
    fn write(&self, out: &mut String);
    /// Reads the text form.
    fn parse(text: &str) -> Option<Self>
    where
        Self: Sized;
    /// Draws a value.
    fn draw(u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<Self>
    where
        Self: Sized;
    /// Replaces the value by another draw.
    fn redraw(&mut self, u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<()>;
}

/// A page of the arena, as its index; in text `slot.page`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Addr(pub u16);

impl Addr {
    /// Index of the page in the arena.
    pub fn page(self) -> usize {
        usize::from(self.0)
    }
}

impl Arg for Addr {
    fn write(&self, out: &mut String) {
        let _ = write!(
            out,
            "{}.{}",
            self.page() / SLOT_PAGES,
            self.page() % SLOT_PAGES
        );
    }

    fn parse(text: &str) -> Option<Self> {
        let (slot, page) = text.split_once('.')?;
        let (slot, page): (usize, usize) = (slot.parse().ok()?, page.parse().ok()?);
        (slot < SLOTS && page < SLOT_PAGES).then(|| Self((slot * SLOT_PAGES + page) as u16))
    }

    fn draw(u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<Self> {
        let mut slot = u.int_in_range(0..=SLOTS - 1)?;
        if u.ratio(9, 10)? {
            slot = (0..SLOTS)
                .map(|i| (slot + i) % SLOTS)
                .find(|&s| context.model.slot_in_use(context.process, s))
                .unwrap_or(slot);
        }
        let page = match u.int_in_range(0u8..=15)? {
            0..=6 => 0,
            7 => 1,
            8 => SLOT_PAGES / 2 - 1,
            9 => SLOT_PAGES / 2,
            10 => SLOT_PAGES - 2,
            11 | 12 => SLOT_PAGES - 1,
            13 => *u.choose(&[31, 32, 33, 480, 496])?,
            _ => u.int_in_range(0..=SLOT_PAGES - 1)?,
        };
        Ok(Self((slot * SLOT_PAGES + page) as u16))
    }

    fn redraw(&mut self, u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<()> {
        *self = match u.int_in_range(0u8..=3)? {
            0 => Self((self.0 + 1) % PAGES as u16),
            1 => Self(self.0 / SLOT_PAGES as u16 * SLOT_PAGES as u16),
            _ => Self::draw(u, context)?,
        };
        Ok(())
    }
}

/// A length in pages, 1 to the whole arena; cut at the end of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Len(pub u16);

impl Len {
    /// Pages.
    pub fn pages(self) -> usize {
        usize::from(self.0)
    }
}

/// Lengths at which something changes: one page, the 32-page window of the
/// mirror driver, the 512-page window of a migration and of a PMD.
const LENGTHS: [u16; 9] = [1, 2, 31, 32, 33, 511, 512, 513, 1024];

impl Arg for Len {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "{}", self.0);
    }

    fn parse(text: &str) -> Option<Self> {
        let pages: u16 = text.parse().ok()?;
        (1..=PAGES as u16).contains(&pages).then_some(Self(pages))
    }

    fn draw(u: &mut Unstructured<'_>, _: &Context<'_>) -> Result<Self> {
        Ok(Self(match u.int_in_range(0u8..=9)? {
            0..=3 => 512,
            4 => u.int_in_range(1..=64)?,
            5 => u.int_in_range(1..=PAGES as u16)?,
            _ => *u.choose(&LENGTHS)?,
        }))
    }

    fn redraw(&mut self, u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<()> {
        *self = match u.int_in_range(0u8..=3)? {
            0 => Self((self.0 - 1).max(1)),
            1 => Self((self.0 + 1).min(PAGES as u16)),
            _ => Self::draw(u, context)?,
        };
        Ok(())
    }
}

/// A process of the program; in text `p0` to `p3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proc(pub u8);

impl Proc {
    /// Index of the process.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Arg for Proc {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "p{}", self.0);
    }

    fn parse(text: &str) -> Option<Self> {
        let index: u8 = text.strip_prefix('p')?.parse().ok()?;
        (usize::from(index) < PROCESSES).then_some(Self(index))
    }

    fn draw(u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<Self> {
        let first = u.int_in_range(0..=PROCESSES - 1)?;
        let free = (0..PROCESSES)
            .map(|i| (first + i) % PROCESSES)
            .find(|&p| !context.model.alive(p));
        Ok(Self(free.unwrap_or(first) as u8))
    }

    fn redraw(&mut self, u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<()> {
        *self = Self::draw(u, context)?;
        Ok(())
    }
}

/// Which allocation fails, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nth(pub u8);

impl Arg for Nth {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "{}", self.0);
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|nth| *nth > 0).map(Self)
    }

    fn draw(u: &mut Unstructured<'_>, _: &Context<'_>) -> Result<Self> {
        Ok(Self(u.int_in_range(1..=12)?))
    }

    fn redraw(&mut self, u: &mut Unstructured<'_>, _: &Context<'_>) -> Result<()> {
        self.0 = u.int_in_range(1..=40)?;
        Ok(())
    }
}
