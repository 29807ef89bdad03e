// SPDX-License-Identifier: GPL-2.0-only
//! From how a test process ended and what it wrote to a verdict; the table in
//! `docs/architecture.md`. Pure.

use super::log;
use super::supervise::{End, Outcome};
use crate::event::Verdict;

/// KSFT_XFAIL, KSFT_XPASS and KSFT_SKIP of the kernel's selftests.
const XFAIL: i32 = 2;
const XPASS: i32 = 3;
const SKIP: i32 = 4;

/// Lines of a panic's message that may become part of a reason.
const PANIC_LINES: usize = 6;
/// Characters of such a line.
const PANIC_LINE: usize = 400;

/// Everything that was found out about one test.
pub struct Findings<'a> {
    /// How its process ended, or why it could not be started.
    pub outcome: Result<&'a Outcome, String>,
    /// The settings it left changed, one line each.
    pub settings: Vec<String>,
    /// What the kernel said meanwhile.
    pub kernel: &'a log::Verdict,
}

impl Findings<'_> {
    /// The verdict and its reason. A test fails for what it says itself, else
    /// for what the kernel says of it, else for what it leaves behind.
    ///
    /// A test that said which known bug it runs into may fail, and may not pass.
    pub fn judge(&self, words: &Words, timeout_s: u32) -> (Verdict, String) {
        let (verdict, reason) = self.judge_unexcused(words, timeout_s);
        match &words.known_bug {
            Some(bug) if verdict.is_failure() => (Verdict::Xfail, format!("{bug}: {reason}")),
            Some(bug) if verdict == Verdict::Pass => {
                (Verdict::Fail, format!("unexpected pass: {bug}"))
            }
            _ => (verdict, reason),
        }
    }

    fn judge_unexcused(&self, words: &Words, timeout_s: u32) -> (Verdict, String) {
        let (verdict, reason) = match &self.outcome {
            Ok(outcome) => words.verdict(outcome.end, timeout_s),
            Err(error) => (Verdict::Fail, error.clone()),
        };
        match self.complaint() {
            None => (verdict, reason),
            // What the kernel said explains why the test did not end.
            Some(complaint) if verdict == Verdict::Timeout => {
                (Verdict::Fail, format!("{complaint}; the test did not end"))
            }
            Some(complaint) if verdict.is_failure() => (verdict, format!("{reason}; {complaint}")),
            Some(complaint) => (Verdict::Fail, complaint),
        }
    }

    fn complaint(&self) -> Option<String> {
        let mut splats = self.kernel.splats.iter();
        if let Some(splat) = splats.find(|splat| splat.allowed.is_none()) {
            return Some(format!("the kernel reported `{}`", splat.title));
        }
        if self.kernel.taint != 0 {
            return Some(format!(
                "the kernel is now tainted {:#x}",
                self.kernel.taint
            ));
        }
        if self.kernel.lost {
            return Some("the kernel logged so much that lines were lost".into());
        }
        match &self.outcome {
            Ok(outcome) if outcome.left_behind > 0 => {
                return Some(format!("left {} process(es) behind", outcome.left_behind));
            }
            _ => {}
        }
        let setting = self.settings.first()?;
        Some(format!("left a setting changed: {setting}"))
    }
}

/// What of a test's output its verdict depends on.
#[derive(Debug, Default)]
pub struct Words {
    /// libtest's own name of the test.
    raw_name: String,
    one_passed: bool,
    skip: Option<String>,
    /// The known bug that the test is about to run into.
    known_bug: Option<String>,
    xfail: Option<String>,
    panic_at: Option<String>,
    panic: Vec<String>,
    /// The panic's message has ended.
    panic_over: bool,
}

impl Words {
    /// For the test which libtest calls `raw_name`.
    pub fn new(raw_name: &str) -> Self {
        Self {
            raw_name: raw_name.to_owned(),
            ..Self::default()
        }
    }

    /// Whether `line` is what libtest itself writes around a test that passes, and says nothing.
    pub fn is_idle(&self, line: &str) -> bool {
        line.is_empty()
            || line == "running 1 test"
            || line.starts_with("test result: ok. 1 passed;")
            || line
                .strip_prefix("test ")
                .and_then(|rest| rest.strip_suffix(" ... ok"))
                .is_some_and(|name| name == self.raw_name)
    }

    /// Takes note of one line that the test wrote.
    pub fn hear(&mut self, line: &str) {
        // With one thread, libtest begins the line before the test runs.
        let line = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_prefix(self.raw_name.as_str()))
            .and_then(|rest| rest.strip_prefix(" ... "))
            .unwrap_or(line);
        if line.starts_with("test result: ok. 1 passed;") {
            self.one_passed = true;
        } else if let Some(reason) = line.strip_prefix("SKIP: ") {
            self.skip = Some(reason.to_owned());
        } else if let Some(reason) = line.strip_prefix("XFAIL: ") {
            self.xfail = Some(reason.to_owned());
        } else if let Some(bug) = known_bug(line) {
            self.known_bug = Some(bug.to_owned());
        } else if self.panic_at.is_none() {
            self.panic_at = panic_place(line);
        } else {
            self.hear_panic(line);
        }
    }

    fn hear_panic(&mut self, line: &str) {
        self.panic_over |= line.starts_with("note: ") || line.starts_with("stack backtrace:");
        if !self.panic_over && !line.trim().is_empty() && self.panic.len() < PANIC_LINES {
            self.panic.push(shortened(line.trim()));
        }
    }

    /// The verdict on a test that ended as `end`, and its reason.
    pub fn verdict(&self, end: End, timeout_s: u32) -> (Verdict, String) {
        match end {
            End::TimedOut => (
                Verdict::Timeout,
                format!("did not end within {timeout_s} s"),
            ),
            End::Exited(0) if self.one_passed => (Verdict::Pass, String::new()),
            End::Exited(0) => (
                Verdict::Fail,
                format!(
                    "exit code 0, but no test ran: is `{}` still its name?",
                    self.raw_name
                ),
            ),
            End::Exited(SKIP) => match &self.skip {
                Some(reason) => (Verdict::Skip, reason.clone()),
                None => (Verdict::Fail, "skipped without a reason".into()),
            },
            End::Exited(XFAIL) => match &self.xfail {
                Some(reason) => (Verdict::Xfail, reason.clone()),
                None => (Verdict::Fail, "exit code 2 (xfail) without a reason".into()),
            },
            End::Exited(XPASS) => (Verdict::Fail, "unexpected pass".into()),
            End::Exited(code) => (
                Verdict::Fail,
                self.panic().unwrap_or_else(|| format!("exit code {code}")),
            ),
            End::Signaled(signal) => (
                Verdict::Fail,
                match self.panic() {
                    Some(panic) => format!("killed by {}; {panic}", signal.as_str()),
                    None => format!("killed by {}", signal.as_str()),
                },
            ),
        }
    }

    fn panic(&self) -> Option<String> {
        let place = self.panic_at.as_ref()?;
        let message = match self.panic.as_slice() {
            [] => "panicked".to_owned(),
            // What assert_eq!() writes, with the message of the test first.
            [first, left, right, ..] if left.starts_with("left: ") => {
                let what = first.strip_prefix("assertion `left == right` failed: ");
                format!("{}: {left}, {right}", what.unwrap_or(first))
            }
            [first, rest @ ..] if first.ends_with(':') => {
                format!("{first} {}", rest.join("; "))
            }
            [first, ..] => first.clone(),
        };
        Some(format!("{message} ({place})"))
    }
}

/// The known bug that a test says it is about to run into.
pub(crate) fn known_bug(line: &str) -> Option<&str> {
    line.strip_prefix("KNOWN BUG: ")
}

/// The line as a part of a reason, which is one line that people read; the test's output has it whole.
fn shortened(line: &str) -> String {
    match line.char_indices().nth(PANIC_LINE) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

/// The source place in `thread 'NAME' (TID) panicked at PLACE:`.
fn panic_place(line: &str) -> Option<String> {
    let rest = line.strip_prefix("thread '")?;
    let (_, place) = rest.split_once(" panicked at ")?;
    Some(place.trim_end_matches(':').to_owned())
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;
    use test_case::test_case;

    use super::{Findings, Words};
    use crate::event::{Splat, Verdict};
    use crate::guest::log;
    use crate::guest::supervise::{End, Outcome};

    fn verdict(output: &str, end: End) -> (Verdict, String) {
        let mut words = Words::new("split::first");
        for line in output.lines() {
            words.hear(line);
        }
        words.verdict(end, 30)
    }

    const PASSED: &str = "running 1 test\ntest split::first ... ok\n\n\
        test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out";
    const NOTHING: &str = "running 0 tests\n\n\
        test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 4 filtered out";
    const PANIC: &str = "\nthread 'split::first' (12) panicked at selftests/tests/a.rs:7:5:\n\
        page 3 lost its dirty bit\nnote: run with `RUST_BACKTRACE=1`";

    #[test]
    fn what_libtest_says_of_a_pass_is_nothing() {
        let words = Words::new("split::first");
        let nothing = PASSED.lines().filter(|line| words.is_idle(line));
        assert_eq!(nothing.count(), PASSED.lines().count());
        let said = PANIC.lines().filter(|line| !words.is_idle(line));
        assert_eq!(said.count(), 3);
    }

    const UNEQUAL: &str = "\nthread 'split::first' (12) panicked at selftests/tests/a.rs:7:5:\n\
        assertion `left == right` failed: page 3\n  left: 1\n right: 2\nstack backtrace:\n 0: f";
    const LIST: &str = "\nthread 'split::first' (12) panicked at selftests/tests/a.rs:7:5:\n\
        pages:\n3 is dirty\n4 is clean\nnote: run with `RUST_BACKTRACE=1`";

    #[test_case(PASSED, End::Exited(0), Verdict::Pass, ""; "pass")]
    #[test_case(NOTHING, End::Exited(0), Verdict::Fail, "exit code 0, but no test ran: is `split::first` still its name?"; "unknown name")]
    #[test_case("SKIP: no swap", End::Exited(4), Verdict::Skip, "no swap"; "skip")]
    #[test_case("test split::first ... SKIP: no swap", End::Exited(4), Verdict::Skip, "no swap"; "skip on stdout")]
    #[test_case(PASSED, End::Exited(4), Verdict::Fail, "skipped without a reason"; "skip without reason")]
    #[test_case("XFAIL: T16", End::Exited(2), Verdict::Xfail, "T16"; "xfail")]
    #[test_case("", End::Exited(3), Verdict::Fail, "unexpected pass"; "xpass")]
    #[test_case(UNEQUAL, End::Exited(101), Verdict::Fail, "page 3: left: 1, right: 2 (selftests/tests/a.rs:7:5)"; "unequal")]
    #[test_case(LIST, End::Exited(101), Verdict::Fail, "pages: 3 is dirty; 4 is clean (selftests/tests/a.rs:7:5)"; "list")]
    #[test_case(PANIC, End::Exited(101), Verdict::Fail, "page 3 lost its dirty bit (selftests/tests/a.rs:7:5)"; "panic")]
    #[test_case("", End::Exited(9), Verdict::Fail, "exit code 9"; "code")]
    #[test_case("", End::Signaled(Signal::SIGSEGV), Verdict::Fail, "killed by SIGSEGV"; "signal")]
    #[test_case(PASSED, End::TimedOut, Verdict::Timeout, "did not end within 30 s"; "timeout")]
    fn table(output: &str, end: End, verdict: Verdict, reason: &str) {
        assert_eq!(
            super::tests::verdict(output, end),
            (verdict, reason.to_owned())
        );
    }

    fn passed() -> Words {
        let mut words = Words::new("split::first");
        PASSED.lines().for_each(|line| words.hear(line));
        words
    }

    fn judge(
        end: End,
        left_behind: usize,
        settings: &[&str],
        kernel: log::Verdict,
    ) -> (Verdict, String) {
        let outcome = Outcome {
            end,
            left_behind,
            unkillable: false,
        };
        let findings = Findings {
            outcome: Ok(&outcome),
            settings: settings.iter().map(ToString::to_string).collect(),
            kernel: &kernel,
        };
        findings.judge(&passed(), 30)
    }

    fn reported(allowed: Option<&str>) -> log::Verdict {
        log::Verdict {
            splats: vec![Splat {
                title: "WARNING in f".into(),
                lines: Vec::new(),
                allowed: allowed.map(str::to_owned),
            }],
            ..log::Verdict::default()
        }
    }

    #[test]
    fn what_a_test_leaves_behind_fails_it() {
        let quiet = log::Verdict::default;
        let ok = End::Exited(0);
        assert_eq!(judge(ok, 0, &[], quiet()).0, Verdict::Pass);
        let fail = |reason: &str| (Verdict::Fail, reason.to_owned());
        assert_eq!(
            judge(ok, 2, &[], quiet()),
            fail("left 2 process(es) behind")
        );
        assert_eq!(
            judge(ok, 0, &["enabled: madvise became never"], quiet()),
            fail("left a setting changed: enabled: madvise became never")
        );
    }

    #[test]
    fn a_known_bug_excuses_a_failure_and_no_pass() {
        let said = |line: &str, end| {
            let mut words = passed();
            words.hear(line);
            let outcome = Outcome {
                end,
                left_behind: 0,
                unkillable: false,
            };
            let findings = Findings {
                outcome: Ok(&outcome),
                settings: Vec::new(),
                kernel: &log::Verdict::default(),
            };
            findings.judge(&words, 30)
        };
        let line = "KNOWN BUG: up to 7.3: a list is lost";
        let (verdict, reason) = said(line, End::Exited(101));
        assert_eq!(verdict, Verdict::Xfail);
        assert_eq!(reason, "up to 7.3: a list is lost: exit code 101");
        assert_eq!(said(line, End::TimedOut).0, Verdict::Xfail);
        assert_eq!(said(line, End::Exited(0)).0, Verdict::Fail);
        assert_eq!(said("a KNOWN BUG: none", End::Exited(101)).0, Verdict::Fail);
    }

    #[test]
    fn the_kernels_word_counts() {
        let ok = End::Exited(0);
        assert_eq!(
            judge(ok, 0, &[], reported(None)),
            (
                Verdict::Fail,
                "the kernel reported `WARNING in f`".to_owned()
            )
        );
        assert_eq!(judge(ok, 0, &[], reported(Some("known"))).0, Verdict::Pass);
        let tainted = log::Verdict {
            taint: 0x200,
            ..log::Verdict::default()
        };
        assert_eq!(judge(ok, 0, &[], tainted).0, Verdict::Fail);
        let lost = log::Verdict {
            lost: true,
            ..log::Verdict::default()
        };
        assert_eq!(judge(ok, 0, &[], lost).0, Verdict::Fail);
        let (verdict, reason) = judge(End::Exited(1), 0, &[], reported(None));
        assert_eq!(verdict, Verdict::Fail);
        assert!(
            reason.ends_with("; the kernel reported `WARNING in f`"),
            "{reason}"
        );
    }
}
