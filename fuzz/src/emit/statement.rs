// SPDX-License-Identifier: GPL-2.0-only
//! One operation as C statements.

use super::{NoForm, Run, cut};
use crate::program::{
    Access, Advice, Backing, Clear, Device, Mirror, Move, Node, Op, Prot, Pulse, Step, Track,
};

const REGISTER: &str = "0xc020aa00";
const UNREGISTER: &str = "0x8010aa01";
const WRITEPROTECT: &str = "0xc018aa06";

/// The statements of a step; `runs` are the pages that it stores to or loads
/// from, with their stamps.
pub fn statement(step: &Step, runs: &[Run]) -> Result<String, NoForm> {
    Ok(match step.op {
        Op::Mmap {
            at,
            len,
            prot: p,
            backing,
        } => mmap(at.page(), cut(at, len), p, backing),
        Op::Munmap { at, len } => call("munmap", at.page(), cut(at, len), ""),
        Op::Mprotect { at, len, prot: p } => call("mprotect", at.page(), cut(at, len), prot(p)),
        Op::Mlock { at, len } => call("mlock", at.page(), cut(at, len), ""),
        Op::MlockOnfault { at, len } => call("mlock2", at.page(), cut(at, len), "MLOCK_ONFAULT"),
        Op::Munlock { at, len } => call("munlock", at.page(), cut(at, len), ""),
        Op::Madvise { at, len, advice } => call(
            "madvise",
            at.page(),
            cut(at, len),
            &format!("{} /* {} */", number(advice), advice.name()),
        ),
        Op::Mremap {
            at,
            len,
            to,
            new,
            how,
        } => {
            let flags = match how {
                Move::Inplace => "0",
                Move::Fixed => "MREMAP_MAYMOVE | MREMAP_FIXED",
                Move::Dontunmap => "MREMAP_MAYMOVE | MREMAP_FIXED | 4 /* MREMAP_DONTUNMAP */",
            };
            let (old, new) = (len.0, new.0);
            format!(
                "say(mremap(P({}), {old} * SIZE, {new} * SIZE, {flags}, P({})) == MAP_FAILED);",
                at.0, to.0
            )
        }
        Op::Write { .. } => lines(runs, |run| {
            format!(
                "store({}, {}, {:#x}UL, {:#x}UL);",
                run.page, run.count, run.stamp, run.step
            )
        }),
        Op::Read { .. } | Op::Verify {} => lines(runs, Run::check),
        Op::Remote { peer, access, .. } => lines(runs, |run| {
            let (store, flags) = (u8::from(access == Access::Store), run.flags);
            let Run {
                page,
                count,
                stamp,
                step,
                ..
            } = run;
            format!(
                "remote({}, {page}, {count}, {stamp:#x}UL, {step:#x}UL, {store}, {flags});",
                peer.0
            )
        }),
        Op::Fork { child } => format!("spawn({});", child.0),
        Op::Exit {} => "leave();".to_owned(),
        Op::ClearRefs { what } => {
            let value = if what == Clear::SoftDirty { 4 } else { 1 };
            format!("say(put(\"/proc/self/clear_refs\", \"{value}\"));")
        }
        Op::UffdRegister { at, len, track } => {
            let kind = if track == Track::Async { 15 } else { 7 };
            let range = format!("uffd_range({REGISTER}, {}, {}, 2)", at.0, cut(at, len));
            format!("say(uffd_open(1 << {kind}) || {range});")
        }
        Op::UffdUnregister { at, len } => {
            format!(
                "say(uffd_range({UNREGISTER}, {}, {}, 0));",
                at.0,
                cut(at, len)
            )
        }
        Op::UffdProtect { at, len } => {
            format!(
                "say(uffd_range({WRITEPROTECT}, {}, {}, 1));",
                at.0,
                cut(at, len)
            )
        }
        Op::UffdUnprotect { at, len } => {
            format!(
                "say(uffd_range({WRITEPROTECT}, {}, {}, 0));",
                at.0,
                cut(at, len)
            )
        }
        Op::Pin { at, len } => {
            let pages = cut(at, len).min(crate::model::MAX_PINNED);
            format!("say(pin({}, {pages}));", at.0)
        }
        Op::Unpin {} => "say(unpin());".to_owned(),
        Op::Place { at, len, node } => {
            let (number, bind) = match node {
                Node::Move0 => (0, 0),
                Node::Move1 => (1, 0),
                Node::Bind0 => (0, 1),
                Node::Bind1 => (1, 1),
            };
            format!("say(place({}, {}, {number}, {bind}));", at.0, cut(at, len))
        }
        Op::ScanProtect { at, len } => format!("say(scan_protect({}, {}));", at.0, cut(at, len)),
        Op::System {
            pulse: Pulse::Split,
        } => "say(split_arena());".to_owned(),
        Op::System {
            pulse: Pulse::Compact,
        } => put("/proc/sys/vm/compact_memory", 1),
        Op::System {
            pulse: Pulse::Shrink,
        } => put("/proc/sys/vm/drop_caches", 2),
        Op::Device {
            mirror,
            what,
            at,
            len,
        } => device(mirror, what, at.page(), cut(at, len))?,
        Op::Fail { .. } => return Err(NoForm("fail")),
    })
}

fn mmap(at: usize, count: usize, p: Prot, backing: Backing) -> String {
    let (flags, fd) = match backing {
        Backing::Anon => ("MAP_PRIVATE | MAP_ANONYMOUS", "-1"),
        Backing::Shared => ("MAP_SHARED | MAP_ANONYMOUS", "-1"),
        Backing::File => ("MAP_PRIVATE", "stamped()"),
    };
    let flags = format!("{flags} | MAP_FIXED | MAP_NORESERVE, {fd}, 0");
    format!(
        "say(mmap(P({at}), {count} * SIZE, {}, {flags}) == MAP_FAILED);",
        prot(p)
    )
}

fn device(mirror: Mirror, what: Device, at: usize, count: usize) -> Result<String, NoForm> {
    let (number, fail) = match what {
        Device::ToDev => (2, 0),
        Device::ToDevFail => (2, 1),
        Device::ToSys => (3, 0),
        Device::ToSysFail => (3, 1),
        Device::Snapshot => (4, 0),
        Device::Exclusive | Device::Read | Device::Write => return Err(NoForm("device")),
    };
    let which = u8::from(mirror == Mirror::B);
    Ok(format!(
        "say(device({which}, {number}, {at}, {count}, {fail}));"
    ))
}

fn prot(prot: Prot) -> &'static str {
    match prot {
        Prot::None => "PROT_NONE",
        Prot::Read => "PROT_READ",
        Prot::Write => "PROT_READ | PROT_WRITE",
    }
}

fn put(path: &str, value: u8) -> String {
    format!("say(put(\"{path}\", \"{value}\"));")
}

fn call(name: &str, at: usize, count: usize, last: &str) -> String {
    let comma = if last.is_empty() { "" } else { ", " };
    format!("say({name}(P({at}), {count} * SIZE{comma}{last}));")
}

fn lines(runs: &[Run], line: impl Fn(&Run) -> String) -> String {
    let lines: Vec<String> = runs.iter().map(line).collect();
    if lines.is_empty() {
        ";".to_owned()
    } else {
        lines.join("\n\t\t")
    }
}

/// By number, because headers are older than advice.
fn number(advice: Advice) -> i32 {
    crate::exec::advice_number(advice)
}
