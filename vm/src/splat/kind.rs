// SPDX-License-Identifier: GPL-2.0-only
//! The kinds of kernel reports: how each begins, ends and is named.

use super::frames;

/// A kind of report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Warn,
    /// A kernel `BUG()`.
    Bug,
    PageFault,
    NullPointer,
    /// `Oops:` for another reason, for instance a general protection fault.
    Oops,
    Kasan,
    Kcsan,
    /// A locking rule was broken; the checker turns itself off.
    Lockdep,
    Ubsan,
    SleepInAtomic,
    SchedulingInAtomic,
    SoftLockup,
    HungTask,
    RcuStall,
    BadPage,
    BadPageMap,
    BadRss,
    PageTableLeak,
    /// `/proc/sys/vm/stat_refresh` found less than nothing of something.
    NegativeCounter,
    BadEntry,
    Slub,
    Leak,
    Panic,
    /// `BUG:` followed by something that has no rule of its own.
    OtherBug,
    /// The OOM killer; the kernel does what it must.
    OutOfMemory,
}

/// What the last line of a report looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has one line only.
    Line,
    /// `---[ end trace`.
    Trace,
    /// The end of the first call trace.
    Stack,
    /// A line of equals signs.
    Rule,
}

/// Lines that begin lockdep's reports after `WARNING: `.
const LOCKDEP: [&str; 9] = [
    "possible circular locking",
    "possible recursive locking",
    "possible irq lock inversion",
    "suspicious RCU usage",
    "inconsistent lock state",
    "bad unlock balance",
    "held lock freed",
    "lock held when returning",
    "Nested lock was not taken",
];

/// Messages of one line about entries that must not exist.
const BAD_ENTRIES: [&str; 8] = [
    "unrecognized swap entry",
    "Bad swap file entry",
    "Bad swap offset entry",
    "Unused swap offset entry",
    ": bad pmd ",
    ": bad pud ",
    ": bad p4d ",
    ": bad pgd ",
];

impl Kind {
    /// The kind of report that `line` begins, if it begins one.
    pub fn of(line: &str) -> Option<Self> {
        let line = line.strip_prefix("watchdog: ").unwrap_or(line);
        if let Some(what) = line.strip_prefix("WARNING: ") {
            return Some(warning(what)).flatten();
        }
        if let Some(what) = line.strip_prefix("BUG: ") {
            return Some(bug(what));
        }
        if let Some(kind) = info(line) {
            return Some(kind);
        }
        let starts = |prefix: &str| line.starts_with(prefix);
        if starts("kernel BUG at ") {
            Some(Self::Bug)
        } else if starts("Oops: ")
            || starts("general protection fault, ")
            || starts("general protection fault: ")
            || starts("divide error: ")
            || starts("stack segment: ")
            || starts("PANIC: double fault")
        {
            Some(Self::Oops)
        } else if starts("UBSAN: ") {
            Some(Self::Ubsan)
        } else if starts("Kernel panic - not syncing") {
            Some(Self::Panic)
        } else if starts("BUG ") && line.contains("): ") {
            Some(Self::Slub)
        } else if starts("kmemleak: ") && line.contains("new suspected memory leaks") {
            Some(Self::Leak)
        } else if starts("[ BUG: ") {
            Some(Self::Lockdep)
        } else if line.contains(" invoked oom-killer: ") {
            Some(Self::OutOfMemory)
        } else if negative_counter(line).is_some() {
            Some(Self::NegativeCounter)
        } else if BAD_ENTRIES.iter().any(|text| line.contains(text)) {
            Some(Self::BadEntry)
        } else {
            None
        }
    }

    /// How it ends.
    pub fn end(self) -> End {
        match self {
            Self::Warn
            | Self::Bug
            | Self::PageFault
            | Self::NullPointer
            | Self::Oops
            | Self::Ubsan => End::Trace,
            Self::Kasan | Self::Kcsan => End::Rule,
            Self::BadRss
            | Self::PageTableLeak
            | Self::NegativeCounter
            | Self::BadEntry
            | Self::Leak => End::Line,
            _ => End::Stack,
        }
    }

    /// Whether a line that begins a report of kind `other` is a part of this
    /// one: an oops is announced in several ways.
    pub fn includes(self, other: Self) -> bool {
        other == Self::Oops && self.end() == End::Trace
            || matches!((self, other), (Self::OutOfMemory, _))
    }

    /// Names the report whose lines are `report`; `context` came before it.
    pub fn title(self, report: &[&str], context: &[&str]) -> String {
        let first = report[0].strip_prefix("watchdog: ").unwrap_or(report[0]);
        let place = frames::guilty(report);
        let within = |what: &str| match &place {
            Some(place) => format!("{what} in {place}"),
            None => what.to_owned(),
        };
        match self {
            Self::Warn => match warned_in(first).map(str::to_owned).or(place) {
                Some(place) => format!("WARNING in {place}"),
                None => "WARNING".into(),
            },
            Self::Bug => within("kernel BUG"),
            Self::PageFault => within("BUG: unable to handle kernel paging request"),
            Self::NullPointer => within("BUG: unable to handle kernel NULL pointer dereference"),
            Self::Oops => within(oops_reason(first)),
            Self::Kasan => kasan_title(first, report, place),
            Self::Kcsan => without_offsets(first.trim_start_matches("BUG: ")),
            Self::Lockdep => within(lockdep_reason(first)),
            Self::Ubsan => within(first.split(" in ").next().unwrap_or(first)),
            Self::SleepInAtomic => within("BUG: sleeping function called from invalid context"),
            Self::SchedulingInAtomic => within("BUG: scheduling while atomic"),
            Self::SoftLockup => within("BUG: soft lockup"),
            Self::HungTask => within("INFO: task hung"),
            Self::RcuStall => within("INFO: rcu detected stall"),
            Self::BadPage => with_reason("BUG: Bad page state", report, context),
            Self::BadPageMap => within("BUG: Bad page map"),
            Self::BadRss => format!("BUG: Bad rss-counter state ({})", field(first, "type:")),
            Self::PageTableLeak => "BUG: non-zero pgtables_bytes on freeing mm".into(),
            Self::NegativeCounter => {
                format!(
                    "negative counter {}",
                    negative_counter(first).unwrap_or("?")
                )
            }
            Self::BadEntry => without_numbers(first),
            Self::Slub => without_numbers(first),
            Self::Leak => "memory leak".into(),
            Self::Panic => {
                let words = first.trim_start_matches("Kernel panic - not syncing: ");
                format!("kernel panic: {}", without_numbers(words))
            }
            Self::OtherBug => without_numbers(first),
            Self::OutOfMemory => "the OOM killer was invoked".into(),
        }
    }
}

/// The counter that this line of `vmstat_refresh()` calls negative. Counters of
/// single pages may be so for a moment, while CPUs fold their parts.
fn negative_counter(line: &str) -> Option<&str> {
    const MOMENTARY: i64 = 32;
    let (name, value) = line.strip_prefix("vmstat_refresh: ")?.split_once(' ')?;
    let value: i64 = value.trim().parse().ok()?;
    (value < -MOMENTARY).then_some(name)
}

fn warning(what: &str) -> Option<Kind> {
    if LOCKDEP.iter().any(|text| what.starts_with(text)) {
        return Some(Kind::Lockdep);
    }
    // `FILE:LINE at FUNC...` since 6.18, `CPU: N PID: N at FILE:LINE FUNC`
    // before, `at FUNC` without verbose reports. Other lines that begin with
    // this word are advice, not reports.
    (what.contains(" at ") || what.starts_with("at ")).then_some(Kind::Warn)
}

fn bug(what: &str) -> Kind {
    let starts = |prefix: &str| what.starts_with(prefix);
    if starts("KASAN: ") || starts("KFENCE: ") || starts("KMSAN: ") {
        Kind::Kasan
    } else if starts("KCSAN: ") {
        Kind::Kcsan
    } else if starts("unable to handle page fault") {
        Kind::PageFault
    } else if starts("kernel NULL pointer dereference") {
        Kind::NullPointer
    } else if starts("sleeping function called") {
        Kind::SleepInAtomic
    } else if starts("scheduling ") {
        Kind::SchedulingInAtomic
    } else if starts("soft lockup") {
        Kind::SoftLockup
    } else if starts("Bad page state") {
        Kind::BadPage
    } else if starts("Bad page map") {
        Kind::BadPageMap
    } else if starts("Bad rss-counter state") {
        Kind::BadRss
    } else if starts("non-zero pgtables_bytes") {
        Kind::PageTableLeak
    } else {
        Kind::OtherBug
    }
}

fn info(line: &str) -> Option<Kind> {
    let line = line.strip_prefix("rcu: ").unwrap_or(line);
    let what = line.strip_prefix("INFO: ")?;
    if what.starts_with("task ") && what.contains(" blocked ") && what.contains("more than") {
        Some(Kind::HungTask)
    } else if what.contains("detected stall") || what.contains("self-detected stall") {
        Some(Kind::RcuStall)
    } else if what.starts_with("trying to register non-static key") {
        Some(Kind::Lockdep)
    } else {
        None
    }
}

/// The function in the first line of a warning, old form or new.
fn warned_in(first: &str) -> Option<&str> {
    first
        .split([' ', ','])
        .find_map(frames::function)
        .filter(|name| frames::is_meaningful(name))
}

fn oops_reason(first: &str) -> &str {
    let reason = first.strip_prefix("Oops: ").unwrap_or(first);
    reason.split([',', ':']).next().unwrap_or(reason)
}

fn lockdep_reason(first: &str) -> &str {
    let what = first.strip_prefix("WARNING: ").unwrap_or(first);
    if what.starts_with("possible ") {
        "possible deadlock"
    } else {
        what.trim_matches(['[', ']', ' ', '!'])
    }
}

/// `KASAN: slab-use-after-free Read in FUNC`.
fn kasan_title(first: &str, report: &[&str], place: Option<String>) -> String {
    let what = first.strip_prefix("BUG: ").unwrap_or(first);
    let (kind, named) = what.split_once(" in ").unwrap_or((what, ""));
    let access = ["Read", "Write"].into_iter().find(|access| {
        let start = format!("{access} ");
        report.iter().any(|line| line.starts_with(&start))
    });
    let named = frames::function(named).filter(|name| frames::is_meaningful(name));
    let place = named.map(str::to_owned).or(place);
    let mut title = kind.to_owned();
    if let Some(access) = access {
        title = format!("{title} {access}");
    }
    if let Some(place) = place {
        title = format!("{title} in {place}");
    }
    title
}

/// The title with what `dump_page()` gives as its reason.
fn with_reason(title: &str, report: &[&str], context: &[&str]) -> String {
    let mut lines = report.iter().chain(context);
    let reason = lines.find_map(|line| line.strip_prefix("page dumped because: "));
    match reason {
        Some(reason) => format!("{title} ({reason})"),
        None => title.to_owned(),
    }
}

/// The word that follows `name` in `line`.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let rest = line.split_once(name).map_or("", |(_, rest)| rest);
    rest.split(' ').next().unwrap_or(rest)
}

/// Places without their offsets.
fn without_offsets(line: &str) -> String {
    let words = line
        .split(' ')
        .map(|word| frames::function(word).unwrap_or(word));
    words.collect::<Vec<_>>().join(" ")
}

/// Numbers, addresses and seconds differ from run to run and must not make new titles.
fn without_numbers(line: &str) -> String {
    let is_number = |word: &str| {
        let word = word.strip_suffix('s').unwrap_or(word);
        let digits = word.trim_start_matches("0x");
        let hex = digits.len() >= 5 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        !word.is_empty() && (hex || word.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut title = String::new();
    for part in line.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let separator = &part[word.len()..];
        title.push_str(if is_number(word) { "N" } else { word });
        title.push_str(separator);
    }
    title.truncate(title.floor_char_boundary(120));
    title.trim_end().to_owned()
}
