// SPDX-License-Identifier: GPL-2.0-only
//! Kernel versions as users write them, and Debian package versions with the
//! order that dpkg gives them (deb-version(7)).

use std::cmp::Ordering;
use std::fmt;

use super::error::KernelError;

/// A version as given in `KVER`: `7.3`, `6.12.95` or `7.4-rc1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The series, for instance `7.3`: what Debian names packages after.
    pub series: String,
    /// The rest that must match too: `.95` or `~rc1`; empty for the newest.
    pub rest: String,
}

impl Wanted {
    /// Parses what the user wrote.
    ///
    /// # Errors
    /// [`KernelError::BadVersion`] for anything else.
    pub fn parse(text: &str) -> Result<Self, KernelError> {
        let bad = || KernelError::BadVersion(text.to_owned());
        let plain = text.strip_prefix('v').unwrap_or(text).replace('-', "~");
        let (numbers, rc) = match plain.split_once('~') {
            Some((numbers, rc)) => (numbers, Some(rc)),
            None => (plain.as_str(), None),
        };
        let parts: Vec<&str> = numbers.split('.').collect();
        let numeric = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(numeric) {
            return Err(bad());
        }
        let is_rc = |rc: &str| rc.strip_prefix("rc").is_some_and(|n| numeric(&n));
        let rest = match (parts.get(2), rc) {
            (Some(patch), None) => format!(".{patch}"),
            (None, Some(rc)) if is_rc(rc) => format!("~{rc}"),
            (None, None) => String::new(),
            _ => return Err(bad()),
        };
        Ok(Self {
            series: format!("{}.{}", parts[0], parts[1]),
            rest,
        })
    }

    /// Whether a Debian package version is one of the wanted ones.
    pub fn matches(&self, version: &DebianVersion) -> bool {
        let upstream = version.upstream();
        let Some(rest) = upstream.strip_prefix(&self.series) else {
            return false;
        };
        if self.rest.is_empty() {
            return rest.is_empty() || rest.starts_with(['.', '~']);
        }
        rest == self.rest
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.series, self.rest.replace('~', "-"))
    }
}

/// A Debian package version, for instance `7.3.4-1~bpo13+1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebianVersion(String);

impl DebianVersion {
    /// Takes the version as apt prints it.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// As apt wants it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The kernel's own version: without epoch and Debian revision.
    pub fn upstream(&self) -> &str {
        let without_epoch = self
            .0
            .split_once(':')
            .map_or(self.0.as_str(), |(_, rest)| rest);
        without_epoch
            .rsplit_once('-')
            .map_or(without_epoch, |(upstream, _)| upstream)
    }

    /// Whether it is a release candidate.
    pub fn is_candidate(&self) -> bool {
        self.upstream().contains("~rc")
    }
}

impl fmt::Display for DebianVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialOrd for DebianVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DebianVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        // Kernel packages have no epoch; comparing the whole text part by part
        // is then the same as comparing upstream version and revision apart,
        // but for a hyphen, which sorts like the end of the upstream version.
        let split = |v: &Self| {
            let upstream = v.upstream().to_owned();
            let revision =
                v.0.rsplit_once('-')
                    .map_or(String::new(), |(_, r)| r.to_owned());
            (upstream, revision)
        };
        let (a, b) = (split(self), split(other));
        compare_part(&a.0, &b.0).then_with(|| compare_part(&a.1, &b.1))
    }
}

/// dpkg's comparison of one part: alternating runs of non-digits, where `~`
/// sorts before the end and letters before other characters, and of digits.
fn compare_part(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        let text = compare_text(split_run(&mut a, false), split_run(&mut b, false));
        let order =
            text.then_with(|| compare_number(split_run(&mut a, true), split_run(&mut b, true)));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

fn split_run<'a>(text: &mut &'a [u8], digits: bool) -> &'a [u8] {
    let end = text
        .iter()
        .position(|b| b.is_ascii_digit() != digits)
        .unwrap_or(text.len());
    let (run, rest) = text.split_at(end);
    *text = rest;
    run
}

fn compare_text(a: &[u8], b: &[u8]) -> Ordering {
    let weight = |byte: Option<&u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(letter) if letter.is_ascii_alphabetic() => i32::from(*letter),
        Some(other) => i32::from(*other) + 256,
    };
    (0..a.len().max(b.len()))
        .map(|i| weight(a.get(i)).cmp(&weight(b.get(i))))
        .find(|order| *order != Ordering::Equal)
        .unwrap_or(Ordering::Equal)
}

fn compare_number(a: &[u8], b: &[u8]) -> Ordering {
    let significant = |run: &[u8]| {
        let start = run
            .iter()
            .position(|digit| *digit != b'0')
            .unwrap_or(run.len());
        run[start..].to_vec()
    };
    let (a, b) = (significant(a), significant(b));
    a.len().cmp(&b.len()).then_with(|| a.cmp(&b))
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case("7.3", "7.3", "" ; "series")]
    #[test_case("v6.12.95", "6.12", ".95" ; "patch level with a v")]
    #[test_case("7.4-rc1", "7.4", "~rc1" ; "candidate as upstream writes it")]
    #[test_case("7.4~rc1", "7.4", "~rc1" ; "candidate as Debian writes it")]
    fn wanted_versions_parse(text: &str, series: &str, rest: &str) {
        let wanted = Wanted::parse(text).unwrap();
        assert_eq!(
            (wanted.series.as_str(), wanted.rest.as_str()),
            (series, rest)
        );
    }

    #[test_case("" ; "empty")]
    #[test_case("7" ; "only a major number")]
    #[test_case("7.3.4.5" ; "four numbers")]
    #[test_case("latest" ; "a word")]
    #[test_case("7.3-foo" ; "unknown suffix")]
    #[test_case("7.3.1-rc2" ; "candidate of a patch level")]
    #[test_case("../7.3" ; "a path")]
    fn other_texts_are_refused(text: &str) {
        assert!(matches!(
            Wanted::parse(text),
            Err(KernelError::BadVersion(_))
        ));
    }

    #[test_case("7.3", "7.3.4-1~bpo13+1", true ; "stable of the series")]
    #[test_case("7.3", "7.3~rc7-1~exp1", true ; "candidate of the series")]
    #[test_case("7.3", "7.30.1-1", false ; "series that only begins alike")]
    #[test_case("7.3.4", "7.3.4-1", true ; "exact patch level")]
    #[test_case("7.3.4", "7.3.40-1", false ; "patch level that only begins alike")]
    #[test_case("7.3-rc7", "7.3~rc7-1~exp1", true ; "exact candidate")]
    #[test_case("6.1", "6.12.95-1", false ; "another series")]
    fn versions_match(wanted: &str, version: &str, expected: bool) {
        assert_eq!(
            Wanted::parse(wanted)
                .unwrap()
                .matches(&DebianVersion::new(version)),
            expected
        );
    }

    // Each pair was checked with `dpkg --compare-versions`.
    #[test_case("7.3~rc7-1~exp1", "7.3.4-1~bpo13+1" ; "candidate before release")]
    #[test_case("7.2.9-1", "7.2.13-1" ; "numbers are numbers")]
    #[test_case("7.2.13-1~bpo13+1", "7.2.13-1" ; "backport before original")]
    #[test_case("6.1.9-1", "6.12.1-1" ; "series are numbers")]
    #[test_case("7.2-1", "7.2.1-1" ; "longer is later")]
    #[test_case("7.2.1-1", "7.2.1-1+b1" ; "binary rebuild is later")]
    #[test_case("7.2.1-09", "7.2.1-10" ; "leading zeros do not count")]
    fn order_is_dpkgs(smaller: &str, larger: &str) {
        let (smaller, larger) = (DebianVersion::new(smaller), DebianVersion::new(larger));
        assert_eq!(smaller.cmp(&larger), Ordering::Less);
        assert_eq!(larger.cmp(&smaller), Ordering::Greater);
        assert_eq!(smaller.cmp(&smaller.clone()), Ordering::Equal);
    }

    #[test]
    fn upstream_version_has_no_revision() {
        assert_eq!(DebianVersion::new("7.3.4-1~bpo13+1").upstream(), "7.3.4");
        assert!(DebianVersion::new("7.3~rc7-1~exp1").is_candidate());
        assert!(!DebianVersion::new("7.3.4-1").is_candidate());
    }
}
