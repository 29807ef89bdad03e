// SPDX-License-Identifier: GPL-2.0-only
//! What the tests of this program start from: settings, memory in a proven
//! state, and the check that nothing is left behind.

use std::ops::Range;

use selftests::counters::{Expect, Snapshot};
use selftests::hmm::{Access, Dmirror, Level, Memory, PageState, Span, coherent};
use selftests::mapping::{Advice, PAGE, PAGES_PER_PMD, PMD, Region};
use selftests::pattern::{Content, FIRST, Stamp};
use selftests::settings::{self, Setting};
use selftests::{pagemap, skip, thp};

/// First release with huge pages in device-private memory.
const FIRST_WITH_DEVICE_THP: (u32, u32) = (6, 19);
/// How far this process's own heap may move `RssAnon`, in kB: less than one
/// huge page, so none of them can hide.
const OWN_HEAP_KB: i64 = 1536;

/// Settings for exact counters, and the counters themselves. Declare it first:
/// what it checks when dropped is that everything declared later has gone.
pub struct Baseline {
    before: Snapshot,
    _settings: Vec<Setting>,
}

impl Baseline {
    /// Huge pages by request only, nothing in the background; counters now.
    pub fn new() -> Self {
        // SAFETY: only says from which size on memory is given back when freed;
        // otherwise buffers that a test has freed would count as its own.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10) };
        let mut settings = settings::quiet();
        let use_zero_page = format!("{}/use_zero_page", settings::THP);
        settings.push(Setting::set(use_zero_page, "1"));
        Self {
            before: Snapshot::take(),
            _settings: settings,
        }
    }

    /// Checks now that everything is back, as the end of the test will.
    ///
    /// # Panics
    /// When something is not.
    #[track_caller]
    fn check_now(&self) {
        let after = Snapshot::take();
        Expect::new()
            .unchanged(&[
                "nr_anon_transparent_hugepages",
                "2048kB/nr_anon",
                "2048kB/nr_anon_partially_mapped",
                "nr_mlock",
                "VmLck",
            ])
            .check_between(&self.before, &after);
        let rss = self.before.delta(&after, "RssAnon").unwrap_or_default();
        assert!(
            rss.abs() <= OWN_HEAP_KB,
            "RssAnon changed by {rss} kB although all memory of the test is unmapped"
        );
    }
}

impl Drop for Baseline {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_now();
        }
    }
}

/// All pages of a region.
pub fn all(region: &Region) -> Range<usize> {
    0..region.len() / PAGE
}

/// All pages of a region, for the device.
pub fn whole(region: &Region) -> Span {
    Span::of(region, all(region))
}

/// Untouched private memory that is never huge.
pub fn untouched(pages: usize) -> Region {
    let region = Region::private(pages * PAGE).expect("memory for a test");
    // Without THP in the kernel there is nothing to forbid.
    let _ = region.madvise(region.all(), Advice::NoHugePage);
    region
}

/// Private memory of small pages with content [`FIRST`].
pub fn small(pages: usize) -> Region {
    let region = untouched(pages);
    FIRST.fill_all(&region);
    region
}

/// Private memory of huge pages, each mapped by a PMD entry, with content
/// [`FIRST`].
pub fn huge(count: usize) -> Region {
    let region = thp::obtain(count);
    FIRST.fill_all(&region);
    thp::assert_huge(&region, 0..count);
    region
}

/// Private memory that may become huge and has not been touched.
pub fn empty_huge(count: usize) -> Region {
    let region = Region::private(count * PMD).expect("memory for a test");
    region
        .madvise(region.all(), Advice::HugePage)
        .unwrap_or_else(|errno| skip!("MADV_HUGEPAGE: {errno} (CONFIG_TRANSPARENT_HUGEPAGE)"));
    region
}

/// The content of pages `numbers`, as WRITE takes it.
pub fn words(stamp: Stamp, numbers: Range<usize>) -> Vec<u64> {
    numbers.flat_map(|number| stamp.page(number)).collect()
}

/// A device that takes huge pages.
pub fn open_for_huge(memory: Memory) -> Dmirror {
    match memory {
        Memory::Private => Dmirror::open(memory),
        Memory::Coherent => coherent::open_huge(),
    }
}

/// Sends all pages of a region of small pages, and proves that the device has
/// them, with the content [`FIRST`].
#[track_caller]
pub fn send_small(dev: &Dmirror, region: &Region) {
    let span = whole(region);
    let reply = dev.to_dev(span).unwrap();
    assert_eq!(reply.cpages, span.pages as u64, "all pages arrive");
    dev.check_seen(Content::Stamped(FIRST), all(region));
    dev.check_states(span, PageState::device(Access::Write, Level::Pte));
    check_cpu_view(dev.memory(), region, all(region));
}

/// Sends all huge pages of a region, and proves that the device has them as
/// huge pages, with the content [`FIRST`]. Skips the test on a kernel that
/// does not have this.
#[track_caller]
pub fn send_huge(dev: &Dmirror, region: &Region) {
    send_huge_with(dev, region, Content::Stamped(FIRST), Access::Write);
}

/// As [`send_huge`], with other content, or with memory that is only readable.
#[track_caller]
pub fn send_huge_with(dev: &Dmirror, region: &Region, content: Content, access: Access) {
    let reply = dev.to_dev(whole(region)).unwrap();
    assert_eq!(
        reply.cpages as usize,
        region.len() / PAGE,
        "all pages arrive"
    );
    dev.check_seen(content, all(region));
    on_device_huge(dev, region, access);
}

/// Checks that a device has all pages of a region as huge pages.
#[track_caller]
pub fn on_device_huge(dev: &Dmirror, region: &Region, access: Access) {
    let split = PageState::device(access, Level::Pte);
    let states = dev.snapshot(whole(region));
    if states.iter().all(|state| *state == split) && release() < FIRST_WITH_DEVICE_THP {
        skip!("{SPLITS_ON_THE_WAY}");
    }
    dev.check_states(whole(region), PageState::device(access, Level::Pmd));
    check_cpu_view(dev.memory(), region, all(region));
}

/// Checks how the CPU's page table shows pages that are on a device: private
/// ones as not present, coherent ones as present.
#[track_caller]
pub fn check_cpu_view(memory: Memory, region: &Region, numbers: Range<usize>) {
    let first = numbers.start;
    for (at, entry) in pagemap::entries(region, first, numbers.len())
        .iter()
        .enumerate()
    {
        let expected = match memory {
            Memory::Private => entry.swapped() && !entry.present(),
            Memory::Coherent => entry.present() && !entry.swapped(),
        };
        assert!(
            expected,
            "page {} on the device: pagemap {entry:?}",
            first + at
        );
    }
}

/// Checks that all pages of a region are in system memory, small.
#[track_caller]
pub fn in_system(dev: &Dmirror, region: &Region, numbers: Range<usize>) {
    let span = Span::of(region, numbers);
    dev.check_states(span, PageState::system(Access::Write, Level::Pte));
}

/// Checks that all pages of a region are in system memory, as huge pages.
#[track_caller]
pub fn in_system_huge(dev: &Dmirror, region: &Region) {
    dev.check_states(whole(region), PageState::system(Access::Write, Level::Pmd));
    thp::assert_huge(region, 0..region.len() / PMD);
}

/// Brings pages back: private ones by touching them, which is checked along
/// with their content; small coherent ones, which do not fault, by TO_SYS.
#[track_caller]
pub fn bring_back(dev: &Dmirror, region: &Region) {
    if dev.memory() == Memory::Coherent {
        dev.to_sys(whole(region)).unwrap();
    }
    FIRST.check_all(region);
}

/// As [`bring_back`] for huge pages. Coherent ones are evicted: TO_SYS leaves
/// them where they are (see `dcthp::dcthp_to_sys`).
#[track_caller]
pub fn bring_back_huge(dev: &Dmirror, region: &Region) {
    if dev.memory() == Memory::Coherent {
        evict(dev);
    }
    FIRST.check_all(region);
    in_system_huge(dev, region);
}

/// Has the driver evict all pages of a device, as it does when any file of the
/// device is closed.
pub fn evict(dev: &Dmirror) {
    let file = std::fs::File::open(dev.node().path());
    drop(file.expect("the device is there"));
}

/// Makes every CPU work off what it has put aside, such as changes to the
/// number of locked pages. MADV_COLLAPSE does so before it looks at memory.
pub fn drain() {
    let region = empty_huge(1);
    // There is nothing to collapse, so the answer is an error.
    let _ = region.madvise(region.all(), Advice::Collapse);
}

/// Forgets that memory was written, before a page that processes share goes to
/// a device: up to 7.3 the kernel takes the soft-dirty bit of the device entry
/// for a permission to write, and warns. `fork::dpthp_shared_soft_dirty` is
/// about that.
pub fn forget_soft_dirty() {
    if pagemap::soft_dirty_supported() {
        pagemap::clear_soft_dirty();
    }
}

/// Version and patch level of the running kernel.
pub fn release() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = text.split(['.', '-', '\n']).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Pages of one huge page.
pub const HUGE: usize = PAGES_PER_PMD;

/// Skips the test on kernels that split a huge page on its way to a device: what
/// the test is about cannot happen there.
pub fn needs_huge_pages_on_device() {
    if release() < FIRST_WITH_DEVICE_THP {
        skip!("{SPLITS_ON_THE_WAY}");
    }
}

const SPLITS_ON_THE_WAY: &str =
    "this kernel splits a huge page that migrates to a device (since 6.19 it need not)";
