// SPDX-License-Identifier: GPL-2.0-only
//! Fork: a device works for one process, and copy-on-write keeps processes apart.

use selftests::hmm::Memory::{Coherent, Private};
use selftests::hmm::{Access, Dmirror, Level, Memory, PageState, Place};
use selftests::mapping::{PAGE, Region};
use selftests::pattern::{Content, FIRST, Stamp};
use selftests::{child, enter, outcome, pagemap, skip};
use test_case::test_case;

use crate::scene::{self, Baseline, HUGE, all, send_huge, send_small, small, whole, words};

/// More than three of the driver's windows of 32 pages.
const PAGES: usize = 100;

/// WRITE by a device of the child does not reach the parent: small and huge
/// pages, in system memory and on the device when the fork happens.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn anon_write_child(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    for migrated in [false, true] {
        let region = small(PAGES);
        if migrated {
            send_small(&dev, &region);
        }
        child_device_writes(memory, &region);
    }
    let dev = match memory {
        Private => dev,
        Coherent => scene::open_for_huge(memory),
    };
    for migrated in [false, true] {
        let region = scene::huge(1);
        if migrated {
            send_huge(&dev, &region);
        }
        child_device_writes(memory, &region);
    }
}

/// In a child: all data of the parent is there, and what a device of the child
/// writes arrives there alone.
#[track_caller]
fn child_device_writes(memory: Memory, region: &Region) {
    let child = child::start(|_| {
        FIRST.check_all(region);
        // Its end with the child is the first close that evicts device pages.
        let dev = Dmirror::open(memory);
        let data = words(Stamp::of(2), all(region));
        let reply = dev.write(whole(region), &data).unwrap();
        assert_eq!(
            (reply.cpages as usize, reply.faults),
            (all(region).len(), 1)
        );
        Stamp::of(2).check_all(region);
    });
    child.join();
    FIRST.check_all(region);
}

/// WRITE by a device of the child to shared memory is seen by the parent.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn anon_write_child_shared(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let _dev = Dmirror::open(memory);
    let region = Region::shared(PAGES * PAGE).unwrap();
    FIRST.fill_all(&region);
    let child = child::start(|_| {
        FIRST.check_all(&region);
        let dev = Dmirror::open(memory);
        let reply = dev.write(whole(&region), &words(Stamp::of(2), all(&region)));
        let reply = reply.unwrap();
        assert_eq!((reply.cpages, reply.faults), (PAGES as u64, 1));
        Stamp::of(2).check_all(&region);
    });
    child.join();
    Stamp::of(2).check_all(&region);
}

/// A write after fork to pages on the device copies them: the writer has new
/// pages in system memory, the other process keeps the data.
#[test_case(Private; "device_private")]
#[test_case(Coherent; "device_coherent")]
fn hmm_cow_in_device(memory: Memory) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(memory);
    let region = small(PAGES);
    send_small(&dev, &region);
    let child = child::start(|parent| {
        parent.receive();
        FIRST.check_all(&region);
    });
    let shared = dev.snapshot(whole(&region));
    let shared_state = PageState::device(Access::Read, Level::Pte);
    assert!(
        shared.iter().all(|s| *s == shared_state),
        "shared is read-only"
    );
    Stamp::of(2).fill_all(&region);
    let states = dev.snapshot(whole(&region));
    let own = |s: &PageState| s.place == Place::System && s.access == Access::Write;
    assert!(states.iter().all(own), "{}", selftests::hmm::runs(&states));
    child.line().send(0);
    child.join();
    Stamp::of(2).check_all(&region);
}

/// Who touches a huge page first after a fork on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    ParentWrites,
    ChildWrites,
    ParentReads,
    Nobody,
}

/// A fork over a huge page on the device keeps it there, read-only for both;
/// whoever touches it first, each process keeps its own data.
#[test_case(First::ParentWrites; "parent_writes_first")]
#[test_case(First::ChildWrites; "child_writes_first")]
#[test_case(First::ParentReads; "parent_reads_first")]
#[test_case(First::Nobody; "child_exits_untouched")]
fn dpthp_fork_on_device(first: First) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = scene::huge(1);
    send_huge(&dev, &region);
    let before = selftests::counters::Snapshot::take();
    let child = child::start(|parent| {
        scene::check_cpu_view(Private, &region, 0..HUGE);
        if first == First::ChildWrites {
            Stamp::of(2).fill_all(&region);
        }
        parent.send(0);
        parent.receive();
        match first {
            First::Nobody => {}
            First::ChildWrites => Stamp::of(2).check_all(&region),
            First::ParentWrites | First::ParentReads => {
                FIRST.check_all(&region);
                Stamp::of(2).fill_all(&region);
                Stamp::of(2).check_all(&region);
            }
        }
    });
    child.line().receive();
    if first != First::ChildWrites {
        // Nothing was split, and neither process may write without a copy.
        scene::on_device_huge(&dev, &region, Access::Read);
        selftests::counters::Expect::new()
            .unchanged(&["thp_split_pmd", "thp_split_page", "2048kB/nr_anon"])
            .check(&before);
    }
    match first {
        First::ParentWrites => Stamp::of(3).fill_all(&region),
        First::ParentReads => FIRST.check_all(&region),
        First::ChildWrites | First::Nobody => {}
    }
    child.line().send(0);
    child.join();
    match first {
        First::ParentWrites => Stamp::of(3).check_all(&region),
        _ => FIRST.check_all(&region),
    }
    Stamp::of(4).fill_all(&region);
    Stamp::of(4).check_all(&region);
}

/// Parent, child and grandchild share a huge page on the device; the middle
/// one goes first, and the others keep their own data.
#[test_case(1; "one_page_each")]
#[test_case(HUGE; "all_pages_each")]
fn dpthp_fork_nested(written: usize) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = scene::huge(1);
    send_huge(&dev, &region);
    let middle = child::start(|parent| {
        let grandchild = child::start(|_| {
            Stamp::of(3).fill(&region, 0..written);
            Stamp::of(3).check(&region, 0..written);
            FIRST.check(&region, written..HUGE);
        });
        grandchild.join();
        Stamp::of(2).fill(&region, 0..written);
        parent.send(0);
        parent.receive();
        Stamp::of(2).check(&region, 0..written);
        FIRST.check(&region, written..HUGE);
    });
    middle.line().receive();
    FIRST.check_all(&region);
    Stamp::of(4).fill(&region, HUGE - written..HUGE);
    middle.line().send(0);
    middle.join();
    FIRST.check(&region, 0..HUGE - written);
    Stamp::of(4).check(&region, HUGE - written..HUGE);
}

/// A page that a process forks from after it went to the device read-only and
/// came back is copied on write, never shared: the parent exits first.
#[test_case(true; "parent_first")]
#[test_case(false; "child_first")]
fn dpthp_fork_exit_order(parent_first: bool) {
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let mut region = scene::huge(1);
    send_huge(&dev, &region);
    let child = child::start(|parent| {
        parent.receive();
        FIRST.check_all(&region);
        Stamp::of(2).fill_all(&region);
        Stamp::of(2).check_all(&region);
    });
    if parent_first {
        region.munmap(region.all()).unwrap();
        child.line().send(0);
        child.join();
    } else {
        child.line().send(0);
        child.join();
        dev.to_sys(whole(&region)).unwrap();
        dev.check_states(whole(&region), PageState::system(Access::Read, Level::Pmd));
        FIRST.check_all(&region);
        Stamp::of(3).fill_all(&region);
        Stamp::of(3).check_all(&region);
    }
}

/// A shared, soft-dirty huge page goes to the device and back with its data
/// and bits, and stays read-only for both processes.
#[test]
fn dpthp_shared_soft_dirty() {
    enter!();
    scene::needs_huge_pages_on_device();
    if !pagemap::soft_dirty_supported() {
        skip!(
            "no soft-dirty tracking: CONFIG_MEM_SOFT_DIRTY, which needs CONFIG_CHECKPOINT_RESTORE"
        );
    }
    outcome::known_bug(
        (7, 2),
        "remove_migration_pmd() takes the soft-dirty bit of a device-private entry for a \
         permission to write, and stops the kernel",
    );
    let _end = Baseline::new();
    // In 7.3 the kernel only warns here; the list of known reports has this name.
    nix::sys::prctl::set_name(c"hp-shared-dirty").unwrap();
    let dev = Dmirror::open(Private);
    let region = scene::huge(1);
    let dirty = |when: &str| {
        let entries = pagemap::entries(&region, 0, HUGE);
        let lost = entries.iter().filter(|entry| !entry.soft_dirty()).count();
        assert_eq!(lost, 0, "{when}: pages that are not soft-dirty any more");
    };
    let child = child::start(|parent| {
        parent.receive();
        dirty("in the child, on the device");
        FIRST.check_all(&region);
        Stamp::of(2).fill_all(&region);
        parent.send(0);
        parent.receive();
        Stamp::of(2).check_all(&region);
    });
    scene::send_huge_with(&dev, &region, Content::Stamped(FIRST), Access::Read);
    dirty("on the device");
    child.line().send(0);
    child.line().receive();
    dirty("back in the system");
    FIRST.check_all(&region);
    Stamp::of(3).fill_all(&region);
    child.line().send(0);
    child.join();
    Stamp::of(3).check_all(&region);
}

/// Only the process that watches memory with a userfaultfd keeps its write-
/// protection over a fork on the device; the child writes freely.
#[test]
fn dpthp_fork_uffd_wp() {
    use selftests::uffd::{Mode, Uffd, feature};
    enter!();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let uffd = Uffd::open(feature::WP);
    let region = scene::huge(1);
    uffd.register(&region, &region.all(), Mode::WP).unwrap();
    uffd.write_protect(&region, &region.all(), true).unwrap();
    scene::send_huge_with(&dev, &region, Content::Stamped(FIRST), Access::Read);
    let protected = || {
        pagemap::entries(&region, 0, HUGE)
            .iter()
            .filter(|e| e.uffd_wp())
            .count()
    };
    child::run_to_end(|_| {
        assert_eq!(protected(), 0, "pages that are protected in the child");
        Stamp::of(2).fill_all(&region);
        Stamp::of(2).check_all(&region);
    });
    assert_eq!(protected(), HUGE, "pages that are protected in the parent");
    FIRST.check_all(&region);
    assert_eq!(protected(), HUGE, "after the way back");
    uffd.write_protect(&region, &region.all(), false).unwrap();
    Stamp::of(3).fill_all(&region);
    Stamp::of(3).check_all(&region);
}

/// fork keeps what is known of a huge page on the device: it stays soft-dirty,
/// for parent and child. It ends there: brought back, 7.3 would warn.
#[test]
fn dpthp_fork_keeps_soft_dirty() {
    enter!();
    if !pagemap::soft_dirty_supported() {
        skip!("no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)");
    }
    // Of small pages the kernel forgets it, as "no feature requires that".
    scene::needs_huge_pages_on_device();
    let _end = Baseline::new();
    let dev = Dmirror::open(Private);
    let region = scene::huge(1);
    // A new mapping is soft-dirty as a whole until then.
    pagemap::clear_soft_dirty();
    FIRST.fill_all(&region);
    dev.to_dev(whole(&region)).unwrap();
    let check = |when: &str| {
        let entries = pagemap::entries(&region, 0, HUGE);
        let clean = entries.iter().position(|entry| !entry.soft_dirty());
        assert_eq!(
            clean.map(|at| (at, entries[at])),
            None,
            "a page that is not soft-dirty {when}"
        );
    };
    check("before fork");
    child::run_to_end(|_| check("in the child"));
    check("in the parent");
}
