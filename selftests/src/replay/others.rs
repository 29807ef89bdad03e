// SPDX-License-Identifier: GPL-2.0-only
//! Steps that concern other processes, and the machine as a whole.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, execv};

use super::{PAGES, PROCESSES, Process, TICK};
use crate::hinting;
use crate::mapping::PAGE;
use crate::settings::THP;

/// A program that does nothing.
const NOTHING: &str = "/bin/true";
/// The group whose memory is reclaimed.
const GROUP: &str = "/sys/fs/cgroup/hugeprobe-replay";
/// The group whose memory is limited.
const LIMITED: &str = "/sys/fs/cgroup/hugeprobe-replay-limit";

impl Process {
    /// execve(2) of a program that ends at once.
    pub fn execute(&mut self) {
        let path = CString::new(NOTHING).expect("a path without zeros");
        let Err(errno) = execv(&path, &[&path]);
        self.need(Err(errno));
    }

    /// A child that executes another program at once, with fork or vfork.
    pub fn start_another(&mut self, vfork: bool) {
        let path = CString::new(NOTHING).expect("a path without zeros");
        let arguments = [path.as_ptr(), std::ptr::null()];
        // SAFETY: posix_spawn would choose for itself. A child that shares the
        // memory does nothing but execve() and _exit(), and this thread waits.
        let pid = unsafe {
            let pid = if vfork {
                vfork_and_execute(path.as_ptr(), arguments.as_ptr())
            } else {
                libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as i32
            };
            if pid == 0 {
                libc::execv(path.as_ptr(), arguments.as_ptr());
                libc::_exit(1);
            }
            pid
        };
        let ended = Errno::result(pid).and_then(|pid| waitpid(Pid::from_raw(pid), None));
        self.say(ended.map(drop));
    }

    /// SIGKILL for another process; returns when all of its memory is gone.
    pub fn slay(&mut self, peer: usize) {
        self.board.doom(peer);
        let result = kill(Pid::from_raw(self.board.pid(peer)), Signal::SIGKILL);
        self.say(result);
        while self.board.lives(peer) {
            std::thread::sleep(TICK);
        }
    }

    /// prctl(PR_SET_THP_DISABLE).
    pub fn thp_disable(&mut self, on: bool) {
        // SAFETY: a setting of this process.
        let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, i32::from(on), 0, 0, 0) };
        self.say(Errno::result(result).map(drop));
    }

    /// A debugger's access: stores to pages of another process, or loads and
    /// checks, whatever the mapping permits; with `trace` as its tracer.
    #[expect(
        clippy::too_many_arguments,
        reason = "they are those of `remote`, and how"
    )]
    pub fn poke(
        &mut self,
        peer: usize,
        page: usize,
        count: usize,
        stamp: u64,
        step: u64,
        store: u32,
        flags: u32,
        trace: u32,
    ) {
        let pid = Pid::from_raw(self.board.pid(peer));
        let traced = (trace != 0)
            .then(|| {
                ptrace::seize(pid, ptrace::Options::empty())?;
                ptrace::interrupt(pid)?;
                waitpid(pid, Some(WaitPidFlag::__WALL))
            })
            .transpose();
        if let Err(errno) = traced {
            return self.need(Err(errno));
        }
        self.poke_by_file(peer, page, count, stamp, step, store != 0, flags);
        if trace != 0 {
            let detached = ptrace::detach(pid, None);
            self.say(detached);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "they are those of `poke`")]
    fn poke_by_file(
        &mut self,
        peer: usize,
        page: usize,
        count: usize,
        stamp: u64,
        step: u64,
        store: bool,
        flags: u32,
    ) {
        for n in 0..count {
            let (page, stamp) = (page + n, stamp.wrapping_add(step.wrapping_mul(n as u64)));
            let mut words = std::array::from_fn(|index| super::check::word(stamp, index));
            match self.transfer_by_file(self.board.pid(peer), page, &mut words, store) {
                Err(errno) => self.bad("debugger's access refused", page, errno as u64),
                Ok(()) if !store => self.equal(page, &words, stamp, flags),
                Ok(()) => {}
            }
        }
    }

    /// Reads a file about another process to its end.
    pub fn read_all(&mut self, peer: usize, name: &str) {
        let path = format!("/proc/{}/{name}", self.board.pid(peer));
        let result = if name == "pagemap" {
            let mut entries = vec![0; PAGES * 8];
            let at = (self.arena.page_addr(0) / PAGE * 8) as u64;
            fs::File::open(path)
                .and_then(|file| file.read_at(&mut entries, at))
                .map(drop)
        } else {
            fs::read(path).map(drop)
        };
        self.say(result.map_err(errno_of));
    }

    /// Marks page frames idle and reads the marks.
    pub fn mark_idle(&mut self, page: usize, count: usize) {
        let entries = crate::pagemap::entries(&self.arena, page, count);
        let frames = entries.into_iter().filter_map(|entry| entry.pfn());
        for frame in frames {
            let marked = crate::pagemap::idle::mark(frame)
                .and_then(|()| crate::pagemap::idle::is_idle(frame));
            if let Err(error) = marked {
                return self.say(Err(errno_of(error)));
            }
        }
        self.say(Ok(()));
    }

    /// Which sizes below a PMD may be used, 16 KiB and up.
    pub fn sizes(&mut self, count: usize) {
        for size in 0..7 {
            let path = format!("{THP}/hugepages-{}kB/enabled", 16 << size);
            // A size that this kernel does not know stays as it is.
            let _ = fs::write(path, if size < count { "madvise" } else { "never" });
        }
        self.say(Ok(()));
    }

    /// A file of khugepaged's.
    fn khugepaged_knob(&mut self, name: &str, value: &str) {
        self.put(&format!("{THP}/khugepaged/{name}"), value);
    }

    /// A file of the settings of huge pages.
    pub fn knob(&mut self, name: &str, value: &str) {
        self.put(&format!("{THP}/{name}"), value);
    }

    /// Passes of KSM over all memory that is registered for it.
    pub fn ksm_passes(&mut self) {
        self.say(crate::ksm::passes());
    }

    /// One pass of khugepaged over all processes.
    pub fn khugepaged_pass(&mut self) {
        let folder = format!("{THP}/khugepaged");
        let scans = || {
            let text = fs::read_to_string(format!("{folder}/full_scans")).unwrap_or_default();
            text.trim().parse::<u64>().unwrap_or(0)
        };
        self.khugepaged_knob("pages_to_scan", "16777216");
        let before = scans();
        for _ in 0..200 {
            if scans() >= before + 2 {
                break;
            }
            self.khugepaged_knob("scan_sleep_millisecs", "1000");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.khugepaged_knob("scan_sleep_millisecs", "3600000");
    }

    /// Puts this process, and what it forks, into a memory cgroup with these `memory.max` and
    /// `memory.high`.
    pub fn limit(&mut self, max: &str, high: &str) {
        let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
        let _ = fs::create_dir(LIMITED);
        let set = [
            ("memory.max", max),
            ("memory.high", high),
            ("cgroup.procs", "0"),
        ];
        let write =
            |(file, value): (&str, &str)| fs::write(format!("{LIMITED}/{file}"), value).err();
        let failed = set.into_iter().find_map(write);
        let errno =
            |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        self.say(failed.map_or(Ok(()), |error| Err(errno(error))));
    }

    /// Reclaims memory of all processes.
    pub fn reclaim(&mut self) {
        let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
        let _ = fs::create_dir(GROUP);
        for process in (0..PROCESSES).filter(|process| self.board.lives(*process)) {
            let pid = self.board.pid(process).to_string();
            let _ = fs::write(format!("{GROUP}/cgroup.procs"), pid);
        }
        // Less than that may be there.
        let _ = fs::write(format!("{GROUP}/memory.reclaim"), "4M");
        self.say(Ok(()));
    }

    /// NUMA balancing closes the memory of the process.
    pub fn numa_scan(&mut self) {
        self.say(hinting::pass());
    }

    /// swapoff(2) and swapon(2) of the first swap device.
    pub fn swap_off_and_on(&mut self) {
        let table = fs::read_to_string("/proc/swaps").unwrap_or_default();
        let device = table
            .lines()
            .nth(1)
            .and_then(|line| line.split_whitespace().next());
        let Some(path) = device.and_then(|device| CString::new(device).ok()) else {
            return self.say(Err(Errno::ENODEV));
        };
        // SAFETY: a path with its zero.
        let result = unsafe {
            match libc::swapoff(path.as_ptr()) {
                0 => libc::swapon(path.as_ptr(), 0),
                failed => failed,
            }
        };
        self.say(Errno::result(result).map(drop));
    }
}

/// vfork(2) and execv(3) in one piece of code, of which no stack frame may
/// return in the child.
///
/// # Safety
/// As execv(3).
#[inline(never)]
unsafe fn vfork_and_execute(
    path: *const libc::c_char,
    arguments: *const *const libc::c_char,
) -> i32 {
    // SAFETY: the child only executes or ends; by the contract.
    #[expect(deprecated, reason = "vfork is what the step is about")]
    unsafe {
        let pid = libc::vfork();
        if pid == 0 {
            libc::execv(path, arguments);
            libc::_exit(1);
        }
        pid
    }
}

fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
