// SPDX-License-Identifier: GPL-2.0-only
//! A command in a real machine: what it sees, and that its output and exit
//! code come back.

mod support;

use hugeprobe_vm::event::Fate;
use hugeprobe_vm::machine::SharedMemory;

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

#[test]
fn guest_reaches_its_root_from_an_initramfs() {
    let Some(kernel) = support::kernel() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A kernel that has everything built in lists no module.
    std::fs::write(folder.path().join("modules.dep"), "").expect("written");
    let mut machine = support::machine(kernel);
    machine.memory_mib = 1024;
    machine.modules_dir = Some(folder.path().to_owned());
    let config = support::session(machine, folder.path());
    let (events, summary) = support::run(&support::shell("cat /proc/mounts"), &config);
    assert_eq!(summary.fate, Fate::Clean);
    let output = support::output(&events);
    assert!(
        output
            .iter()
            .any(|line| line.starts_with("/dev/root / 9p ro")),
        "{output:#?}"
    );
}

#[test]
fn memory_is_shared_with_the_host() {
    let Some(kernel) = support::kernel() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let memory = SharedMemory {
        path: folder.path().join("shared"),
        size_mib: 1,
    };
    let mut machine = support::machine(kernel);
    machine.memory_mib = 1024;
    machine.shared_memory = Some(memory.clone());
    let config = support::session(machine, folder.path());
    let plan = support::shell(
        "for d in /sys/bus/pci/devices/*; do grep -q 0x1110 $d/device && echo size \
         $(stat -c %s $d/resource2); done",
    );
    let (events, _) = support::run(&plan, &config);
    assert!(support::output(&events).contains(&"size 1048576"));
    let size = std::fs::metadata(&memory.path).expect("it is there").len();
    assert_eq!(size, 1 << 20);
}
