#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Tells which mutations the fuzzers' seeds show, before anything is fuzzed.

The kernel of `mutants.py build`, made of profile `kcov`, changes its mutation when
it is told to. In one guest after another the seeds of the targets that concern a
mutation run once with it, some seconds for all of them, then two seeds without it:
a guest in which these fail, too, is replaced, as is one that hangs or dies. What
`fuzz/known.tsv` has does not count, nor do seeds with races.

    bench/seeds.py run   --out OUT [--seeds DIR] [NAME...]   # resumes; results in OUT/seeds.jsonl
    bench/seeds.py table --out OUT
"""

import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

KNOB = "/sys/module/memory/parameters/mutant"
# Seconds for the seeds of one target, and for which a guest may say nothing.
LIMIT, SILENCE = 60, 100
# Programs that no kernel without a mutation fails.
CONTROL = ("fork-cow.txt", "split-munmap.txt")


def fuzz_targets(row):
    """The targets whose programs concern a mutation, the nearest first."""
    targets = row["targets"].split()
    if "hmm" in targets and ("migrate_device" in row["file"] or "hmm" in row["file"] or targets == ["hmm"]):
        return ["hmm", "mm"]
    if {"pfnmap", "pud_split"} & set(targets):
        return ["pfnmap", "mm"]
    return ["collapse", "mm"] if targets[0] == "khugepaged" else ["mm", "collapse"]


def choose(mutant):
    pathlib.Path(KNOB).write_text(mutant)


def say(**event):
    print("@@" + json.dumps(event), flush=True)


def replay(job, target, files):
    """Runs programs in the guest until one shows what is not known: that, and whether all went well."""
    command = [job["program"], "run", "--no-stop", "--quiet", "--target", target, *map(str, files)]
    process = subprocess.Popen(command, env={**os.environ, "HUGEPROBE_GUEST": "1"}, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                               start_new_session=True)
    late = threading.Event()
    alarm = threading.Timer(LIMIT, lambda: (late.set(), os.killpg(process.pid, signal.SIGKILL)))
    alarm.start()
    try:
        for line in process.stdout:
            event = json.loads(line.removeprefix("HP violation ")) if line.startswith("HP violation ") else None
            if event and not {event["title"], f"{event['oracle']}: {event['title']}"} & set(job["known"]):
                os.killpg(process.pid, signal.SIGKILL)
                return f"{event['oracle']}: {event['title']}"
        return "no end" if late.is_set() else None
    finally:
        alarm.cancel()
        process.wait()


def guest(path):
    """The guest's half: all mutations of a job, until one leaves the kernel unfit for the next."""
    job = json.loads(pathlib.Path(path).read_text())
    seeds = pathlib.Path(job["seeds"])
    for row in job["rows"]:
        say(begin=row["name"])
        for target in fuzz_targets(row):
            files = sorted(file for file in (seeds / target).iterdir() if not file.name.startswith("race"))
            choose(row["name"])
            began = time.monotonic()
            shown = replay(job, target, files)
            choose("none")
            seconds = round(time.monotonic() - began, 1)
            if shown:
                say(row=row["name"], target=target, shown=shown, seconds=seconds)
                if shown == "no end" or replay(job, "mm", [seeds / "mm" / name for name in CONTROL]):
                    return
                break
        else:
            say(row=row["name"], target=target, shown=None, seconds=seconds)


def boot(mutants, out, job):
    """One guest; yields what it says."""
    path = out / "seeds-job.json"
    path.write_text(json.dumps(job))
    command = [str(mutants.HUGEPROBE), "boot", "--cpus", "1", "--kernel", str(out / "bzImage"),
               "--exec", f"python3 {pathlib.Path(__file__).resolve()} guest {path}"]
    with open(out / "seeds-console.log", "a") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL,
                                   text=True, errors="replace", start_new_session=True)
        spoke = [time.monotonic()]

        def watch():
            while process.poll() is None:
                if time.monotonic() - spoke[0] > SILENCE:
                    os.killpg(process.pid, signal.SIGKILL)
                time.sleep(1)

        threading.Thread(target=watch, daemon=True).start()
        for line in process.stdout:
            found = re.search(r"@@({.*})", line)
            if found:
                spoke[0] = time.monotonic()
                yield json.loads(found[1])
        process.wait()


def results(out):
    path = out / "seeds.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {entry["row"]: entry for entry in map(json.loads, lines)}


def run(args):
    import mutants
    out = pathlib.Path(args.out).resolve()
    program = mutants.HUGEPROBE.parent / "hugeprobe-exec"
    subprocess.run(["cargo", "build", "--quiet", "-p", "hugeprobe-fuzz", "--bin", "hugeprobe-exec"],
                   cwd=mutants.HERE.parent, check=True)
    known = (mutants.HERE.parent / "fuzz/known.tsv").read_text().splitlines()
    job = {"program": str(program), "seeds": str(pathlib.Path(args.seeds).resolve()),
           "known": [line.split("\t")[0] for line in known if not line.startswith("#")]}
    rows = json.loads((out / "rows.json").read_text())
    done = results(out)
    rows = [row for row in rows if (row["name"] in args.names if args.names else row["name"] not in done)]
    while rows:
        current = None
        for event in boot(mutants, out, {**job, "rows": rows}):
            current = event.get("begin", current)
            if "row" in event:
                note(out, event)
                rows = [row for row in rows if row["name"] != event["row"]]
        if rows and current == rows[0]["name"]:
            note(out, {"row": current, "target": fuzz_targets(rows.pop(0))[0], "shown": "the kernel died", "seconds": 0})
        elif current is None:
            sys.exit(f"the guest did not come up: {out}/seeds-console.log")
    return 0


def note(out, event):
    with open(out / "seeds.jsonl", "a") as file:
        file.write(json.dumps(event) + "\n")
    print(f"| `{event['row']}` | {event['target']} | {event['shown'] or '**nothing**'} | {event['seconds']} s |", flush=True)


def table(args):
    out = pathlib.Path(args.out).resolve()
    found = results(out)
    rows = [row for row in json.loads((out / "rows.json").read_text()) if row["name"] in found]
    for row in rows:
        shown = found[row["name"]]["shown"]
        print(f"| `{row['name']}` | {row['file']} `{row['function']}()` | {row['drawn']} | {shown or '**nothing**'} |")
    print(f"{sum(bool(found[row['name']]['shown']) for row in rows)} of {len(rows)}")
    return 0


def main():
    if sys.argv[1:2] == ["guest"]:
        return guest(sys.argv[2])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "table"))
    parser.add_argument("names", nargs="*", help="mutations, also such as have been run [all that have not]")
    parser.add_argument("--out", required=True, help="folder of `mutants.py build`")
    parser.add_argument("--seeds", default=pathlib.Path(__file__).resolve().parent.parent / "fuzz/seeds",
                        help="folder with a folder of programs for each target [those that are shipped]")
    args = parser.parse_intermixed_args()
    return {"run": run, "table": table}[args.verb](args)


if __name__ == "__main__":
    sys.exit(main())
