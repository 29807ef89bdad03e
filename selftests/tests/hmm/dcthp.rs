// SPDX-License-Identifier: GPL-2.0-only
//! Huge pages of device-coherent memory.
//!
//! Up to 7.3 the kernel can map, copy and free them, and cannot take them
//! apart; the tests keep to what it can, and say what they leave out.

use nix::errno::Errno;
use selftests::counters::{Expect, Snapshot};
use selftests::gup::{Pin, Way};
use selftests::hmm::Memory::Coherent;
use selftests::hmm::{Access, Dmirror, PageState};
use selftests::mapping::{Advice, Prot, page};
use selftests::outcome::xfail;
use selftests::pattern::{Content, FIRST, Stamp, check_zero};
use selftests::{child, enter, guard, pagemap, skip};

use crate::scene::{self, Baseline, HUGE, open_for_huge, send_huge, send_huge_with, whole};

/// Why a test leaves out the partial unmap of a coherent huge page.
pub const NO_PARTIAL_UNMAP: &str = "up to 7.3 the kernel puts a partly unmapped coherent huge page \
     on the deferred split queue and frees it from there, which corrupts the queue";
/// Why a test leaves out the split of a coherent huge page.
pub const NO_SPLIT: &str = "up to 7.3 the kernel loses the pgmap of the tail pages when it splits \
     a coherent huge page, and follows the null pointer";

/// A huge page moves to coherent memory and stays mapped: the CPU reads and
/// writes it there without a fault that would bring it back.
#[test]
fn dcthp_basic() {
    enter!();
    let _end = Baseline::new();
    let dev = open_for_huge(Coherent);
    let words = scene::words(FIRST, 0..2 * HUGE);
    there_and_back(&dev, &words);
    // What this process itself maps for the first time, it has mapped now: from here on each page
    // table is one of the huge pages'.
    let before = Snapshot::take();
    there_and_back(&dev, &words);
    Expect::new()
        .unchanged(&[
            "2048kB/nr_anon",
            "nr_anon_transparent_hugepages",
            "thp_split_pmd",
            "thp_split_page",
            "thp_deferred_split_page",
            "VmPTE",
        ])
        .check(&before);
}

/// Two huge pages go to the device, are used there by both sides, come back and go away.
fn there_and_back(dev: &Dmirror, words: &[u64]) {
    let region = scene::huge(2);
    send_huge(dev, &region);
    FIRST.check_all(&region);
    Stamp::of(2).fill_all(&region);
    scene::on_device_huge(dev, &region, Access::Write);
    dev.read(whole(&region)).unwrap();
    dev.check_seen(Content::Stamped(Stamp::of(2)), 0..2 * HUGE);
    dev.write(whole(&region), words).unwrap();
    FIRST.check_all(&region);
    scene::bring_back_huge(dev, &region);
}

/// An empty range becomes a coherent huge page of zeros, writable in place.
#[test]
fn dcthp_empty() {
    enter!();
    let _end = Baseline::new();
    let dev = open_for_huge(Coherent);
    let region = scene::empty_huge(1);
    send_huge_with(&dev, &region, Content::Zero, Access::Write);
    check_zero(&region, 0..HUGE);
    FIRST.fill_all(&region);
    scene::on_device_huge(&dev, &region, Access::Write);
    scene::bring_back_huge(&dev, &region);
}

/// TO_SYS brings coherent huge pages back, as it does small ones.
#[test]
fn dcthp_to_sys() {
    enter!();
    let _end = Baseline::new();
    let dev = open_for_huge(Coherent);
    let region = scene::huge(2);
    send_huge(&dev, &region);
    let reply = dev.to_sys(whole(&region)).unwrap();
    FIRST.check_all(&region);
    if reply.cpages == 0 {
        scene::on_device_huge(&dev, &region, Access::Write);
        scene::bring_back_huge(&dev, &region);
        xfail(
            "migrate_vma_setup() does not collect coherent huge pages for a migration to the \
             system (6.19 to 7.3)",
            || assert_eq!(reply.cpages, 2, "one for each huge page"),
        );
    }
    assert_eq!(reply.cpages, 2, "one for each huge page");
    scene::in_system_huge(&dev, &region);
}

/// mprotect of a coherent huge page as a whole takes and gives permissions.
#[test]
fn dcthp_mprotect() {
    enter!();
    let _end = Baseline::new();
    let dev = open_for_huge(Coherent);
    let region = scene::huge(1);
    send_huge(&dev, &region);
    region.mprotect(region.all(), Prot::READ).unwrap();
    scene::on_device_huge(&dev, &region, Access::Read);
    assert!(guard::store(region.page_addr(9), 1).is_err());
    scene::evict(&dev);
    FIRST.check_all(&region);
    assert!(
        guard::store(region.page_addr(9), 1).is_err(),
        "still read-only"
    );
    region.mprotect(region.all(), Prot::READ_WRITE).unwrap();
    Stamp::of(2).fill_all(&region);
    Stamp::of(2).check_all(&region);
}

/// A fork over a coherent huge page shares it read-only; each process can read
/// it, and a migration back keeps it shared.
#[test]
fn dcthp_fork() {
    enter!();
    let _end = Baseline::new();
    let dev = open_for_huge(Coherent);
    let region = scene::huge(1);
    send_huge(&dev, &region);
    let child = child::start(|parent| {
        FIRST.check_all(&region);
        parent.send(0);
        parent.receive();
        FIRST.check_all(&region);
        Stamp::of(2).fill_all(&region);
        Stamp::of(2).check_all(&region);
    });
    child.line().receive();
    scene::on_device_huge(&dev, &region, Access::Read);
    scene::evict(&dev);
    dev.check_states(
        whole(&region),
        PageState::system(Access::Read, selftests::hmm::Level::Pmd),
    );
    child.line().send(0);
    child.join();
    FIRST.check_all(&region);
}

/// A coherent huge page that goes away as a whole, or at the end of its
/// process, is not counted any more and can be had again.
#[test]
fn dcthp_zap() {
    enter!();
    let _end = Baseline::new();
    let dev = open_for_huge(Coherent);
    let before = Snapshot::take();
    for round in 0..3 {
        let mut region = scene::huge(1);
        send_huge(&dev, &region);
        match round {
            0 => region.madvise(region.all(), Advice::DontNeed).unwrap(),
            1 => region.munmap(region.all()).unwrap(),
            _ => child::run_to_end(|_| FIRST.check_all(&region)),
        }
        drop(region);
    }
    Expect::new()
        .unchanged(&["2048kB/nr_anon", "nr_anon_transparent_hugepages"])
        .check(&before);
}

/// The soft-dirty bit of a coherent huge page survives the way there and back.
#[test]
fn dcthp_soft_dirty() {
    enter!();
    scene::needs_huge_pages_on_device();
    if !pagemap::soft_dirty_supported() {
        skip!(
            "no soft-dirty tracking: CONFIG_MEM_SOFT_DIRTY, which needs CONFIG_CHECKPOINT_RESTORE"
        );
    }
    let _end = Baseline::new();
    let dev = open_for_huge(Coherent);
    let region = scene::huge(1);
    for written in [false, true] {
        pagemap::clear_soft_dirty();
        if written {
            FIRST.fill_all(&region);
        }
        let check = |when: &str| {
            let entries = pagemap::entries(&region, 0, HUGE);
            // It may appear: on x86 what makes an entry dirty sets both bits.
            let wrong = entries
                .iter()
                .filter(|e| written && !e.soft_dirty())
                .count();
            assert_eq!(wrong, 0, "{when}: pages that are not soft-dirty any more");
        };
        dev.to_dev(whole(&region)).unwrap();
        check("on the device");
        scene::evict(&dev);
        check("back in the system");
    }
}

/// A long-term pin cannot hold a coherent huge page, and cannot bring it back
/// as a whole either: it fails, and the data stays.
#[test]
fn dcthp_longterm() {
    enter!();
    let _end = Baseline::new();
    // Up to 7.3 the kernel warns here; the list of known reports has this name.
    nix::sys::prctl::set_name(c"hp-coherent-pin").unwrap();
    let dev = open_for_huge(Coherent);
    let region = scene::huge(1);
    send_huge(&dev, &region);
    match Pin::take(&region, &page(3), Way::Write) {
        Ok(pin) => {
            pin.assert_coherent(&region, &page(3));
            let place = dev.snapshot(whole(&region))[3].place;
            assert_eq!(place, selftests::hmm::Place::System, "pinned for long");
        }
        Err(errno) => assert!(
            matches!(
                errno,
                Errno::EBUSY | Errno::EAGAIN | Errno::ENOMEM | Errno::EFAULT
            ),
            "{errno}"
        ),
    }
    FIRST.check_all(&region);
    scene::evict(&dev);
    FIRST.check_all(&region);
}
