// SPDX-License-Identifier: GPL-2.0-only
//! A machine that was booted once and stopped where its work would begin, so
//! that any number of machines can begin there, each with that memory to itself:
//! a few hundred milliseconds instead of a boot.
//!
//! The guest has nothing but an initramfs: QEMU does not save a machine that has
//! a folder of the host mounted. Its memory is in anonymous files of this process,
//! shared with QEMU while the template boots; copies map them privately, and what they
//! write is theirs. What QEMU itself knows (registers, devices) is saved as for a
//! migration, without the memory (capability `x-ignore-shared`). A file that
//! host and guest share survives this only at an address that never changes,
//! which a PCI device's does; so it is a memory module here, behind
//! all other memory, which the kernel does not use.
//!
//! What a copy is given to do comes over the channel: see [`Job::Wait`].

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::json;

use crate::config::{MachineConfig, SharedMemory};
use crate::event::{Event, Fate};
use crate::initramfs::{self, Contents, InitramfsError};
use crate::launch::{self, StartError};
use crate::machine::{Machine, Next};
use crate::monitor::Monitor;
use crate::plan::{Command, Job, Plan, Setup};
use crate::qemu::QemuCommand;

/// The module of memory that is shared with the host.
const MODULE_MIB: u64 = 2;
const MODULE: u64 = MODULE_MIB << 20;
/// Memory above this size begins anew at [`HIGH`] (q35 in QEMU's
/// `hw/i386/pc_q35.c`): below 2.75 GiB all of it is low, else 2 GiB.
const LOW_LIMIT: u64 = 0xb000_0000;
const LOW_OF_LARGE: u64 = 0x8000_0000;
const HIGH: u64 = 1 << 32;
const GIB: u64 = 1 << 30;
/// How long QEMU may take to save or to restore its state.
const STATE_LIMIT: Duration = Duration::from_secs(60);
/// How often it is asked whether it has.
const TICK: Duration = Duration::from_millis(5);

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The machine does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// No initramfs.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// QEMU cannot save it.
    #[error("QEMU does not save the machine")]
    Save(#[source] io::Error),
    /// The machine ended instead of waiting.
    #[error("the machine ended before it waited: {0:?}")]
    Ended(Fate),
    /// An anonymous file cannot be made.
    #[error("cannot keep the machine's memory")]
    Memory(#[source] io::Error),
    /// The user interrupted.
    #[error("interrupted")]
    Interrupted,
}

/// What a guest does before it is stopped.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    /// What it prepares. Its shares are mounted by the copies.
    pub setup: Setup,
    /// Programs and modules that it needs, at the same paths as here.
    pub files: Vec<PathBuf>,
    /// A command that is started and gets its input from the copies.
    pub warm: Option<Command>,
}

/// A stopped machine.
#[derive(Debug)]
pub struct Template {
    command: QemuCommand,
    memory: Vec<File>,
    state: File,
    _initramfs: File,
    setup: Setup,
    module_at: u64,
}

impl Template {
    /// Boots a machine, lets it prepare what `waiting` says, and stops it. Files
    /// go to `folder`, as those of [`Machine::start`]; numbered 0.
    ///
    /// # Errors
    /// When it does not get that far, or QEMU cannot save it.
    pub fn make(
        config: &MachineConfig,
        waiting: &Waiting,
        folder: &Path,
        interrupted: &AtomicBool,
    ) -> Result<Self, TemplateError> {
        let mut command = launch::command(config, &waiting.setup.shares)?;
        command.without_root();
        let sizes = command.memory_sizes();
        let memory = sizes.iter().map(|_| anonymous("memory"));
        let memory = memory.collect::<Result<Vec<_>, _>>()?;
        let plan = serde_json::to_vec(&Plan {
            setup: Setup {
                shares: Vec::new(),
                ..waiting.setup.clone()
            },
            job: Job::Wait(waiting.warm.clone()),
        })
        .expect("a plan is always serialisable");
        let contents = Contents::Alone {
            plan: &plan,
            files: &waiting.files,
        };
        let modules = config.modules_dir.as_deref();
        let archive = initramfs::make(contents, &config.guest_program, modules)?;
        let mut initramfs = anonymous("initramfs")?;
        initramfs
            .write_all(&archive)
            .map_err(TemplateError::Memory)?;
        command.add(["-initrd".to_owned(), path_of(&initramfs)]);
        let plan_path = Path::new("/").join(initramfs::PLAN);
        command.add_kernel_words([launch::kernel_word("hugeprobe.plan", &plan_path)]);
        // The module of shared memory is no memory of the kernel's.
        command.add_kernel_words(["acpi_no_memhotplug"]);
        if let Some(size) = command.value_mut("-m") {
            size.push_str(&format!(",slots=1,maxmem={}M", config.memory_mib + 2048));
        }
        let template = Self {
            command,
            memory,
            state: anonymous("state")?,
            _initramfs: initramfs,
            setup: waiting.setup.clone(),
            module_at: module_address(config.memory_mib << 20),
        };
        let command = template.with_memory(true, None)?;
        let mut machine = Machine::launch(command, config, folder, 0)?;
        wait_until_it_waits(&mut machine, interrupted)?;
        template
            .save(machine.monitor())
            .map_err(TemplateError::Save)?;
        Ok(template)
    }

    /// Where the guest finds the memory that it shares with the host: a file
    /// and an offset in it.
    pub fn shared_memory(&self) -> (&'static str, u64) {
        ("/dev/mem", self.module_at)
    }

    /// The command of a copy; [`Self::begin`] lets it run.
    pub(crate) fn copy(&self, shared: Option<&SharedMemory>) -> Result<QemuCommand, StartError> {
        let mut command = self.with_memory(false, shared)?;
        command.add(["-incoming", "defer"]);
        Ok(command)
    }

    /// Lets a copy begin, with the shares and the job of `plan`.
    pub(crate) fn begin(&self, machine: &mut Machine, plan: &Plan) -> Result<(), StartError> {
        self.restore(machine.monitor())
            .map_err(StartError::Resume)?;
        let plan = Plan {
            setup: Setup {
                shares: self.setup.shares.clone(),
                ..Setup::default()
            },
            job: plan.job.clone(),
        };
        let line = serde_json::to_string(&plan).expect("a plan is always serialisable");
        machine.send(&line).map_err(StartError::Resume)
    }

    fn with_memory(
        &self,
        shared_ram: bool,
        shared: Option<&SharedMemory>,
    ) -> Result<QemuCommand, StartError> {
        let mut command = self.command.clone();
        let files: Vec<String> = self.memory.iter().map(path_of).collect();
        command.back_memory(&files, shared_ram);
        let backend = match shared {
            Some(memory) => {
                launch::make_shared_memory(&SharedMemory {
                    size_mib: MODULE_MIB,
                    ..memory.clone()
                })?;
                format!("memory-backend-file,mem-path={}", memory.path.display())
            }
            None => "memory-backend-memfd".to_owned(),
        };
        command.add([
            "-object".to_owned(),
            format!("{backend},id=hugeprobe-shm,share=on,size={MODULE}"),
            "-device".to_owned(),
            format!(
                "pc-dimm,id=hugeprobe-dimm,memdev=hugeprobe-shm,addr={:#x}",
                self.module_at
            ),
        ]);
        Ok(command)
    }

    fn save(&self, monitor: &mut Monitor) -> io::Result<()> {
        monitor.command("stop", json!({}))?;
        ignore_shared(monitor)?;
        let uri = format!("exec:cat > {}", path_of(&self.state));
        monitor.command("migrate", json!({ "uri": uri }))?;
        finished(monitor)
    }

    fn restore(&self, monitor: &mut Monitor) -> io::Result<()> {
        ignore_shared(monitor)?;
        let uri = format!("exec:cat {}", path_of(&self.state));
        monitor.command("migrate-incoming", json!({ "uri": uri }))?;
        finished(monitor)?;
        // It is restored as it was saved: stopped.
        monitor.command("cont", json!({}))?;
        Ok(())
    }
}

fn ignore_shared(monitor: &mut Monitor) -> io::Result<()> {
    let capability = json!({"capability": "x-ignore-shared", "state": true});
    monitor.command(
        "migrate-set-capabilities",
        json!({ "capabilities": [capability] }),
    )?;
    Ok(())
}

/// Waits until QEMU has saved or restored a machine.
fn finished(monitor: &mut Monitor) -> io::Result<()> {
    let deadline = Instant::now() + STATE_LIMIT;
    loop {
        let answer = monitor.command("query-migrate", json!({}))?;
        match answer["status"].as_str() {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => {
                let why = answer["error-desc"]
                    .as_str()
                    .unwrap_or("it does not say why");
                return Err(io::Error::other(why.to_owned()));
            }
            _ if Instant::now() > deadline => return Err(io::ErrorKind::TimedOut.into()),
            _ => std::thread::sleep(TICK),
        }
    }
}

fn wait_until_it_waits(
    machine: &mut Machine,
    interrupted: &AtomicBool,
) -> Result<(), TemplateError> {
    loop {
        if interrupted.load(Ordering::Relaxed) {
            return Err(TemplateError::Interrupted);
        }
        match machine.next(Duration::from_millis(100)) {
            Next::Event(Event::GuestWaits) => return Ok(()),
            Next::Event(Event::GuestFails { reason }) => {
                return Err(TemplateError::Ended(Fate::Infrastructure {
                    detail: reason,
                }));
            }
            Next::Ended(fate) => return Err(TemplateError::Ended(fate)),
            Next::Event(_) | Next::Nothing => {}
        }
    }
}

/// Where a memory module comes to lie behind `memory` bytes.
fn module_address(memory: u64) -> u64 {
    let low = if memory >= LOW_LIMIT {
        LOW_OF_LARGE
    } else {
        LOW_LIMIT
    };
    (HIGH + memory.saturating_sub(low)).next_multiple_of(GIB)
}

fn anonymous(name: &str) -> Result<File, TemplateError> {
    let file = memfd_create(name, MFdFlags::MFD_CLOEXEC);
    file.map(File::from)
        .map_err(|error| TemplateError::Memory(error.into()))
}

/// A path by which a child can open a file of ours.
fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::{GIB, module_address};

    #[test]
    fn the_module_lies_behind_all_memory() {
        assert_eq!(module_address(GIB), 4 * GIB);
        assert_eq!(module_address(2 * GIB), 4 * GIB);
        assert_eq!(module_address(3 * GIB), 5 * GIB);
        assert_eq!(module_address(6 * GIB), 8 * GIB);
        assert_eq!(module_address(6 * GIB + (256 << 20)), 9 * GIB);
    }
}
