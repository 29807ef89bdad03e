// SPDX-License-Identifier: GPL-2.0-only
//! Threads of the kernel, such as khugepaged.

use std::fs;

use crate::text;

/// The number of the kernel thread `name`, if there is one. Kernel threads alone
/// have no program, so no process can pose as one.
pub fn find(name: &str) -> Option<i32> {
    let pids = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_it = |pid: &i32| {
        let comm = text::read(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm.trim() == name)
            && fs::read_link(format!("/proc/{pid}/exe")).is_err()
    };
    pids.into_iter().find(is_it)
}

/// The state of process `pid` as proc(5) abbreviates it, `S` for asleep; `None`
/// when there is no such process.
pub fn state(pid: i32) -> Option<char> {
    let stat = text::read(format!("/proc/{pid}/stat")).ok()?;
    // "PID (comm) S ...": the command's name may hold anything but ends at the last bracket.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().chars().next()
}
