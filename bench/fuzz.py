#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""The figures of docs/performance.md that concern the fuzzers.

    bench/fuzz.py [TARGET] [--time 120] [--seeds 1,2,3] [--output DIR] [-- OPTIONS]

For each seed: a campaign in a folder of its own; programs, calls and THP faults by
the second and by the second of CPU time of the emulator (which a busy machine does
not change much), the share of calls that succeed, call sites reached, and how much
of the huge-page files. Then, with the corpus of the first seed: what checking
costs (the same programs checked and bare, in turns), and how many programs reach
their call sites again in a fresh machine. OPTIONS go to `hugeprobe fuzz`, and to
`hugeprobe boot` as far as they name the kernel, such as --kver 7.2.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent.parent
BUILT = HERE / "target/x86_64-unknown-linux-gnu/debug"
TICKS = os.sysconf("SC_CLK_TCK")


def children(pid):
    """The process and all that come from it."""
    parents = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, queue = [], [pid]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += parents.get(pid, [])
    return found


def cpu_seconds(pid):
    """User and system time of a QEMU; None for anything else."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    if "qemu-system" not in stat:
        return None
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def run(argv, log):
    """Runs a command; its exit code, and the CPU seconds of the QEMUs below it."""
    used = {}
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

        def watch():
            while process.poll() is None:
                for pid in children(process.pid):
                    seconds = cpu_seconds(pid)
                    if seconds is not None:
                        used[pid] = seconds
                time.sleep(0.5)

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        watcher.join()
    return code, sum(used.values())


def campaign(target, seconds, seed, folder, options):
    argv = [BUILT / "hugeprobe", "fuzz", target, "--time", f"{seconds}s", "--seed", str(seed), "--output", folder, *options]
    log = f"{folder}.log"
    code, cpu = run([str(word) for word in argv], log)
    samples = pathlib.Path(folder, "stats.jsonl")
    if not samples.exists():
        sys.exit(f"no campaign in {folder} (exit code {code}); see {log}")
    last = json.loads(samples.read_text().splitlines()[-1])
    wall = max(last["seconds"], 1)
    calls = max(last["calls"], 1)
    print(f"seed {seed}: {last['programs']} programs in {wall} s, {cpu:.0f} s of CPU time")
    for name in ("programs", "calls", "thp_faults"):
        print(f"  {name}: {last[name] / wall:.1f} by the second, {last[name] / max(cpu, 1):.1f} by the second of CPU time")
    print(f"  {100 * last['succeeded'] / calls:.0f} % of the calls succeed; corpus {last['corpus']}; "
          f"KCOV areas overflowed {last['overflows']} times")
    said = re.findall(r"^coverage: .*", pathlib.Path(log).read_text(), re.M)
    print("  " + (said[-1] if said else f"{last['pcs']} call sites reached"), flush=True)


def guest(command, options, log):
    argv = [str(BUILT / "hugeprobe"), "boot", "--profile", "kcov", *options, "--exec", command]
    run(argv, log)
    return pathlib.Path(log).read_text()


def replay(corpus, options):
    """Checked against bare, and signals seen again in a fresh machine."""
    files = sorted(str(path.resolve()) for path in corpus.iterdir() if path.is_file())[:400]
    if not files:
        print("the corpus is empty")
        return
    names = corpus.parent / "names.txt"
    names.write_text("\n".join(files))
    program = f"HUGEPROBE_GUEST=1 xargs -a {names.resolve()} {BUILT / 'hugeprobe-exec'}"
    log = corpus.parent / "replay.log"
    said = guest(f"{program} compare --rounds 1", options, log)
    for line in re.findall(r"HP compared (.*)", said):
        print(f"checked and bare: {line}")
    first = corpus.parent / "signals.txt"
    guest(f"{program} signal", options, first)
    said = guest(f"{program} signal --expect {first.resolve()}", options, log)
    for line in re.findall(r"HP repeated (.*)", said):
        seen = json.loads(line)
        share = 100 * seen["whole"] / max(seen["programs"], 1)
        print(f"{share:.0f} % of {seen['programs']} programs reach all their call sites again in a fresh machine; "
              f"{seen['reached']} of {seen['sites']} call sites")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", default="mm")
    parser.add_argument("--time", type=int, default=120)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--output", default="results/bench-fuzz")
    ours, options = sys.argv[1:], []
    if "--" in sys.argv:
        at = sys.argv.index("--")
        ours, options = sys.argv[1:at], sys.argv[at + 1:]
    args = parser.parse_args(ours)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    folder = pathlib.Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        campaign(args.target, args.time, seed, folder / f"{args.target}-{seed}", options)
    replay(folder / f"{args.target}-{seeds[0]}" / "corpus", options)


if __name__ == "__main__":
    main()
