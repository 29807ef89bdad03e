// SPDX-License-Identifier: GPL-2.0-only
//! A memory cgroup of a program's own, with a limit: charges fail and memory is reclaimed in the
//! middle of operations. It is thrown away when the program has ended; nothing may stay in it.
//!
//! A charge that nothing can be reclaimed for makes the kernel kill a process of the group.
//! That is its right, and ends the program.

use std::fs;
use std::time::Duration;

use super::system::write_to;
use super::violation::{Oracle, Violation};
use crate::program::Room;

/// The group, made by the first process that asks for it.
const GROUP: &str = "/sys/fs/cgroup/hugeprobe-limit";
/// Looks at what is charged to an empty group before it counts.
const ROUNDS: u32 = 60;
/// Between two of them. Statistics of the group are folded each two seconds.
const PAUSE: Duration = Duration::from_millis(50);
/// Memory of the group that may outlive its processes: of the kernel's own, shared with others
/// (names of files, per-CPU stock).
const REST: u64 = 512 << 10;

/// Puts this process, and what it forks from now on, into the group, and sets the limit for all
/// in it. What was charged before stays with the group before. Returns 0 or an errno.
pub fn set(room: Room) -> i32 {
    // ENOENT of the files tells where there is no such group
    let _ = fs::create_dir(GROUP);
    let (max, high) = match room {
        Room::Max2M => ("2M", "max"),
        Room::Max4M => ("4M", "max"),
        Room::High4M => ("max", "4M"),
        Room::Unlimited => ("max", "max"),
    };
    for (file, value) in [
        ("memory.high", high),
        ("memory.max", max),
        ("cgroup.procs", "0"),
    ] {
        let errno = write_to(&format!("{GROUP}/{file}"), value);
        if errno != 0 {
            return errno;
        }
    }
    0
}

/// Whether the kernel has killed a process of the group for want of memory.
pub fn has_killed() -> bool {
    let events = fs::read_to_string(format!("{GROUP}/memory.events")).unwrap_or_default();
    let killed = events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    killed.is_some_and(|count| count != "0")
}

/// Throws the group away, of which all processes have ended. What is still charged to it,
/// or keeps it from going, is a violation.
pub fn throw_away() -> Option<Violation> {
    let number = |file: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("{GROUP}/{file}")).ok()?;
        text.trim().parse().ok()
    };
    let mut rest = (0, 0);
    for _ in 0..ROUNDS {
        // none where the group could not be made
        rest = (
            number("memory.current")?,
            number("memory.swap.current").unwrap_or(0),
        );
        if rest.0 <= REST && rest.1 == 0 {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    let mut title = (rest.0 > REST || rest.1 > 0).then_some("memory of a group without processes");
    if fs::remove_dir(GROUP).is_err() {
        title = Some("memory cgroup cannot be removed");
    }
    Some(Violation {
        oracle: Oracle::Resources,
        step: None,
        title: title?.into(),
        detail: format!("{} bytes of memory and {} of swap charged", rest.0, rest.1),
    })
}
