// SPDX-License-Identifier: GPL-2.0-only
//! The text form of programs: one step per line, `p0 madvise at=0.0 len=512
//! advice=hugepage`. Steps that race have a schedule behind (`program::race`). `#` starts a comment, blank lines do not matter. Crash
//! files, seeds, the corpus and reports use it.

use crate::program::{Arg, MAX_STEPS, Op, Proc, Program, Schedule, Step};

/// Why a text is not a program.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct TextError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}

/// Reads a program. Steps after `MAX_STEPS` are an error.
pub fn parse(text: &str) -> Result<Program, TextError> {
    let mut program = Program::default();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let step = parse_step(line).map_err(|reason| TextError {
            line: index + 1,
            reason,
        })?;
        if program.steps.len() == MAX_STEPS {
            let reason = format!("more than {MAX_STEPS} steps");
            return Err(TextError {
                line: index + 1,
                reason,
            });
        }
        program.steps.push(step);
    }
    Ok(program)
}

/// Reads one line without comment.
fn parse_step(line: &str) -> Result<Step, String> {
    let mut words = line.split_whitespace();
    let who = words.next().unwrap_or_default();
    let process = Proc::parse(who).ok_or_else(|| format!("`{who}` is not a process (p0 to p3)"))?;
    let name = words.next().ok_or("no operation after the process")?;
    if !Op::NAMES.contains(&name) {
        return Err(format!("unknown operation `{name}`"));
    }
    let args: Vec<(&str, &str)> = words
        .map(|word| {
            word.split_once('=')
                .ok_or_else(|| format!("`{word}` is not name=value"))
        })
        .collect::<Result<_, _>>()?;
    let find = |wanted: &str| {
        args.iter()
            .find(|(name, _)| *name == wanted)
            .map(|(_, value)| *value)
    };
    let op = Op::parse(name, &find).map_err(|arg| format!("`{name}` needs a valid `{arg}=`"))?;
    let race = Schedule::parse(&find).map_err(|arg| format!("`{name}` needs a valid `{arg}=`"))?;
    Ok(Step { process, op, race })
}

/// The text of one step, without newline.
pub fn step(step: &Step) -> String {
    let mut out = String::new();
    step.process.write(&mut out);
    out.push(' ');
    out.push_str(step.op.name());
    step.op.write_args(&mut out);
    if let Some(race) = &step.race {
        race.write(&mut out);
    }
    out
}

/// The text of a program; `parse` reads it back.
pub fn print(program: &Program) -> String {
    let mut out = String::new();
    for each in &program.steps {
        out.push_str(&step(each));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decode;
    use crate::program::Target;

    proptest! {
        #[test]
        fn text_reads_back_as_the_same_program(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let program = decode::from_bytes(&bytes, Target::Hmm);
            prop_assert_eq!(parse(&print(&program)), Ok(program));
        }
    }

    #[test]
    fn comments_and_blank_lines_do_not_matter() {
        let program = parse("# a seed\n\n  p1 fork child=p2 # twice\n").unwrap();
        assert_eq!(print(&program), "p1 fork child=p2\n");
    }

    #[test]
    fn errors_name_line_and_argument() {
        let error = parse("p0 verify\np0 munmap at=9.0 len=1\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2: `munmap` needs a valid `at=`");
        assert_eq!(parse("p9 verify").unwrap_err().line, 1);
        assert_eq!(
            parse("p0 frobnicate").unwrap_err().reason,
            "unknown operation `frobnicate`"
        );
    }
}
