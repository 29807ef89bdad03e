// SPDX-License-Identifier: GPL-2.0-only
//! A listing written down: what is the same in every language. What differs is
//! in the implementations of [`Language`].

use super::call::Call;
use super::listing::{Entry, Listing, Stored};
use crate::program::Program;

/// A language that reproducers are written in.
pub trait Language {
    /// What stands around the steps.
    const FRAME: &'static str;

    /// The statements of a step that is no load or store, alone.
    fn statements(entry: &Entry) -> Vec<String>;

    /// A call as a statement.
    fn call(call: &Call) -> String;

    /// Declares `name`, with what `call` returns.
    fn noted(name: &str, call: &str) -> String;

    /// The statements, of which the call loses its `nth` allocation.
    fn armed(nth: u8, statements: Vec<String>) -> Vec<String>;

    /// One step of the program among the others; `Err` says why it is not done.
    fn step(number: usize, name: &str, body: Result<&[String], &str>) -> String;

    /// What a process checks before it ends, among the others.
    fn last(process: usize, body: &[String]) -> String;

    /// A row of the table of what devices store.
    fn row(stored: &Stored) -> String;
}

/// The frame of a language with the program in it.
pub fn source<L: Language>(program: &Program, listing: &Listing) -> String {
    let steps = listing.entries.iter().enumerate();
    let steps: String = steps
        .map(|(number, entry)| step::<L>(number, entry))
        .collect();
    let last = listing.last.iter();
    let last: String = last
        .map(|(process, calls)| L::last(*process, &lines::<L>(calls)))
        .collect();
    let owners: Vec<String> = program
        .steps
        .iter()
        .map(|step| step.process.0.to_string())
        .collect();
    let stored: String = listing.stored.iter().map(L::row).collect();
    L::FRAME
        .replace("@OWNERS@", &owners.join(", "))
        .replace("@STORED@", &stored)
        .replace("@STEPS@", &steps)
        .replace("@LAST@", &last)
}

fn step<L: Language>(number: usize, entry: &Entry) -> String {
    if entry.racing.is_some() {
        // stands with the other steps of its block
        return String::new();
    }
    match entry.left_out {
        Some(why) => L::step(number, &entry.name, Err(why)),
        None => L::step(number, &entry.name, Ok(&body::<L>(entry))),
    }
}

/// A step with what is looked at before and after it.
fn body<L: Language>(entry: &Entry) -> Vec<String> {
    let mut body = Vec::new();
    if !entry.kept.is_empty() || entry.splits.is_some() {
        body.push(L::noted("before", "huge"));
    }
    if entry.splits.is_some() {
        body.push(L::noted("splits", "split_pmds"));
    }
    let statements = match entry.accesses() {
        Some(calls) => lines::<L>(&calls),
        None => L::statements(entry),
    };
    body.extend(match entry.nth {
        0 => statements,
        nth => L::armed(nth, statements),
    });
    // accesses that must be refused come first: all else makes a CPU forget translations
    body.extend(lines::<L>(&entry.checks));
    let splits = entry.splits.map(|slots| {
        let call = Call::named("split", &["before", "splits"]);
        call.and(slots.into())
    });
    body.extend(splits.iter().map(L::call));
    let kept = entry.kept.iter().map(|(slot, place)| {
        let call = Call::named("kept", &["before"]);
        call.and(*slot as i64).and(*place as i64)
    });
    body.extend(kept.map(|call| L::call(&call)));
    body
}

fn lines<L: Language>(calls: &[Call]) -> Vec<String> {
    calls.iter().map(L::call).collect()
}
