// SPDX-License-Identifier: GPL-2.0-only
//! What the user sees while a kernel is made: a bar on a terminal, a line now
//! and then in a log. Standard error only, standard output belongs to results.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Off a terminal a long step reports this often.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// Tells the user what is going on.
#[derive(Clone, Debug)]
pub struct Ui {
    terminal: bool,
    silent: bool,
    /// Shows the commands and all of their output.
    pub verbose: bool,
}

impl Ui {
    /// Speaks on standard error, in the way that suits where it goes.
    pub fn stderr(verbose: bool) -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            silent: false,
            verbose,
        }
    }

    /// Says nothing.
    #[cfg(test)]
    pub fn silent() -> Self {
        Self {
            terminal: false,
            silent: true,
            verbose: false,
        }
    }

    /// One line about what is being done.
    pub fn step(&self, text: &str) {
        if !self.silent {
            eprintln!("hugeprobe: {text}");
        }
    }

    /// A long step of `total` countable parts; 0 when nobody knows.
    pub fn task(&self, label: &str, total: u64) -> Task {
        let bar = if self.terminal && !self.silent && !self.verbose {
            bar(label, total)
        } else {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden())
        };
        Task {
            bar,
            label: label.to_owned(),
            logs: !self.terminal && !self.silent,
            began: Instant::now(),
            logged: Instant::now(),
        }
    }
}

fn bar(label: &str, total: u64) -> ProgressBar {
    let known = "{prefix} {wide_bar} {percent:>3}% {elapsed} (eta {eta}) {msg:.dim}";
    let unknown = "{prefix} {spinner} {elapsed} {msg:.dim}";
    let template = if total == 0 { unknown } else { known };
    let style = ProgressStyle::with_template(template).expect("a template that was tested");
    let bar = ProgressBar::new(total)
        .with_style(style)
        .with_prefix(label.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A running long step; dropping it removes the bar.
#[derive(Debug)]
pub struct Task {
    bar: ProgressBar,
    label: String,
    logs: bool,
    began: Instant,
    logged: Instant,
}

impl Task {
    /// `done` parts are done; `what` is the one that was done last.
    pub fn at(&mut self, done: u64, what: &str) {
        // A bar that stands at 100 % while work goes on tells a lie.
        if self
            .bar
            .length()
            .is_some_and(|total| total > 0 && done >= total)
        {
            self.bar.set_length(done + 1);
        }
        self.bar.set_position(done);
        self.bar.set_message(what.to_owned());
        if self.logs && self.logged.elapsed() >= LOG_EVERY {
            self.logged = Instant::now();
            let share = match self.bar.length() {
                Some(total) if total > 0 => format!("{} %", done * 100 / total),
                _ => format!("{done} steps"),
            };
            let seconds = self.began.elapsed().as_secs();
            eprintln!("hugeprobe: {}: {share} after {seconds} s", self.label);
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_templates_are_valid() {
        bar("with a total", 10).finish_and_clear();
        bar("without", 0).finish_and_clear();
    }

    #[test]
    fn bar_never_stands_full_while_work_goes_on() {
        let mut task = Ui::silent().task("build", 2);
        task.at(5, "more than expected");
        assert_eq!((task.bar.position(), task.bar.length()), (5, Some(6)));
    }
}
