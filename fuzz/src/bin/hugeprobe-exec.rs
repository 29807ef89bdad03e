// SPDX-License-Identifier: GPL-2.0-only
//! Programs without libFuzzer: replays files, draws programs from a seed, and
//! turns programs into other forms. Exit status 0 all right, 1 a violation, 2
//! usage or a file that is not a program, 4 no such variant, 75 the executor
//! failed.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use hugeprobe_fuzz::emit::Shows;
use hugeprobe_fuzz::exec::Session;
use hugeprobe_fuzz::harm::Harm;
use hugeprobe_fuzz::mailbox::Mailbox;
use hugeprobe_fuzz::program::{Program, Target};
use hugeprobe_fuzz::{decode, emit, lines, outcomes, reduce, signal, text};

/// Run programs of memory-management operations and check them.
#[derive(Parser)]
#[command(name = "hugeprobe-exec")]
struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run programs in text form
    Run {
        /// The programs; a folder stands for all .txt files in it, in order
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        how: How,
    },
    /// Run programs as the fuzzers do and bare, in turns, and compare the times
    Compare {
        /// The programs
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// How often each is run each way
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// Run on this kernel although it is not a guest made for it
        #[arg(long)]
        yes_fuzz_this_kernel: bool,
    },
    /// Get ready, say so, and do what standard input says: the arguments of
    /// `run`, one a line
    Hold,
    /// Print which call sites each program reaches first, or say how many reach theirs again
    Signal {
        /// The programs
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// What another machine printed
        #[arg(long, value_name = "FILE")]
        expect: Option<PathBuf>,
        /// Run on this kernel although it is not a guest made for it
        #[arg(long)]
        yes_fuzz_this_kernel: bool,
    },
    /// Draw programs and run them
    Random {
        /// How many
        count: u64,
        /// Where drawing starts; the same seed gives the same programs
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Print the programs before they run
        #[arg(long)]
        print: bool,
        /// Pass over programs in which nothing races
        #[arg(long)]
        racing: bool,
        #[command(flatten)]
        how: How,
    },
    /// Print the INDEX-th simpler variant of a program
    Reduce {
        /// The program
        file: PathBuf,
        /// Which variant, from 0
        index: usize,
    },
    /// Print an input of a fuzz target as text
    Text {
        /// The input
        file: PathBuf,
        /// The target whose input it is
        #[arg(long, default_value = "mm")]
        target: String,
    },
    /// Print a program as a C file that shows the same
    EmitC {
        /// The program
        file: PathBuf,
        /// The finding that it shall show, by its title; some are checked on demand only
        #[arg(long, value_name = "TITLE", default_value = "")]
        shows: String,
    },
    /// Print a program as a selftest that shows the same
    EmitRust {
        /// The program
        file: PathBuf,
        /// Name of the test
        #[arg(default_value = "repro")]
        name: String,
        /// The finding that it shall show, by its title; some are checked on demand only
        #[arg(long, value_name = "TITLE", default_value = "")]
        shows: String,
    },
    /// Print a program as an input of a fuzz target
    Bytes {
        /// The program
        file: PathBuf,
    },
}

#[derive(Args)]
struct How {
    /// The family that programs are drawn from: mm, hmm, collapse or pfnmap
    #[arg(long, default_value = "mm")]
    target: String,
    /// Run each program this many times; a violation ends them
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Go on with the next program after a violation
    #[arg(long)]
    no_stop: bool,
    /// Say nothing of programs that are all right
    #[arg(long)]
    quiet: bool,
    /// Append the addresses of kernel call sites to this file as they are first reached
    #[arg(long, value_name = "FILE")]
    pcs: Option<PathBuf>,
    /// Run on this kernel although it is not a guest made for it
    #[arg(long)]
    yes_fuzz_this_kernel: bool,
}

/// What went wrong: a line for standard error, and the exit status.
type Failure = (String, u8);

fn main() -> ExitCode {
    let status = match Options::parse().verb {
        Verb::Run { files, how } => start(&how).and_then(|session| replay(session, &files, &how)),
        Verb::Hold => hold(),
        Verb::Compare {
            files,
            rounds,
            yes_fuzz_this_kernel,
        } => read_all(&files).and_then(|programs| compare(&programs, rounds, yes_fuzz_this_kernel)),
        Verb::Signal {
            files,
            expect,
            yes_fuzz_this_kernel,
        } => read_all(&files)
            .and_then(|programs| signals(&programs, expect.as_deref(), yes_fuzz_this_kernel)),
        Verb::Random {
            count,
            seed,
            print,
            racing,
            how,
        } => random(seed..seed + count, print, racing, &how),
        Verb::Reduce { file, index } => reduced(&file, index),
        Verb::Text { file, target } => as_text(&file, &target),
        Verb::EmitC { file, shows } => {
            read_program(&file).map(|program| show(&emit::c_source(&program, &Shows::of(&shows))))
        }
        Verb::EmitRust { file, name, shows } => read_program(&file)
            .map(|program| show(&emit::rust_source(&program, &name, &Shows::of(&shows)))),
        Verb::Bytes { file } => read_program(&file).map(|program| show(&text::print(&program))),
    };
    match status {
        Ok(status) => ExitCode::from(status),
        Err((message, status)) => {
            eprintln!("{message}");
            ExitCode::from(status)
        }
    }
}

fn show(text: &str) -> u8 {
    // A reader that has gone away has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    0
}

fn read_program(path: &Path) -> Result<Program, Failure> {
    let source = std::fs::read_to_string(path)
        .map_err(|e| (format!("failed to read {}: {e}", path.display()), 2))?;
    text::parse(&source).map_err(|e| (format!("{}: {e}", path.display()), 2))
}

/// A program that has a form in other languages: steps that race have none.
fn read_all(files: &[PathBuf]) -> Result<Vec<(String, Program)>, Failure> {
    let mut programs = Vec::new();
    for file in files {
        let found = if file.is_dir() {
            in_folder(file).map_err(|e| (format!("failed to read {}: {e}", file.display()), 2))?
        } else {
            vec![file.clone()]
        };
        for file in found {
            programs.push((file.display().to_string(), read_program(&file)?));
        }
    }
    Ok(programs)
}

fn in_folder(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let paths = entries.into_iter().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    Ok(files)
}

fn start(how: &How) -> Result<Session, Failure> {
    Session::start(how.yes_fuzz_this_kernel).map_err(|e| (e.to_string(), 75))
}

/// What takes long is done before the work is known: the machine may be copied
/// as it stands then, see `hugeprobe_vm::template`.
fn hold() -> Result<u8, Failure> {
    let mut session = Session::start(false).map_err(|e| (e.to_string(), 75))?;
    // The first program pays for what later ones find prepared.
    let first = text::parse(FIRST).map_err(|e| (e.to_string(), 75))?;
    session.run(&first).map_err(|e| (e.to_string(), 75))?;
    show(&format!("{}\n", hugeprobe_vm::plan::READY));
    let lines = std::io::read_to_string(std::io::stdin()).map_err(|e| (e.to_string(), 75))?;
    let arguments = ["hugeprobe-exec", "run"].into_iter().chain(lines.lines());
    let options = Options::try_parse_from(arguments).map_err(|e| (e.to_string(), 2))?;
    match options.verb {
        Verb::Run { files, how } => replay(session, &files, &how),
        _ => Err(("standard input holds no arguments of run".into(), 2)),
    }
}

/// A program that does a little of everything that most programs do.
const FIRST: &str = "p0 mmap at=0.0 len=512 prot=rw backing=anon\n\
                     p0 madvise at=0.0 len=512 advice=hugepage\n\
                     p0 write at=0.0 len=512\n\
                     p0 fork child=p1\n\
                     p1 write at=0.0 len=1\n\
                     p0 verify\n";

fn replay(session: Session, files: &[PathBuf], how: &How) -> Result<u8, Failure> {
    read_all(files).and_then(|programs| run(session, how, programs.into_iter()))
}

fn target(name: &str) -> Result<Target, Failure> {
    Target::parse(name).ok_or_else(|| {
        (
            format!("unknown target `{name}`: mm, hmm, collapse or pfnmap"),
            2,
        )
    })
}

fn reduced(file: &Path, index: usize) -> Result<u8, Failure> {
    let program = read_program(file)?;
    Ok(reduce::variants(&program)
        .get(index)
        .map_or(4, |variant| show(&text::print(variant))))
}

fn as_text(file: &Path, name: &str) -> Result<u8, Failure> {
    let bytes =
        std::fs::read(file).map_err(|e| (format!("failed to read {}: {e}", file.display()), 2))?;
    Ok(show(&text::print(&decode::from_input(
        &bytes,
        target(name)?,
    ))))
}

fn random(seeds: Range<u64>, print: bool, racing: bool, how: &How) -> Result<u8, Failure> {
    let target = target(&how.target)?;
    let programs = seeds
        .map(move |seed| (format!("random {seed}"), drawn(seed, target)))
        .filter(move |(_, program)| !racing || program.races());
    let shown = programs.inspect(move |(name, program)| {
        if print {
            show(&format!("# {name}\n{}", text::print(program)));
        }
    });
    run(start(how)?, how, shown)
}

/// The program of a seed: bytes from a small generator, decoded.
fn drawn(seed: u64, target: Target) -> Program {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635;
    let bytes: Vec<u8> = (0..400)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect();
    decode::from_bytes(&bytes, target)
}

/// Runs all programs; 1 if there was a violation.
fn run(
    mut session: Session,
    how: &How,
    programs: impl Iterator<Item = (String, Program)>,
) -> Result<u8, Failure> {
    let mut mailbox = Mailbox::find();
    let harm = Harm::wanted();
    let mut pcs = BTreeSet::new();
    let (mut found, mut count) = (false, 0u64);
    let start = Instant::now();
    for (name, program) in programs {
        let (mut violated, mut new) = (false, 0);
        for _ in 0..how.repeat {
            if let Some(mailbox) = &mut mailbox {
                mailbox.begin(&text::print(&program));
            }
            let violation = session.run(&program).map_err(|e| (e.to_string(), 75))?;
            let violation = violation.or_else(|| harm?.claim(&program));
            count += 1;
            let reached = session.cover().iter().map(|(_, pc, _)| pc);
            let fresh: Vec<u64> = reached.filter(|pc| pcs.insert(*pc)).collect();
            write_pcs(how.pcs.as_deref(), &fresh)?;
            new += fresh.len();
            if !session.has_kcov() {
                let reached = outcomes::of(&program, &session.results());
                let cells = reached.into_iter().map(|(_, cell, _)| cell);
                new += cells.filter(|cell| pcs.insert(*cell)).count();
            }
            if let Some(violation) = violation {
                violated = true;
                show(&format!("{}\n", lines::violation(&violation, &program)));
                break;
            }
        }
        if violated || !how.quiet {
            show(&format!(
                "{}\n",
                lines::ran(
                    &name,
                    violated,
                    &session.results(),
                    session.cover().len(),
                    new
                )
            ));
        }
        found |= violated;
        if violated && !how.no_stop {
            break;
        }
    }
    show(&format!(
        "{}\n",
        lines::stats(count, &session.stats(), pcs.len())
    ));
    show(&format!("{}\n", lines::phases(&session.stats())));
    eprintln!("{count} programs in {:.1} s", start.elapsed().as_secs_f64());
    Ok(u8::from(found))
}

/// Runs each program in turns with all that a fuzzer does, and bare. Programs
/// that show a violation are left out.
fn compare(programs: &[(String, Program)], rounds: u32, consent: bool) -> Result<u8, Failure> {
    let failed = |e: hugeprobe_fuzz::exec::SessionError| (e.to_string(), 75);
    let mut session = Session::start(consent).map_err(failed)?;
    let (mut checked, mut bare) = (Duration::ZERO, Duration::ZERO);
    let (mut runs, mut calls) = (0u64, 0u64);
    // threads that race do not do the same twice
    let racing = |program: &Program| program.steps.iter().any(|step| step.race.is_some());
    for (name, program) in programs.iter().filter(|(_, program)| !racing(program)) {
        for _ in 0..rounds {
            let start = Instant::now();
            let found = session.run_in_row(program).map_err(failed)?;
            let first = start.elapsed();
            if found.is_some() {
                eprintln!("{name}: shows a violation, left out");
                break;
            }
            let done = session.carried_out(program);
            let start = Instant::now();
            session.run_bare(&done).map_err(failed)?;
            checked += first;
            bare += start.elapsed();
            runs += 1;
            calls += done.steps.len() as u64;
        }
    }
    show(&format!(
        "{}\n",
        lines::compared(runs, calls, checked, bare)
    ));
    Ok(0)
}

fn signals(
    programs: &[(String, Program)],
    expect: Option<&Path>,
    consent: bool,
) -> Result<u8, Failure> {
    let failed = |e: hugeprobe_fuzz::exec::SessionError| (e.to_string(), 75);
    let mut session = Session::start(consent).map_err(failed)?;
    let Some(file) = expect else {
        let signals = signal::record(&mut session, programs).map_err(failed)?;
        return Ok(show(&signal::print(&signals)));
    };
    let text = std::fs::read_to_string(file)
        .map_err(|e| (format!("failed to read {}: {e}", file.display()), 2))?;
    let repeated = signal::compare(&mut session, programs, &signal::parse(&text));
    Ok(show(&format!("{}\n", repeated.map_err(failed)?.line())))
}

/// Appends at once: the next program may take the machine down.
fn write_pcs(path: Option<&Path>, fresh: &[u64]) -> Result<(), Failure> {
    let Some(path) = path.filter(|_| !fresh.is_empty()) else {
        return Ok(());
    };
    let lines: String = fresh.iter().map(|pc| format!("{pc:#x}\n")).collect();
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(lines.as_bytes()))
        .map_err(|e| (format!("failed to write {}: {e}", path.display()), 75))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_program_is_one() {
        assert_eq!(text::parse(FIRST).unwrap().steps.len(), 6);
    }
}
