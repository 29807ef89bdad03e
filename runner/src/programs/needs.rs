// SPDX-License-Identifier: GPL-2.0-only
//! What targets need of the guest, from `selftests/targets.toml`.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The data, built in so that an installation carries it.
const TARGETS: &str = include_str!("../../../selftests/targets.toml");

/// What one target needs; what it does not state comes from `[default]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// Time limit of one test in seconds.
    pub timeout_s: Option<u32>,
    /// Memory of the guest in MiB.
    pub memory_mib: Option<u64>,
    /// Words for the kernel's command line.
    #[serde(default)]
    pub boot: Vec<String>,
    /// Kernel modules of ours.
    #[serde(default)]
    pub modules: Vec<ModuleNeed>,
}

/// A kernel module of ours.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleNeed {
    /// Its folder below `vm/modules`.
    pub name: String,
    /// Parameters as `insmod` takes them.
    #[serde(default)]
    pub parameters: String,
}

/// The needs of all targets.
#[derive(Clone, Debug)]
pub struct AllNeeds {
    default: Needs,
    targets: BTreeMap<String, Needs>,
}

impl AllNeeds {
    /// Parses the built-in data.
    ///
    /// # Errors
    /// When it is not well-formed; a test keeps that from happening.
    pub fn load() -> Result<Self, toml::de::Error> {
        let mut targets: BTreeMap<String, Needs> = toml::from_str(TARGETS)?;
        let default = targets.remove("default").unwrap_or_default();
        Ok(Self { default, targets })
    }

    /// What `target` needs, completed from the default.
    pub fn of(&self, target: &str) -> Needs {
        let own = self.targets.get(target).cloned().unwrap_or_default();
        Needs {
            timeout_s: own.timeout_s.or(self.default.timeout_s),
            memory_mib: own.memory_mib.or(self.default.memory_mib),
            ..own
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_time_limit_and_memory() {
        let needs = AllNeeds::load().unwrap();
        let names = needs.targets.keys().map(String::as_str);
        for name in names.chain(["unheard_of"]) {
            let of = needs.of(name);
            assert!(of.timeout_s > Some(0) && of.memory_mib > Some(0), "{name}");
        }
    }
}
