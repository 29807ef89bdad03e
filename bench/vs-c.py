#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Wall time of our tests against the kernel's own selftests for the same
scenarios, in one run in one VM.

    bench/vs-c.py [--count] [SUITE...] [-- ARGUMENTS OF hugeprobe run]

bench/vs-c.toml says what a suite is. The C programs are built from the source of
the kernel that runs, in target/vs-c, and not kept elsewhere; needs gcc and make.
Our tests are run by `hugeprobe run` as always, and their time is all that it
takes: from the end of the test before to the end of each. Run it on an idle
machine; on a busy one the ratio of the emulator's CPU time says more.

With --count the emulator's clock counts instructions (4 ns each, one CPU at a
time), so that the figures are the same on any machine, however busy. They leave
out what the guest does between our tests, and what a switch between CPUs costs.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
HUGEPROBE = HERE.parent / "target/x86_64-unknown-linux-gnu/debug/hugeprobe"
WORK = HERE.parent / "target/vs-c"
# Seconds between two looks at the events.
POLL = 0.02
# Seconds for all C programs together; those that wait for khugepaged take minutes.
LIMIT = "3600"


def source(kernel):
    """The tree of the kernel that `kernel` chooses, fetched if need be."""
    if "--kdir" in kernel:
        return kernel[kernel.index("--kdir") + 1]
    command = [HUGEPROBE, "kernel", "fetch", *kernel]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]


def kernel_arguments(arguments):
    """Those of the arguments that choose the kernel."""
    names = ("--kdir", "--kver", "--profile")
    pairs = zip(arguments, arguments[1:])
    return [word for pair in pairs if pair[0] in names for word in pair]


def counting(folder):
    """An environment in which QEMU counts instructions."""
    wrapper = folder / "qemu-system-x86_64"
    folder.mkdir(parents=True, exist_ok=True)
    qemu = shutil.which(wrapper.name)
    wrapper.write_text(
        f'#!/bin/sh\ncase $1 in --version) exec {qemu} "$@" ;; esac\n'
        f'exec {qemu} "$@" -icount shift=2,sleep=on\n')
    wrapper.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def measure(suites, arguments, count):
    """Runs both sides; returns the events."""
    tree = source(kernel_arguments(arguments))
    built = WORK / pathlib.Path(tree).name
    programs = sorted({line[0] for suite in suites.values() for line in suite["runs"]})
    missing = [program for program in programs if not (built / program).exists()]
    if missing:
        subprocess.run([HERE / "c-suites.sh", tree, built, *missing], check=True)
    lines = [
        "\t".join([name, str(built / program), *words])
        for name, suite in suites.items()
        for program, *words in suite["runs"]
    ]
    (built / "suites").write_text("\n".join(lines) + "\n")
    tests = [test for suite in suites.values() for test in suite["tests"]]
    targets = dict.fromkeys(test.split("\\.")[0] for test in tests)
    regex = "|".join(f"({test})" for test in [r"bench\.vs_c::c_suites", *tests])
    command = [
        HUGEPROBE, "run", "--timeout", LIMIT, "--output", WORK / "results", "--append", f"hugeprobe.c_suites={built}/suites",
        "--tests", f"^({regex})$", *arguments, "bench", *targets]
    (WORK / "results/events.jsonl").unlink(missing_ok=True)
    environment = counting(WORK / "bin") if count else None
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as run:
        return list(follow(run))


def follow(run):
    """The events of `run` as they come, each with the CPU time of the emulator so far."""
    path, partial = WORK / "results/events.jsonl", ""
    while not path.exists() and run.poll() is None:
        time.sleep(POLL)
    with path.open() as events:
        ended = False
        while not ended:
            ended = run.poll() is not None
            cpu = emulator_seconds(run.pid)
            *lines, partial = (partial + events.read()).split("\n")
            yield from ({**json.loads(line), "cpu": cpu} for line in lines)
            time.sleep(POLL)


def emulator_seconds(parent):
    """User and system time of the QEMU that `parent` has started, 0 without one."""
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = stat.read_text().rsplit(") ", 1)
        except OSError:
            continue
        fields = fields.split()
        if "(qemu" in name and fields[1] == str(parent):
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0


class Cost:
    """Wall time, and CPU time of the emulator, in seconds."""

    def __init__(self, wall=0, cpu=0):
        self.wall, self.cpu = wall, cpu

    def __add__(self, other):
        return Cost(self.wall + other.wall, self.cpu + other.cpu)

    def __str__(self):
        return f"{self.wall:.1f} s, emulator {self.cpu:.1f} s"


def costs(events, count):
    """C: cost and totals of each suite; ours: cost and verdict by `target.name`."""
    c, ours, wall, cpu = {}, {}, 0, 0
    for event in events:
        kind = event["event"]
        if kind == "vm_boots" and event["number"] > 1:
            sys.exit("more than one VM was needed: the times cannot be compared")
        said = kind == "test_output" and "C_SUITE\t" in event["line"]
        if not said and kind not in ("test_begins", "test_ends"):
            continue
        spent = Cost((event["ms"] - wall) / 1000, event["cpu"] - cpu)
        if said:
            _, name, ms, totals = event["line"].split("\t", 3)
            # Its own clock leaves out what is prepared before it.
            before, all_totals = c.get(name, (Cost(), []))
            c[name] = (before + Cost(int(ms) / 1000, spent.cpu), [*all_totals, totals])
        elif kind == "test_ends":
            if count:
                spent.wall = event["duration_ms"] / 1000
            ours["{target}.{name}".format(**event["test"])] = (spent, event["verdict"])
        # Ours includes what comes between two tests.
        if kind != "test_begins" or not ours:
            wall, cpu = event["ms"], event["cpu"]
    return c, ours


def main():
    words = sys.argv[1:]
    count = "--count" in words
    words = [word for word in words if word != "--count"]
    at = words.index("--") if "--" in words else len(words)
    wanted, arguments = words[:at], words[at + 1:]
    suites = tomllib.loads((HERE / "vs-c.toml").read_text())
    unknown = [name for name in wanted if name not in suites]
    if unknown or "--help" in words or "-h" in words:
        sys.exit(__doc__ + "Suites: " + " ".join(suites))
    suites = {name: suite for name, suite in suites.items() if not wanted or name in wanted}
    c, ours = costs(measure(suites, arguments, count), count)
    if not c:
        sys.exit("the C programs did not run; see target/vs-c/results")
    for name, suite in suites.items():
        regex = re.compile("|".join(f"({test})" for test in suite["tests"]))
        mine = {test: result for test, result in ours.items() if regex.fullmatch(test)}
        spent = sum((cost for cost, _ in mine.values()), Cost())
        verdicts = [verdict for _, verdict in mine.values()]
        counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
        if name not in c:
            print(f"{name}: the C program did not end; see target/vs-c/results")
            continue
        theirs, totals = c[name]
        print(f"{name}: C {theirs} ({'; '.join(totals)})")
        print(f"{name}: ours {spent} ({counts})")
        print(f"{name}: ratio {spent.wall / theirs.wall:.2f}, of the emulator's time {spent.cpu / theirs.cpu:.2f}")


main()
