// SPDX-License-Identifier: GPL-2.0-only
//! A program of `hugeprobe fuzz` as a test. As selftests/tests/replay.rs it is
//! run by `make run_tests TARGETS=replay`; nothing else is needed. Does the
//! steps in their processes, one at a time, and checks after each what all pages
//! contain and permit, and their bits.
//!
//! ```text
//! p0 mmap at=0.0 len=512 prot=rw backing=anon
//! p0 madvise at=0.0 len=512 advice=hugepage
//! p0 write at=0.0 len=512
//! p0 device mirror=a what=write at=0.0 len=33
//! p0 device mirror=a what=read at=0.16 len=33
//! p0 read at=0.0 len=512
//! p0 fork child=p1
//! p0 device mirror=a what=write at=0.0 len=1
//! p1 verify
//! p0 verify
//! ```

use selftests::mapping::Prot;
use selftests::replay::{self, Backing, Process, Program, Stored};

/// After each step of the program every page contains and permits what it must.
#[test]
fn replay() {
    selftests::enter!();
    replay::run(Program {
        owners: &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        step,
        last,
        stored: &[
            Stored {
                by: 3,
                count: 33,
                new: (0x20108000, 0x100001),
                old: (0x108000, 0x100001),
            },
            Stored {
                by: 7,
                count: 1,
                new: (0x22208000, 0x0),
                old: (0x20108000, 0x0),
            },
        ],
        injects: false,
        baseline: false,
    });
}

/// What each step does, and what must hold after it.
fn step(p: &mut Process, number: usize) {
    match number {
        // p0 mmap at=0.0 len=512 prot=rw backing=anon
        0 => {
            p.mmap(0, 512, Prot::READ_WRITE, Backing::Anon);
            p.look(0, 512, 0x0, 0x0, 16);
        }
        // p0 madvise at=0.0 len=512 advice=hugepage
        1 => {
            let before = p.huge();
            p.madvise(0, 512, 14 /* hugepage */);
            p.look(0, 512, 0x0, 0x0, 16);
            p.kept(before, 0, 0);
        }
        // p0 write at=0.0 len=512
        2 => {
            p.store(0, 512, 0x108000, 0x100001);
            p.look(0, 512, 0x108000, 0x100001, 18);
        }
        // p0 device mirror=a what=write at=0.0 len=33
        3 => {
            p.prepare(0, 33, 0x20108000, 0x100001);
            p.device_store(0, 0, 33);
            p.look(0, 33, 0x20108000, 0x100001, 18);
            p.look(33, 479, 0x2208021, 0x100001, 18);
        }
        // p0 device mirror=a what=read at=0.16 len=33
        4 => {
            p.device_load(0, 16, 33, false);
            p.seen(0, 16, 17, 0x21108010, 0x100001, 0);
            p.seen(17, 33, 16, 0x2208021, 0x100001, 0);
            p.look(0, 33, 0x20108000, 0x100001, 18);
            p.look(33, 479, 0x2208021, 0x100001, 18);
        }
        // p0 read at=0.0 len=512
        5 => {
            let before = p.huge();
            p.check(0, 33, 0x20108000, 0x100001, 0);
            p.check(33, 479, 0x2208021, 0x100001, 0);
            p.look(0, 33, 0x20108000, 0x100001, 18);
            p.look(33, 479, 0x2208021, 0x100001, 18);
            p.kept(before, 0, 0);
        }
        // p0 fork child=p1
        6 => {
            let before = p.huge();
            p.spawn(1);
            p.look(0, 33, 0x20108000, 0x100001, 18);
            p.look(33, 479, 0x2208021, 0x100001, 18);
            p.kept(before, 0, 0);
        }
        // p0 device mirror=a what=write at=0.0 len=1
        7 => {
            p.prepare(0, 1, 0x22208000, 0x0);
            p.device_store(0, 0, 1);
            p.look(0, 1, 0x22208000, 0x0, 18);
            p.look(1, 32, 0x20208001, 0x100001, 18);
            p.look(33, 479, 0x2208021, 0x100001, 18);
        }
        // p1 verify
        8 => {
            let before = p.huge();
            p.check(0, 33, 0x20108000, 0x100001, 0);
            p.check(33, 479, 0x2208021, 0x100001, 0);
            p.look(0, 33, 0x20108000, 0x100001, 18);
            p.look(33, 479, 0x2208021, 0x100001, 18);
            p.kept(before, 0, 0);
        }
        // p0 verify
        9 => {
            let before = p.huge();
            p.check(0, 1, 0x22208000, 0x0, 0);
            p.check(1, 32, 0x20208001, 0x100001, 0);
            p.check(33, 479, 0x2208021, 0x100001, 0);
            p.look(0, 1, 0x22208000, 0x0, 18);
            p.look(1, 32, 0x20208001, 0x100001, 18);
            p.look(33, 479, 0x2208021, 0x100001, 18);
            p.kept(before, 0, 0);
        }
        _ => {}
    }
}

/// What each process checks before it ends.
fn last(p: &mut Process, process: usize) {
    match process {
        0 => {
            p.look(0, 1, 0x22208000, 0x0, 18);
            p.look(1, 32, 0x20208001, 0x100001, 18);
            p.look(33, 479, 0x2208021, 0x100001, 18);
            p.counters(1, 0);
            p.check(0, 1, 0x22208000, 0x0, 0);
            p.check(1, 32, 0x20208001, 0x100001, 0);
            p.check(33, 479, 0x2208021, 0x100001, 0);
        }
        1 => {
            p.look(0, 33, 0x20108000, 0x100001, 18);
            p.look(33, 479, 0x2208021, 0x100001, 18);
            p.counters(1, 0);
            p.check(0, 33, 0x20108000, 0x100001, 0);
            p.check(33, 479, 0x2208021, 0x100001, 0);
        }
        _ => {}
    }
}
