// SPDX-License-Identifier: GPL-2.0-only
//! Pure: the command that runs one test again, ready for a shell.

use hugeprobe_vm::event::TestId;

use super::model::RunInfo;

/// `hugeprobe run ... TARGET --tests '^TARGET\.NAME$'` with the same kernel
/// and guest as in `run`.
pub fn command(run: Option<&RunInfo>, test: &TestId) -> String {
    let full_name = format!("{}.{}", test.target, test.name);
    let filter = format!("^{}$", regex::escape(&full_name));
    let arguments = run.map(|run| run.arguments.as_slice()).unwrap_or_default();
    let words = ["hugeprobe", "run"]
        .into_iter()
        .chain(arguments.iter().map(String::as_str))
        .chain([test.target.as_str(), "--tests", &filter]);
    words.map(shell_word).collect::<Vec<_>>().join(" ")
}

/// `word` as one word of a POSIX shell.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_survives_a_shell() {
        let run = RunInfo {
            arguments: vec!["--kdir".into(), "/src/my tree's".into()],
            ..RunInfo::default()
        };
        let test = TestId {
            target: "hmm".into(),
            name: "a::b".into(),
        };
        assert_eq!(
            command(Some(&run), &test),
            r"hugeprobe run --kdir '/src/my tree'\''s' hmm --tests '^hmm\.a::b$'"
        );
    }
}
