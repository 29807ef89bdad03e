// SPDX-License-Identifier: GPL-2.0-only
//! Calls that stand in C and in Rust alike: the frame of `repro.c` and the
//! library `selftests::replay` have functions of the same names.

use super::Run;

/// An argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// What was noted under that name.
    Noted(&'static str),
    /// A number as it is read.
    Number(i64),
    /// A stamp, or the distance between two.
    Stamp(u64),
    /// Bits that have no names.
    Bits(u32),
    /// What is known of pages, as in [`Run::flags`].
    Known(u32),
}

/// A call of a function that both have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    name: &'static str,
    values: Vec<Value>,
}

impl Call {
    /// With numbers.
    pub fn new<const N: usize>(name: &'static str, numbers: [i64; N]) -> Self {
        let values = numbers.into_iter().map(Value::Number).collect();
        Self { name, values }
    }

    /// With what was noted before.
    pub fn named(name: &'static str, noted: &[&'static str]) -> Self {
        let values = noted.iter().copied().map(Value::Noted).collect();
        Self { name, values }
    }

    /// With `first`, and what is known of the pages of a run.
    pub fn of_run(name: &'static str, first: &[usize], run: &Run) -> Self {
        Self::of_stamps(name, first, run).and_known(run.flags)
    }

    /// The same without the flags.
    pub fn of_stamps(name: &'static str, first: &[usize], run: &Run) -> Self {
        let numbers = first.iter().chain([&run.page, &run.count]);
        let mut values: Vec<Value> = numbers.map(|n| Value::Number(*n as i64)).collect();
        values.extend([Value::Stamp(run.stamp), Value::Stamp(run.step)]);
        Self { name, values }
    }

    /// With one more number.
    pub fn and(mut self, number: i64) -> Self {
        self.values.push(Value::Number(number));
        self
    }

    /// With what is known of pages.
    pub fn and_known(mut self, flags: u32) -> Self {
        self.values.push(Value::Known(flags));
        self
    }

    /// With bits.
    pub fn and_bits(mut self, bits: u32) -> Self {
        self.values.push(Value::Bits(bits));
        self
    }

    /// As a statement of C.
    pub fn c(&self) -> String {
        let values = self.values.iter().map(|value| match value {
            Value::Noted(name) => (*name).to_owned(),
            Value::Number(number) => number.to_string(),
            Value::Stamp(stamp) => format!("{stamp:#x}UL"),
            Value::Bits(bits) => format!("{bits:#x}"),
            Value::Known(flags) => known(*flags),
        });
        format!("{}({});", self.name, values.collect::<Vec<_>>().join(", "))
    }

    /// As a statement of Rust, on the process `p`.
    pub fn rust(&self) -> String {
        let values = self.values.iter().map(|value| match value {
            Value::Noted(name) => (*name).to_owned(),
            Value::Number(number) => number.to_string(),
            Value::Stamp(stamp) => format!("{stamp:#x}"),
            Value::Bits(bits) => format!("{bits:#x}"),
            Value::Known(flags) => flags.to_string(),
        });
        format!(
            "p.{}({});",
            self.name,
            values.collect::<Vec<_>>().join(", ")
        )
    }
}

/// Flags by the names that the frame of `repro.c` gives them.
pub fn known(flags: u32) -> String {
    const NAMES: [&str; 10] = [
        "LAZY",
        "DIRTY",
        "WP",
        "WP_ANY",
        "READABLE",
        "KEPT",
        "ELSEWHERE",
        "TRACKED",
        "FILES",
        "COPIED",
    ];
    let set = |bit: &usize| flags & 1 << bit != 0;
    let names: Vec<&str> = (0..NAMES.len()).filter(set).map(|bit| NAMES[bit]).collect();
    if names.is_empty() {
        "0".to_owned()
    } else {
        names.join(" | ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_the_same_in_both_languages() {
        let run = Run {
            page: 5,
            count: 2,
            stamp: 0x10,
            step: 1,
            flags: 16,
        };
        let call = Call::of_run("look", &[], &run);
        assert_eq!(call.c(), "look(5, 2, 0x10UL, 0x1UL, READABLE);");
        assert_eq!(call.rust(), "p.look(5, 2, 0x10, 0x1, 16);");
        assert_eq!(Call::new("counters", [1, -1]).c(), "counters(1, -1);");
    }
}
