// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel says, and during which test.

use std::fs;
use std::os::fd::BorrowedFd;

use super::Guest;
use super::kmsg::{KernelLog, Record};
use crate::event::{Event, Splat};
use crate::splat::{self, BEGIN_MARK};

/// Begins the mark after a test.
const END_MARK: &str = "hugeprobe: end ";

/// What is logged in place of records that the kernel has overwritten.
const LOST: &str = "hugeprobe: kernel log lines were lost";

/// Taints that a test may cause without any fault: modules from outside the
/// tree, unsigned ones, test modules (Documentation/admin-guide/tainted-kernels.rst).
const HARMLESS_TAINT: u64 = 1 << 12 | 1 << 13 | 1 << 18;

/// The kernel's log with the lines not yet judged.
pub struct Log {
    kernel: KernelLog,
    lines: Vec<String>,
}

/// What the kernel did during a test.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Its reports.
    pub splats: Vec<Splat>,
    /// Whether lines were lost, so that nothing can be said.
    pub lost: bool,
    /// Taints set without a report.
    pub taint: u64,
}

impl Log {
    /// Opens the log at its beginning.
    pub fn open() -> Result<Self, String> {
        let mut log = Self {
            kernel: KernelLog::open()?,
            lines: Vec::new(),
        };
        log.read();
        Ok(log)
    }

    /// To poll on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.kernel.fd()
    }

    /// Writes a notice into the kernel's log.
    pub fn note(&mut self, text: &str) {
        self.kernel.note(text);
    }

    /// Reads what is new; returns where it begins in `self.lines`.
    fn read(&mut self) -> usize {
        let first_new = self.lines.len();
        while let Some(record) = self.kernel.next() {
            match record {
                Record::Lines(lines) => self.lines.extend(lines),
                Record::Lost => self.lines.push(LOST.into()),
            }
        }
        first_new
    }
}

impl Guest {
    /// Passes on what the kernel has logged since the last call. Returns whether
    /// that ends a report of lasting damage ([`splat::is_lasting`]).
    pub(super) fn follow_log(&mut self) -> bool {
        let first_new = self.log.read();
        for line in &self.log.lines[first_new..] {
            if !line.starts_with(BEGIN_MARK) && !line.starts_with(END_MARK) {
                self.channel.send(&Event::KernelLine { line: line.clone() });
            }
        }
        // An oops ends with this line; the test that is in it may never end.
        let ends = |line: &String| line.starts_with("---[ end trace");
        self.log.lines[first_new..].iter().any(ends)
            && splat::parse(&self.log.lines).iter().any(splat::is_lasting)
    }

    /// Reports what the kernel found outside any test; nothing is passed on of
    /// what is no report.
    pub(super) fn report_stray(&mut self) {
        self.log.read();
        for splat in splat::parse(&std::mem::take(&mut self.log.lines)) {
            self.channel.send(&Event::StraySplat { splat });
        }
    }

    /// Marks the beginning of the test `name`; returns the taint before it.
    pub(super) fn begin_mark(&mut self, name: &str) -> u64 {
        self.report_stray();
        self.log.note(&format!("{BEGIN_MARK}{name}"));
        taint()
    }

    /// Marks the end of the test `name` and judges what the kernel said since
    /// its beginning; `taint_before` is what [`Self::begin_mark`] returned.
    pub(super) fn end_mark(&mut self, name: &str, taint_before: u64) -> Verdict {
        super::sys::visit_all_cpus();
        self.log.note(&format!("{END_MARK}{name}"));
        self.follow_log();
        let lines = std::mem::take(&mut self.log.lines);
        let splats = splat::parse(&lines);
        let new_taint = taint() & !taint_before & !HARMLESS_TAINT;
        Verdict {
            taint: if splats.is_empty() { new_taint } else { 0 },
            lost: lines.iter().any(|line| line == LOST),
            splats,
        }
    }
}

/// The kernel's taint flags.
fn taint() -> u64 {
    let text = fs::read_to_string("/proc/sys/kernel/tainted");
    text.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// Lets every `WARN_ONCE` warn once more, so that the next test which trips it
/// is told about as well. Needs debugfs.
pub fn rearm_warnings() {
    let _ = fs::write("/sys/kernel/debug/clear_warn_once", "1");
}
