// SPDX-License-Identifier: GPL-2.0-only
//! Stack frames in kernel reports.

/// Functions that every report of a kind passes through, by beginning: they
/// say how the fault was noticed, not where it is.
const NOTICING: [&str; 46] = [
    "dump_stack",
    "show_stack",
    "print_",
    "panic",
    "__warn",
    "warn_slowpath",
    "report_bug",
    "handle_bug",
    "exc_",
    "asm_exc_",
    "die",
    "oops_",
    "page_fault_oops",
    "kernelmode_fixup",
    "kasan_",
    "__kasan",
    "__asan_",
    "__kcsan",
    "kcsan_",
    "__tsan_",
    "check_memory_region",
    "ubsan_",
    "__ubsan_",
    "kfence_",
    "__might_",
    "___might_",
    "bad_page",
    "free_page_is_bad",
    "check_new_page",
    "zone_device_page_init_dump",
    "lockdep_",
    "check_noncircular",
    "check_prev",
    "check_deadlock",
    "validate_chain",
    "__lock_acquire",
    "lock_acquire",
    "lock_release",
    "_raw_",
    "__raw_",
    "queued_",
    "native_queued",
    "__list_add_valid",
    "__list_del_entry_valid",
    "refcount_warn_saturate",
    "nmi_",
];

/// Functions that merely wait, lock or copy for somebody, by exact name.
const HELPERS: [&str; 22] = [
    "schedule",
    "__schedule",
    "schedule_timeout",
    "schedule_preempt_disabled",
    "preempt_schedule",
    "preempt_schedule_common",
    "preempt_schedule_irq",
    "io_schedule",
    "__mutex_lock",
    "__mutex_lock_common",
    "mutex_lock",
    "mutex_lock_nested",
    "down_read",
    "down_write",
    "rwsem_down_read_slowpath",
    "rwsem_down_write_slowpath",
    "memcpy",
    "__memcpy",
    "memset",
    "__memset",
    "memmove",
    "__memmove",
];

/// The first function that says where `report` happened: the one in `RIP:`
/// unless that is a helper, then down the call trace.
pub fn guilty(report: &[&str]) -> Option<String> {
    let rip = report.iter().find_map(|line| {
        let (_, place) = line.split_once("RIP: 0010:")?;
        function(place)
    });
    rip.into_iter()
        .chain(trace(report))
        .find(|name| is_meaningful(name))
        .map(str::to_owned)
}

/// The function in `place`, such as `copy_huge_pmd+0x1f/0x30`, without the
/// suffixes of compiler clones; `None` when it is no such place.
pub fn function(place: &str) -> Option<&str> {
    let (name, offset) = place.trim().split_once("+0x")?;
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.';
    if name.is_empty() || !name.bytes().all(is_name) || !offset.contains("/0x") {
        return None;
    }
    name.split('.').next()
}

/// Whether `name` says where a fault is, rather than how it was noticed.
pub fn is_meaningful(name: &str) -> bool {
    !HELPERS.contains(&name) && !NOTICING.iter().any(|prefix| name.starts_with(prefix))
}

/// The functions of the first call trace; those which the unwinder is not sure
/// of (`?`) are left out.
fn trace<'a>(report: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    let is_start =
        |line: &str| line.starts_with("Call Trace") || line.starts_with("stack backtrace:");
    let start = report.iter().position(|line| is_start(line));
    let lines = start.map_or(&[][..], |at| &report[at + 1..]);
    lines
        .iter()
        .filter(|line| !line.trim_start().starts_with('?'))
        .filter_map(|line| function(line))
}
