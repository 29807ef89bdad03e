// SPDX-License-Identifier: GPL-2.0-only
//! Collapse without memory: allocations that fail at each size and at each step, and control
//! groups at their limit. Whatever fails, the pages are what they were.

use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::errno::Errno;
use selftests::collapse::{Khugepaged, madvise_collapse};
use selftests::collapse_model::{Knobs, MAX_NONE, Orders, Outcome, PMD_ORDER, PTES};
use selftests::counters::{Expect, Snapshot};
use selftests::failnth::{Injected, Injection};
use selftests::mapping::PMD;
use selftests::settings::Setting;
use selftests::{child, enter, skip, swap};
use test_case::test_case;

use crate::mthp::take_knobs;
use crate::tables::{Held, Tables};

/// More allocations than one collapse of one table makes.
const MOST_ALLOCATIONS: u32 = 64;

const FAULTS: &str = "/sys/kernel/debug/fail_page_alloc";

/// Makes every allocation of khugepaged from `order` on fail.
#[must_use]
fn fail_khugepaged(khugepaged: &Khugepaged, order: u8) -> Vec<Setting> {
    if !Path::new(FAULTS).exists() {
        skip!("no {FAULTS} (CONFIG_FAIL_PAGE_ALLOC, CONFIG_FAULT_INJECTION_DEBUG_FS)");
    }
    let min_order = order.to_string();
    let values = [
        ("task-filter", "Y"),
        ("min-order", min_order.as_str()),
        ("ignore-gfp-wait", "N"),
        ("ignore-gfp-highmem", "N"),
        ("verbose", "0"),
        ("interval", "1"),
        ("space", "0"),
        ("times", "-1"),
        ("probability", "100"),
    ];
    let mut settings: Vec<_> = values
        .map(|(file, value)| Setting::set(Path::new(FAULTS).join(file), value))
        .into();
    settings.push(Setting::set(
        format!("/proc/{}/make-it-fail", khugepaged.pid()),
        "1",
    ));
    settings
}

/// khugepaged without folios of some size and up counts each failure and takes the next smaller
/// size; with memory again it takes the large one.
#[test_case(9; "without_pmd")]
#[test_case(7; "without_order_7")]
#[test_case(3; "without_order_3")]
#[test_case(2; "without_any")]
fn failed_allocation_falls_to_smaller_sizes(from: u8) {
    enter!();
    let mut knobs = Knobs {
        none: 0,
        ..Knobs::new(Orders::range(2, 9))
    };
    let khugepaged = take_knobs(&knobs);
    let mut tables = Tables::full();
    tables.advise();
    knobs.alloc_fails = Orders::range(from, 9);
    let faults = fail_khugepaged(&khugepaged, from);
    let outcomes = tables.pass_as_modelled(&khugepaged, &knobs);
    assert!(outcomes[0].folios.iter().all(|folio| folio.order < from));
    drop(faults);
    knobs.alloc_fails = Orders::default();
    let outcomes = tables.pass_as_modelled(&khugepaged, &knobs);
    assert_eq!(outcomes, [Outcome::one_huge_page()]);
}

/// The PMD size alone, without memory: one failure counted for each table, nothing changed.
#[test]
fn failed_huge_page_leaves_small_pages() {
    enter!();
    let mut knobs = Knobs::new(Orders::only(PMD_ORDER));
    let khugepaged = take_knobs(&knobs);
    let mut tables = Tables::new(&[&[0..PTES]]);
    tables.advise();
    knobs.alloc_fails = knobs.orders;
    let faults = fail_khugepaged(&khugepaged, PMD_ORDER);
    tables.pass_as_modelled(&khugepaged, &knobs);
    drop(faults);
    knobs.alloc_fails = Orders::default();
    tables.pass_as_modelled(&khugepaged, &knobs);
}

/// `MADV_COLLAPSE` of a table with pages in swap, with each of its allocations failing in turn:
/// it says so or succeeds, and every byte is what it was.
#[test]
fn each_failed_allocation_keeps_the_data() {
    enter!();
    let _khugepaged = take_knobs(&Knobs {
        none: MAX_NONE,
        ..Knobs::new(Orders::only(PMD_ORDER))
    });
    if !swap::is_on() {
        skip!("no swap: the guest needs CONFIG_ZRAM or a swap device");
    }
    let injection = Injection::of_all_allocations();
    let mut tables = Tables::new(&[&[0..16, 100..PTES]]);
    let hole = tables.pages(0, 16..100);
    let range = tables.region.absolute(&tables.all());
    let before = Snapshot::take();
    let mut answers = Vec::new();
    for nth in 1..=MOST_ALLOCATIONS {
        swap::page_out(&tables.region, tables.pages(0, 4..8));
        let (answer, injected) = injection.call(nth, || madvise_collapse(range.start, range.len()));
        answers.push(answer);
        if answer.is_ok() {
            tables.now_hold(hole.clone(), Held::Zeros);
        }
        tables.check_content();
        let allowed = [
            Err(Errno::ENOMEM),
            Err(Errno::EINVAL),
            Err(Errno::EAGAIN),
            Ok(()),
        ];
        assert!(
            allowed.contains(&answer),
            "answer {answer:?} with an allocation {injected:?}"
        );
        if injected == Injected::No {
            break;
        }
    }
    assert_eq!(
        answers.last(),
        Some(&Ok(())),
        "without a failure: {answers:?}"
    );
    assert!(
        answers.len() > 2,
        "the huge page and the page from swap should fail in turn: {answers:?}"
    );
    assert!(
        answers.contains(&Err(Errno::ENOMEM)),
        "no answer was ENOMEM: {answers:?}"
    );
    drop(tables);
    Expect::new()
        .unchanged(&["2048kB/nr_anon", "nr_isolated_anon"])
        .check(&before);
}

/// A control group at its limit: the huge page was allocated and cannot be charged, so
/// `MADV_COLLAPSE` says EBUSY and gives it back.
#[test]
fn control_group_at_its_limit_is_ebusy() {
    enter!();
    let _khugepaged = take_knobs(&Knobs::new(Orders::only(PMD_ORDER)));
    let group = Group::new()
        .unwrap_or_else(|error| skip!("no memory control group: {error} (CONFIG_MEMCG, cgroup2)"));
    child::run_to_end(|_| {
        group.write("cgroup.procs", &std::process::id().to_string());
        let mut tables = Tables::full();
        // Nothing can be swapped out to make room.
        group.write("memory.swap.max", "0");
        let limit = group.read("memory.current") + (1 << 20);
        group.write("memory.max", &limit.to_string());
        let mut outcome = Outcome::default();
        outcome.stats[usize::from(PMD_ORDER)].alloc = 1;
        tables.collapse(&[outcome], Err(Errno::EBUSY));
        assert_given_back(&tables);
        group.write("memory.max", "max");
        tables.collapse(&[Outcome::one_huge_page()], Ok(()));
    });
}

/// Has the same collapse refused over and over, and looks at how much memory that used up.
#[track_caller]
fn assert_given_back(tables: &Tables) {
    const ROUNDS: i64 = 24;
    let at = tables.region.page_addr(tables.pages(0, 0..PTES).start);
    let used = |_| {
        let before = Snapshot::take();
        for _ in 0..ROUNDS {
            assert_eq!(madvise_collapse(at, PMD), Err(Errno::EBUSY));
        }
        let used = before.delta(&Snapshot::take(), "meminfo/MemAvailable");
        -used.expect("every kernel shows MemAvailable")
    };
    // What else the machine takes meanwhile it does not take every time; a leak does.
    let leaks = |kib: &i64| *kib >= ROUNDS * 2048 / 4;
    let used: Vec<i64> = (0..5).map(used).take_while(leaks).collect();
    assert!(
        used.len() < 5,
        "{ROUNDS} refused huge pages used up {used:?} kB, one time after the other"
    );
}

/// Says which controllers the groups below the root have.
const CONTROLLERS: &str = "/sys/fs/cgroup/cgroup.subtree_control";

/// A control group of our own; removed at the end.
struct Group {
    path: PathBuf,
    /// The controller was switched on for us.
    switched: bool,
}

impl Group {
    fn new() -> io::Result<Self> {
        let controllers = fs::read_to_string(CONTROLLERS)?;
        let switched = !controllers.split_whitespace().any(|name| name == "memory");
        if switched {
            fs::write(CONTROLLERS, "+memory")?;
        }
        let path = PathBuf::from(format!("/sys/fs/cgroup/hugeprobe-{}", std::process::id()));
        let group = Group { path, switched };
        fs::create_dir(&group.path)?;
        fs::metadata(group.path.join("memory.max"))?;
        Ok(group)
    }

    #[track_caller]
    fn write(&self, file: &str, value: &str) {
        let path = self.path.join(file);
        fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    #[track_caller]
    fn read(&self, file: &str) -> u64 {
        let text = fs::read_to_string(self.path.join(file)).expect("the group shows its memory");
        text.trim().parse().expect("a number of bytes")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let off = || match self.switched {
            true => fs::write(CONTROLLERS, "-memory"),
            false => Ok(()),
        };
        if let Err(error) = fs::remove_dir(&self.path).and_then(|()| off()) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}
