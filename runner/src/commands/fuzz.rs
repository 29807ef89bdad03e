// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe fuzz`: fuzzes a kernel in virtual machines, or does something
//! with programs there instead.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::FuzzArgs;
use crate::commands::kernel::requests;
use crate::cov;
use crate::exit::{Exit, Failure, OrExit, Outcome};
use crate::fuzz::campaign::{Campaign, Outcome as Fuzzed, Say};
use crate::fuzz::known::{self, KnownBug};
use crate::fuzz::lab::{Interrupted, Lab};
use crate::fuzz::store::{Made, Store};
use crate::fuzz::{corpus, report, triage};
use crate::run::{self, repeat};

/// A log gets a line this often, not one a second.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Fuzzes until the time is over, or does what is asked for instead.
pub fn run(args: &FuzzArgs) -> Outcome {
    let instead = &args.instead;
    if let Some(corpus) = &instead.check {
        return ended(in_lab(args, |lab| check(lab, corpus)));
    }
    if let Some(corpus) = &instead.cmin {
        corpus::beside(corpus).or_exit(Exit::Usage)?;
        return ended(in_lab(args, |lab| cmin(lab, corpus)));
    }
    if let Some(program) = &instead.tmin {
        corpus::beside(program).or_exit(Exit::Usage)?;
        return ended(in_lab(args, |lab| tmin(lab, program)));
    }
    let folder = args
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from("results/fuzz").join(args.target.name()));
    let mut store = Store::open(&folder).or_exit(Exit::Usage)?;
    let mut lab = run::lab(args, &store.path("scratch"))?;
    let made = made(args, &lab);
    report::describe(&store, &lab, &made)?;
    store.set_made(made);
    lab.share(store.folder());
    warm_up(&mut lab);
    campaign(args, &lab, &store)
}

/// What a campaign or a finding is made with.
fn made(args: &FuzzArgs, lab: &Lab) -> Made {
    let request = requests(&run::fuzz_kernel(args)).remove(0);
    Made {
        arguments: repeat::fuzz(args, &request.origin, &lab.kernel.release),
        release: lab.kernel.release.clone(),
        kernel: lab.kernel.identity.source.clone(),
    }
}

fn campaign(args: &FuzzArgs, lab: &Lab, store: &Store) -> Outcome {
    let known = known::read(&lab.tools.known);
    let mut show = Show::new();
    let mut say = |say: Say<'_>| show.say(&say);
    let mut campaign = Campaign {
        lab,
        store,
        time: args.time,
        seed: args.seed,
        vms: args.vms.unwrap_or_else(|| run::machines(lab.machine.cpus)),
        racing: args.racing,
        first: args.first,
        known: &known,
        say: &mut say,
    };
    let fuzzed = campaign.run();
    show.bar.finish();
    finish(store, &fuzzed?, &known, &covered(store, lab))
}

/// The present state and what happens: one line that changes on a terminal, a
/// line now and then in a log.
struct Show {
    bar: ProgressBar,
    logs: bool,
    logged: Option<Instant>,
}

impl Show {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{wide_msg}").expect("a template that was tested");
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            bar: ProgressBar::with_draw_target(None, target).with_style(style),
            logs: !terminal,
            logged: None,
        }
    }

    fn say(&mut self, say: &Say<'_>) {
        match say {
            Say::Status(text) if self.logs => {
                if self.logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
                    self.logged = Some(Instant::now());
                    eprintln!("{text}");
                }
            }
            Say::Status(text) => self.bar.set_message((*text).to_owned()),
            Say::Note(text) if self.logs => eprintln!("{text}"),
            Say::Note(text) => self.bar.println(text),
        }
    }
}

/// How much of the kernel the campaign has reached; empty where that cannot be told.
fn covered(store: &Store, lab: &Lab) -> String {
    if let Err(error) = store.gather_pcs() {
        return format!("no coverage: {error:#}\n");
    }
    let pcs = store.path("pcs.txt");
    match &lab.kernel.vmlinux {
        Some(vmlinux) if pcs.is_file() && lab.has_kcov() => cov::report::line(vmlinux, &pcs)
            .unwrap_or_else(|error| format!("no coverage: {error:#}\n")),
        _ => String::new(),
    }
}

fn finish(store: &Store, fuzzed: &Fuzzed, known: &[KnownBug], covered: &str) -> Outcome {
    let records = store.records()?;
    let mut summary = report::summary(&fuzzed.sample, &records, store.folder());
    summary.push_str(covered);
    summary.push_str(&report::known(&fuzzed.known, known));
    fs_err::write(store.path("summary.md"), &summary)?;
    println!("{summary}");
    if fuzzed.interrupted {
        return Ok(Exit::Interrupted);
    }
    Ok(if records.is_empty() {
        Exit::Passed
    } else {
        Exit::Failed
    })
}

/// A lab that leaves nothing behind.
fn in_lab(args: &FuzzArgs, work: impl FnOnce(&Lab) -> Outcome) -> Outcome {
    let scratch = tempfile::tempdir()?;
    let mut lab = run::lab(args, scratch.path())?;
    lab.share(scratch.path());
    warm_up(&mut lab);
    work(&lab)
}

/// Fresh machines begin where one was stopped, if that is possible.
fn warm_up(lab: &mut Lab) {
    if let Err(error) = lab.warm_up() {
        let error = anyhow::Error::from(error);
        eprintln!("hugeprobe: each machine boots by itself: {error:#}");
    }
}

/// What the user interrupts has its own exit code.
fn ended(outcome: Outcome) -> Outcome {
    match outcome {
        Err(failure) if failure.error.is::<Interrupted>() => Ok(Exit::Interrupted),
        outcome => outcome,
    }
}

fn read(lab: &Lab, folder: &Path) -> Result<Vec<corpus::Member>, Failure> {
    let members = corpus::members(lab, folder).or_exit(Exit::Usage)?;
    if members.is_empty() {
        return Err(Failure::new(
            Exit::NothingRan,
            format!("{} holds no program", folder.display()),
        ));
    }
    Ok(members)
}

/// Replays every program of a folder once, without changing any.
fn check(lab: &Lab, folder: &Path) -> Outcome {
    let members = read(lab, folder)?;
    let texts: Vec<String> = members.iter().map(|member| member.text.clone()).collect();
    let mut shown = corpus::replay(lab, &texts)?.shown;
    for (at, title) in &shown {
        println!("{}: {title}", members[*at].file.display());
    }
    shown.dedup_by_key(|(at, _)| *at);
    println!(
        "{} passed, {} failed",
        members.len().saturating_sub(shown.len()),
        shown.len()
    );
    Ok(if shown.is_empty() {
        Exit::Passed
    } else {
        Exit::Failed
    })
}

/// Writes the part of a corpus that reaches as much to a folder beside it.
fn cmin(lab: &Lab, folder: &Path) -> Outcome {
    let members = read(lab, folder)?;
    let (kept, failed) = corpus::fewest(lab, &members)?;
    let target = corpus::write_beside(folder, &kept).or_exit(Exit::Usage)?;
    println!(
        "{} of {} programs in {}",
        kept.len(),
        members.len(),
        target.display()
    );
    if failed > 0 {
        println!("{failed} that show a finding were left out; --check tells which");
    }
    Ok(Exit::Passed)
}

/// Writes the smallest program that shows what `file` shows beside it.
fn tmin(lab: &Lab, file: &Path) -> Outcome {
    let target = corpus::beside(file).or_exit(Exit::Usage)?;
    let program = corpus::text(lab, file).or_exit(Exit::Usage)?;
    let repeat = triage::repeats(&program, false);
    let batch = lab.run(std::slice::from_ref(&program), repeat, false)?;
    let Some((_, finding)) = batch.findings.into_iter().next() else {
        return Err(Failure::new(
            Exit::NothingRan,
            format!("{} shows nothing in a fresh machine", file.display()),
        ));
    };
    let small = triage::smallest(lab, &finding, repeat)?;
    fs_err::write(&target, &small.program)?;
    println!("{}\n\n{}", finding.title, small.program);
    println!("{}", target.display());
    if small.cut_short {
        println!("time ran out before nothing more could be left out");
    }
    Ok(Exit::Failed)
}

/// `hugeprobe repro`: runs the program of a finding in fresh machines.
pub fn repro(args: &crate::cli::ReproArgs) -> Outcome {
    let record = report::read_finding(&args.finding).or_exit(Exit::Usage)?;
    if record.finding.program.is_empty() {
        return Err(Failure::new(
            Exit::NothingRan,
            "no program is known to show this finding",
        ));
    }
    let fuzz = args.as_fuzz(&record.made.arguments).or_exit(Exit::Usage)?;
    ended(in_lab(&fuzz, |lab| {
        let (then, now) = (&record.made.kernel, &lab.kernel.identity.source);
        if !then.is_empty() && then != now {
            eprintln!("hugeprobe: it was found on {then}; this is {now}");
        }
        let tries = triage::confirm(lab, &record.finding, args.machines)?;
        println!("{}: shown by {tries} fresh machines", record.finding.title);
        Ok(if tries.shown > 0 {
            Exit::Failed
        } else {
            Exit::Passed
        })
    }))
}
