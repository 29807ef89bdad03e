// SPDX-License-Identifier: GPL-2.0-only
//! The guest that a kernel's profile, the chosen targets and the user ask for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hugeprobe_vm::machine::{Accel, MachineConfig};
use hugeprobe_vm::plan::{Module, Setup};
use hugeprobe_vm::probe;

use super::{memory, modules};
use crate::cli::{AccelArg, GuestArgs};
use crate::exit::{Exit, Failure, OrExit};
use crate::kernel::Kernel;
use crate::kernel::cache::Cache;
use crate::kernel::progress::Ui;
use crate::programs::{AllNeeds, Layout, Needs, Selected};

/// Swap in compressed memory, in MiB: enough to push a few huge pages out.
const SWAP_MIB: u64 = 1024;

/// What is booted and what it prepares.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The machine.
    pub machine: MachineConfig,
    /// What the guest does before the tests.
    pub setup: Setup,
}

/// What goes into a guest.
pub struct Builder<'a> {
    /// The user's wishes.
    pub args: &'a GuestArgs,
    /// Whether tests shall run into known bugs of mainline.
    pub known_bugs: bool,
    /// Where the sources of our kernel modules are.
    pub layout: &'a Layout,
    /// Where built modules are kept.
    pub cache: &'a Cache,
    /// The kernel to boot.
    pub kernel: &'a Kernel,
    /// What targets need.
    pub needs: &'a AllNeeds,
    /// Where to say what is left out.
    pub ui: &'a Ui,
}

impl Builder<'_> {
    /// The guest for the chosen tests.
    ///
    /// # Errors
    /// When the user asks for an impossible size.
    pub fn build(
        &self,
        vng: PathBuf,
        guest_program: &Path,
        selected: &[Selected],
    ) -> Result<Guest, Failure> {
        let needs: Vec<(&str, Needs)> = selected
            .iter()
            .map(|chosen| {
                (
                    chosen.target.name.as_str(),
                    self.needs.of(&chosen.target.name),
                )
            })
            .collect();
        let memory_mib = self.memory(&needs)?;
        let mut machine =
            MachineConfig::new(vng, self.kernel.bzimage.clone(), guest_program.to_owned());
        machine.accel = match self.args.accel {
            AccelArg::Kvm => Accel::Kvm,
            AccelArg::Tcg => Accel::Tcg,
            AccelArg::Auto => probe::accel(&machine, &self.cache.dir("probe")?)?,
        };
        machine.modules_dir.clone_from(&self.kernel.modules_dir);
        machine.cpus = self.args.cpus();
        machine.memory_mib = memory_mib;
        let mut setup = Setup {
            swap_mib: SWAP_MIB,
            env: self.env(),
            ..Setup::default()
        };
        let mut wanted = BTreeSet::new();
        if memory_mib >= self.kernel.memory_mib {
            machine.append.extend(self.kernel.boot_args.iter().cloned());
        }
        for (target, needs) in &needs {
            let special = !needs.boot.is_empty() || !needs.modules.is_empty();
            if special && needs.memory_mib.is_some_and(|mib| mib > memory_mib) {
                self.ui.step(&format!(
                    "{target} needs a bigger guest: some of its tests will skip"
                ));
                continue;
            }
            // Targets may share a need; a module can be loaded only once.
            for word in &needs.boot {
                if !machine.append.contains(word) {
                    machine.append.push(word.clone());
                }
            }
            for need in &needs.modules {
                if !wanted.insert(&need.name) {
                    continue;
                }
                match modules::build(self.cache, self.layout, self.kernel, &need.name) {
                    Ok(path) => setup.modules.push(Module {
                        path,
                        parameters: need.parameters.clone(),
                        optional: true,
                    }),
                    Err(error) => self
                        .ui
                        .step(&format!("{target}: {error}; its tests will skip")),
                }
            }
        }
        let words = self
            .args
            .append
            .iter()
            .flat_map(|words| words.split_whitespace());
        machine.append.extend(words.map(str::to_owned));
        Ok(Guest { machine, setup })
    }

    /// What tests find in their environment besides the guest's own.
    fn env(&self) -> Vec<(String, String)> {
        let known_bugs = self.known_bugs.then_some("HUGEPROBE_KNOWN_BUGS");
        known_bugs
            .into_iter()
            .map(|name| (name.to_owned(), "1".to_owned()))
            .collect()
    }

    /// Memory of the guest in MiB: what the user says, else what the profile
    /// and the targets need, but never more than the host has.
    fn memory(&self, needs: &[(&str, Needs)]) -> Result<u64, Failure> {
        if let Some(text) = &self.args.mem {
            return memory::parse(text).or_exit(Exit::Usage);
        }
        let wanted = needs
            .iter()
            .filter_map(|(_, needs)| needs.memory_mib)
            .fold(self.kernel.memory_mib, u64::max);
        let host = memory::of_host()?;
        if host >= wanted {
            return Ok(wanted);
        }
        self.ui.step(&format!(
            "the guest gets {host} MiB instead of {wanted}: the host has no more to give"
        ));
        Ok(host)
    }
}
