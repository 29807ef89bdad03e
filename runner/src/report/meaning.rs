// SPDX-License-Identifier: GPL-2.0-only
//! What a test checks, in the words of `docs/targets.md`, which is made from the
//! tests' own doc comments: a reader of a failure wants to know what failed.

use std::collections::HashMap;
use std::sync::OnceLock;

use hugeprobe_vm::event::TestId;

const TARGETS: &str = include_str!("../../../docs/targets.md");

/// What `test` checks; `None` for tests that the document does not list.
pub fn of(test: &TestId) -> Option<&'static str> {
    static KNOWN: OnceLock<HashMap<(&str, &str), &str>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| parse(TARGETS));
    let parent = test.name.rsplit_once("::").map(|(function, _)| function);
    [Some(test.name.as_str()), parent]
        .into_iter()
        .flatten()
        .find_map(|function| known.get(&(test.target.as_str(), function)).copied())
}

/// The tables of the document, by target and function.
fn parse(text: &str) -> HashMap<(&str, &str), &str> {
    let mut known = HashMap::new();
    let mut target = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            target = name;
        } else if let Some(row) = line.strip_prefix("| `") {
            let function = row.split_once('`').map(|(function, _)| function);
            let meaning = row.split_once(" | ").map(|(_, rest)| rest);
            if let (Some(function), Some(meaning)) = (function, meaning) {
                known.insert((target, function), meaning.trim_end_matches(" |"));
            }
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_mean_what_their_function_means() {
        let id = |name: &str| TestId {
            target: "hmm".into(),
            name: name.into(),
        };
        let meaning = of(&id("access::anon_write::device_private"));
        assert_eq!(
            meaning,
            Some("WRITE to memory nobody has touched arrives whole.")
        );
        assert_eq!(of(&id("access::anon_write")), meaning);
        assert_eq!(of(&id("no_such_test")), None);
    }
}
