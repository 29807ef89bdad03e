// SPDX-License-Identifier: GPL-2.0-only
//! One operation as C statements. The match has no arm for all others: an
//! operation without a form does not compile.

use super::call::Call;
use super::listing::Entry;
use super::{Run, cut, limits};
use crate::program::{
    Addr, Advice, Backing, Break, DEVICE_PAGES, Device, Fill, Len, Mirror, Move, Node, Op, Prot,
    Pulse, Setting, Spawn, Switch, Track, Watch,
};

const REGISTER: &str = "0xc020aa00 /* UFFDIO_REGISTER */";
const UNREGISTER: &str = "0x8010aa01 /* UFFDIO_UNREGISTER */";
const WRITEPROTECT: &str = "0xc018aa06 /* UFFDIO_WRITEPROTECT */";
const RWPROTECT: &str = "0xc018aa09 /* UFFDIO_RWPROTECT */";

/// The statements of a step.
pub fn statements(entry: &Entry) -> Vec<String> {
    let runs = &entry.runs;
    let one = match entry.step.op {
        Op::Mmap {
            at,
            len,
            prot: p,
            backing,
        } => mmap(at.page(), cut(at, len), p, backing),
        Op::Munmap { at, len } => call("munmap", at.page(), cut(at, len), ""),
        Op::Brk { at, len, how } => {
            let grow = u8::from(how == Break::Grow);
            format!("say(move_break({}, {}, {grow}));", at.0, cut(at, len))
        }
        Op::Mprotect { at, len, prot: p } => call("mprotect", at.page(), cut(at, len), prot(p)),
        Op::Mlock { at, len } => call("mlock", at.page(), cut(at, len), ""),
        Op::MlockOnfault { at, len } => call("mlock2", at.page(), cut(at, len), "MLOCK_ONFAULT"),
        Op::Munlock { at, len } => call("munlock", at.page(), cut(at, len), ""),
        Op::Madvise {
            at,
            advice: Advice::Hwpoison,
            ..
        } => format!("say(fail_memory({}));", at.0),
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
        // calls that both languages have: `Entry::accesses`
        Op::Write { .. }
        | Op::Read { .. }
        | Op::Verify {}
        | Op::Remote { .. }
        | Op::Direct { .. }
        | Op::Fixed { .. }
        | Op::Poke { .. } => return Vec::new(),
        Op::Fork { child } => format!("spawn({});", child.0),
        Op::Exit {} => "leave();".to_owned(),
        Op::ClearRefs { what } => {
            let value = what.number();
            format!("say(put(\"/proc/self/clear_refs\", \"{value}\"));")
        }
        Op::UffdRegister { at, len, track } => {
            let range = format!("uffd_range({REGISTER}, {}, {}, 2)", at.0, cut(at, len));
            format!("say(uffd_open({}) || {range});", kind(track))
        }
        Op::UffdWatch {
            at,
            len,
            track,
            kind: watch,
        } => {
            let mode = match watch {
                Watch::Missing => 1,
                Watch::MissingWp => 3,
                Watch::Minor => 4,
                Watch::Rwp => 8,
                Watch::MissingRwp => 9,
            };
            let range = format!("uffd_range({REGISTER}, {}, {}, {mode})", at.0, cut(at, len));
            format!("need(uffd_open({}) || {range});", kind(track))
        }
        Op::UffdFill { how, .. } => {
            return lines(runs, |run| {
                let number = match how {
                    Fill::Copy => "0xc028aa03 /* UFFDIO_COPY */, 0",
                    Fill::CopyProtected => "0xc028aa03 /* UFFDIO_COPY */, 2 /* WP */",
                    Fill::Zero => "0xc020aa04 /* UFFDIO_ZEROPAGE */, 0",
                    Fill::Continue => "0xc020aa07 /* UFFDIO_CONTINUE */, 0",
                    Fill::Poison => "0xc020aa08 /* UFFDIO_POISON */, 0",
                };
                format!(
                    "need(uffd_fill({}, {}, {:#x}UL, {:#x}UL, {number}));",
                    run.page, run.count, run.stamp, run.step
                )
            });
        }
        Op::UffdMove { at, len, to } => {
            format!("need(uffd_move({}, {}, {}));", at.0, cut(at, len), to.0)
        }
        Op::UffdMode { on } => format!("need(uffd_mode({}));", u8::from(on == Switch::On)),
        Op::UffdClose { at, len, on } => {
            let mode = u8::from(on == Switch::On);
            let count = cut(at, len);
            format!("need(uffd_range({RWPROTECT}, {}, {count}, {mode}));", at.0)
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
        Op::Buffer { at, len } => {
            let pages = cut(at, len).min(crate::model::MAX_BUFFERED);
            format!("say(buffer({}, {pages}));", at.0)
        }
        Op::Unpin {} => "say(unpin());".to_owned(),
        Op::Place {
            node: node @ (Node::Migrate0 | Node::Migrate1),
            ..
        } => {
            let (from, to) = if node == Node::Migrate1 {
                (1, 2)
            } else {
                (2, 1)
            };
            format!(
                "{{ unsigned long masks[2] = {{ {from}, {to} }};\n\t\t\
                 say(syscall(SYS_migrate_pages, 0, 65, masks, masks + 1) < 0); }}"
            )
        }
        Op::Splice { at, len } => {
            let count = crate::model::Model::spliced_pages(at, len);
            format!("say(splice_pages({}, {count}) < 0);", at.0)
        }
        Op::Drain {} => "say(splice_pages(0, 0));".to_owned(),
        Op::Inspect { peer, what } => {
            format!("say(read_all({}, \"{}\"));", peer.0, what.name())
        }
        Op::Scan { at, len, .. } => format!("say(scan_all({}, {}));", at.0, cut(at, len)),
        Op::Idle { at, len } => format!("say(mark_idle({}, {}));", at.0, cut(at, len)),
        Op::Zap { at, len } => {
            let first = at.page() % DEVICE_PAGES;
            let count = len.pages().min(DEVICE_PAGES - first);
            format!("need(pfn_zap({first}, {count}));")
        }
        Op::Exec {} => "say(execute()); leave();".to_owned(),
        Op::Kill { peer } => format!("slay({});", peer.0),
        Op::Spawn { how } => {
            let flags = match how {
                Spawn::Fork => "0",
                Spawn::Vfork => "CLONE_VM | CLONE_VFORK",
            };
            format!("say(start_another({flags}));")
        }
        Op::ThpDisable { on } => {
            let on = u8::from(on == Switch::On);
            format!("say(prctl(PR_SET_THP_DISABLE, {on}, 0, 0, 0));")
        }
        Op::Limit { room } => {
            let (max, high) = limits(room);
            format!("say(limit(\"{max}\", \"{high}\"));")
        }
        Op::Knob { knob } => {
            let (sizes, name, value) = match knob.setting() {
                Setting::Sizes(count) => (count as i32, "", ""),
                Setting::File(name, value) => (-1, name, value),
            };
            format!("knob({sizes}, \"{name}\", \"{value}\");")
        }
        Op::Place { at, len, node } => {
            let (number, bind) = match node {
                Node::Move0 => (0, 0),
                Node::Move1 => (1, 0),
                Node::Bind0 => (0, 1),
                _ => (1, 1),
            };
            format!("say(place({}, {}, {number}, {bind}));", at.0, cut(at, len))
        }
        Op::ScanProtect { at, len } => format!("say(scan_protect({}, {}));", at.0, cut(at, len)),
        Op::System {
            pulse: pulse @ (Pulse::Split | Pulse::Split4 | Pulse::Split64),
        } => format!("say(split_arena({}));", pulse.split_order().unwrap_or(0)),
        Op::System { pulse: Pulse::Ksm } => "say(ksm_passes());".to_owned(),
        Op::System {
            pulse: Pulse::Compact,
        } => put("/proc/sys/vm/compact_memory", 1),
        Op::System {
            pulse: Pulse::Shrink,
        } => put("/proc/sys/vm/drop_caches", 2),
        Op::System {
            pulse: Pulse::Khugepaged,
        } => "say(khugepaged_pass());".to_owned(),
        Op::System {
            pulse: Pulse::Reclaim,
        } => "say(reclaim());".to_owned(),
        Op::System {
            pulse: Pulse::Swapoff,
        } => "say(swap_off_and_on());".to_owned(),
        Op::System { pulse: Pulse::Numa } => "say(numa_scan());".to_owned(),
        Op::Device {
            mirror,
            what,
            at,
            len,
        } => return device(entry, mirror, what, (at, len)),
        // The next call is armed.
        Op::Fail { .. } => return Vec::new(),
    };
    vec![one]
}

fn mmap(at: usize, count: usize, p: Prot, backing: Backing) -> String {
    let device = match backing {
        Backing::PfnRemap => Some((0, "MAP_SHARED")),
        Backing::PfnPrivate => Some((0, "MAP_PRIVATE")),
        Backing::PfnPte => Some((2, "MAP_SHARED")),
        Backing::PfnPmd => Some((3, "MAP_SHARED")),
        _ => None,
    };
    if let Some((mode, flags)) = device {
        let place = format!("P({at}), {count} * SIZE, {}", prot(p));
        let offset = at % DEVICE_PAGES;
        return format!(
            "need(mmap({place}, {flags} | MAP_FIXED, pfn_file({mode}), {offset} * SIZE) == MAP_FAILED);"
        );
    }
    let (flags, fd) = match backing {
        Backing::Anon => ("MAP_PRIVATE | MAP_ANONYMOUS", "-1"),
        Backing::Populated => ("MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE", "-1"),
        Backing::Shared => ("MAP_SHARED | MAP_ANONYMOUS", "-1"),
        _ => ("MAP_PRIVATE", "stamped()"),
    };
    let flags = format!("{flags} | MAP_FIXED | MAP_NORESERVE, {fd}, 0");
    format!(
        "say(mmap(P({at}), {count} * SIZE, {}, {flags}) == MAP_FAILED);",
        prot(p)
    )
}

fn device(entry: &Entry, mirror: Mirror, what: Device, (at, len): (Addr, Len)) -> Vec<String> {
    let (which, page, count) = (
        mirror_file(mirror) as i64,
        at.page() as i64,
        cut(at, len) as i64,
    );
    let command = |name: &str, fail: u8| {
        let note = if fail == 1 { " /* no huge page */" } else { "" };
        format!("say(device({which}, {name}, {page}, {count}, {fail}{note}));")
    };
    let one = match what {
        Device::ToDev => command("2 /* MIGRATE_TO_DEV */", 0),
        Device::ToDevFail => command("2 /* MIGRATE_TO_DEV */", 1),
        Device::ToSys => command("3 /* MIGRATE_TO_SYS */", 0),
        Device::ToSysFail => command("3 /* MIGRATE_TO_SYS */", 1),
        Device::Snapshot => command("4 /* SNAPSHOT */", 0),
        Device::Release => command("7 /* RELEASE */", 0),
        Device::Close => format!("close_mirror({which});"),
        Device::Read => format!("device_load({which}, 0 /* READ */, {page}, {count});"),
        Device::ReadUnlocked => {
            format!("device_load({which}, 9 /* READ_UNLOCKED */, {page}, {count});")
        }
        Device::Exclusive => format!("device_exclusive({which}, {page}, {count});"),
        Device::CheckExclusive => {
            let may = u8::from(entry.exclusive);
            format!("check_exclusive({which}, {page}, {count}, {may});")
        }
        Device::Write => {
            let prepared = entry.runs.iter().map(|run| prepare(run, at).c());
            let store = Call::new("device_store", [which, page, count]).c();
            return prepared.chain([store]).collect();
        }
    };
    vec![one]
}

/// Puts stamps where the device takes them from.
pub fn prepare(run: &Run, at: Addr) -> Call {
    let place = Run {
        page: run.page - at.page(),
        ..*run
    };
    Call::of_stamps("prepare", &[], &place)
}

/// Place of a file of a mirror device; the third one is the first device's too.
pub fn mirror_file(mirror: Mirror) -> usize {
    crate::exec::mirror_file(mirror)
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

fn lines(runs: &[Run], line: impl Fn(&Run) -> String) -> Vec<String> {
    runs.iter().map(line).collect()
}

/// The feature of a userfaultfd.
fn kind(track: Track) -> &'static str {
    match track {
        Track::Async => "1 << 15 /* UFFD_FEATURE_WP_ASYNC */",
        Track::Sigbus => "1 << 7 /* UFFD_FEATURE_SIGBUS */",
    }
}

/// By number, because headers are older than advice.
fn number(advice: Advice) -> i32 {
    crate::exec::advice_number(advice)
}
