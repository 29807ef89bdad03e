// SPDX-License-Identifier: GPL-2.0-only
//! Patterns of programs to avoid: what is left of a minimised program when the
//! places are taken out. Pure; docs/fuzzing.md describes the form.

/// Arguments that say where, when and how much, not what.
const PLACES: [&str; 7] = ["at=", "len=", "to=", "new=", "lane=", "times=", "wait="];

/// The pattern of a program in text form: its steps without comments,
/// processes and places.
pub fn of(program: &str) -> String {
    let steps: Vec<String> = steps(program).map(step_pattern).collect();
    steps.join(" ; ")
}

/// The lines of a program that are steps, trimmed, without comments.
pub fn steps(program: &str) -> impl Iterator<Item = &str> {
    program
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
}

fn step_pattern(step: &str) -> String {
    let words = step.split_whitespace().skip(1);
    let kept: Vec<&str> = words
        .filter(|word| !PLACES.iter().any(|place| word.starts_with(place)))
        .collect();
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_keeps_what_and_drops_where() {
        let program = "# found\np0 mmap at=0.0 len=512 prot=rw backing=private\n\n\
                       p0 fork child=p1\np1 madvise at=0.3 len=1 advice=dontneed # here\n";
        assert_eq!(
            of(program),
            "mmap prot=rw backing=private ; fork child=p1 ; madvise advice=dontneed"
        );
    }
}
