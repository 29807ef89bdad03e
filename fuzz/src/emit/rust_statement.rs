// SPDX-License-Identifier: GPL-2.0-only
//! One operation as statements of Rust, on the process `p`. The match has no
//! arm for all others: an operation without a form does not compile.

use super::c_statement::{mirror_file, prepare};
use super::listing::Entry;
use super::{cut, limits};
use crate::model::{MAX_BUFFERED, MAX_PINNED, Model};
use crate::program::{
    Addr, Advice, Backing, Break, DEVICE_PAGES, Device, Fill, Knob, Len, Mirror, Move, Node, Op,
    Prot, Pulse, Setting, Spawn, Switch, Track, Watch,
};

/// The statements of a step.
pub fn statements(entry: &Entry) -> Vec<String> {
    let one = match entry.step.op {
        Op::Mmap {
            at,
            len,
            prot,
            backing,
        } => mmap(at, len, prot, backing),
        Op::Munmap { at, len } => ranged("munmap", at, len),
        Op::Brk { at, len, how } => {
            let grow = if how == Break::Grow { "true" } else { "false" };
            ranged_and("brk", at, len, grow)
        }
        Op::Mprotect { at, len, prot } => ranged_and("mprotect", at, len, protection(prot)),
        Op::Mlock { at, len } => ranged("mlock", at, len),
        Op::MlockOnfault { at, len } => ranged("mlock_onfault", at, len),
        Op::Munlock { at, len } => ranged("munlock", at, len),
        Op::Madvise {
            at,
            advice: Advice::Hwpoison,
            ..
        } => format!("p.fail_memory({});", at.0),
        Op::Madvise { at, len, advice } => {
            let number = crate::exec::advice_number(advice);
            let name = advice.name();
            ranged_and("madvise", at, len, &format!("{number} /* {name} */"))
        }
        Op::Mremap {
            at,
            len,
            to,
            new,
            how,
        } => {
            let how = match how {
                Move::Inplace => "Move::Inplace",
                Move::Fixed => "Move::Fixed",
                Move::Dontunmap => "Move::Dontunmap",
            };
            let (page, old, to, new) = (at.0, len.0, to.0, new.0);
            format!("p.mremap({page}, {old}, {to}, {new}, {how});")
        }
        // calls that both languages have: `Entry::accesses`
        Op::Write { .. }
        | Op::Read { .. }
        | Op::Verify {}
        | Op::Remote { .. }
        | Op::Direct { .. }
        | Op::Fixed { .. }
        | Op::Poke { .. } => return Vec::new(),
        Op::UffdFill { how, .. } => {
            let how = match how {
                Fill::Copy => "Fill::Copy",
                Fill::CopyProtected => "Fill::CopyProtected",
                Fill::Zero => "Fill::Zero",
                Fill::Continue => "Fill::Continue",
                Fill::Poison => "Fill::Poison",
            };
            let line = |run: &super::Run| {
                let (page, count, stamp, step) = (run.page, run.count, run.stamp, run.step);
                format!("p.uffd_fill({page}, {count}, {stamp:#x}, {step:#x}, {how});")
            };
            return entry.runs.iter().map(line).collect();
        }
        Op::Fork { child } => format!("p.spawn({});", child.0),
        Op::Exit {} => "p.leave();".to_owned(),
        Op::Exec {} => "p.execute();".to_owned(),
        Op::Kill { peer } => format!("p.slay({});", peer.0),
        Op::Spawn { how } => {
            let vfork = match how {
                Spawn::Fork => false,
                Spawn::Vfork => true,
            };
            format!("p.start_another({vfork});")
        }
        Op::ClearRefs { what } => {
            let value = what.number();
            format!("p.put(\"/proc/self/clear_refs\", \"{value}\");")
        }
        Op::UffdRegister { at, len, track } => ranged_and("uffd_register", at, len, sigbus(track)),
        Op::UffdWatch {
            at,
            len,
            track,
            kind,
        } => {
            let mode = match kind {
                Watch::Missing => 1,
                Watch::MissingWp => 3,
                Watch::Minor => 4,
                Watch::Rwp => 8,
                Watch::MissingRwp => 9,
            };
            let more = format!("{}, {mode}", sigbus(track));
            ranged_and("uffd_watch", at, len, &more)
        }
        Op::UffdMove { at, len, to } => ranged_and("uffd_move", at, len, &to.0.to_string()),
        Op::UffdMode { on } => format!("p.uffd_mode({});", switch(on)),
        Op::UffdClose { at, len, on } => ranged_and("uffd_close", at, len, switch(on)),
        Op::UffdUnregister { at, len } => ranged("uffd_unregister", at, len),
        Op::UffdProtect { at, len } => ranged_and("uffd_protect", at, len, "true"),
        Op::UffdUnprotect { at, len } => ranged_and("uffd_protect", at, len, "false"),
        Op::ScanProtect { at, len } => ranged("scan_protect", at, len),
        Op::Scan { at, len, .. } => ranged("scan_all", at, len),
        Op::Idle { at, len } => ranged("mark_idle", at, len),
        Op::Pin { at, len } => {
            let count = cut(at, len).min(MAX_PINNED);
            format!("p.pin({}, {count});", at.0)
        }
        Op::Buffer { at, len } => {
            let count = cut(at, len).min(MAX_BUFFERED);
            format!("p.buffer({}, {count});", at.0)
        }
        Op::Unpin {} => "p.unpin();".to_owned(),
        Op::Place { at, len, node } => place(at, len, node),
        Op::Splice { at, len } => {
            format!(
                "p.splice_pages({}, {});",
                at.0,
                Model::spliced_pages(at, len)
            )
        }
        Op::Drain {} => "p.splice_pages(0, 0);".to_owned(),
        Op::Inspect { peer, what } => format!("p.read_all({}, \"{}\");", peer.0, what.name()),
        Op::Zap { at, len } => {
            let first = at.page() % DEVICE_PAGES;
            let count = len.pages().min(DEVICE_PAGES - first);
            format!("p.pfn_zap({first}, {count});")
        }
        Op::ThpDisable { on } => format!("p.thp_disable({});", switch(on)),
        Op::Limit { room } => {
            let (max, high) = limits(room);
            format!("p.limit({max:?}, {high:?});")
        }
        Op::Knob { knob } => turn(knob),
        Op::System { pulse } => match pulse {
            Pulse::Split => "p.split_arena(0);",
            Pulse::Split4 => "p.split_arena(2);",
            Pulse::Split64 => "p.split_arena(6);",
            Pulse::Ksm => "p.ksm_passes();",
            Pulse::Compact => "p.put(\"/proc/sys/vm/compact_memory\", \"1\");",
            Pulse::Shrink => "p.put(\"/proc/sys/vm/drop_caches\", \"2\");",
            Pulse::Khugepaged => "p.khugepaged_pass();",
            Pulse::Reclaim => "p.reclaim();",
            Pulse::Swapoff => "p.swap_off_and_on();",
            Pulse::Numa => "p.numa_scan();",
        }
        .to_owned(),
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

fn ranged(name: &str, at: Addr, len: Len) -> String {
    format!("p.{name}({}, {});", at.0, cut(at, len))
}

fn ranged_and(name: &str, at: Addr, len: Len, more: &str) -> String {
    format!("p.{name}({}, {}, {more});", at.0, cut(at, len))
}

fn mmap(at: Addr, len: Len, prot: Prot, backing: Backing) -> String {
    let (name, what) = match backing {
        Backing::Anon => ("mmap", "Backing::Anon"),
        Backing::Populated => ("mmap", "Backing::Populated"),
        Backing::Shared => ("mmap", "Backing::Shared"),
        Backing::File => ("mmap", "Backing::File"),
        Backing::PfnRemap => ("mmap_pfn", "Pfn::Remap"),
        Backing::PfnPrivate => ("mmap_pfn", "Pfn::Private"),
        Backing::PfnPte => ("mmap_pfn", "Pfn::Pte"),
        Backing::PfnPmd => ("mmap_pfn", "Pfn::Pmd"),
    };
    ranged_and(name, at, len, &format!("{}, {what}", protection(prot)))
}

fn place(at: Addr, len: Len, node: Node) -> String {
    let more = match node {
        Node::Move0 => "0, false",
        Node::Move1 => "1, false",
        Node::Bind0 => "0, true",
        Node::Bind1 => "1, true",
        Node::Migrate0 => return "p.migrate_all(2, 1);".to_owned(),
        Node::Migrate1 => return "p.migrate_all(1, 2);".to_owned(),
    };
    ranged_and("place", at, len, more)
}

fn turn(knob: Knob) -> String {
    match knob.setting() {
        Setting::Sizes(count) => format!("p.sizes({count});"),
        Setting::File(name, value) => format!("p.knob(\"{name}\", \"{value}\");"),
    }
}

fn device(entry: &Entry, mirror: Mirror, what: Device, (at, len): (Addr, Len)) -> Vec<String> {
    let (which, page, count) = (mirror_file(mirror), at.page(), cut(at, len));
    let range = format!("{which}, {page}, {count}");
    let one = match what {
        Device::ToDev => format!("p.to_dev({range}, false);"),
        Device::ToDevFail => format!("p.to_dev({range}, true);"),
        Device::ToSys => format!("p.to_sys({range}, false);"),
        Device::ToSysFail => format!("p.to_sys({range}, true);"),
        Device::Snapshot => format!("p.snapshot({range});"),
        Device::Read => format!("p.device_load({range}, false);"),
        Device::ReadUnlocked => format!("p.device_load({range}, true);"),
        Device::Exclusive => format!("p.device_exclusive({range});"),
        Device::CheckExclusive => format!("p.check_exclusive({range}, {});", entry.exclusive),
        Device::Release => format!("p.device_release({which});"),
        Device::Close => format!("p.close_mirror({which});"),
        Device::Write => {
            let prepared = entry.runs.iter().map(|run| prepare(run, at).rust());
            return prepared
                .chain([format!("p.device_store({range});")])
                .collect();
        }
    };
    vec![one]
}

fn protection(prot: Prot) -> &'static str {
    match prot {
        Prot::None => "Prot::NONE",
        Prot::Read => "Prot::READ",
        Prot::Write => "Prot::READ_WRITE",
    }
}

fn sigbus(track: Track) -> &'static str {
    match track {
        Track::Async => "false",
        Track::Sigbus => "true",
    }
}

fn switch(on: Switch) -> &'static str {
    match on {
        Switch::On => "true",
        Switch::Off => "false",
    }
}
