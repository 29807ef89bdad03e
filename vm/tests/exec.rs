// SPDX-License-Identifier: GPL-2.0-only
//! A command in a real machine: what it sees, and that its output and exit
//! code come back.

mod support;

use hugeprobe_vm::event::Fate;

#[test]
fn command_runs_in_a_prepared_guest() {
    let Some(kernel) = support::kernel() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = support::session(support::machine(kernel), folder.path());
    let plan = support::shell(
        "echo $GREETING; cat /proc/swaps; ls -d /sys/devices/system/node/node?; cat /proc/mounts; \
         echo oops >&2; touch /tmp/x /dev/shm/x /run/x || exit 1; exit 7",
    );
    let (events, summary) = support::run(&plan, &config);
    assert_eq!(summary.fate, Fate::Clean);
    assert_eq!(summary.command, Some(7));
    assert_eq!(summary.machines, 1);
    let output = support::output(&events);
    for expected in ["hello", "oops", "/sys/devices/system/node/node1"] {
        assert!(output.contains(&expected), "no `{expected}` in {output:#?}");
    }
    for start in ["/dev/zram0 ", "debugfs /sys/kernel/debug ", "overlay /tmp "] {
        assert!(
            output.iter().any(|line| line.starts_with(start)),
            "no line starts with `{start}` in {output:#?}"
        );
    }
}
