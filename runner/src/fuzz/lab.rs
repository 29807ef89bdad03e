// SPDX-License-Identifier: GPL-2.0-only
//! Runs programs in fresh machines, to confirm and to minimise findings.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fs_err as fs;
use hugeprobe_vm::event::{Event, Fate};
use hugeprobe_vm::machine::MachineConfig;
use hugeprobe_vm::plan::{Command, Job, Plan, Setup, Share};
use hugeprobe_vm::session::{self, SessionConfig};
use hugeprobe_vm::template::{Template, TemplateError, Waiting};

use super::finding::Finding;
use super::lines::{self, Line, Ran};
use super::minimise::Judge;
use super::tools::Tools;
use crate::cli::Harm;
use crate::kernel::Kernel;

/// One batch of programs is given this long, boot included.
const BATCH_LIMIT: Duration = Duration::from_secs(300);
/// So much more for each program whose coverage is wanted.
const PROGRAM_LIMIT: Duration = Duration::from_secs(10);
/// Most variants that are tried for one program.
const MOST_VARIANTS: usize = 400;
/// The share by which guests reach the folder of a lab.
const SHARE: &str = "hugeprobe-fuzz";
/// Where a template's guest works.
const CWD: &str = "/tmp";

/// A place to run programs in.
#[derive(Clone)]
pub struct Lab {
    /// The machine to boot.
    pub machine: MachineConfig,
    /// The kernel in it.
    pub kernel: Kernel,
    /// What its guest prepares.
    pub setup: Setup,
    /// The programs.
    pub tools: Tools,
    /// Folder for files that are not kept.
    pub scratch: PathBuf,
    /// Set when the user interrupts.
    pub interrupted: Arc<AtomicBool>,
    /// What guests do to themselves, or lie about, for tests.
    pub harm: Option<Harm>,
}

/// What a batch showed.
#[derive(Debug, Default)]
pub struct Batch {
    /// Every finding, with the index of the program that showed it.
    pub findings: Vec<(usize, Finding)>,
    /// What is told of each program that ran to its end.
    pub ran: Vec<Ran>,
    /// Times that a KCOV area was full.
    pub overflows: u64,
    /// The last line that is not for us.
    pub said: String,
}

impl Batch {
    /// How many programs ran to their end.
    pub fn finished(&self) -> usize {
        self.ran.len()
    }
}

/// The user has interrupted: what was tried says nothing.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

impl Lab {
    /// Lets guests write to `folder`, in which the scratch folder must be.
    pub fn share(&mut self, folder: &Path) {
        self.setup.shares.push(Share {
            tag: SHARE.into(),
            path: folder.to_owned(),
        });
    }

    /// The same with a scratch folder of its own, for use beside this one.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn beside(&self, name: &str) -> anyhow::Result<Self> {
        let scratch = self.scratch.join(name);
        fs::create_dir_all(&scratch)?;
        Ok(Self {
            scratch,
            ..self.clone()
        })
    }

    /// Boots a machine once, up to its first program, for all further ones to
    /// begin there.
    ///
    /// # Errors
    /// When this kernel or this QEMU does not allow that; each machine is then
    /// booted, as before.
    pub fn warm_up(&mut self) -> Result<(), TemplateError> {
        let tools = &self.tools;
        let mut files = vec![tools.exec.clone(), tools.fuzzer.clone()];
        files.extend(self.setup.modules.iter().map(|module| module.path.clone()));
        let seeds = std::fs::read_dir(&tools.seeds).into_iter().flatten();
        files.extend(seeds.flatten().map(|seed| seed.path()));
        let waiting = Waiting {
            setup: self.setup.clone(),
            files,
            warm: Some(self.command(vec!["hold".to_owned()])),
        };
        let template = Template::make(&self.machine, &waiting, &self.scratch, &self.interrupted)?;
        self.machine.template = Some(Arc::new(template));
        Ok(())
    }

    /// Runs `programs` one after another in one fresh machine, each `repeat`
    /// times, until one shows something; all of them with `to_the_end`, unless
    /// the machine dies.
    ///
    /// # Errors
    /// [`Interrupted`], or when no machine comes up.
    pub fn run(&self, programs: &[String], repeat: u32, to_the_end: bool) -> anyhow::Result<Batch> {
        let mut options = vec!["--repeat".to_owned(), repeat.to_string()];
        if to_the_end {
            options.push("--no-stop".to_owned());
        }
        self.run_with(programs, options, BATCH_LIMIT)
    }

    /// Runs `programs` once each in one fresh machine, and appends the kernel
    /// call sites that they reach to `file`, which is there, in the folder that
    /// is shared.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn cover(&self, programs: &[String], file: &Path) -> anyhow::Result<Batch> {
        let options = ["--no-stop", "--pcs"].map(str::to_owned).into_iter();
        let limit = BATCH_LIMIT + PROGRAM_LIMIT * u32::try_from(programs.len()).unwrap_or(u32::MAX);
        let options = options.chain([file.display().to_string()]).collect();
        self.run_with(programs, options, limit)
    }

    fn run_with(
        &self,
        programs: &[String],
        mut arguments: Vec<String>,
        limit: Duration,
    ) -> anyhow::Result<Batch> {
        let folder = self.write(programs)?;
        arguments.push(folder.display().to_string());
        let job = if self.machine.template.is_some() {
            Job::Feed(arguments.join("\n"))
        } else {
            let run = vec!["run".to_owned()];
            Job::Exec(self.command([run, arguments].concat()))
        };
        let plan = Plan {
            setup: self.setup.clone(),
            job,
        };
        let config = SessionConfig {
            machine: self.machine.clone(),
            folder: self.scratch.clone(),
            limit: Some(limit),
            fail_fast: false,
            patience: None,
            interrupted: Arc::clone(&self.interrupted),
        };
        // The console of this machine alone is evidence.
        let _ = fs::remove_file(self.scratch.join(CONSOLE));
        let mut batch = Batch::default();
        let summary = session::run(&plan, &config, |stamped| {
            take(&mut batch, programs, &stamped.event);
        })?;
        let at = batch.finished().min(programs.len().saturating_sub(1));
        let program = programs.get(at).cloned().unwrap_or_default();
        match &summary.fate {
            Fate::Infrastructure { detail } => anyhow::bail!("{detail}"),
            Fate::Interrupted => return Err(Interrupted.into()),
            // Programs that are many may take their time.
            Fate::TimedOut if batch.finished() > 0 => {}
            fate => {
                let finding = Finding::of_fate(fate, &self.console(), program);
                batch.findings.extend(finding.map(|finding| (at, finding)));
            }
        }
        // 0 and 1 say what the programs showed; anything else, that they did not run.
        if let Some(code) = summary.command.filter(|code| !matches!(code, 0 | 1)) {
            anyhow::bail!(
                "hugeprobe-exec ended with {code} in the guest: {}",
                batch.said
            );
        }
        Ok(batch)
    }

    /// Whether the kernel tells what it reaches.
    pub fn has_kcov(&self) -> bool {
        let config = self.kernel.config.as_deref();
        let text = config.map(std::fs::read_to_string);
        text.is_some_and(|text| text.is_ok_and(|text| text.contains("\nCONFIG_KCOV=y\n")))
    }

    /// Whether the user has interrupted.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// The end of the last machine's console.
    pub fn console(&self) -> String {
        tail(&self.scratch.join(CONSOLE))
    }

    fn command(&self, arguments: Vec<String>) -> Command {
        let program = vec![self.tools.exec.display().to_string()];
        let mut env = vec![("HUGEPROBE_GUEST".to_owned(), "1".to_owned())];
        let harm = self.harm.filter(|harm| *harm == Harm::Lie);
        env.extend(harm.map(|harm| ("HUGEPROBE_HARM".to_owned(), harm.name().to_owned())));
        Command {
            argv: [program, arguments].concat(),
            env,
            cwd: CWD.into(),
        }
    }

    /// Writes the programs into a folder, named so that they are in order.
    fn write(&self, programs: &[String]) -> anyhow::Result<PathBuf> {
        let folder = self.scratch.join("batch");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        for (index, program) in programs.iter().enumerate() {
            fs::write(folder.join(format!("{index:06}.txt")), program)?;
        }
        Ok(fs::canonicalize(folder)?)
    }
}

/// The file with the console of all machines of a scratch folder.
pub const CONSOLE: &str = "console.log";

/// The last part of a log, as text.
pub fn tail(path: &Path) -> String {
    const KEPT: usize = 64 << 10;
    let bytes = std::fs::read(path).unwrap_or_default();
    let from = bytes.len().saturating_sub(KEPT);
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}

fn take(batch: &mut Batch, programs: &[String], event: &Event) {
    let at = batch.finished().min(programs.len().saturating_sub(1));
    match event {
        Event::TestOutput { line, .. } => match lines::parse(line) {
            Line::Violation(violation) => {
                batch.findings.push((at, Finding::of_violation(violation)));
            }
            Line::Ran(ran) => batch.ran.push(ran),
            Line::Stats(counts) => batch.overflows += counts.overflows,
            Line::Log => batch.said.clone_from(line),
            Line::Known(_) => {}
        },
        Event::StraySplat { splat } => {
            let program = programs.get(at).cloned().unwrap_or_default();
            let finding = Finding::of_splat(splat, program);
            batch.findings.extend(finding.map(|finding| (at, finding)));
        }
        _ => {}
    }
}

/// Judges candidates by whether they show the same finding.
pub struct SameFinding<'a> {
    /// Where to run them.
    pub lab: &'a Lab,
    /// What they shall show.
    pub wanted: &'a Finding,
    /// How often each candidate is run before it counts as harmless.
    pub repeat: u32,
}

impl Judge for SameFinding<'_> {
    fn first_that_shows(&mut self, candidates: &[String]) -> anyhow::Result<Option<usize>> {
        let mut from = 0;
        while from < candidates.len() {
            let batch = self.lab.run(&candidates[from..], self.repeat, false)?;
            let shown = batch
                .findings
                .iter()
                .find(|(_, finding)| finding.is_same(self.wanted));
            if let Some((index, _)) = shown {
                return Ok(Some(from + index));
            }
            // Another finding ended the batch: pass over its program.
            match batch.findings.first() {
                Some((index, _)) => from += index + 1,
                None => break,
            }
        }
        Ok(None)
    }

    fn simpler(&mut self, program: &str) -> anyhow::Result<Vec<String>> {
        let file = self.lab.scratch.join("simpler.txt");
        fs::write(&file, program)?;
        let mut variants = Vec::new();
        while variants.len() < MOST_VARIANTS {
            match self.lab.tools.variant(&file, variants.len())? {
                Some(variant) => variants.push(variant),
                None => break,
            }
        }
        Ok(variants)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hugeprobe_vm::event::{Splat, Stream};

    fn line(text: &str) -> Event {
        Event::TestOutput {
            stream: Stream::Stdout,
            line: text.into(),
        }
    }

    #[test]
    fn findings_belong_to_the_program_that_was_running() {
        let programs = ["a".to_owned(), "b".to_owned()];
        let mut batch = Batch::default();
        take(&mut batch, &programs, &line(r#"HP ran {"file":"0"}"#));
        let splat = Splat {
            title: "WARNING in x".into(),
            lines: vec![],
            allowed: None,
        };
        take(&mut batch, &programs, &Event::StraySplat { splat });
        let told: Vec<_> = batch
            .findings
            .iter()
            .map(|(at, f)| (*at, f.program.as_str()))
            .collect();
        assert_eq!(told, [(1, "b")]);
    }
}
