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
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

pub use crate::config::{Accel, MachineConfig, SharedMemory};
use crate::event::{Event, Fate, Splat};
use crate::fate::{self, Evidence};
use crate::initramfs::{self, InitramfsError};
use crate::monitor::{self, Monitor};
use crate::plan::{Plan, Share};
use crate::qemu::QemuCommand;
use crate::vng::{self, VngError};

/// Words for every guest's kernel, before the caller's: the console shows
/// notices (our marks) and worse, as each character costs two port accesses;
/// stalls of a busy host are no stalls of the kernel; KASAN reports more than
/// its first finding; the log holds a flood of reports.
const KERNEL_WORDS: [&str; 5] = [
    "loglevel=6",
    "rcupdate.rcu_cpu_stall_timeout=60",
    "kasan_multi_shot",
    "log_buf_len=4M",
    monitor::KERNEL_WORD,
];

/// QEMU's emulation gives all CPUs one time stamp counter. A kernel that finds
/// it out of step instead, on a busy host, reads the clock from a device: a
/// thousand times slower.
const EMULATED_CLOCK: &str = "tsc=reliable";

/// Kernels that find fast string instructions clear and copy pages byte by byte
/// with them, which emulation does: a huge page then takes four times as long.
const WITHOUT_FAST_STRINGS: &str = ",-erms,-fsrm";

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No QEMU command.
    #[error(transparent)]
    Vng(#[from] VngError),
    /// No initramfs.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// A file of ours cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// QEMU cannot be run.
    #[error("cannot start {program}; run `hugeprobe doctor`")]
    Spawn {
        /// The QEMU program.
        program: String,
        /// Why.
        source: io::Error,
    },
}

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
    /// Boots `config` with `plan`. Files go to `folder`, which the guest must
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
        let plan_path = folder.join(format!("plan-{number}.json"));
        let json = serde_json::to_vec_pretty(plan).expect("a plan is always serialisable");
        write(&plan_path, |path| fs::write(path, &json))?;
        let stderr_path = folder.join(format!("qemu-{number}.log"));
        let stderr = write(&stderr_path, |path| File::create(path))?;
        let console_log = write(&folder.join("console.log"), |path| {
            File::options().create(true).append(true).open(path)
        })?;

        let mut command = vng::qemu_command(config)?;
        let (channel, guest_channel) = pair()?;
        let (console, guest_console) = pair()?;
        let (monitor, qemu_monitor) = pair()?;
        command.add(["-nodefaults"]);
        add_serial(&mut command, "console", &guest_console);
        add_serial(&mut command, "events", &guest_channel);
        add_monitor(&mut command, &qemu_monitor);
        add_shares(&mut command, &plan.setup.shares);
        if let Some(memory) = &config.shared_memory {
            add_shared_memory(&mut command, memory)?;
        }
        if config.accel == Accel::Kvm
            && let Some(machine) = command.value_mut("-machine")
        {
            // Emulation must be chosen, never slipped into.
            *machine = machine.replace("kvm:tcg", "kvm");
        }
        set_topology(&mut command, config);
        if let Some(modules) = &config.modules_dir {
            let path = folder.join("initramfs.cpio");
            initramfs::write(&path, &config.guest_program, modules)?;
            command.add(["-initrd".to_owned(), path.display().to_string()]);
        }
        command.add(config.qemu_args.iter().cloned());
        command.add_kernel_words(KERNEL_WORDS);
        if config.accel == Accel::Tcg {
            command.add_kernel_words([EMULATED_CLOCK]);
            if let Some(cpu) = command.value_mut("-cpu") {
                cpu.push_str(WITHOUT_FAST_STRINGS);
            }
        }
        command.add_kernel_words(config.append.iter().cloned());
        command.add_kernel_words([
            kernel_word("init", &config.guest_program),
            kernel_word("hugeprobe.plan", &plan_path),
        ]);

        let qemu = spawn(
            &command,
            [&guest_channel, &guest_console, &qemu_monitor],
            stderr,
        )?;
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

fn write<T>(path: &Path, action: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, StartError> {
    action(path).map_err(|source| StartError::Write {
        path: path.to_owned(),
        source,
    })
}

fn pair() -> Result<(UnixStream, UnixStream), StartError> {
    UnixStream::pair().map_err(|source| StartError::Spawn {
        program: "a socket pair".into(),
        source,
    })
}

/// `name=value` as a word of the kernel's command line.
fn kernel_word(name: &str, value: &Path) -> String {
    let word = format!("{name}={}", value.display());
    if word.contains(char::is_whitespace) {
        format!("\"{word}\"")
    } else {
        word
    }
}

fn add_serial(command: &mut QemuCommand, id: &str, socket: &UnixStream) {
    command.add([
        "-chardev".to_owned(),
        format!("socket,id={id},fd={}", socket.as_raw_fd()),
        "-serial".to_owned(),
        format!("chardev:{id}"),
    ]);
}

fn add_monitor(command: &mut QemuCommand, socket: &UnixStream) {
    command.add([
        "-chardev".to_owned(),
        format!("socket,id=monitor,fd={}", socket.as_raw_fd()),
        "-mon".to_owned(),
        "chardev=monitor,mode=control".to_owned(),
    ]);
}

/// Gives each NUMA node sockets of its own: CPUs of one socket share a cache,
/// and the kernel warns when those are on different nodes.
fn set_topology(command: &mut QemuCommand, config: &MachineConfig) {
    let (cpus, nodes) = (config.cpus, config.numa_nodes);
    if let Some(smp) = command.value_mut("-smp")
        && nodes > 1
    {
        *smp = format!("{cpus},sockets={cpus},cores=1,threads=1");
    }
}

fn add_shares(command: &mut QemuCommand, shares: &[Share]) {
    for share in shares {
        let (tag, path) = (&share.tag, share.path.display());
        command.add([
            "-fsdev".to_owned(),
            format!("local,id={tag},path={path},security_model=none,multidevs=remap"),
            "-device".to_owned(),
            format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
        ]);
    }
}

fn add_shared_memory(command: &mut QemuCommand, memory: &SharedMemory) -> Result<(), StartError> {
    write(&memory.path, |path| {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        file.set_len(memory.size_mib << 20)
    })?;
    let (path, size) = (memory.path.display(), memory.size_mib);
    command.add([
        "-object".to_owned(),
        format!("memory-backend-file,id=hugeprobe-shm,share=on,mem-path={path},size={size}M"),
        "-device".to_owned(),
        "ivshmem-plain,memdev=hugeprobe-shm".to_owned(),
    ]);
    Ok(())
}

/// Starts QEMU in a process group of its own, so that a Ctrl-C on the terminal
/// reaches only us, with `sockets` inherited.
fn spawn(
    command: &QemuCommand,
    sockets: [&UnixStream; 3],
    stderr: File,
) -> Result<Child, StartError> {
    let parent = nix::unistd::getpid();
    let sockets = sockets.map(AsRawFd::as_raw_fd);
    let mut qemu = Command::new(&command.program);
    qemu.args(command.arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .process_group(0);
    let prepare = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if nix::unistd::getppid() != parent {
            // We died before the line above: nobody would kill QEMU.
            return Err(io::ErrorKind::Interrupted.into());
        }
        for socket in sockets {
            // SAFETY: the descriptor is open in this forked child, and
            // fcntl(F_SETFD) only clears its close-on-exec flag.
            nix::errno::Errno::result(unsafe { libc::fcntl(socket, libc::F_SETFD, 0) })?;
        }
        Ok(())
    };
    // SAFETY: `prepare` runs between fork and exec; it only makes system calls
    // and touches no lock or allocator.
    unsafe { qemu.pre_exec(prepare) };
    qemu.spawn().map_err(|source| StartError::Spawn {
        program: command.program.clone(),
        source,
    })
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
