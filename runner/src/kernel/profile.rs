// SPDX-License-Identifier: GPL-2.0-only
//! Kernel profiles: plain data in `kconfigs/`, built into the program so that
//! an installed `hugeprobe` needs no source tree of its own.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::dotconfig::{Wish, parse_fragments};
use super::error::KernelError;

const PROFILES: &str = include_str!("../../../kconfigs/profiles.toml");

/// The fragments by name.
const FRAGMENTS: &[(&str, &str)] = &[
    ("base", include_str!("../../../kconfigs/base.config")),
    (
        "selftest",
        include_str!("../../../kconfigs/selftest.config"),
    ),
    ("lean", include_str!("../../../kconfigs/lean.config")),
    ("kasan", include_str!("../../../kconfigs/kasan.config")),
    ("lockdep", include_str!("../../../kconfigs/lockdep.config")),
    ("kcov", include_str!("../../../kconfigs/kcov.config")),
];

/// What a kernel is configured for, and what a guest that boots it needs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The name that `PROFILE` gives.
    #[serde(skip)]
    pub name: String,
    /// One line for `--help` and reports.
    pub about: String,
    /// Names of fragments, in the order they are merged.
    pub fragments: Vec<String>,
    /// Variables for each `make`.
    #[serde(default)]
    pub make: Vec<String>,
    /// Kernel command line.
    #[serde(default)]
    pub boot: Vec<String>,
    /// Memory of the guest in MiB.
    pub memory_mib: u64,
    /// Modules that the guest loads.
    #[serde(default)]
    pub modules: Vec<WantedModule>,
}

/// A module that a guest loads if the kernel has it as one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedModule {
    /// Its name, for instance `test_hmm`.
    pub name: String,
    /// Parameters as `insmod` takes them.
    #[serde(default)]
    pub parameters: String,
}

/// The names of all profiles.
///
/// # Errors
/// [`KernelError::BadProfiles`] when the data cannot be parsed.
pub fn all() -> Result<Vec<Profile>, KernelError> {
    let table: BTreeMap<String, Profile> =
        toml::from_str(PROFILES).map_err(|error| KernelError::BadProfiles(error.to_string()))?;
    Ok(table
        .into_iter()
        .map(|(name, profile)| Profile { name, ..profile })
        .collect())
}

/// The profile of that name.
///
/// # Errors
/// [`KernelError::UnknownProfile`], which lists the known ones.
pub fn find(name: &str) -> Result<Profile, KernelError> {
    let all = all()?;
    let known = all
        .iter()
        .map(|profile| profile.name.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    let found = all.into_iter().find(|profile| profile.name == name);
    found.ok_or(KernelError::UnknownProfile {
        name: name.to_owned(),
        known,
    })
}

impl Profile {
    /// The options that this profile asks for.
    ///
    /// # Errors
    /// [`KernelError::BadProfiles`] when it names a fragment that does not exist.
    pub fn wishes(&self) -> Result<Vec<Wish>, KernelError> {
        let text = |name: &String| {
            let known = FRAGMENTS.iter().find(|(fragment, _)| fragment == name);
            known.map(|(_, text)| *text).ok_or_else(|| {
                KernelError::BadProfiles(format!("{} names the unknown fragment {name}", self.name))
            })
        };
        let texts: Vec<&str> = self.fragments.iter().map(text).collect::<Result<_, _>>()?;
        Ok(parse_fragments(texts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_of_the_repository_is_usable() {
        let names: Vec<String> = all()
            .unwrap()
            .iter()
            .inspect(|profile| assert!(!profile.wishes().unwrap().is_empty()))
            .map(|profile| profile.name.clone())
            .collect();
        assert_eq!(names, ["kasan", "kcov", "lean", "lockdep", "selftest"]);
    }

    #[test]
    fn unknown_profile_lists_the_known() {
        let text = find("fast").expect_err("no such profile").to_string();
        assert!(
            text.contains("\"fast\"") && text.contains("kasan, kcov, lean"),
            "{text}"
        );
    }

    #[test]
    fn later_fragment_of_a_profile_wins() {
        let wishes = find("lean").unwrap().wishes().unwrap();
        let value = |symbol: &str| {
            wishes
                .iter()
                .find(|wish| wish.symbol == symbol)
                .map(|wish| wish.value.clone())
        };
        assert_eq!(value("DEBUG_VM").as_deref(), Some("n"));
        assert_eq!(value("TRANSPARENT_HUGEPAGE").as_deref(), Some("y"));
    }
}
