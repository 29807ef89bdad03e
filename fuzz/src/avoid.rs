// SPDX-License-Identifier: GPL-2.0-only
//! The avoid-list: patterns of programs that show what is already known, so
//! that one bug does not stop the search for the next.
//!
//! A pattern is one line: words that must occur in this order among the steps
//! of a program. A word is the name of an operation, or `name:value` where one
//! of its arguments has that text (`madvise:collapse`, `mremap:dontunmap`,
//! `write:p1` for the process). Blank lines and `#` comments do not count.

use crate::program::{Arg, Program, Step};

/// A list of patterns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Avoid(Vec<Vec<String>>);

impl Avoid {
    /// Reads the text form.
    pub fn parse(text: &str) -> Self {
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default());
        let words = lines.map(|line| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        });
        Self(words.filter(|words| !words.is_empty()).collect())
    }

    /// The first pattern that the program fits, as text.
    pub fn matches(&self, program: &Program) -> Option<String> {
        let fits = |pattern: &&Vec<String>| {
            let mut steps = program.steps.iter();
            pattern
                .iter()
                .all(|word| steps.any(|step| word_fits(word, step)))
        };
        self.0.iter().find(fits).map(|pattern| pattern.join(" "))
    }
}

fn word_fits(word: &str, step: &Step) -> bool {
    let (name, value) = word
        .split_once(':')
        .map_or((word, None), |(name, value)| (name, Some(value)));
    if name != step.op.name() {
        return false;
    }
    let Some(value) = value else { return true };
    let mut args = String::new();
    step.op.write_args(&mut args);
    let mut process = String::new();
    step.process.write(&mut process);
    process == value
        || args
            .split_whitespace()
            .any(|arg| arg.split_once('=').is_some_and(|(_, v)| v == value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    #[test]
    fn words_must_occur_in_order_with_their_values() {
        let avoid = Avoid::parse("# known\nmremap:dontunmap write:p0\n\n");
        let fits = |source: &str| avoid.matches(&text::parse(source).unwrap()).is_some();
        let moved = "p0 mremap at=0.0 len=1 to=1.0 new=1 how=dontunmap\n";
        let write = "p0 write at=0.0 len=1\n";
        assert!(fits(&format!("{moved}p1 verify\n{write}")));
        assert!(!fits(&format!("{write}{moved}")));
        assert!(!fits(&format!(
            "{}{write}",
            moved.replace("dontunmap", "fixed")
        )));
        assert!(!fits(&format!("{moved}{}", write.replace("p0", "p1"))));
        assert_eq!(Avoid::default().matches(&text::parse(write).unwrap()), None);
    }
}
