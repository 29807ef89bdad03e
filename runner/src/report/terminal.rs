// SPDX-License-Identifier: GPL-2.0-only
//! What is shown while a run runs: KTAP on standard output and, on a terminal,
//! one line of progress on standard error.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use hugeprobe_vm::event::{Event, Stamped};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::ktap::{Detail, Form, KtapWriter};
use super::model::{Fold, Report};
use super::quote;

/// Shows a run as its events come in.
pub struct Terminal {
    fold: Fold,
    detail: Detail,
    ktap: Option<KtapWriter<Shared>>,
    bar: ProgressBar,
}

/// Standard output, with the progress line out of the way.
struct Shared {
    bar: ProgressBar,
}

impl Write for Shared {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.bar.suspend(|| io::stdout().lock().write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().lock().flush()
    }
}

impl Terminal {
    /// Shows nothing yet. `verbose` shows the kernel log and the output of
    /// passing tests too.
    pub fn new(verbose: bool) -> Self {
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template("[{elapsed}] {pos}/{len} {wide_msg}")
            .expect("the template is well-formed");
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_secs(1));
        let detail = if verbose { Detail::Full } else { Detail::Brief };
        Self {
            fold: Fold::default(),
            detail,
            ktap: None,
            bar,
        }
    }

    /// Shows one event.
    pub fn event(&mut self, stamped: &Stamped) -> io::Result<()> {
        let ended = self.fold.feed(stamped);
        match &stamped.event {
            Event::RunBegins { .. } => {
                let plan = self.fold.plan();
                self.bar.set_length(plan.len() as u64);
                let out = Shared {
                    bar: self.bar.clone(),
                };
                self.ktap = Some(KtapWriter::begin(out, Form::Ktap, self.detail, plan)?);
            }
            Event::VmBoots { number, accel } => {
                self.bar
                    .set_message(format!("booting machine {number} ({accel})"));
            }
            Event::TestBegins { test } => {
                self.bar
                    .set_message(format!("{}.{}", test.target, test.name));
            }
            Event::KernelLine { line } if self.detail == Detail::Full => {
                let line = quote::line(line);
                self.bar
                    .suspend(|| writeln!(io::stdout().lock(), "# {line}"))?;
            }
            _ => {}
        }
        if let Some(test) = ended {
            self.bar.inc(1);
            if let Some(ktap) = &mut self.ktap {
                ktap.test(test)?;
            }
        }
        Ok(())
    }

    /// Writes what never came and takes the progress line away.
    pub fn end(mut self, report: &Report) -> io::Result<()> {
        self.bar.finish_and_clear();
        match self.ktap.take() {
            Some(ktap) => ktap.end(report),
            None => Ok(()),
        }
    }
}
