// SPDX-License-Identifier: GPL-2.0-only
//! The QEMU command of a machine, and how it is started. [`crate::machine`] and
//! [`crate::template`] call it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::config::{Accel, MachineConfig, SharedMemory};
use crate::initramfs::InitramfsError;
use crate::monitor;
use crate::plan::Share;
use crate::qemu::QemuCommand;
use crate::tsc;
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
/// thousand times slower. One that waits for ticks of the timer in vain, on a host
/// that is busier still, panics (`check_timer()` in `arch/x86/kernel/apic/io_apic.c`).
const EMULATED: [&str; 2] = ["tsc=reliable", "no_timer_check"];

/// The counter is the host's. A guest that measures its speed on a busy host may be wrong by
/// a factor: its clock then runs several times too fast, and so do all time limits in it.
const COUNTER_SPEED: &str = "tsc_early_khz";

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
    /// A machine does not begin where its template was stopped.
    #[error("QEMU does not continue a stopped machine")]
    Resume(#[source] io::Error),
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

/// A QEMU with our ends of its sockets.
pub struct Launched {
    /// The process.
    pub qemu: Child,
    /// The guest's second serial port.
    pub channel: UnixStream,
    /// The guest's first serial port.
    pub console: UnixStream,
    /// QEMU's monitor.
    pub monitor: UnixStream,
}

/// The command of a machine with its devices and all words of the kernel's
/// command line but those that name the plan.
///
/// # Errors
/// When virtme-ng gives none.
pub fn command(config: &MachineConfig, shares: &[Share]) -> Result<QemuCommand, StartError> {
    let mut command = vng::qemu_command(config)?;
    command.add(["-nodefaults"]);
    add_shares(&mut command, shares);
    if config.accel == Accel::Kvm
        && let Some(machine) = command.value_mut("-machine")
    {
        // Emulation must be chosen, never slipped into.
        *machine = machine.replace("kvm:tcg", "kvm");
    }
    set_topology(&mut command, config);
    command.add(config.qemu_args.iter().cloned());
    command.add_kernel_words(KERNEL_WORDS);
    if config.accel == Accel::Tcg {
        command.add_kernel_words(EMULATED);
        command.add_kernel_words(tsc::khz().map(|khz| format!("{COUNTER_SPEED}={khz}")));
        if let Some(cpu) = command.value_mut("-cpu") {
            cpu.push_str(WITHOUT_FAST_STRINGS);
        }
    }
    command.add_kernel_words(config.append.iter().cloned());
    Ok(command)
}

/// Starts a QEMU command with channel, console and monitor.
///
/// # Errors
/// When QEMU cannot be run.
pub fn launch(mut command: QemuCommand, stderr: File) -> Result<Launched, StartError> {
    let (channel, guest_channel) = pair()?;
    let (console, guest_console) = pair()?;
    let (monitor, qemu_monitor) = pair()?;
    add_serial(&mut command, "console", &guest_console);
    add_serial(&mut command, "events", &guest_channel);
    add_monitor(&mut command, &qemu_monitor);
    let qemu = spawn(
        &command,
        [&guest_channel, &guest_console, &qemu_monitor],
        stderr,
    )?;
    Ok(Launched {
        qemu,
        channel,
        console,
        monitor,
    })
}

/// Does something with a file of ours.
///
/// # Errors
/// Those of `action`.
pub fn write<T>(path: &Path, action: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, StartError> {
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
pub fn kernel_word(name: &str, value: &Path) -> String {
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

/// Shares memory with the guest as a PCI device.
///
/// # Errors
/// When its file cannot be made.
pub fn add_shared_memory(
    command: &mut QemuCommand,
    memory: &SharedMemory,
) -> Result<(), StartError> {
    make_shared_memory(memory)?;
    let (path, size) = (memory.path.display(), memory.size_mib);
    command.add([
        "-object".to_owned(),
        format!("memory-backend-file,id=hugeprobe-shm,share=on,mem-path={path},size={size}M"),
        "-device".to_owned(),
        "ivshmem-plain,memdev=hugeprobe-shm".to_owned(),
    ]);
    Ok(())
}

/// Makes the file of memory that is shared with a guest, or gives it its size.
///
/// # Errors
/// When that fails.
pub fn make_shared_memory(memory: &SharedMemory) -> Result<(), StartError> {
    write(&memory.path, |path| {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        file.set_len(memory.size_mib << 20)
    })
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
