// SPDX-License-Identifier: GPL-2.0-only
//! On which NUMA node pages are, and how to get them to another one.

use std::ops::Range;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use crate::mapping::{PAGE, Region};
use crate::skip;

/// `MPOL_BIND` of mbind(2).
const MPOL_BIND: i32 = 2;
/// `MPOL_MF_STRICT | MPOL_MF_MOVE`.
const MF_STRICT_MOVE: u32 = 1 | 2;
/// `MPOL_MF_MOVE` of move_pages(2).
const MF_MOVE: i32 = 2;

/// The nodes that have memory, from `/sys/devices/system/node/has_memory`.
pub fn nodes_with_memory() -> Vec<u32> {
    let text = std::fs::read_to_string("/sys/devices/system/node/has_memory").unwrap_or_default();
    parse_list(text.trim())
}

/// `0,2-4` is 0, 2, 3, 4.
fn parse_list(text: &str) -> Vec<u32> {
    text.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect()
}

/// Two nodes with memory; skips the test where there is only one.
pub fn two_nodes() -> (u32, u32) {
    match nodes_with_memory()[..] {
        [a, b, ..] => (a, b),
        _ => skip!("only one NUMA node has memory (give the guest two)"),
    }
}

/// Keeps this thread on the CPU where it is; the node of that.
pub fn stay_here() -> u32 {
    let cpu = sched_getcpu().expect("getcpu");
    let mut only = CpuSet::new();
    only.set(cpu).expect("a CPU within the set");
    sched_setaffinity(Pid::from_raw(0), &only).expect("a CPU that we are on");
    let mut node = 0_u32;
    // SAFETY: node is ours; the other two may be null.
    let status = unsafe {
        let unused = std::ptr::null_mut::<libc::c_void>();
        libc::syscall(libc::SYS_getcpu, unused, &raw mut node, unused)
    };
    Errno::result(status).expect("getcpu");
    node
}

/// The node of each page of `range`, or the errno that move_pages(2) gives for
/// it: `ENOENT` for a page that is not present.
///
/// # Errors
/// Those of move_pages(2) as a whole.
pub fn nodes_of(region: &Region, range: &Range<usize>) -> Result<Vec<Result<u32, Errno>>, Errno> {
    move_pages(region, range, None)
}

/// Asks move_pages(2) to bring each page of `range` to `node`; the result is
/// that of each page.
///
/// # Errors
/// Those of move_pages(2) as a whole.
pub fn move_to(
    region: &Region,
    range: &Range<usize>,
    node: u32,
) -> Result<Vec<Result<u32, Errno>>, Errno> {
    move_pages(region, range, Some(node))
}

fn move_pages(
    region: &Region,
    range: &Range<usize>,
    node: Option<u32>,
) -> Result<Vec<Result<u32, Errno>>, Errno> {
    let at = region.absolute(range);
    let pages: Vec<usize> = at.step_by(PAGE).collect();
    let wanted: Vec<i32> = vec![node.unwrap_or_default() as i32; pages.len()];
    let nodes = node.map_or(std::ptr::null(), |_| wanted.as_ptr());
    let mut status = vec![0_i32; pages.len()];
    // SAFETY: the three arrays have as many elements as stated; only pages of
    // the region are moved.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages.len(),
            pages.as_ptr(),
            nodes,
            status.as_mut_ptr(),
            MF_MOVE,
        )
    };
    // A positive result counts pages that could not be moved; `status` says which.
    Errno::result(result)?;
    Ok(status
        .into_iter()
        .map(|node| u32::try_from(node).map_err(|_| Errno::from_raw(-node)))
        .collect())
}

/// mbind(2): binds `range` to `node` and moves what is elsewhere.
///
/// # Errors
/// Those of mbind(2); `EIO` when not all could be moved.
pub fn bind(region: &Region, range: &Range<usize>, node: u32) -> Result<(), Errno> {
    let at = region.absolute(range);
    let mask = 1_u64 << node;
    // SAFETY: the mask has 64 bits; only placement of the region changes.
    let status = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            at.start,
            at.len(),
            MPOL_BIND,
            &raw const mask,
            64_u64,
            MF_STRICT_MOVE,
        )
    };
    Errno::result(status).map(drop)
}

#[cfg(test)]
mod tests {
    use super::parse_list;

    #[test]
    fn node_lists_are_parsed() {
        assert_eq!(parse_list("0"), [0]);
        assert_eq!(parse_list("0-1,4"), [0, 1, 4]);
        assert!(parse_list("").is_empty());
    }
}
