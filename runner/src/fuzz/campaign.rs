// SPDX-License-Identifier: GPL-2.0-only
//! One campaign: hears what its workers find, keeps it, shows how it goes, and
//! takes findings through triage. Bugs that take the machine down go there at once,
//! beside the search, so that their programs can be avoided; the others when time is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::finding::{Finding, Kind};
use super::known::KnownBug;
use super::lab::{Interrupted, Lab};
use super::stats::{Sample, Speed, Totals, status_line};
use super::store::{Record, Store, write_whole};
use super::worker::{Message, Worker};
use super::{svg, triage};

/// How often the state is shown and kept.
const TICK: Duration = Duration::from_secs(1);
/// Seeds of the machines that fuzz at a time are this far apart: each machine
/// that replaces one takes the next.
const SEEDS: u32 = 10_000;

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
    /// How many machines fuzz at a time.
    pub vms: u32,
    /// Whether steps may race.
    pub racing: bool,
    /// Whether the first finding ends it.
    pub first: bool,
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

/// What a campaign hears.
enum News {
    /// From a worker.
    Worker(usize, Message),
    /// From triage.
    Triage(String),
}

struct Progress {
    began: Instant,
    base: Sample,
    totals: Totals,
    speed: Speed,
    machines: u64,
    restarts: u64,
    findings: u64,
    known: BTreeMap<String, u64>,
    running: Vec<bool>,
    failure: Option<anyhow::Error>,
}

impl Campaign<'_> {
    /// Fuzzes, then takes every new finding through triage.
    ///
    /// # Errors
    /// When machines do not start, or end again and again before a program ran.
    pub fn run(&mut self) -> anyhow::Result<Outcome> {
        let base = self.store.samples().last().copied().unwrap_or_default();
        let mut progress = Progress {
            began: Instant::now(),
            base,
            totals: Totals::new(base.counts, self.vms as usize),
            speed: Speed::default(),
            machines: base.machines,
            restarts: base.restarts,
            findings: self.store.records()?.len() as u64,
            known: BTreeMap::new(),
            running: vec![true; self.vms as usize],
            failure: None,
        };
        self.search(&mut progress)?;
        let sample = self.sample(&progress);
        self.store.add_sample(&sample)?;
        let picture = svg::coverage(&self.store.samples());
        write_whole(&self.store.path("coverage.svg"), &picture)?;
        if let Some(failure) = progress.failure.take() {
            return Err(failure);
        }
        for kind in [Kind::Death, Kind::Report, Kind::Violation] {
            for record in self.untried(kind)? {
                let mut note = |text: &str| (self.say)(Say::Note(text));
                judge(self.store, self.lab, record, &mut note)?;
            }
        }
        Ok(Outcome {
            sample,
            known: progress.known,
            interrupted: self.lab.is_interrupted(),
        })
    }

    /// Lets the workers fuzz until the time is over.
    fn search(&mut self, progress: &mut Progress) -> anyhow::Result<()> {
        let (store, known) = (self.store, self.known);
        let until = progress.began + self.time;
        let (tell, news) = mpsc::channel();
        let (reports, from_workers) = mpsc::channel();
        let (deaths, to_judge) = mpsc::channel();
        // Triage goes on where the search ends.
        let enough = Arc::new(AtomicBool::new(false));
        let mut workers = Vec::new();
        for number in 0..self.vms {
            let mut lab = self.lab.beside(&format!("vm-{number}"))?;
            lab.interrupted = Arc::clone(&enough);
            workers.push(Worker {
                number: number as usize,
                lab,
                store,
                alone: self.vms == 1,
                racing: self.racing,
                until,
                seed: self.seed.wrapping_add(number.wrapping_mul(SEEDS)),
                known,
                harm: self.lab.harm.filter(|_| number == 0),
                tell: reports.clone(),
            });
        }
        drop(reports);
        for record in self.untried(Kind::Death)? {
            let _ = deaths.send(record);
        }
        let bench = self.lab.beside("triage")?;
        std::thread::scope(|scope| {
            for worker in workers {
                scope.spawn(|| worker.run());
            }
            let forward = tell.clone();
            scope.spawn(move || {
                for (worker, message) in from_workers {
                    if forward.send(News::Worker(worker, message)).is_err() {
                        break;
                    }
                }
            });
            scope.spawn(move || try_deaths(store, &bench, &to_judge, &tell));
            let heard = self.hear(progress, news, deaths, &enough);
            if heard.is_err() {
                // Nobody listens any more: nobody shall go on for hours.
                self.lab.interrupted.store(true, Ordering::Relaxed);
                enough.store(true, Ordering::Relaxed);
            }
            heard
        })
    }

    /// Hears all news until nobody is left to tell any.
    fn hear(
        &mut self,
        progress: &mut Progress,
        news: Receiver<News>,
        deaths: Sender<Record>,
        enough: &AtomicBool,
    ) -> anyhow::Result<()> {
        let mut deaths = Some(deaths);
        let earlier = progress.findings;
        let mut next = Instant::now() + TICK;
        loop {
            match news.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(News::Worker(worker, message)) => {
                    self.take(worker, message, progress, deaths.as_ref())?;
                }
                Ok(News::Triage(text)) => (self.say)(Say::Note(&text)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let found = self.first && progress.findings > earlier;
            if found || self.lab.is_interrupted() {
                enough.store(true, Ordering::Relaxed);
            }
            let searching = progress.running.contains(&true);
            if !searching {
                // Triage ends with what it has been given.
                deaths = None;
            }
            if Instant::now() >= next {
                next = Instant::now() + TICK;
                if searching {
                    self.show(progress)?;
                }
            }
        }
    }

    fn show(&mut self, progress: &mut Progress) -> anyhow::Result<()> {
        let sample = self.sample(progress);
        self.store.add_sample(&sample)?;
        let speed = progress.speed.at(progress.began.elapsed(), sample.counts);
        (self.say)(Say::Status(&status_line(&sample, speed, self.vms)));
        Ok(())
    }

    fn take(
        &mut self,
        worker: usize,
        message: Message,
        progress: &mut Progress,
        deaths: Option<&Sender<Record>>,
    ) -> anyhow::Result<()> {
        match message {
            Message::Began { again } => {
                progress.machines += 1;
                progress.restarts += u64::from(again);
            }
            Message::Counts(counts) => progress.totals.report(worker, counts),
            Message::Found(finding) => self.note(&finding, progress, deaths)?,
            Message::Known(title) => {
                if !self.is_known(&title, progress) {
                    self.store.seen_again(&title)?;
                }
            }
            Message::Ended { what, heard } => {
                progress.totals.ended(worker);
                if let Some(what) = what {
                    (self.say)(Say::Note(&format!("a machine was lost: {what}")));
                }
                let _ = heard.send(());
            }
            Message::Failed(error) => {
                progress.totals.ended(worker);
                (self.say)(Say::Note(&format!("a worker gives up: {error:#}")));
                progress.failure.get_or_insert(error);
            }
            Message::Done => progress.running[worker] = false,
        }
        Ok(())
    }

    fn note(
        &mut self,
        finding: &Finding,
        progress: &mut Progress,
        deaths: Option<&Sender<Record>>,
    ) -> anyhow::Result<()> {
        if self.is_known(&finding.title, progress) {
            return Ok(());
        }
        let seconds = progress.base.seconds + progress.began.elapsed().as_secs();
        if !self.store.note(finding, seconds)? {
            return Ok(());
        }
        progress.findings += 1;
        (self.say)(Say::Note(&format!("new: {}", finding.title)));
        if finding.kind == Kind::Death
            && let Some(deaths) = deaths
        {
            let records = self.store.records()?.into_iter();
            for record in records.filter(|record| record.finding.title == finding.title) {
                let _ = deaths.send(record);
            }
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

    /// Findings of a kind that have not been through triage.
    fn untried(&self, kind: Kind) -> anyhow::Result<Vec<Record>> {
        let mut records = self.store.records()?;
        records.retain(|record| record.finding.kind == kind && record.confirmed.is_none());
        Ok(records)
    }

    fn sample(&self, progress: &Progress) -> Sample {
        Sample {
            seconds: progress.base.seconds + progress.began.elapsed().as_secs(),
            counts: progress.totals.sum(),
            corpus: self.store.corpus_size(),
            findings: progress.findings,
            machines: progress.machines,
            restarts: progress.restarts,
        }
    }
}

/// Takes findings through triage as they come, until no more can come.
fn try_deaths(store: &Store, lab: &Lab, deaths: &Receiver<Record>, tell: &Sender<News>) {
    let mut note = |text: &str| {
        let _ = tell.send(News::Triage(text.to_owned()));
    };
    for record in deaths {
        let title = record.finding.title.clone();
        if let Err(error) = judge(store, lab, record, &mut note) {
            // It is tried again at the end.
            note(&format!("{title}: {error:#}"));
        }
    }
}

/// Triage of one finding; one that the user interrupts is left for the next run.
fn judge(
    store: &Store,
    lab: &Lab,
    mut record: Record,
    note: &mut dyn FnMut(&str),
) -> anyhow::Result<()> {
    if lab.is_interrupted() {
        return Ok(());
    }
    match triage::triage(store, lab, &mut record, note) {
        Err(error) if error.is::<Interrupted>() => Ok(()),
        result => result,
    }
}
