// SPDX-License-Identifier: GPL-2.0-only
//! One of the machines of a campaign: fuzzes in one after another until the
//! time is over, and tells the campaign what happens.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use fs_err as fs;
use hugeprobe_vm::event::{Event, Fate, Stream};
use hugeprobe_vm::machine::SharedMemory;
use hugeprobe_vm::plan::{Command, Job, Plan};
use hugeprobe_vm::session::{self, SessionConfig};

use super::finding::Finding;
use super::known::KnownBug;
use super::lab::{CONSOLE, Lab};
use super::lines::{self, Counts, Line};
use super::shared;
use super::store::{SIGNALS, Store};
use crate::cli::Harm;

/// Machines in a row that may end before their fuzzer has run a program.
const FRUITLESS: u32 = 3;
/// Size of the shared memory; QEMU wants a power of two of at least 1 MiB.
const SHARED_MIB: u64 = 1;
/// How long a fuzzer may go on after its time: longer than the executor waits for
/// a program that does not end.
const GRACE: Duration = Duration::from_secs(150);
/// How often a fuzzer looks for what others have added to the corpus. It looks at each
/// file, over 9p: every second took more time than the programs.
const RELOAD_S: u32 = 30;
/// How a fuzzer ends whose executor does not answer.
const EXECUTOR_FAILED: i32 = 75;
/// How long no machine may answer in a campaign that hangs one on purpose.
const SHORT_SILENCE: Duration = Duration::from_secs(10);

/// What a worker tells.
#[derive(Debug)]
pub enum Message {
    /// A machine is started, if `again` in place of one that has ended.
    Began {
        /// Whether it is not the first one.
        again: bool,
    },
    /// The fuzzer's totals since its start.
    Counts(Counts),
    /// Something was found.
    Found(Finding),
    /// A violation that was known when the fuzzer started.
    Known(String),
    /// A machine has ended; if not by itself, what happened. The next one is
    /// started when `heard` is told that all before this is in the store.
    Ended {
        /// What happened.
        what: Option<String>,
        /// The way back.
        heard: Sender<()>,
    },
    /// This worker gives up.
    Failed(anyhow::Error),
    /// This worker tells nothing more.
    Done,
}

/// One of the machines of a campaign.
pub struct Worker<'a> {
    /// Counts from 0.
    pub number: usize,
    /// Machine, programs, a scratch folder of its own, and the word to stop.
    pub lab: Lab,
    /// Where everything is kept.
    pub store: &'a Store,
    /// Whether no other worker adds to the corpus.
    pub alone: bool,
    /// Whether steps may race.
    pub racing: bool,
    /// When to stop.
    pub until: Instant,
    /// libFuzzer's seed.
    pub seed: u32,
    /// Bugs of mainline that are no findings.
    pub known: &'a [KnownBug],
    /// What the first machine does to itself.
    pub harm: Option<Harm>,
    /// The way to the campaign.
    pub tell: Sender<(usize, Message)>,
}

/// What a machine has shown so far.
#[derive(Default)]
struct Seen {
    programs: u64,
    last_words: String,
    /// Why the log cannot be written.
    error: Option<std::io::Error>,
}

impl Worker<'_> {
    /// Fuzzes until the time is over.
    pub fn run(mut self) {
        if let Err(error) = self.run_machines() {
            self.tell(Message::Failed(error));
        }
        self.tell(Message::Done);
    }

    fn run_machines(&mut self) -> anyhow::Result<()> {
        let mut fruitless = 0;
        let mut machines = 0;
        while Instant::now() < self.until && !self.lab.is_interrupted() {
            machines += 1;
            self.tell(Message::Began {
                again: machines > 1,
            });
            let ran = self.run_machine(machines)?;
            fruitless = if ran { 0 } else { fruitless + 1 };
            if fruitless >= FRUITLESS {
                anyhow::bail!(
                    "{FRUITLESS} machines in a row ended before a program ran; see {}",
                    self.log().display()
                );
            }
        }
        Ok(())
    }

    fn tell(&self, message: Message) {
        // The campaign listens until every worker has ended.
        let _ = self.tell.send((self.number, message));
    }

    fn log(&self) -> PathBuf {
        self.lab.scratch.join("fuzzer.log")
    }

    /// Fuzzes in one machine until it ends or time is over; whether a program ran.
    fn run_machine(&mut self, number: u32) -> anyhow::Result<bool> {
        let left = self.until.saturating_duration_since(Instant::now());
        let page = self.lab.scratch.join("program.shm");
        fs::write(&page, [])?;
        let mut machine = self.lab.machine.clone();
        machine.shared_memory = Some(SharedMemory {
            path: page.clone(),
            size_mib: SHARED_MIB,
        });
        if self.harm.is_some() {
            machine.silence_limit = SHORT_SILENCE;
        }
        let config = SessionConfig {
            machine,
            folder: self.lab.scratch.clone(),
            // The fuzzer ends by itself; this is for one that does not.
            limit: Some(left + GRACE),
            fail_fast: false,
            patience: None,
            interrupted: Arc::clone(&self.lab.interrupted),
        };
        let plan = self.plan(left, number)?;
        let _ = fs::remove_file(self.lab.scratch.join(CONSOLE));
        let mut log = fs::File::create(self.log())?;
        let mut seen = Seen::default();
        let summary = session::run(&plan, &config, |stamped| {
            self.take(&stamped.event, &mut seen, &page, &mut log);
        })?;
        if let Some(error) = seen.error {
            return Err(error.into());
        }
        if let Fate::Infrastructure { detail } = &summary.fate {
            anyhow::bail!("{detail}");
        }
        let program = running(&page);
        let console = self.lab.console();
        let stuck = summary.command == Some(EXECUTOR_FAILED) && seen.programs > 0;
        let finding = if stuck {
            Some(Finding::of_stuck(
                &seen.last_words,
                &console,
                program.clone(),
            ))
        } else {
            Finding::of_fate(&summary.fate, &console, program.clone())
        };
        let mut what = None;
        if let Some(finding) = finding {
            self.tell(Message::Found(finding));
        } else if let Fate::Lost { detail } = &summary.fate {
            let kept = self.keep(&program, number)?;
            what = Some(format!("{detail}; it was running {}", kept.display()));
        }
        let (heard, ack) = mpsc::channel();
        self.tell(Message::Ended { what, heard });
        // A campaign that has ended needs no more machines.
        let _ = ack.recv();
        Ok(seen.programs > 0)
    }

    /// Keeps the program that ran when a machine was lost.
    fn keep(&self, program: &str, number: u32) -> anyhow::Result<PathBuf> {
        let folder = self.store.path("lost");
        fs::create_dir_all(&folder)?;
        let now = std::time::SystemTime::now();
        let time = humantime::format_rfc3339_seconds(now).to_string();
        let time = time.replace(':', "-");
        let file = folder.join(format!("{time}-{}-{number}.txt", self.number));
        fs::write(&file, program)?;
        Ok(file)
    }

    fn plan(&self, left: Duration, number: u32) -> anyhow::Result<Plan> {
        let (known, avoid) = self.store.write_lists(self.known, &self.lab.scratch)?;
        let tools = &self.lab.tools;
        let mut argv = vec![
            tools.fuzzer.display().to_string(),
            self.store.path("corpus").display().to_string(),
        ];
        if tools.seeds.is_dir() {
            argv.push(tools.seeds.display().to_string());
        }
        // Each machine continues from the corpus, not from the same dice.
        let seed = self.seed.wrapping_add(number - 1);
        argv.extend([
            format!("-artifact_prefix={}/", self.lab.scratch.display()),
            // Rounded up: no machine is started for the rest of a second.
            format!("-max_total_time={}", left.as_secs() + 1),
            format!("-seed={}", seed.max(1)),
            format!("-reload={}", if self.alone { 0 } else { RELOAD_S }),
        ]);
        let mut env = vec![
            ("HUGEPROBE_GUEST".to_owned(), "1".to_owned()),
            ("HUGEPROBE_KNOWN".to_owned(), known.display().to_string()),
            ("HUGEPROBE_AVOID".to_owned(), avoid.display().to_string()),
            (
                "HUGEPROBE_PCS".to_owned(),
                self.store.pcs_of(self.number).display().to_string(),
            ),
        ];
        env.push((
            "HUGEPROBE_SIGNALS".to_owned(),
            self.store.path(SIGNALS).display().to_string(),
        ));
        if let Some(template) = &self.lab.machine.template {
            let (file, offset) = template.shared_memory();
            let place = format!("{file}@{offset:#x}");
            env.push(("HUGEPROBE_MAILBOX".to_owned(), place));
        }
        if self.racing {
            env.push(("HUGEPROBE_RACING".to_owned(), "1".to_owned()));
        }
        if let Some(harm) = self.harm.filter(|_| number == 1) {
            env.push(("HUGEPROBE_HARM".to_owned(), harm.name().to_owned()));
        }
        Ok(Plan {
            setup: self.lab.setup.clone(),
            job: Job::Exec(Command {
                argv,
                env,
                cwd: "/tmp".into(),
            }),
        })
    }

    fn take(&self, event: &Event, seen: &mut Seen, page: &Path, log: &mut fs::File) {
        match event {
            Event::TestOutput { line, stream } => match lines::parse(line) {
                Line::Stats(counts) => {
                    seen.programs = counts.programs;
                    self.tell(Message::Counts(counts));
                }
                Line::Violation(violation) => {
                    // Its process ends now and does not report any more.
                    seen.programs = seen.programs.max(1);
                    self.tell(Message::Found(Finding::of_violation(violation)));
                }
                Line::Known(title) => self.tell(Message::Known(title)),
                Line::Ran(_) | Line::Log => {
                    if *stream == Stream::Stderr {
                        seen.last_words.clone_from(line);
                    }
                    if let Err(error) = writeln!(log, "{line}") {
                        seen.error.get_or_insert(error);
                    }
                }
            },
            Event::StraySplat { splat } => {
                let finding = Finding::of_splat(splat, running(page));
                if let Some(finding) = finding {
                    self.tell(Message::Found(finding));
                }
            }
            _ => {}
        }
    }
}

/// The program that the shared page names; empty when it names none.
fn running(page: &Path) -> String {
    let last = shared::read(page).ok().flatten();
    last.map_or_else(String::new, |last| last.text)
}
