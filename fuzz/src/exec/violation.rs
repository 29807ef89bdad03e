// SPDX-License-Identifier: GPL-2.0-only
//! A broken promise of the kernel: which oracle, where, and what was found.

use std::fmt;

/// What was checked. The numbers are those of the fuzzing documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oracle {
    /// O1: a page contains what was stored last, or zeros where that is allowed.
    Content,
    /// O2: the kernel log is silent.
    Log,
    /// O3: counters are back where they were before the program.
    Resources,
    /// O4: an operation moved counters as it has to.
    Deltas,
    /// O5: soft-dirty, uffd-wp, present and swap bits, Rss.
    Bits,
    /// O6: an access faults exactly where it must.
    Permission,
    /// O7: pages are where they must be.
    Location,
    /// O8: an operation returned what it has to.
    Errno,
    /// O9: everything ends in time.
    Liveness,
    /// O12: a huge page survives what does not need to split it.
    Huge,
}

impl Oracle {
    const ALL: [(Self, &'static str); 10] = [
        (Self::Content, "O1 content"),
        (Self::Log, "O2 kernel log"),
        (Self::Resources, "O3 resources"),
        (Self::Deltas, "O4 counters"),
        (Self::Bits, "O5 bits"),
        (Self::Permission, "O6 permission"),
        (Self::Location, "O7 location"),
        (Self::Errno, "O8 errno"),
        (Self::Liveness, "O9 liveness"),
        (Self::Huge, "O12 huge"),
    ];
}

impl fmt::Display for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL
            .iter()
            .find(|(oracle, _)| oracle == self)
            .map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// A violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub oracle: Oracle,
    /// The step after which it was seen; none at the end of the program.
    pub step: Option<usize>,
    /// One line without numbers that vary: the same bug gets the same title.
    pub title: String,
    /// What was expected, what was found, where.
    pub detail: String,
}

impl Violation {
    /// The title under which the host knows it: a report of the kernel has its
    /// own, a broken promise that of its oracle.
    pub fn full_title(&self) -> String {
        match self.oracle {
            Oracle::Log => self.title.clone(),
            oracle => format!("{oracle}: {}", self.title),
        }
    }

    /// The text form: `oracle:`, `step:` and `title:` lines, then the detail.
    pub fn print(&self) -> String {
        let step = self.step.map_or("end".to_owned(), |step| step.to_string());
        format!(
            "oracle: {}\nstep: {step}\ntitle: {}\n{}\n",
            self.oracle, self.title, self.detail
        )
    }

    /// Reads the text form; what is missing gets a neutral value.
    pub fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let mut field = |name: &str| {
            lines
                .next()
                .and_then(|line| line.strip_prefix(name))
                .unwrap_or("")
                .to_owned()
        };
        let (oracle, step, title) = (field("oracle: "), field("step: "), field("title: "));
        let oracle = Oracle::ALL
            .iter()
            .find(|(_, name)| *name == oracle)
            .map_or(Oracle::Log, |(o, _)| *o);
        let detail = lines.collect::<Vec<_>>().join("\n");
        Self {
            oracle,
            step: step.parse().ok(),
            title,
            detail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_reads_back() {
        for (oracle, _) in Oracle::ALL {
            let violation = Violation {
                oracle,
                step: Some(3),
                title: "wrong content after munmap".into(),
                detail: "expected zero\nfound store 1".into(),
            };
            assert_eq!(Violation::parse(&violation.print()), violation);
            let end = Violation {
                step: None,
                ..violation
            };
            assert_eq!(Violation::parse(&end.print()), end);
        }
    }
}
