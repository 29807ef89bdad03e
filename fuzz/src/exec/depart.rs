// SPDX-License-Identifier: GPL-2.0-only
//! Ends of processes beside `_exit`: another program in their place, a signal from
//! outside; and children that do nothing but start another program.

use std::ffi::CString;
use std::time::{Duration, Instant};

use super::process::Process;
use super::sys;
use crate::program::{Proc, Spawn};

/// A killed process that is still there after this is a matter for the worker.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// An x86-64 program that does nothing but `_exit(0)`: ELF header, one program
/// header, and the code.
const NOTHING: &[u8] = &[
    0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, // identification
    2, 0, 62, 0, 1, 0, 0, 0, // an executable, x86-64
    0x78, 0, 0x40, 0, 0, 0, 0, 0, // entry
    64, 0, 0, 0, 0, 0, 0, 0, // program headers
    0, 0, 0, 0, 0, 0, 0, 0, // no sections
    0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0, // sizes
    1, 0, 0, 0, 5, 0, 0, 0, // to be loaded, readable and executable
    0, 0, 0, 0, 0, 0, 0, 0, // from the start of the file
    0, 0, 0x40, 0, 0, 0, 0, 0, // to 0x400000
    0, 0, 0x40, 0, 0, 0, 0, 0, //
    129, 0, 0, 0, 0, 0, 0, 0, // bytes in the file
    129, 0, 0, 0, 0, 0, 0, 0, // and in memory
    0, 0x10, 0, 0, 0, 0, 0, 0, // alignment
    0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05, // eax = 60; edi = 0; syscall
];

/// A file with that program, or -1. It is not closed by an exec.
pub fn nothing_file() -> i32 {
    // SAFETY: a new file with a name of its own.
    let file = unsafe { libc::memfd_create(c"nothing".as_ptr(), 0) };
    // SAFETY: writes a constant to the file just made.
    let written = unsafe { libc::write(file, NOTHING.as_ptr().cast(), NOTHING.len()) };
    if written == NOTHING.len() as isize {
        file
    } else {
        -1
    }
}

impl Process<'_> {
    /// Replaces this process by the program that does nothing. Returns only an errno.
    pub(super) fn replace(&self) -> i32 {
        execute(self.setup.nothing)
    }

    /// SIGKILL for another process; returns when it is gone.
    pub(super) fn kill(&self, peer: Proc) -> i32 {
        let board = &self.setup.board;
        let pid = board.pid(peer.index());
        board.set_doomed(peer.index());
        // SAFETY: a process of this program, which nobody reaps before we ask for it.
        if pid <= 0 || unsafe { libc::kill(pid, libc::SIGKILL) } != 0 {
            return libc::ESRCH;
        }
        let start = Instant::now();
        while board.pid(peer.index()) != 0 && start.elapsed() < KILL_LIMIT {
            std::thread::sleep(Duration::from_micros(200));
        }
        0
    }

    /// A child that executes the program that does nothing; returns when it has.
    pub(super) fn spawn(&self, how: Spawn) -> i32 {
        let file = self.setup.nothing;
        let pid = match how {
            Spawn::Fork => {
                // SAFETY: the child does nothing but exec or exit.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    sys::exit(execute(file));
                }
                pid
            }
            Spawn::Vfork => match vfork_and_execute(file) {
                Ok(pid) => pid,
                Err(errno) => return errno,
            },
        };
        if pid < 0 {
            return sys::errno();
        }
        let mut status = 0;
        // SAFETY: our child, status is ours.
        let reaped = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        if reaped == pid && status == 0 {
            0
        } else {
            libc::ECHILD
        }
    }
}

/// `execveat` of the file. Returns only an errno.
fn execute(file: i32) -> i32 {
    let arguments = [c"nothing".as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: the arrays end with null and live for the length of the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file,
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    sys::errno()
}

/// A child that shares our memory until it executes the file (`posix_spawn` does that).
fn vfork_and_execute(file: i32) -> Result<i32, i32> {
    let path = CString::new(format!("/proc/self/fd/{file}")).map_err(|_| libc::EINVAL)?;
    let arguments = [path.as_ptr().cast_mut(), std::ptr::null_mut()];
    let environment = [std::ptr::null_mut::<libc::c_char>()];
    let mut pid = 0;
    // SAFETY: the path and the arrays, which end with null, live for the length of the call.
    let errno = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            path.as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    };
    if errno == 0 { Ok(pid) } else { Err(errno) }
}

/// `prctl(PR_SET_THP_DISABLE)`. Returns 0 or an errno.
pub fn disable_thp(on: bool) -> i32 {
    // SAFETY: affects future page faults of this process only.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(on), 0, 0, 0) };
    if result == 0 { 0 } else { sys::errno() }
}
