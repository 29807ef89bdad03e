// SPDX-License-Identifier: GPL-2.0-only
//! Pure: which tests a user's choice of targets and names means.

use regex::Regex;

use super::{Target, Test};

/// One chosen target with its chosen tests; never empty.
#[derive(Clone, Debug)]
pub struct Selected<'a> {
    /// The target.
    pub target: &'a Target,
    /// Its chosen tests, in its order.
    pub tests: Vec<&'a Test>,
}

/// Why a choice means nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No test program has this name.
    #[error("no target {name}; there are: {known}")]
    UnknownTarget {
        /// What was asked for.
        name: String,
        /// The targets, separated by spaces.
        known: String,
    },
    /// The expression does not parse.
    #[error("tests regex {regex}: {detail}")]
    BadRegex {
        /// As the user wrote it.
        regex: String,
        /// The last line of the parser's message.
        detail: String,
    },
    /// The expression matches nothing.
    #[error("no test of {targets} matches {regex}; `hugeprobe list` shows `target.name` of each")]
    NoMatch {
        /// As the user wrote it.
        regex: String,
        /// The targets looked at, separated by spaces.
        targets: String,
    },
    /// There is nothing to run at all.
    #[error("no tests in {targets}")]
    Empty {
        /// The targets looked at, separated by spaces.
        targets: String,
    },
}

/// The tests of `names` (all but the hidden targets if empty) whose
/// `target.name` matches `regex`, in the order of the targets given.
pub fn select<'a>(
    targets: &'a [Target],
    names: &[String],
    regex: Option<&str>,
) -> Result<Vec<Selected<'a>>, Error> {
    let chosen = choose(targets, names)?;
    let filter = regex.map(compile).transpose()?;
    let wanted = |target: &Target, test: &Test| {
        filter
            .as_ref()
            .is_none_or(|filter| filter.is_match(&format!("{}.{}", target.name, test.name)))
    };
    let selected: Vec<_> = chosen
        .iter()
        .map(|&target| Selected {
            target,
            tests: target
                .tests
                .iter()
                .filter(|test| wanted(target, test))
                .collect(),
        })
        .filter(|selected| !selected.tests.is_empty())
        .collect();
    if !selected.is_empty() {
        return Ok(selected);
    }
    let targets = join(chosen.into_iter());
    Err(match regex {
        Some(regex) => Error::NoMatch {
            regex: regex.into(),
            targets,
        },
        None => Error::Empty { targets },
    })
}

/// The targets with these names, each once.
fn choose<'a>(targets: &'a [Target], names: &[String]) -> Result<Vec<&'a Target>, Error> {
    if names.is_empty() {
        return Ok(targets
            .iter()
            .filter(|target| !target.is_hidden())
            .collect());
    }
    let mut chosen: Vec<&Target> = Vec::new();
    for name in names {
        let target = targets
            .iter()
            .find(|target| target.name == *name)
            .ok_or_else(|| {
                let known = join(targets.iter().filter(|target| !target.is_hidden()));
                Error::UnknownTarget {
                    name: name.clone(),
                    known,
                }
            })?;
        if !chosen.iter().any(|known| known.name == target.name) {
            chosen.push(target);
        }
    }
    Ok(chosen)
}

fn compile(regex: &str) -> Result<Regex, Error> {
    Regex::new(regex).map_err(|error| {
        let message = error.to_string();
        let detail = message
            .lines()
            .last()
            .unwrap_or_default()
            .trim_start_matches("error: ");
        Error::BadRegex {
            regex: regex.into(),
            detail: detail.into(),
        }
    })
}

fn join<'a>(targets: impl Iterator<Item = &'a Target>) -> String {
    targets
        .map(|target| target.name.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> Vec<Target> {
        let target = |name: &str, tests: &[&str]| Target {
            name: name.into(),
            program: name.into(),
            tests: tests
                .iter()
                .map(|test| Test {
                    name: (*test).into(),
                    raw_name: (*test).into(),
                })
                .collect(),
        };
        vec![
            target("faults", &["panic"]),
            target("hmm", &["a", "b"]),
            target("pmd_split", &["a::x", "c"]),
        ]
    }

    fn names(names: &[&str], regex: Option<&str>) -> Result<Vec<String>, Error> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let targets = targets();
        let selected = select(&targets, &names, regex)?;
        let flat = selected.iter().flat_map(|chosen| {
            chosen
                .tests
                .iter()
                .map(|test| format!("{}.{}", chosen.target.name, test.name))
        });
        Ok(flat.collect())
    }

    #[test]
    fn hidden_targets_must_be_named() {
        assert_eq!(
            names(&[], None).unwrap(),
            ["hmm.a", "hmm.b", "pmd_split.a::x", "pmd_split.c"]
        );
        assert_eq!(names(&["faults"], None).unwrap(), ["faults.panic"]);
    }

    #[test]
    fn regex_sees_target_and_name() {
        assert_eq!(
            names(&[], Some(r"\.a")).unwrap(),
            ["hmm.a", "pmd_split.a::x"]
        );
        assert_eq!(
            names(&["pmd_split", "pmd_split"], Some("^pmd_split.c$")).unwrap(),
            ["pmd_split.c"]
        );
    }

    #[test]
    fn wrong_choices_say_what_there_is() {
        let error = names(&["pmd"], None).unwrap_err();
        assert_eq!(error.to_string(), "no target pmd; there are: hmm pmd_split");
        assert!(matches!(
            names(&["hmm"], Some("zzz")),
            Err(Error::NoMatch { .. })
        ));
        assert!(matches!(names(&[], Some("(")), Err(Error::BadRegex { .. })));
    }
}
