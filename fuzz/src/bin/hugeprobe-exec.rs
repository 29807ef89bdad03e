// SPDX-License-Identifier: GPL-2.0-only
//! Runs programs without libFuzzer: replays files, or draws programs from a
//! seed. One JSON line for each program on standard output. Exit status: 0 all
//! right, 1 a violation, 2 usage or a file that is not a program, 75 the
//! executor failed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use hugeprobe_fuzz::decode;
use hugeprobe_fuzz::exec::{Session, SessionError, Violation};
use hugeprobe_fuzz::mailbox::Mailbox;
use hugeprobe_fuzz::program::{Program, Target};
use hugeprobe_fuzz::text;
use serde_json::json;

/// Run programs of memory-management operations and check them.
#[derive(Parser)]
#[command(name = "hugeprobe-exec")]
struct Options {
    /// Programs in text form
    files: Vec<PathBuf>,
    /// Run each program this many times; the first violation ends them
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Draw this many programs instead of reading files
    #[arg(long, value_name = "COUNT", conflicts_with = "files")]
    random: Option<u64>,
    /// Where drawing starts; the same seed gives the same programs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The family that is drawn from: mm, hmm, collapse or pfnmap
    #[arg(long, default_value = "mm")]
    target: String,
    /// Write the addresses of all kernel call sites reached to this file
    #[arg(long, value_name = "FILE")]
    pcs: Option<PathBuf>,
    /// Go on after a violation
    #[arg(long)]
    keep_going: bool,
    /// Write one summary line at the end, and only violations before it
    #[arg(long)]
    stats: bool,
    /// Print the programs that are run
    #[arg(long)]
    print: bool,
    /// Memory shared with the host, see the library's documentation
    #[arg(long, value_name = "FILE", env = "HUGEPROBE_MAILBOX")]
    mailbox: Option<PathBuf>,
    /// Run on this kernel although it is not a guest made for it
    #[arg(long)]
    yes_fuzz_this_kernel: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let Some(target) = Target::parse(&options.target) else {
        eprintln!(
            "unknown target `{}`: mm, hmm, collapse or pfnmap",
            options.target
        );
        return ExitCode::from(2);
    };
    let programs = match programs(&options, target) {
        Ok(programs) => programs,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    match run(&options, programs) {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(75)
        }
    }
}

type Programs = Box<dyn Iterator<Item = (String, Program)>>;

fn programs(options: &Options, target: Target) -> Result<Programs, String> {
    if let Some(count) = options.random {
        let seed = options.seed;
        return Ok(Box::new((0..count).map(move |i| {
            (format!("random {}", seed + i), drawn(seed + i, target))
        })));
    }
    let mut programs = Vec::new();
    for path in &options.files {
        let source = std::fs::read_to_string(path)
            .map_err(|e| format!("failed to read {}: {e}", path.display()))?;
        let program = text::parse(&source).map_err(|e| format!("{}: {e}", path.display()))?;
        programs.push((path.display().to_string(), program));
    }
    Ok(Box::new(programs.into_iter()))
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

/// Runs all; true if there was a violation.
fn run(options: &Options, programs: Programs) -> Result<bool, SessionError> {
    let mut session = Session::start(options.yes_fuzz_this_kernel)?;
    let mut mailbox = options.mailbox.as_deref().and_then(Mailbox::open);
    let mut pcs = std::collections::BTreeSet::new();
    let (mut found, mut count) = (false, 0u64);
    let start = Instant::now();
    for (name, program) in programs {
        if options.print {
            print!("# {name}\n{}", text::print(&program));
        }
        for _ in 0..options.repeat {
            if let Some(mailbox) = &mut mailbox {
                mailbox.begin(&text::print(&program));
            }
            let violation = session.run(&program)?;
            if let Some(mailbox) = &mut mailbox {
                mailbox.end(&session.stats(), violation.as_ref());
            }
            count += 1;
            pcs.extend(session.cover().iter().map(|(_, pc, _)| pc));
            if !options.stats || violation.is_some() {
                println!("{}", line(&name, &session, violation.as_ref()));
            }
            if violation.is_some() {
                found = true;
                break;
            }
        }
        if found && !options.keep_going {
            break;
        }
    }
    if options.stats {
        summary(&session, count, start.elapsed().as_secs_f64(), pcs.len());
    }
    write_pcs(options, &pcs);
    Ok(found)
}

fn line(name: &str, session: &Session, violation: Option<&Violation>) -> serde_json::Value {
    let violation = violation.map(|v| {
        json!({"oracle": v.oracle.to_string(), "step": v.step, "title": v.title, "detail": v.detail})
    });
    let results = session.results();
    json!({"program": name, "ok": violation.is_none(), "violation": violation,
           "calls": results.len(), "results": results, "pcs": session.cover().len()})
}

fn summary(session: &Session, programs: u64, seconds: f64, pcs: usize) {
    let stats = session.stats();
    let share = stats.succeeded as f64 / stats.calls.max(1) as f64;
    println!(
        "{}",
        json!({"programs": programs, "seconds": seconds, "programs_per_second": programs as f64 / seconds,
               "calls": stats.calls, "calls_per_second": stats.calls as f64 / seconds,
               "succeeded": share, "kcov": session.has_kcov(), "kcov_overflows": stats.overflows, "pcs": pcs})
    );
}

fn write_pcs(options: &Options, pcs: &std::collections::BTreeSet<u64>) {
    let Some(path) = &options.pcs else { return };
    let lines: String = pcs.iter().map(|pc| format!("{pc:#x}\n")).collect();
    if let Err(error) = std::fs::write(path, lines) {
        eprintln!("failed to write {}: {error}", path.display());
    }
}
