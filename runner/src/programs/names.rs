// SPDX-License-Identifier: GPL-2.0-only
//! Pure parser of libtest's terse list, and the names that reports use.
//!
//! `test-case` expands each variant into a function named
//! `test_case_<running number>_<name>`. The number changes when a variant is
//! added above, which would make results of two versions incomparable, so
//! reports leave it out.

use std::collections::BTreeMap;

/// One test of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// What reports call it.
    pub name: String,
    /// What the program itself calls it.
    pub raw_name: String,
}

/// Why a list of tests cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Two tests would have one name in the reports.
    #[error(
        "{target}: tests {first} and {second} are both called {name}; give one of them another name"
    )]
    Collision {
        /// The test program.
        target: String,
        /// The common name.
        name: String,
        /// One test.
        first: String,
        /// The other.
        second: String,
    },
    /// A line that is not `NAME: test` or `NAME: benchmark`.
    #[error("{target}: unexpected line in its list of tests: {line}")]
    Line {
        /// The test program.
        target: String,
        /// The line.
        line: String,
    },
}

/// Parses the output of `--list --format terse` of the program `target`.
pub fn parse(target: &str, terse: &str) -> Result<Vec<Test>, Error> {
    let mut seen = BTreeMap::new();
    let mut tests = Vec::new();
    for line in terse.lines().filter(|line| !line.is_empty()) {
        let Some((raw_name, kind)) = line.rsplit_once(": ") else {
            return Err(Error::Line {
                target: target.into(),
                line: line.into(),
            });
        };
        match kind {
            "test" => {}
            "benchmark" => continue,
            _ => {
                return Err(Error::Line {
                    target: target.into(),
                    line: line.into(),
                });
            }
        }
        let name = canonical(raw_name);
        if let Some(first) = seen.insert(name.clone(), raw_name) {
            return Err(Error::Collision {
                target: target.into(),
                name,
                first: first.into(),
                second: raw_name.into(),
            });
        }
        tests.push(Test {
            name,
            raw_name: raw_name.into(),
        });
    }
    Ok(tests)
}

/// The name without the running numbers of `test-case`.
fn canonical(raw_name: &str) -> String {
    let segments: Vec<&str> = raw_name.split("::").map(without_number).collect();
    segments.join("::")
}

/// `first_page` from `test_case_3_first_page`; anything else unchanged.
fn without_number(segment: &str) -> &str {
    let Some(rest) = segment.strip_prefix("test_case_") else {
        return segment;
    };
    match rest.split_once('_') {
        Some((number, name))
            if !name.is_empty()
                && !number.is_empty()
                && number.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            name
        }
        _ => segment,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_numbers_are_left_out() {
        let list = "partial_munmap::test_case_1_first_page: test\n\
                    partial_munmap::test_case_12_last_page: test\n\
                    plain: test\n\
                    speed: benchmark\n";
        let tests = parse("pmd_split", list).unwrap();
        let names: Vec<_> = tests.iter().map(|test| test.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "partial_munmap::first_page",
                "partial_munmap::last_page",
                "plain"
            ]
        );
        assert_eq!(tests[1].raw_name, "partial_munmap::test_case_12_last_page");
    }

    #[test]
    fn only_the_number_of_test_case_is_left_out() {
        for name in [
            "test_case_x_first",
            "test_case_1",
            "test_case_1_",
            "test_cases_1_a",
            "a_2_b",
        ] {
            assert_eq!(canonical(name), name);
        }
        // A variant whose own name starts with an underscore gets no second one.
        assert_eq!(canonical("a::test_case_4_4_kib"), "a::4_kib");
    }

    #[test]
    fn names_that_fall_together_are_refused() {
        let list = "a::test_case_1_x: test\na::test_case_2_x: test\n";
        let error = parse("t", list).unwrap_err();
        assert!(
            matches!(&error, Error::Collision { name, .. } if name == "a::x"),
            "{error}"
        );
    }

    #[test]
    fn other_lines_are_refused() {
        assert!(matches!(
            parse("t", "0 tests, 0 benchmarks\n"),
            Err(Error::Line { .. })
        ));
    }
}
