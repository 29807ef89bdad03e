// SPDX-License-Identifier: GPL-2.0-only
//! What is known already, so that one bug does not stop the search for the
//! next: titles of violations, and patterns of programs that take the kernel
//! down. Both are written by the host; see docs/fuzzing.md.

use crate::program::Program;

/// The two lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    titles: Vec<String>,
    patterns: Vec<Vec<Vec<String>>>,
}

impl Known {
    /// The lists in the files that `HUGEPROBE_KNOWN` and `HUGEPROBE_AVOID` name.
    pub fn load() -> Self {
        let read = |name: &str| {
            let path = std::env::var_os(name)?;
            std::fs::read_to_string(path).ok()
        };
        let text = |name| read(name).unwrap_or_default();
        Self::parse(&text("HUGEPROBE_KNOWN"), &text("HUGEPROBE_AVOID"))
    }

    /// Reads titles, one a line, and patterns, one a line: steps separated by
    /// ` ; `, each a name and arguments.
    pub fn parse(titles: &str, patterns: &str) -> Self {
        let lines = |text: &str| -> Vec<String> {
            text.lines()
                .map(|line| line.trim().to_owned())
                .filter(|line| !line.is_empty())
                .collect()
        };
        let words = |step: &str| step.split_whitespace().map(str::to_owned).collect();
        let patterns = lines(patterns)
            .iter()
            .map(|line| line.split(" ; ").map(words).collect())
            .collect();
        Self {
            titles: lines(titles),
            patterns,
        }
    }

    /// Whether a violation with this title was found before.
    pub fn has_title(&self, title: &str) -> bool {
        self.titles.iter().any(|known| known == title)
    }

    /// Whether the steps of the program contain those of a pattern, in order.
    pub fn avoids(&self, program: &Program) -> bool {
        if self.patterns.is_empty() {
            return false;
        }
        let steps: Vec<Vec<String>> = program
            .steps
            .iter()
            .map(|step| {
                let mut text = step.op.name().to_owned();
                step.op.write_args(&mut text);
                text.split_whitespace().map(str::to_owned).collect()
            })
            .collect();
        self.patterns.iter().any(|pattern| {
            let mut rest = steps.iter();
            pattern.iter().all(|wanted| {
                rest.any(|step| {
                    step[0] == wanted[0] && wanted.iter().all(|word| step.contains(word))
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    #[test]
    fn steps_of_a_pattern_must_occur_in_order_with_their_arguments() {
        let known = Known::parse(
            "wrong content after fork\n",
            "mremap how=dontunmap ; write\n\n",
        );
        let avoids = |source: &str| known.avoids(&text::parse(source).unwrap());
        let moved = "p0 mremap at=0.0 len=1 to=1.0 new=1 how=dontunmap\n";
        let write = "p0 write at=0.0 len=1\n";
        assert!(avoids(&format!("{moved}p1 verify\n{write}")));
        assert!(!avoids(&format!("{write}{moved}")));
        assert!(!avoids(&format!(
            "{}{write}",
            moved.replace("dontunmap", "fixed")
        )));
        assert!(known.has_title("wrong content after fork") && !known.has_title("wrong content"));
    }

    #[test]
    fn without_lists_nothing_is_known() {
        let program = text::parse("p0 verify\n").unwrap();
        assert!(!Known::default().avoids(&program) && !Known::parse("\n", "\n").has_title(""));
    }
}
