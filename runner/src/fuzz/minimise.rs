// SPDX-License-Identifier: GPL-2.0-only
//! Makes a program smaller while it still shows the same finding. Candidates
//! are tried in batches, because starting a machine costs more than running a
//! hundred programs in it.

use std::time::Instant;

use super::pattern;

/// Tries programs; the implementation runs them in machines.
pub trait Judge {
    /// The first of `candidates` that shows the finding, if one does.
    fn first_that_shows(&mut self, candidates: &[String]) -> anyhow::Result<Option<usize>>;
    /// Simpler variants of the same length: smaller arguments, fewer processes.
    fn simpler(&mut self, program: &str) -> anyhow::Result<Vec<String>>;
}

/// A minimised program.
#[derive(Debug, PartialEq, Eq)]
pub struct Minimised {
    /// Its text.
    pub program: String,
    /// Whether time ran out before nothing could be removed any more.
    pub cut_short: bool,
}

/// Minimises: operations first, in halves down to single ones, then arguments.
///
/// # Errors
/// Whatever the judge fails with.
pub fn minimise(
    program: &str,
    judge: &mut impl Judge,
    deadline: Instant,
) -> anyhow::Result<Minimised> {
    let mut steps: Vec<String> = pattern::steps(program).map(str::to_owned).collect();
    let mut chunk = steps.len().div_ceil(2).max(1);
    let mut cut_short = false;
    loop {
        if Instant::now() > deadline {
            cut_short = true;
            break;
        }
        let shorter = without_chunks(&steps, chunk);
        let texts: Vec<String> = shorter.iter().map(|steps| join(steps)).collect();
        match judge.first_that_shows(&texts)? {
            Some(found) => {
                steps.clone_from(&shorter[found]);
                chunk = chunk.min(steps.len().div_ceil(2)).max(1);
            }
            None if chunk > 1 => chunk = chunk.div_ceil(2),
            None => break,
        }
    }
    let mut text = join(&steps);
    while !cut_short {
        let variants = judge.simpler(&text)?;
        let Some(found) = judge.first_that_shows(&variants)? else {
            break;
        };
        text.clone_from(&variants[found]);
        cut_short = Instant::now() > deadline;
    }
    Ok(Minimised {
        program: text,
        cut_short,
    })
}

/// `steps` with each run of `chunk` steps left out, the last runs first: what
/// comes after the cause is most often not needed.
fn without_chunks(steps: &[String], chunk: usize) -> Vec<Vec<String>> {
    if steps.len() <= 1 {
        return Vec::new();
    }
    let starts: Vec<usize> = (0..steps.len()).step_by(chunk).collect();
    let shorter = starts.iter().rev().map(|&start| {
        let end = (start + chunk).min(steps.len());
        [&steps[..start], &steps[end..]].concat()
    });
    shorter.filter(|steps| !steps.is_empty()).collect()
}

fn join(steps: &[String]) -> String {
    steps.iter().map(|step| format!("{step}\n")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Shows the finding when all of `needed` are there, in order.
    struct Needs {
        needed: Vec<&'static str>,
        batches: usize,
    }

    impl Judge for Needs {
        fn first_that_shows(&mut self, candidates: &[String]) -> anyhow::Result<Option<usize>> {
            self.batches += 1;
            let shows = |program: &String| {
                let mut steps = program.lines();
                self.needed
                    .iter()
                    .all(|needed| steps.any(|s| s.starts_with(needed)))
            };
            Ok(candidates.iter().position(shows))
        }
        fn simpler(&mut self, program: &str) -> anyhow::Result<Vec<String>> {
            let simpler = program.replace("len=512", "len=1");
            Ok(if simpler == program {
                vec![]
            } else {
                vec![simpler]
            })
        }
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[test]
    fn only_what_is_needed_is_left() {
        let program: String = (0..40).map(|i| format!("p0 op{i}. len=512\n")).collect();
        let mut judge = Needs {
            needed: vec!["p0 op3.", "p0 op17.", "p0 op39."],
            batches: 0,
        };
        let small = minimise(&program, &mut judge, far()).unwrap();
        assert_eq!(
            small.program,
            "p0 op3. len=1\np0 op17. len=1\np0 op39. len=1\n"
        );
        assert!(!small.cut_short);
        assert!(judge.batches < 60, "{} batches", judge.batches);
    }

    #[test]
    fn a_single_step_stays() {
        let mut judge = Needs {
            needed: vec!["p0 op"],
            batches: 0,
        };
        let small = minimise("p0 op\n", &mut judge, far()).unwrap();
        assert_eq!(small.program, "p0 op\n");
    }

    #[test]
    fn time_that_ran_out_is_told() {
        let mut judge = Needs {
            needed: vec!["p0 a"],
            batches: 0,
        };
        let small = minimise("p0 a\np0 b\n", &mut judge, Instant::now()).unwrap();
        assert!(small.cut_short);
    }
}
