// SPDX-License-Identifier: GPL-2.0-only
//! The system calls that no safe wrapper offers.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// A descriptor that polls readable once `pid` has ended (`pidfd_open(2)`).
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(Errno::result(fd)?).expect("a descriptor fits an int");
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Turns on swapping to `device` (`swapon(2)`).
///
/// # Errors
/// `EINVAL` when the device has no swap header.
pub fn swapon(device: &Path) -> io::Result<()> {
    let path = CString::new(device.as_os_str().as_bytes())?;
    // SAFETY: `path` is a string that ends in a zero and outlives the call.
    Errno::result(unsafe { libc::swapon(path.as_ptr(), 0) })?;
    Ok(())
}

/// Maps a huge page for the life of this process, which is on khugepaged's list
/// from the first touch on.
pub fn ask_for_huge_pages() {
    const SIZE: usize = 2 << 20;
    // SAFETY: a new anonymous mapping at a place of the kernel's choice; no
    // reference to its memory is ever made, and the store is to its middle.
    unsafe {
        let start = libc::mmap(
            std::ptr::null_mut(),
            2 * SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if start != libc::MAP_FAILED {
            libc::madvise(start, 2 * SIZE, libc::MADV_HUGEPAGE);
            start.cast::<u8>().add(SIZE).write_volatile(1);
        }
    }
}

/// Raises the network interface `lo`.
///
/// # Errors
/// When the kernel has no network.
pub fn raise_loopback() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
    // SAFETY: an all-zero ifreq is a valid value of this plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags =
        i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("both flags are below 1 << 15");
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which is what we pass.
    Errno::result(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    })?;
    Ok(())
}

/// Keeps process `pid` on the last CPU, from which tests start.
fn keep_on_last_cpu(pid: Pid) {
    let mut one = CpuSet::new();
    if last_cpu().is_some_and(|last| one.set(last).is_ok()) {
        // A test that begins anywhere is right, too.
        let _ = sched_setaffinity(pid, &one);
    }
}

/// The number of the last CPU that this process may use.
fn last_cpu() -> Option<usize> {
    let all = sched_getaffinity(Pid::from_raw(0)).ok()?;
    (0..CpuSet::count()).rfind(|&cpu| all.is_set(cpu).unwrap_or(false))
}

/// Keeps this process, and what it starts meanwhile, on the last CPU until it is dropped.
///
/// A kernel that flushes memory of a process asks each CPU where it has run, and an idle emulated
/// CPU answers late. The main thread of a test only waits for another one, and the first process
/// only waits for the test.
pub struct OnLastCpu {
    before: CpuSet,
}

impl OnLastCpu {
    /// Moves there, if need be.
    pub fn new() -> Self {
        let before = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        keep_on_last_cpu(Pid::from_raw(0));
        Self { before }
    }
}

impl Drop for OnLastCpu {
    fn drop(&mut self) {
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}

/// Runs for a moment on each CPU.
///
/// A CPU that goes idle after a process has ended keeps that process's address
/// space (lazy TLB) until it runs another one; only then does the kernel free
/// it and check its counters.
pub fn visit_all_cpus() {
    let me = Pid::from_raw(0);
    let Ok(all) = sched_getaffinity(me) else {
        return;
    };
    for cpu in (0..CpuSet::count()).filter(|&cpu| all.is_set(cpu).unwrap_or(false)) {
        let mut one = CpuSet::new();
        if one.set(cpu).is_ok() {
            // A CPU that is not there has nothing to give back.
            let _ = sched_setaffinity(me, &one);
        }
    }
    let _ = sched_setaffinity(me, &all);
}
