// SPDX-License-Identifier: GPL-2.0-only
//! Splits command lines into words: the shell's, as `vng --dry-run` prints
//! QEMU's command, and the kernel's, as `-append` holds it. Pure.

/// Splits `line` as a POSIX shell does, without any expansion.
///
/// # Errors
/// Says which quote was left open.
pub fn split_shell(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err("a single quote is not closed"),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                            Some(c) => word.extend(['\\', c]),
                            None => return Err("a double quote is not closed"),
                        },
                        Some(c) => word.push(c),
                        None => return Err("a double quote is not closed"),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Splits a kernel command line at white space outside double quotes, as the
/// kernel's `next_arg()` does; quotes stay in the words.
pub fn split_kernel(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in line.chars() {
        if c == '"' {
            quoted = !quoted;
        }
        if c.is_whitespace() && !quoted {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
        } else {
            word.push(c);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::{split_kernel, split_shell};

    #[test]
    fn shell_quotes_join_and_nest() {
        let words = split_shell(r#"a 'b c' 'd'"'"'e' "f \" g" h\ i '' "#);
        assert_eq!(
            words,
            Ok(["a", "b c", "d'e", "f \" g", "h i", ""]
                .map(String::from)
                .to_vec())
        );
    }

    #[test]
    fn open_quotes_are_refused() {
        assert!(split_shell("a 'b").is_err());
        assert!(split_shell("a \"b").is_err());
    }

    #[test]
    fn kernel_words_keep_their_quotes() {
        assert_eq!(
            split_kernel("ro  \"x=a b\" dyndbg=\"file a +p\" init=/i"),
            ["ro", "\"x=a b\"", "dyndbg=\"file a +p\"", "init=/i"]
        );
    }
}
