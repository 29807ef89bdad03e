// SPDX-License-Identifier: GPL-2.0-only
//! Whether programs reach again, in another machine, what made them worth
//! keeping. In the first machine each gets its signal: the call sites that both of
//! two runs reach and none of the programs before. In the second they run once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::exec::{Session, SessionError};
use crate::program::Program;

/// The signal of each program, by its name.
pub type Signals = BTreeMap<String, BTreeSet<u64>>;

/// How much of the signals was seen again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repeated {
    /// Programs that have a signal.
    pub programs: usize,
    /// Those of them that reached all of it.
    pub whole: usize,
    /// Call sites of all signals.
    pub sites: usize,
    /// Those of them that were reached.
    pub reached: usize,
}

/// Runs each program twice and says what its signal is.
pub fn record(
    session: &mut Session,
    programs: &[(String, Program)],
) -> Result<Signals, SessionError> {
    let mut known = BTreeSet::new();
    let mut signals = Signals::new();
    for (name, program) in programs {
        let first = reached(session, program)?;
        let second = reached(session, program)?;
        let both: BTreeSet<u64> = first.intersection(&second).copied().collect();
        let signal = both.difference(&known).copied().collect();
        known.extend(both);
        signals.insert(name.clone(), signal);
    }
    Ok(signals)
}

/// Runs each program once and compares with its signal.
pub fn compare(
    session: &mut Session,
    programs: &[(String, Program)],
    signals: &Signals,
) -> Result<Repeated, SessionError> {
    let mut repeated = Repeated::default();
    for (name, program) in programs {
        let Some(signal) = signals.get(name).filter(|signal| !signal.is_empty()) else {
            continue;
        };
        let seen = reached(session, program)?;
        repeated.add(signal, &seen);
    }
    Ok(repeated)
}

impl Repeated {
    fn add(&mut self, signal: &BTreeSet<u64>, seen: &BTreeSet<u64>) {
        let reached = signal.intersection(seen).count();
        self.programs += 1;
        self.whole += usize::from(reached == signal.len());
        self.sites += signal.len();
        self.reached += reached;
    }

    /// The line `HP repeated`.
    pub fn line(&self) -> String {
        let json = json!({"programs": self.programs, "whole": self.whole,
                          "sites": self.sites, "reached": self.reached});
        format!("HP repeated {json}")
    }
}

fn reached(session: &mut Session, program: &Program) -> Result<BTreeSet<u64>, SessionError> {
    session.run_in_row(program)?;
    Ok(session.cover().iter().map(|(_, pc, _)| pc).collect())
}

/// One line `HP signal` for each program.
pub fn print(signals: &Signals) -> String {
    let line = |(name, signal): (&String, &BTreeSet<u64>)| {
        format!("HP signal {}\n", json!({"file": name, "sites": signal}))
    };
    signals.iter().map(line).collect()
}

/// Reads what `print` wrote; other lines are passed over.
pub fn parse(text: &str) -> Signals {
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("HP signal "));
    let values = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    values
        .filter_map(|value| {
            let sites = value["sites"].as_array()?.iter().filter_map(Value::as_u64);
            Some((value["file"].as_str()?.to_owned(), sites.collect()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_read_back() {
        let mut signals = Signals::new();
        signals.insert("a".into(), BTreeSet::from([0xffff_ffff_8100_0004, 7]));
        signals.insert("b".into(), BTreeSet::new());
        let text = format!("other\n{}", print(&signals));
        assert_eq!(parse(&text), signals);
    }

    #[test]
    fn a_signal_repeats_only_as_a_whole() {
        let mut repeated = Repeated::default();
        repeated.add(&BTreeSet::from([1, 2]), &BTreeSet::from([1, 2, 3]));
        repeated.add(&BTreeSet::from([4, 5]), &BTreeSet::from([4]));
        let wanted = Repeated {
            programs: 2,
            whole: 1,
            sites: 4,
            reached: 3,
        };
        assert_eq!(repeated, wanted);
    }
}
