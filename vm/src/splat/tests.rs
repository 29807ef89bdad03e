// SPDX-License-Identifier: GPL-2.0-only
//! Reports in the kernel's formats, old and new, and what must not be taken
//! for one.

use test_case::test_case;

use super::{is_lasting, panic_title, parse, without_stamp};

const WARN_NEW: &str = "\
page: refcount:1 mapcount:0 mapping:0000000000000000 index:0x7f0 pfn:0x10a00
head: order:9 mapcount:0 entire_mapcount:0 nr_pages_mapped:0 pincount:0
flags: 0x17ffffc0000040(head|node=0|zone=2|lastcpupid=0x1fffff)
raw: 0017ffffc0000040 0000000000000000 dead000000000122 0000000000000000
page dumped because: VM_WARN_ON_FOLIO(folio_test_lru(folio))
------------[ cut here ]------------
WARNING: mm/huge_memory.c:3201 at __split_huge_pmd_locked+0x5f1/0x9a0, CPU#1: pmd_split/211
Modules linked in:
CPU: 1 UID: 0 PID: 211 Comm: pmd_split Not tainted 7.3.4 #1 PREEMPT(lazy)
RIP: 0010:__split_huge_pmd_locked+0x5f1/0x9a0
Code: 0f 0b e9 12
Call Trace:
 <TASK>
 __split_huge_pmd+0x92/0xe0
 unmap_page_range+0x5b1/0x1410
 </TASK>
---[ end trace 0000000000000000 ]---
after";

const WARN_OLD: &str = "\
------------[ cut here ]------------
WARNING: CPU: 0 PID: 93 at mm/memremap.c:158 memremap_pages+0x4a1/0x7a0
Modules linked in: test_hmm
RIP: 0010:memremap_pages+0x4a1/0x7a0
Call Trace:
 <TASK>
 ? __warn+0x81/0x130
 dmirror_fops_unlocked_ioctl+0x1/0x2
 </TASK>
---[ end trace 0000000000000000 ]---";

const WARN_HELPER: &str = "\
WARNING: CPU: 0 PID: 9 at lib/refcount.c:28 refcount_warn_saturate+0xbe/0x110
RIP: 0010:refcount_warn_saturate+0xbe/0x110
Call Trace:
 <TASK>
 put_page_back+0x10/0x20
 </TASK>
---[ end trace 0000000000000000 ]---";

const KERNEL_BUG: &str = "\
------------[ cut here ]------------
kernel BUG at mm/page_table_check.c:118!
Oops: invalid opcode: 0000 [#1] SMP NOPTI
CPU: 1 UID: 0 PID: 77 Comm: hmm Not tainted 7.3.4 #1
RIP: 0010:page_table_check_set.part.0+0x1d4/0x1f0
Call Trace:
 <TASK>
 __page_table_check_pmds_set+0x61/0x90
 </TASK>
Modules linked in:
---[ end trace 0000000000000000 ]---
RIP: 0010:page_table_check_set.part.0+0x1d4/0x1f0";

const PAGE_FAULT: &str = "\
BUG: unable to handle page fault for address: ffffe8ffffc00000
#PF: supervisor read access in kernel mode
#PF: error_code(0x0000) - not-present page
PGD 0 P4D 0
Oops: Oops: 0000 [#1] SMP NOPTI
RIP: 0010:memcpy+0xc/0x20
Call Trace:
 <TASK>
 dmirror_do_read+0x9c/0x150
 </TASK>
---[ end trace 0000000000000000 ]---";

const NULL_POINTER: &str = "\
BUG: kernel NULL pointer dereference, address: 0000000000000008
#PF: supervisor write access in kernel mode
Oops: Oops: 0002 [#1] SMP
RIP: 0010:dmirror_device_evict_chunk+0x1aa/0x390
---[ end trace 0000000000000000 ]---";

const GPF: &str = "\
Oops: general protection fault, probably for non-canonical address 0xdead000000000110: 0000 [#1] SMP
RIP: 0010:__folio_unqueue_deferred_split+0x45/0xb0
---[ end trace 0000000000000000 ]---";

const KASAN: &str = "\
==================================================================
BUG: KASAN: slab-use-after-free in collapse_huge_page+0x1a2/0x9f0
Read of size 8 at addr ffff888012345678 by task khugepaged/41

CPU: 0 UID: 0 PID: 41 Comm: khugepaged Not tainted 7.3.4 #1
Call Trace:
 <TASK>
 dump_stack_lvl+0x5d/0x80
 print_report+0x171/0x4e0
 kasan_report+0xda/0x110
 collapse_huge_page+0x1a2/0x9f0
 </TASK>

Allocated by task 12:
 kasan_save_stack+0x24/0x50
==================================================================
Disabling lock debugging due to kernel taint";

const KASAN_IN_HELPER: &str = "\
BUG: KASAN: use-after-free in __memcpy+0x11/0x20
Write of size 4096 at addr ffff888012345000 by task a/1
Call Trace:
 <TASK>
 kasan_report+0xda/0x110
 __asan_memcpy+0x3c/0x60
 copy_subpage+0x20/0x30
 </TASK>
==================================================================";

const KCSAN: &str = "\
==================================================================
BUG: KCSAN: data-race in folio_add_lru / lru_add_drain_cpu

write to 0xffff88807fff1234 of 8 bytes by task 4 on cpu 1:
 folio_add_lru+0x1/0x2
==================================================================";

const LOCKDEP: &str = "\
======================================================
WARNING: possible circular locking dependency detected
7.3.4 #1 Not tainted
------------------------------------------------------
a/1 is trying to acquire lock:
ffff888001 (&mm->mmap_lock){++++}-{4:4}, at: madvise_lock+0x1/0x2

stack backtrace:
CPU: 0 UID: 0 PID: 1 Comm: a Not tainted
Call Trace:
 <TASK>
 dump_stack_lvl+0x5d/0x80
 print_circular_bug+0x1/0x2
 check_noncircular+0x1/0x2
 __lock_acquire+0x1/0x2
 lock_acquire+0x1/0x2
 down_read+0x1/0x2
 madvise_lock+0x1/0x2
 </TASK>";

const SLEEP: &str = "\
BUG: sleeping function called from invalid context at mm/page_alloc.c:5123
in_atomic(): 1, irqs_disabled(): 0, non_block: 0, pid: 51, name: a
Call Trace:
 <TASK>
 dump_stack_lvl+0x5d/0x80
 __might_resched+0x1/0x2
 __alloc_frozen_pages_noprof+0x2f/0x3c
 </TASK>";

const SOFT_LOCKUP: &str = "\
watchdog: BUG: soft lockup - CPU#1 stuck for 45s! [kcompactd0:37]
Modules linked in:
RIP: 0010:isolate_migratepages_block+0x1/0x2
Call Trace:
 <TASK>
 compact_zone+0x1/0x2
 </TASK>";

const HUNG: &str = "\
INFO: task migrate:88 blocked for more than 60 seconds.
      Not tainted 7.3.4 #1
\"echo 0 > /proc/sys/kernel/hung_task_timeout_secs\" disables this message.
task:migrate         state:D stack:13000 pid:88 tgid:88 ppid:1
Call Trace:
 <TASK>
 __schedule+0x1/0x2
 schedule+0x1/0x2
 io_schedule+0x1/0x2
 migration_entry_wait_on_locked+0x1/0x2
 </TASK>";

const RCU: &str = "\
rcu: INFO: rcu_preempt self-detected stall on CPU
rcu: \t1-....: (20999 ticks this GP) idle=0a2c/1/0x4000 softirq=12/12 fqs=5249
RIP: 0010:folio_referenced_one+0x1/0x2
Call Trace:
 <TASK>
 rmap_walk_anon+0x1/0x2
 </TASK>";

const BAD_PAGE: &str = "\
BUG: Bad page state in process hmm  pfn:10a05
page: refcount:0 mapcount:1 mapping:0000000000000000 index:0x1 pfn:0x10a05
flags: 0x17ffffc0000000(node=0|zone=2|lastcpupid=0x1fffff)
page dumped because: nonzero mapcount
Call Trace:
 <TASK>
 bad_page+0x1/0x2
 free_unref_folios+0x1/0x2
 </TASK>";

const BAD_PAGE_MAP: &str = "\
BUG: Bad page map in process a  pte:8000000010a05867
pgd:1 p4d:1 pud:1 pmd:1
addr:00007f0000000000 vm_flags:00100073 anon_vma:ffff888000000000 mapping:0000000000000000 index:7f0
Call Trace:
 <TASK>
 print_bad_page_map+0x1/0x2
 zap_present_ptes+0x1/0x2
 </TASK>";

const BAD_RSS: &str =
    "BUG: Bad rss-counter state mm:000000001234abcd type:MM_ANONPAGES val:512 Comm:a Pid:31";

const UBSAN: &str = "\
------------[ cut here ]------------
UBSAN: shift-out-of-bounds in mm/khugepaged.c:1510:14
shift exponent 64 is too large for 64-bit type 'long unsigned int'
Call Trace:
 <TASK>
 dump_stack_lvl+0x5d/0x80
 __ubsan_handle_shift_out_of_bounds+0x1/0x2
 mthp_collapse+0x1/0x2
 </TASK>
---[ end trace ]---";

#[test_case(WARN_NEW, "WARNING in __split_huge_pmd_locked"; "warning since 6.18")]
#[test_case(WARN_OLD, "WARNING in memremap_pages"; "warning before 6.18")]
#[test_case(WARN_HELPER, "WARNING in put_page_back"; "warning in a helper")]
#[test_case(KERNEL_BUG, "kernel BUG in page_table_check_set"; "kernel bug")]
#[test_case(PAGE_FAULT, "BUG: unable to handle kernel paging request in dmirror_do_read"; "page fault")]
#[test_case(NULL_POINTER, "BUG: unable to handle kernel NULL pointer dereference in dmirror_device_evict_chunk"; "null pointer")]
#[test_case(GPF, "general protection fault in __folio_unqueue_deferred_split"; "general protection")]
#[test_case(KASAN, "KASAN: slab-use-after-free Read in collapse_huge_page"; "kasan")]
#[test_case(KASAN_IN_HELPER, "KASAN: use-after-free Write in copy_subpage"; "kasan in a helper")]
#[test_case(KCSAN, "KCSAN: data-race in folio_add_lru / lru_add_drain_cpu"; "kcsan")]
#[test_case(LOCKDEP, "possible deadlock in madvise_lock"; "lockdep")]
#[test_case(SLEEP, "BUG: sleeping function called from invalid context in __alloc_frozen_pages_noprof"; "sleep in atomic")]
#[test_case(SOFT_LOCKUP, "BUG: soft lockup in isolate_migratepages_block"; "soft lockup")]
#[test_case(HUNG, "INFO: task hung in migration_entry_wait_on_locked"; "hung task")]
#[test_case(RCU, "INFO: rcu detected stall in folio_referenced_one"; "rcu stall")]
#[test_case(BAD_PAGE, "BUG: Bad page state (nonzero mapcount)"; "bad page")]
#[test_case(BAD_PAGE_MAP, "BUG: Bad page map in zap_present_ptes"; "bad page map")]
#[test_case(BAD_RSS, "BUG: Bad rss-counter state (MM_ANONPAGES)"; "rss")]
#[test_case("BUG: non-zero pgtables_bytes on freeing mm: 4096", "BUG: non-zero pgtables_bytes on freeing mm"; "page tables")]
#[test_case("vmstat_refresh: nr_active_file -511", "negative counter nr_active_file"; "counter")]
#[test_case(UBSAN, "UBSAN: shift-out-of-bounds in mthp_collapse"; "ubsan")]
#[test_case("unrecognized swap entry 0x7c00000000012345", "unrecognized swap entry N"; "swap entry")]
#[test_case("get_swap_device: Bad swap offset entry 3ffffffff", "get_swap_device: Bad swap offset entry N"; "swap offset")]
#[test_case("mm/pgtable-generic.c:54: bad pmd 00000000a1b2c3d4(8000000112233445)", "mm/pgtable-generic.c:N: bad pmd N(N)"; "bad pmd")]
#[test_case("BUG: workqueue lockup - pool cpus=1 node=0 flags=0x0 nice=0 stuck for 33s!", "BUG: workqueue lockup - pool cpus=N node=N flags=0x0 nice=N stuck for N!"; "other bug")]
fn titles(log: &str, title: &str) {
    let lines: Vec<&str> = log.lines().collect();
    let splats = parse(&lines);
    let titles: Vec<_> = splats.iter().map(|splat| splat.title.as_str()).collect();
    assert_eq!(titles, [title]);
    assert_eq!(splats[0].allowed, None);
}

#[test]
fn a_report_has_its_page_dump_and_ends_where_it_ends() {
    let lines: Vec<&str> = WARN_NEW.lines().collect();
    let splat = parse(&lines).remove(0);
    assert_eq!(
        splat.lines.first().map(String::as_str),
        lines.first().copied()
    );
    assert_eq!(splat.lines.len(), lines.len() - 1);
}

#[test]
fn reports_in_a_row_stay_apart() {
    let log = [WARN_NEW, BAD_RSS, KASAN, BAD_PAGE, WARN_OLD].join("\n");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(parse(&lines).len(), 5);
}

#[test_case("traps: pmd_split[77] general protection fault ip:401000 sp:7ffc error:0 in a[401000+1000]"; "user fault")]
#[test_case("faults[81]: segfault at 0 ip 0000000000401136 sp 00007ffd error 6 in faults"; "segfault")]
#[test_case("WARNING: Unable to find a driver"; "advice")]
#[test_case("vmstat_refresh: nr_shmem -3"; "counters on their way")]
#[test_case("hmm: page allocation failure: order:9, mode:0x1c2cca(GFP_TRANSHUGE), nodemask=0"; "allocation failure")]
#[test_case("perf: interrupt took too long (2501 > 2500), lowering kernel.perf_event_max_sample_rate"; "slow host")]
#[test_case("hugeprobe: begin faults::BUG: Bad page"; "our mark")]
#[test_case("INFO: NMI handler (perf_event_nmi_handler) took too long to run: 1.2 msecs"; "slow nmi")]
#[test_case("FAULT_INJECTION: forcing a failure.\nname fail_page_alloc, interval 1, probability 0, space 0, times 0\nCPU: 0 UID: 0 PID: 81 Comm: a Not tainted 7.3.4\nCall Trace:\n <TASK>\n dump_stack_lvl+0x5d/0x80\n should_fail_ex+0x1/0x2\n pte_alloc_one+0x1/0x2\n </TASK>"; "injected failure")]
fn no_report(log: &str) {
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(parse(&lines), []);
}

#[test]
fn known_reports_of_the_test_driver_are_allowed() {
    let coherent = "\
page: refcount:1 mapcount:0 mapping:0 index:0x0 pfn:0x100000
page dumped because: VM_WARN_ON_FOLIO(!folio_is_device_private(folio))
------------[ cut here ]------------
WARNING: include/linux/memremap.h:188 at dmirror_device_remove_chunks+0x2c1/0x330, CPU#0: hmm/99
---[ end trace 0000000000000000 ]---
------------[ cut here ]------------
Conflicting mapping in same section
WARNING: mm/memremap.c:158 at pagemap_range+0x1f0/0x4e0, CPU#0: hmm/99
Call Trace:
 <TASK>
 memremap_pages+0x1c3/0x350
 dmirror_allocate_chunk+0x193/0x560
 </TASK>
---[ end trace 0000000000000000 ]---";
    let lines: Vec<&str> = coherent.lines().collect();
    let splats = parse(&lines);
    assert_eq!(splats.len(), 2);
    assert!(
        splats.iter().all(|splat| splat.allowed.is_some()),
        "{splats:#?}"
    );

    // The same words from somebody else count.
    let other = coherent.replace("dmirror_", "other_");
    let lines: Vec<&str> = other.lines().collect();
    assert!(parse(&lines).iter().all(|splat| splat.allowed.is_none()));
}

#[test]
fn a_kill_for_lack_of_memory_is_told_and_does_not_count() {
    let log = "\
faults invoked oom-killer: gfp_mask=0x140dca(GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO), order=0, oom_score_adj=0
Call Trace:
 <TASK>
 dump_header+0x44/0x1a0
 </TASK>
Out of memory: Killed process 99 (faults) total-vm:9000000kB";
    let lines: Vec<&str> = log.lines().collect();
    let splats = parse(&lines);
    assert_eq!(splats.len(), 1);
    assert!(splats[0].allowed.is_some());
    assert!(!is_lasting(&splats[0]));
}

#[test]
fn only_a_warning_leaves_the_kernel_usable() {
    let lasting = |log: &str| is_lasting(&parse(&log.lines().collect::<Vec<_>>())[0]);
    assert!(!lasting(WARN_NEW));
    assert!(lasting(KERNEL_BUG));
    assert!(lasting(BAD_PAGE));
    assert!(lasting(LOCKDEP));
}

#[test_case("[    1.234567] BUG: x", "BUG: x"; "time")]
#[test_case("[12345.678901][  T123] BUG: x", "BUG: x"; "time and caller")]
#[test_case("[    0.000000][    C0]  indented", " indented"; "cpu, and indentation stays")]
#[test_case("[ BUG: Invalid wait context ]", "[ BUG: Invalid wait context ]"; "no stamp")]
fn stamps(line: &str, bare: &str) {
    assert_eq!(without_stamp(line), bare);
}

#[test]
fn a_panic_is_named_after_its_cause() {
    let console = format!(
        "{WARN_OLD}\nhugeprobe: begin a::b\n{KERNEL_BUG}\nKernel panic - not syncing: Fatal exception"
    );
    let lines: Vec<&str> = console.lines().collect();
    assert_eq!(
        panic_title(&lines).as_deref(),
        Some("kernel BUG in page_table_check_set")
    );
    let lines = [
        "hugeprobe: begin a::b",
        "Kernel panic - not syncing: sysrq triggered crash",
    ];
    assert_eq!(
        panic_title(&lines).as_deref(),
        Some("kernel panic: sysrq triggered crash")
    );
    assert_eq!(panic_title(&["fine"]), None);
}
