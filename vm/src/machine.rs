// SPDX-License-Identifier: GPL-2.0-only
//! One running QEMU: starts it, reads its event channel and its console, and
//! makes sure that it does not outlive us.
//!
//! The channel is the guest's second serial port, backed by a socket pair: it
//! needs no driver that a kernel might lack and no name in any file system.
//! The console is the first serial port, likewise; what arrives is appended to
//! `console.log`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

pub use crate::config::{Accel, MachineConfig, SharedMemory};
use crate::event::{Event, Fate, Splat};
use crate::fate::{self, Evidence};
use crate::initramfs;
pub use crate::launch::StartError;
use crate::launch::{self, Launched};
use crate::monitor::{self, Monitor};
use crate::plan::Plan;
use crate::qemu::QemuCommand;

/// What [`Machine::next`] brought.
#[derive(Debug)]
pub enum Next {
    /// The guest sent an event; heartbeats are among them.
    Event(Event),
    /// Nothing happened within the time given.
    Nothing,
    /// The machine has ended; nothing follows.
    Ended(Fate),
}

/// A running machine; dropping it kills QEMU.
#[derive(Debug)]
pub struct Machine {
    qemu: Child,
    channel: UnixStream,
    console: UnixStream,
    console_log: File,
    monitor: Monitor,
    partial_event: Vec<u8>,
    events: std::collections::VecDeque<Event>,
    evidence: Evidence,
    /// The guest has begun its work; until then it owes us no heartbeat.
    prepared: bool,
    stderr_path: PathBuf,
    started: Instant,
    last_sign: Instant,
    boot_limit: Duration,
    silence_limit: Duration,
}

impl Machine {
    /// Boots `config` with `plan`, or lets a machine begin where the template of
    /// `config` was stopped. Files go to `folder`, which the guest must
    /// be able to read at the same path: `plan-NUMBER.json`, `console.log` (all
    /// machines of a run append to it) and `qemu-NUMBER.log`.
    ///
    /// QEMU dies with the *thread* that called this, should that end first.
    ///
    /// # Errors
    /// When virtme-ng, QEMU or the folder cannot be used.
    pub fn start(
        config: &MachineConfig,
        plan: &Plan,
        folder: &Path,
        number: u32,
    ) -> Result<Self, StartError> {
        if let Some(template) = &config.template {
            let command = template.copy(config.shared_memory.as_ref())?;
            let mut machine = Self::launch(command, config, folder, number)?;
            template.begin(&mut machine, plan)?;
            return Ok(machine);
        }
        let plan_path = folder.join(format!("plan-{number}.json"));
        let json = serde_json::to_vec_pretty(plan).expect("a plan is always serialisable");
        launch::write(&plan_path, |path| fs::write(path, &json))?;
        let mut command = launch::command(config, &plan.setup.shares)?;
        if let Some(memory) = &config.shared_memory {
            launch::add_shared_memory(&mut command, memory)?;
        }
        if let Some(modules) = &config.modules_dir {
            let path = folder.join("initramfs.cpio");
            initramfs::write(&path, &config.guest_program, modules)?;
            command.add(["-initrd".to_owned(), path.display().to_string()]);
        }
        command.add_kernel_words([
            launch::kernel_word("init", &config.guest_program),
            launch::kernel_word("hugeprobe.plan", &plan_path),
        ]);
        Self::launch(command, config, folder, number)
    }

    /// Runs a QEMU command with our channel, console and monitor.
    pub(crate) fn launch(
        command: QemuCommand,
        config: &MachineConfig,
        folder: &Path,
        number: u32,
    ) -> Result<Self, StartError> {
        let stderr_path = folder.join(format!("qemu-{number}.log"));
        let stderr = launch::write(&stderr_path, |path| File::create(path))?;
        let console_log = launch::write(&folder.join("console.log"), |path| {
            File::options().create(true).append(true).open(path)
        })?;
        let Launched {
            qemu,
            channel,
            console,
            monitor,
        } = launch::launch(command, stderr)?;
        let now = Instant::now();
        Ok(Self {
            qemu,
            channel,
            console,
            console_log,
            monitor: Monitor::new(monitor),
            partial_event: Vec::new(),
            events: std::collections::VecDeque::new(),
            evidence: Evidence::default(),
            prepared: false,
            stderr_path,
            started: now,
            last_sign: now,
            boot_limit: config.boot_limit,
            silence_limit: config.silence_limit,
        })
    }

    /// QEMU's monitor.
    pub(crate) fn monitor(&mut self) -> &mut Monitor {
        &mut self.monitor
    }

    /// Sends a line to the guest, which must be waiting for one.
    pub(crate) fn send(&mut self, line: &str) -> io::Result<()> {
        self.channel.write_all(line.as_bytes())?;
        self.channel.write_all(b"\n")
    }

    /// Process id of QEMU, which is also its process group.
    pub fn pid(&self) -> u32 {
        self.qemu.id()
    }

    /// The last console lines, oldest first.
    pub fn console_tail(&self) -> &[String] {
        self.evidence.console_tail()
    }

    /// What the kernel reported on the console since the last test began.
    pub fn console_splats(&self) -> Vec<Splat> {
        self.evidence.splats()
    }

    /// Waits at most `limit` for the next event or the end.
    pub fn next(&mut self, limit: Duration) -> Next {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(event) = self.events.pop_front() {
                self.note(&event);
                return Next::Event(event);
            }
            let wait = deadline.saturating_duration_since(Instant::now());
            if let Some(fate) = self.overdue() {
                return Next::Ended(fate);
            }
            if !self.receive(wait.min(Duration::from_millis(200))) {
                return Next::Ended(self.ended());
            }
            if self.events.is_empty() && Instant::now() >= deadline {
                return Next::Nothing;
            }
        }
    }

    /// Kills QEMU and waits for its end.
    pub fn kill(&mut self) {
        // It leads a group of its own; that it may be gone already is fine.
        let _ = killpg(Pid::from_raw(self.qemu.id().cast_signed()), Signal::SIGKILL);
        let _ = self.qemu.wait();
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::GuestReady { .. } => self.evidence.ready = true,
            // Whatever follows comes from a guest that has prepared itself.
            _ if self.evidence.ready => self.prepared = true,
            _ => {}
        }
        match event {
            Event::GuestDone => self.evidence.done = true,
            Event::NeedsNewMachine { reason } => self.evidence.replace = Some(reason.clone()),
            Event::GuestFails { reason } => self.evidence.failed = Some(reason.clone()),
            _ => {}
        }
    }

    /// The fate of a machine that was silent for too long, which is then killed.
    fn overdue(&mut self) -> Option<Fate> {
        let fate = if !self.prepared && self.started.elapsed() > self.boot_limit {
            self.evidence.boot_timed_out(self.boot_limit)
        } else if self.prepared && self.last_sign.elapsed() > self.silence_limit {
            match self.evidence.silent(self.silence_limit) {
                Fate::Hang { .. } => self.ask_where_it_is(),
                fate => fate,
            }
        } else {
            return None;
        };
        self.kill();
        Some(fate)
    }

    /// Makes a silent guest print the stack of a CPU on its console.
    fn ask_where_it_is(&mut self) -> Fate {
        self.monitor.inject_nmi();
        let deadline = Instant::now() + monitor::ANSWER_LIMIT;
        while Instant::now() < deadline && self.receive(Duration::from_millis(200)) {}
        self.evidence.hung(self.silence_limit)
    }

    /// Reads what has arrived. False when QEMU has closed the channel.
    fn receive(&mut self, wait: Duration) -> bool {
        let mut fds = [
            PollFd::new(self.channel.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.console.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        if poll(&mut fds, timeout).unwrap_or(0) == 0 {
            return true;
        }
        let ready = fds.map(|fd| fd.any().unwrap_or(false));
        if ready[1] {
            self.read_console();
        }
        !ready[0] || self.read_channel()
    }

    fn read_channel(&mut self) -> bool {
        let mut buffer = [0; 65536];
        match self.channel.read(&mut buffer) {
            Ok(0) => return false,
            Ok(n) => self.partial_event.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Err(_) => return false,
        }
        self.last_sign = Instant::now();
        while let Some(end) = self.partial_event.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.partial_event.drain(..=end).collect();
            // Firmware may write to the port before the kernel owns it.
            if let Ok(event) = serde_json::from_slice(&line) {
                self.events.push_back(event);
            }
        }
        true
    }

    fn read_console(&mut self) {
        let mut buffer = [0; 65536];
        if let Ok(n) = self.console.read(&mut buffer) {
            // A full disk must not end the run; the tail is kept in memory.
            let _ = self.console_log.write_all(&buffer[..n]);
            self.evidence.add_console(&buffer[..n]);
        }
    }

    /// The fate of a machine whose QEMU has closed its side.
    fn ended(&mut self) -> Fate {
        // Whatever the console still holds belongs to the evidence.
        let _ = self.console.set_nonblocking(true);
        let mut before = usize::MAX;
        while before != self.evidence.console_bytes {
            before = self.evidence.console_bytes;
            self.read_console();
        }
        let status = wait_or_kill(&mut self.qemu, Duration::from_secs(2));
        let stderr = fs::read_to_string(&self.stderr_path).unwrap_or_default();
        self.evidence.qemu_ended(fate::describe(status), &stderr)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for a QEMU that has closed its sockets, and does not wait for ever.
fn wait_or_kill(qemu: &mut Child, limit: Duration) -> io::Result<std::process::ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = qemu.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            qemu.kill()?;
            return qemu.wait();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
