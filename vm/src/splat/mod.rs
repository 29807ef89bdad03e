// SPDX-License-Identifier: GPL-2.0-only
//! Finds the kernel's fault reports among its log lines and names them as
//! syzkaller does: the kind and the first meaningful function. Pure.
//!
//! The formats are those of `kernel/panic.c`, `lib/bug.c`, `mm/kasan/report.c`,
//! `mm/memory.c`, `mm/page_alloc.c`, `kernel/fork.c`, `kernel/watchdog.c`,
//! `kernel/hung_task.c`, `kernel/rcu/tree_stall.h`, `kernel/locking/lockdep.c`,
//! `lib/ubsan.c` and `arch/x86/mm/fault.c`, from 6.1 to 7.3.

mod allow;
mod frames;
mod kind;

use self::kind::{End, Kind};
use crate::event::Splat;

/// Begins every mark that the guest writes into the log; ends any report.
pub const MARK: &str = "hugeprobe: ";

/// The mark before a test; its name follows.
pub const BEGIN_MARK: &str = "hugeprobe: begin ";

/// Longest report kept, in lines.
const LONGEST: usize = 250;

/// Finds all reports in `lines`, which carry no time stamps.
pub fn parse<S: AsRef<str>>(lines: &[S]) -> Vec<Splat> {
    let lines: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
    let mut splats = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let Some(kind) = Kind::of(lines[at]) else {
            at += 1;
            continue;
        };
        let end = at + length(&lines[at..], kind);
        let report = &lines[at..end];
        let context = context_start(&lines[..at]);
        splats.push(Splat {
            title: kind.title(report, &lines[context..at]),
            lines: lines[context..end]
                .iter()
                .map(ToString::to_string)
                .collect(),
            allowed: allow::reason(kind, &lines[context..end]).map(str::to_owned),
        });
        at = end;
    }
    splats
}

/// Whether the kernel can no longer be trusted after `splat`: it died in the
/// middle of something, its memory is damaged or its checkers are off.
pub fn is_lasting(splat: &Splat) -> bool {
    splat.allowed.is_none() && !splat.title.starts_with("WARNING in ")
}

/// The title of the panic in `console`, if the kernel panicked: that of the
/// report which led to it, or the panic's own words.
pub fn panic_title<S: AsRef<str>>(console: &[S]) -> Option<String> {
    let lines: Vec<&str> = console.iter().map(AsRef::as_ref).collect();
    let panic = lines.iter().rposition(|line| is_panic(line))?;
    let test = lines[..panic]
        .iter()
        .rposition(|line| line.starts_with(BEGIN_MARK));
    let cause = parse(&lines[test.unwrap_or(0)..panic])
        .into_iter()
        .rfind(|splat| splat.allowed.is_none());
    Some(cause.map_or_else(
        || Kind::Panic.title(&lines[panic..], &[]),
        |splat| splat.title,
    ))
}

/// The function that the last panic in `console` interrupted, if there was one.
pub fn panicked_in<S: AsRef<str>>(console: &[S]) -> Option<String> {
    let lines: Vec<&str> = console.iter().map(AsRef::as_ref).collect();
    let panic = lines.iter().rposition(|line| is_panic(line))?;
    frames::guilty(&lines[panic..])
}

/// The lines of `console` from the last test's beginning on, or the last ones.
pub fn since_last_test<S: AsRef<str>>(console: &[S]) -> &[S] {
    let begin = console
        .iter()
        .rposition(|line| line.as_ref().starts_with(BEGIN_MARK));
    let first = begin.unwrap_or(console.len().saturating_sub(LONGEST));
    &console[first..]
}

/// The line without the kernel's time stamp and caller id.
pub fn without_stamp(line: &str) -> &str {
    let mut rest = line;
    while let Some((stamp, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
        let stamp = stamp.trim();
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let is_time = stamp
            .split_once('.')
            .is_some_and(|(s, us)| digits(s) && digits(us));
        let is_caller = stamp
            .strip_prefix(['T', 'C'])
            .is_some_and(|id| !id.is_empty() && digits(id));
        if !is_time && !is_caller {
            break;
        }
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    rest
}

fn is_panic(line: &str) -> bool {
    line.starts_with("Kernel panic - not syncing")
}

/// How many lines the report at the start of `lines` has, at least one.
fn length(lines: &[&str], kind: Kind) -> usize {
    let limit = lines.len().min(LONGEST);
    for (at, line) in lines.iter().enumerate().take(limit).skip(1) {
        if line.starts_with(MARK) {
            return at;
        }
        let ends = match kind.end() {
            End::Line => return 1,
            End::Trace => line.starts_with("---[ end trace"),
            End::Stack => line.trim() == "</TASK>",
            End::Rule => line.starts_with("=========="),
        };
        if ends {
            return at + 1;
        }
        // A second report without the first one's end: the first was cut off.
        // What an oops says of itself in several lines is one report.
        let another = Kind::of(line).is_some_and(|other| !kind.includes(other));
        if another && at > 1 {
            return at;
        }
    }
    limit.max(1)
}

/// Beginnings of the lines that lead up to a report: page dumps, and what the
/// checkers of lists and reference counts say first.
const LEADING: [&str; 15] = [
    "page:",
    "page_type:",
    "head:",
    "raw:",
    "flags:",
    "anon flags:",
    "ksm flags:",
    "aops:",
    "memcg:",
    "mapping:",
    "page dumped",
    "page_owner",
    "list_add corruption",
    "list_del corruption",
    "refcount_t:",
];

/// Where the lines that lead up to a report begin; the end of `before` when
/// there are none.
fn context_start(before: &[&str]) -> usize {
    // A message stands between the cut and the report before 6.18.
    let cut = before
        .iter()
        .rev()
        .take(4)
        .position(|line| line.starts_with("------------[ cut here ]"));
    let cut = cut.map_or(before.len(), |back| before.len() - 1 - back);
    let leading = before[..cut]
        .iter()
        .rev()
        .take(24)
        .take_while(|line| LEADING.iter().any(|start| line.starts_with(start)));
    cut - leading.count()
}

#[cfg(test)]
mod tests;
