// SPDX-License-Identifier: GPL-2.0-only
//! A finding: what was seen, and which program showed it. Pure.

use hugeprobe_vm::event::{Fate, Splat};
use hugeprobe_vm::{fate, splat};
use serde::{Deserialize, Serialize};

use super::lines::Violation;

/// What kind of thing was seen; decides how it is told and avoided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The shadow model and the kernel disagree; the kernel lives on.
    Violation,
    /// The kernel reported a fault and lives on.
    Report,
    /// The kernel panicked, hung or took the machine down.
    Death,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The same for the same bug.
    pub title: String,
    /// What kind.
    pub kind: Kind,
    /// What was expected and found, or the kernel's report.
    pub detail: String,
    /// The program that showed it, in text form; empty when none is known.
    pub program: String,
    /// The console of a machine that it took down; kept in a file of its own.
    #[serde(skip)]
    pub console: String,
}

impl Finding {
    /// What the guest has reported itself.
    pub fn of_violation(violation: Violation) -> Self {
        let named = violation.detail.starts_with("step ");
        let step = match violation.step {
            Some(_) if named => String::new(),
            Some(step) => format!("after step {step}\n"),
            None => "at the end\n".to_owned(),
        };
        // A kernel report is titled by the kernel; a broken promise by its oracle.
        let title = match violation.oracle.as_str() {
            "" | "O2 kernel log" => violation.title,
            oracle => format!("{oracle}: {}", violation.title),
        };
        Self {
            title,
            kind: Kind::Violation,
            detail: format!("{step}{}", violation.detail),
            program: violation.program,
            console: String::new(),
        }
    }

    /// What the kernel printed while it lived on; `None` when it is allowed.
    pub fn of_splat(splat: &Splat, program: String) -> Option<Self> {
        splat.allowed.is_none().then(|| Self {
            title: splat.title.clone(),
            kind: Kind::Report,
            detail: splat.lines.join("\n"),
            program,
            console: String::new(),
        })
    }

    /// What the end of a machine says about its kernel; `None` for ends that
    /// say nothing about it: QEMU that was killed, the host that failed.
    pub fn of_fate(fate: &Fate, console: &str, program: String) -> Option<Self> {
        let (title, what) = match fate {
            Fate::Panic { title } => (title.clone(), String::new()),
            Fate::Hang { detail } => (
                "hang: the guest stopped answering".to_owned(),
                detail.clone(),
            ),
            Fate::Lost { detail } if !fate::is_hosts_doing(detail) => (
                "reset: the machine ended without a word".to_owned(),
                detail.clone(),
            ),
            Fate::TimedOut => (STUCK.to_owned(), "its time was over".to_owned()),
            _ => return None,
        };
        Some(Self {
            title,
            kind: Kind::Death,
            detail: last_words(&what, console),
            program,
            console: console.to_owned(),
        })
    }

    /// A program that its executor waited for in vain.
    pub fn of_stuck(said: &str, console: &str, program: String) -> Self {
        Self {
            title: STUCK.to_owned(),
            kind: Kind::Death,
            detail: last_words(said, console),
            program,
            console: console.to_owned(),
        }
    }

    /// Whether `other` shows the same bug as far as one can tell.
    pub fn is_same(&self, other: &Self) -> bool {
        self.title == other.title
    }
}

/// Title of a program that does not end although its guest lives.
const STUCK: &str = "hang: the program did not end";
/// Console lines kept when the kernel has not reported anything.
const LAST_LINES: usize = 60;

/// The kernel's reports on the console, or its end if there are none.
fn last_words(what: &str, console: &str) -> String {
    let lines: Vec<&str> = console
        .lines()
        .map(|line| splat::without_stamp(line.trim_end()))
        .collect();
    let reports: Vec<String> = splat::parse(&lines)
        .into_iter()
        .filter(|report| report.allowed.is_none())
        .map(|report| report.lines.join("\n"))
        .collect();
    let told = if reports.is_empty() {
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    } else {
        reports.join("\n\n")
    };
    if what.is_empty() {
        told
    } else {
        format!("{what}\n{told}")
    }
}

/// The name of the folder that a title's files go to: readable, and safe on
/// any file system.
pub fn folder_name(title: &str) -> String {
    let safe: String = title
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' {
                c
            } else {
                '-'
            }
        })
        .collect();
    let mut name = String::new();
    for part in safe.split('-').filter(|part| !part.is_empty()) {
        if name.len() + part.len() > 100 {
            break;
        }
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(part);
    }
    if name.is_empty() {
        name.push_str("untitled");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_are_readable_and_safe() {
        assert_eq!(
            folder_name("O1 content: wrong after munmap/../x"),
            "O1-content-wrong-after-munmap-x"
        );
        assert_eq!(folder_name("../.."), "untitled");
        assert!(folder_name(&"word ".repeat(99)).len() <= 101);
    }

    #[test]
    fn only_what_the_kernel_did_is_a_finding() {
        let panic = Fate::Panic {
            title: "kernel BUG in zap_huge_pmd".into(),
        };
        let finding = Finding::of_fate(&panic, "console", "p0 verify\n".into()).unwrap();
        assert_eq!(
            (finding.kind, finding.title.as_str()),
            (Kind::Death, "kernel BUG in zap_huge_pmd")
        );
        let reset = Fate::Lost {
            detail: "QEMU ended although the guest had not finished".into(),
        };
        let finding = Finding::of_fate(&reset, "", String::new()).unwrap();
        assert!(finding.title.starts_with("reset: "), "{}", finding.title);
        for fate in [
            Fate::Clean,
            Fate::Lost {
                detail: "QEMU was killed by SIGKILL".into(),
            },
            Fate::Interrupted,
        ] {
            assert_eq!(Finding::of_fate(&fate, "", String::new()), None);
        }
    }

    #[test]
    fn a_deaths_detail_is_the_kernels_report_not_the_whole_console() {
        let console = "[    1.0] boring\r\n\
            [    2.0] Kernel panic - not syncing: sysrq triggered crash\r\n";
        let told = last_words("", console);
        assert!(told.starts_with("Kernel panic"), "{told}");
        assert_eq!(
            last_words("no sign of life", "[ 1.0] hm\n"),
            "no sign of life\nhm"
        );
    }

    #[test]
    fn violations_are_titled_by_their_oracle() {
        let violation = Violation {
            oracle: "O1 content".into(),
            title: "wrong after mremap".into(),
            ..Violation::default()
        };
        let finding = Finding::of_violation(violation);
        assert_eq!(finding.title, "O1 content: wrong after mremap");
        assert!(finding.detail.starts_with("at the end"));
    }
}
