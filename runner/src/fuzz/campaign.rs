// SPDX-License-Identifier: GPL-2.0-only
//! One campaign: fuzzes in one machine after another until its time is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fs_err as fs;
use hugeprobe_vm::event::{Event, Fate};
use hugeprobe_vm::machine::SharedMemory;
use hugeprobe_vm::plan::{Command, Job, Plan, Share};
use hugeprobe_vm::session::{self, SessionConfig};

use super::finding::{Finding, Kind};
use super::known::KnownBug;
use super::lab::Lab;
use super::lines::{self, Line};
use super::stats::{Sample, Totals, status_line};
use super::store::Store;
use super::{shared, svg, triage};

/// Machines in a row that may end before their fuzzer has run a program.
const FRUITLESS: u32 = 3;
/// Size of the shared memory; QEMU wants a power of two of at least 1 MiB.
const SHARED_MIB: u64 = 1;

/// How to fuzz.
pub struct Campaign<'a> {
    /// Machine, programs, scratch folder.
    pub lab: &'a Lab,
    /// Where everything is kept.
    pub store: &'a Store,
    /// How long to fuzz, triage not included.
    pub time: Duration,
    /// libFuzzer's seed; the same seed on the same kernel repeats much.
    pub seed: u32,
    /// Bugs of mainline that are no findings.
    pub known: &'a [KnownBug],
    /// Shows a line: the present state, or something that happened.
    pub say: &'a mut dyn FnMut(Say<'_>),
}

/// Something to show.
pub enum Say<'a> {
    /// The present state, once a second.
    Status(&'a str),
    /// Something that happened.
    Note(&'a str),
}

/// What a campaign came to.
#[derive(Debug)]
pub struct Outcome {
    /// The last sample.
    pub sample: Sample,
    /// Known bugs that were seen, with how often.
    pub known: BTreeMap<String, u64>,
    /// Whether the user ended it.
    pub interrupted: bool,
}

struct Progress {
    began: Instant,
    base: Sample,
    totals: Totals,
    machines: u64,
    findings: u64,
    known: BTreeMap<String, u64>,
    last_sample: Instant,
}

impl Campaign<'_> {
    /// Fuzzes, then takes every new finding through triage.
    ///
    /// # Errors
    /// When machines do not start, or end again and again before a program ran.
    pub fn run(&mut self) -> anyhow::Result<Outcome> {
        let mut progress = Progress {
            began: Instant::now(),
            base: self.store.samples().last().copied().unwrap_or_default(),
            totals: Totals::default(),
            machines: 0,
            findings: self.store.records()?.len() as u64,
            known: BTreeMap::new(),
            last_sample: Instant::now(),
        };
        let mut fruitless = 0;
        while progress.began.elapsed() < self.time && !self.lab.is_interrupted() {
            let before = progress.totals.sum().programs;
            let fate = self.run_machine(&mut progress)?;
            progress.totals.ended();
            let ran = progress.totals.sum().programs > before;
            fruitless = if ran { 0 } else { fruitless + 1 };
            if let Fate::Infrastructure { detail } = &fate {
                anyhow::bail!("{detail}");
            }
            if fruitless >= FRUITLESS {
                anyhow::bail!(
                    "{FRUITLESS} machines in a row ended before a program ran; see {}",
                    self.store.path("scratch/fuzzer.log").display()
                );
            }
            self.triage_new(Kind::Death)?;
        }
        let sample = self.sample(&progress);
        self.store.add_sample(&sample)?;
        fs::write(
            self.store.path("coverage.svg"),
            svg::coverage(&self.store.samples()),
        )?;
        for kind in [Kind::Death, Kind::Report, Kind::Violation] {
            self.triage_new(kind)?;
        }
        Ok(Outcome {
            sample,
            known: progress.known,
            interrupted: self.lab.is_interrupted(),
        })
    }

    /// Fuzzes in one machine until it ends or time is over.
    fn run_machine(&mut self, progress: &mut Progress) -> anyhow::Result<Fate> {
        progress.machines += 1;
        let left = self.time.saturating_sub(progress.began.elapsed());
        let page = self.store.path("scratch/program.shm");
        fs::write(&page, [])?;
        let mut machine = self.lab.machine.clone();
        machine.shared_memory = Some(SharedMemory {
            path: page.clone(),
            size_mib: SHARED_MIB,
        });
        let config = SessionConfig {
            machine,
            folder: self.lab.scratch.clone(),
            // The fuzzer ends by itself; this is for one that does not.
            limit: Some(left + Duration::from_secs(60)),
            fail_fast: false,
            patience: None,
            interrupted: Arc::clone(&self.lab.interrupted),
        };
        let plan = self.plan(left, progress)?;
        let mut log = fs::File::create(self.store.path("scratch/fuzzer.log"))?;
        let mut failed = None;
        let summary = session::run(&plan, &config, |stamped| {
            let taken = self.take(&stamped.event, progress, &page, &mut log);
            failed = failed.take().or(taken.err());
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let program = shared::read(&page)?.map_or(String::new(), |last| last.text);
        let console = self.lab.console();
        if let Some(finding) = Finding::of_fate(&summary.fate, &console, program) {
            self.note(&finding, progress)?;
        }
        Ok(summary.fate)
    }

    fn plan(&self, left: Duration, progress: &Progress) -> anyhow::Result<Plan> {
        let (known, avoid) = self.store.write_lists(self.known)?;
        let mut setup = self.lab.setup.clone();
        setup.shares.push(Share {
            tag: "hugeprobe-fuzz".into(),
            path: self.store.folder().to_owned(),
        });
        let tools = &self.lab.tools;
        let mut argv = vec![
            tools.fuzzer.display().to_string(),
            self.store.path("corpus").display().to_string(),
        ];
        if tools.seeds.is_dir() {
            argv.push(tools.seeds.display().to_string());
        }
        argv.extend([
            format!("-artifact_prefix={}/", self.store.path("scratch").display()),
            format!("-max_total_time={}", left.as_secs().max(1)),
            // Nobody else adds to the corpus. libFuzzer looks every second, at each
            // file, over 9p: that took more time than the programs.
            "-reload=0".to_owned(),
            // Each machine continues from the corpus, not from the same dice.
            format!("-seed={}", self.seed.wrapping_add(progress.machines as u32)),
        ]);
        let env = [
            ("HUGEPROBE_KNOWN", known),
            ("HUGEPROBE_AVOID", avoid),
            ("HUGEPROBE_PCS", self.store.path("pcs.txt")),
        ];
        let env = env.map(|(name, path)| (name.to_owned(), path.display().to_string()));
        Ok(Plan {
            setup,
            job: Job::Exec(Command {
                argv,
                env: [vec![("HUGEPROBE_GUEST".into(), "1".into())], env.to_vec()].concat(),
                cwd: "/tmp".into(),
            }),
        })
    }

    fn take(
        &mut self,
        event: &Event,
        progress: &mut Progress,
        page: &std::path::Path,
        log: &mut fs::File,
    ) -> anyhow::Result<()> {
        match event {
            Event::TestOutput { line, .. } => match lines::parse(line) {
                Line::Stats(counts) => progress.totals.report(counts),
                Line::Violation(violation) => {
                    self.note(&Finding::of_violation(violation), progress)?;
                }
                Line::Known(title) => {
                    if !self.is_known(&title, progress) {
                        self.store.seen_again(&title)?;
                    }
                }
                Line::Ran(_) | Line::Log => {
                    use std::io::Write;
                    writeln!(log, "{line}")?;
                }
            },
            Event::StraySplat { splat } => {
                let program = shared::read(page)?.map_or(String::new(), |last| last.text);
                if let Some(finding) = Finding::of_splat(splat, program) {
                    self.note(&finding, progress)?;
                }
            }
            _ => {}
        }
        if progress.last_sample.elapsed() >= Duration::from_secs(1) {
            progress.last_sample = Instant::now();
            let sample = self.sample(progress);
            self.store.add_sample(&sample)?;
            (self.say)(Say::Status(&status_line(&sample, progress.began.elapsed())));
        }
        Ok(())
    }

    fn note(&mut self, finding: &Finding, progress: &mut Progress) -> anyhow::Result<()> {
        if self.is_known(&finding.title, progress) {
            return Ok(());
        }
        let seconds = progress.base.seconds + progress.began.elapsed().as_secs();
        if self.store.note(finding, seconds)? {
            progress.findings += 1;
            (self.say)(Say::Note(&format!("new: {}", finding.title)));
        }
        Ok(())
    }

    /// Whether it is a known bug of mainline; counts it then.
    fn is_known(&self, title: &str, progress: &mut Progress) -> bool {
        let known = self.known.iter().any(|bug| bug.title == title);
        if known {
            *progress.known.entry(title.to_owned()).or_default() += 1;
        }
        known
    }

    /// Triage of every finding of a kind that has not been through it.
    fn triage_new(&mut self, kind: Kind) -> anyhow::Result<()> {
        for mut record in self.store.records()? {
            let fresh = record.finding.kind == kind && record.confirmed.is_none();
            if !fresh || self.lab.is_interrupted() {
                continue;
            }
            let mut note = |text: &str| (self.say)(Say::Note(text));
            triage::triage(self.store, self.lab, &mut record, &mut note)?;
        }
        Ok(())
    }

    fn sample(&self, progress: &Progress) -> Sample {
        let mut counts = progress.totals.sum();
        counts.pcs = counts.pcs.max(progress.base.counts.pcs);
        Sample {
            seconds: progress.base.seconds + progress.began.elapsed().as_secs(),
            counts,
            corpus: self.store.corpus_size(),
            findings: progress.findings,
            machines: progress.machines,
        }
    }
}
