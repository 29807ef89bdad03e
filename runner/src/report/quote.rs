// SPDX-License-Identifier: GPL-2.0-only
//! Makes text of others harmless inside KTAP.
//!
//! What a test or the kernel prints may look like a result (`ok 1 x`), a plan,
//! a header or, to the kernel's `kunit.py`, like the end of the log. Consumers
//! strip indentation and `# ` in different ways, so quoted lines carry a mark
//! that none of them knows: `| `.

use std::fmt::Write;

/// Texts at which `kunit.py` stops to read, wherever they stand in a line.
const ENDS_OF_LOG: [&str; 3] = [
    "List of all partitions:",
    "Kernel panic - not syncing: VFS:",
    "reboot: System halted",
];

/// A line of others as the text of a diagnostic line, without the `# `.
pub fn line(text: &str) -> String {
    format!("| {}", printable(text))
}

/// A reason or a name as it may stand in a result line: one line, and no `#`
/// that could begin a directive.
pub fn inline(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    printable(&words.join(" ")).replace('#', "\\#")
}

/// Control characters escaped, and no text at which a consumer would stop.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        match c {
            '\t' => out.push('\t'),
            c if c.is_control() => {
                let _ = write!(out, "{}", c.escape_default());
            }
            c => out.push(c),
        }
    }
    for end in ENDS_OF_LOG {
        out = out.replace(end, &end.replacen(' ', "  ", 1));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_end_of_log_survives() {
        for end in ENDS_OF_LOG {
            let quoted = line(&format!("x {end} y"));
            assert!(
                ENDS_OF_LOG.iter().all(|end| !quoted.contains(end)),
                "{quoted}"
            );
        }
    }

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(line("a\rok 1 b\x1b[0m\tc "), "| a\\rok 1 b\\u{1b}[0m\tc");
    }

    #[test]
    fn inline_text_is_one_line_without_directive() {
        assert_eq!(
            inline("left: 1\n  right: 2 # SKIP no"),
            "left: 1 right: 2 \\# SKIP no"
        );
    }
}
