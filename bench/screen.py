#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Runs tests against the mutations of bench/mutants.py, many in one boot.

The kernel of `mutants.py build` changes its mutation when it is told to, so
one guest serves many of them. First `reach` notes for each test which mutated
functions it calls and how long it takes; then `run` gives each mutation only
those tests that can notice it, the quickest and most special first. A failure
counts when the same test passes at once without the mutation and fails again
with it; or when the kernel dies of it, twice. A guest that cannot be trusted
any longer is replaced.

    bench/screen.py reach --out OUT                # OUT: that of mutants.py build
    bench/screen.py run   --out OUT [NAME...]      # resumes; results in OUT/screen
    bench/screen.py table --out OUT

    bench/c-suites.sh TREE OUT/c                   # the kernel's own C tests:
    bench/screen.py reach --side c --out OUT       # the same again, with them
"""

import argparse
import json
import math
import pathlib
import re
import subprocess
import sys
import threading

import mutants

GUEST = pathlib.Path(__file__).resolve().parent / "screen_guest.py"
TARGETS = ("pmd_split", "thp_misc", "hmm", "khugepaged", "pfnmap", "pud_split")
# What selftests/targets.toml wants for all targets together.
BOOT = ["--mem", "8G", "--append",
        "memmap=1G$0x180000000 memmap=1G%0x1c0000000-1+0xefffffff dax_hmem.region_idle=1"]
# Seconds that a guest may be silent beyond the time limits of its test.
SILENCE = 30
MODULE = "start=0x180000000 size=0x40000000"
# Arguments of the C programs, much as run_vmtests.sh has them; all others take none.
C_RUNS = {
    "hmm-tests": [["-T", "benchmark_thp_migration"]],
    "khugepaged": [[], ["-s", "2"], ["all:shmem"], ["-s", "4", "all:shmem"], ["-c", "4", "mthp_khugepaged:anon"],
                   ["all:file", "/run/ext4"]],
    "split_huge_page_test": [["/run/ext4"]],
    "transhuge-stress": [["-d", "5", "512"]],
    "uffd-stress": [["anon", "20", "4"], ["shmem", "20", "4"]],
    "gup_test": [["-t", how, write, "-n", "512"] for how in ("-u", "-U", "-a", "-b", "-L") for write in ("-w", "-W")],
}


def built_programs():
    """The test program of each target, built if need be."""
    built = subprocess.run(["cargo", "test", "--no-run", "-p", "selftests", "--message-format=json", "--quiet"],
                           cwd=mutants.HERE.parent, stdout=subprocess.PIPE, check=True, text=True)
    programs = {}
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] in TARGETS:
            programs[message["target"]["name"]] = message["executable"]
    return programs


def tests_of_ours(folder):
    """Each test of each target, by the name that reports use."""
    programs = {name: str(folder / name) for name in TARGETS} if folder else built_programs()
    tests = {}
    for target in TARGETS:
        listing = subprocess.run([programs[target], "--list", "--format", "terse"],
                                 stdout=subprocess.PIPE, check=True, text=True).stdout
        for line in listing.splitlines():
            if not line.endswith(": test"):
                continue
            raw = line.removesuffix(": test")
            name = re.sub(r"::test_case_\d+_", "::", raw)
            tests[f"{target}.{name}"] = {"program": programs[target], "arguments": [
                raw, "--exact", "--nocapture", "--test-threads=1"]}
    return tests


def tests_of_c(folder):
    tests = {}
    for program in sorted(folder.iterdir()):
        if not program.stat().st_mode & 0o100 or program.suffix:
            continue
        for arguments in C_RUNS.get(program.name, [[]]):
            tests[" ".join([program.name, *arguments])] = {"program": str(program), "arguments": arguments}
    return tests


class Screen:
    """The state of one side, in files that survive an interruption."""

    def __init__(self, args):
        self.out = pathlib.Path(args.out).resolve()
        self.side, self.folder = args.side, self.out / "screen"
        self.folder.mkdir(exist_ok=True)
        self.rows = json.loads((self.out / "rows.json").read_text())
        self.tests = tests_of_c(self.out / "c") if self.side == "c" else tests_of_ours(args.programs)

    def path(self, kind):
        return self.folder / f"{self.side}-{kind}.jsonl"

    def note(self, kind, entry):
        with open(self.path(kind), "a") as file:
            file.write(json.dumps(entry) + "\n")

    def noted(self, kind, key):
        """What was noted, the last word on each key."""
        path = self.path(kind)
        lines = path.read_text().splitlines() if path.exists() else []
        return {entry[key]: entry for entry in map(json.loads, lines)}

    def boot(self, rows, tests):
        """Runs a job in one guest; yields its events, at the end what became of the guest."""
        job = self.folder / f"{self.side}-job.json"
        module = self.out / "hugeprobe_pfnmap.ko"
        job.write_text(json.dumps({
            "side": self.side, "rows": rows, "tests": tests,
            "module": f"{module} {MODULE}" if module.exists() else None}))
        command = [str(mutants.HUGEPROBE), "boot", "--kernel", str(self.out / "bzImage"), *BOOT,
                   "--exec", f"python3 {GUEST} {job}"]
        with (open(self.folder / f"{self.side}-console.log", "a") as errors,
              open(self.folder / f"{self.side}-events.log", "w") as events):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL,
                                       text=True, errors="replace")
            # A guest may be alive and this job not: a process that cannot be killed, say.
            alarm, limit = None, 0
            for line in process.stdout:
                event = json.loads(line[2:]) if line.startswith("@@") else {}
                if event.get("event") == "begin":
                    # What fails is run twice more before anything is said.
                    limit = 3 * tests[event["test"]]["limit"]
                if alarm:
                    alarm.cancel()
                alarm = threading.Timer(SILENCE + limit, process.terminate)
                alarm.start()
                if event:
                    events.write(line)
                    events.flush()
                    yield event
            if alarm:
                alarm.cancel()
            process.wait()
        yield {"event": "gone"}


def representatives(tests):
    """One variant of each test: the others call the same functions, near enough."""
    seen = {}
    for name in tests:
        parts = name.split("::")
        seen.setdefault("::".join(parts[:2]), name)
    return set(seen.values())


def reach(args):
    """Runs the tests on the unmutated kernel: what they call, and how long they take."""
    screen = Screen(args)
    names = [name for name in screen.tests if screen.side == "c" or args.all or name in representatives(screen.tests)]
    if args.names:
        names = [name for name in names if any(re.search(pattern, name) for pattern in args.names)]
    limit = args.limit or (900 if screen.side == "c" else 60)
    deaths = 0
    while True:
        known = screen.noted("reach", "test")
        left = [name for name in names if name not in known]
        if not left or deaths > 10:
            break
        tests = {name: {**screen.tests[name], "limit": limit} for name in left}
        current = None
        for event in screen.boot([{"name": "none", "tests": left}], tests):
            if event["event"] == "begin":
                current = event["test"]
            elif event["event"] == "end":
                current = None
                screen.note("reach", {key: event[key] for key in ("test", "verdict", "failed", "kernel", "seconds", "reached")})
            elif event["event"] == "gone":
                deaths += 1
                if current:
                    screen.note("reach", {"test": current, "verdict": "lost", "failed": [], "kernel": [],
                                          "seconds": 0, "reached": []})
    bad = [f"{entry['test']}: {entry['verdict']} {entry['failed'][:1]}{entry['kernel'][:1]}"
           for entry in screen.noted("reach", "test").values() if entry["verdict"] not in ("pass", "skip", "xfail")]
    print("\n".join(bad))
    return 0


def last_time():
    """Which test noticed a mutation, says the table in docs/quality.md."""
    text = (mutants.HERE.parent / "docs/quality.md").read_text()
    return dict(re.findall(r"^\| `(\w+)` \|[^|]*\|(?: \w+ \|)? `([^`]+)` \|", text, re.M))


class Choice:
    """Which tests a mutation gets, in which order."""

    def __init__(self, screen, args):
        self.screen, self.args = screen, args
        self.last_time = last_time() if screen.side == "ours" else {}
        self.known = screen.noted("reach", "test")
        self.by_group = {}
        for name, entry in self.known.items():
            self.by_group.setdefault("::".join(name.split("::")[:2]), entry)

    def entry(self, name):
        """What is known of a test, or of a variant of it, or guessed."""
        guess = {"verdict": "pass", "seconds": 5, "reached": [], "failed": [], "kernel": []}
        return self.known.get(name) or self.by_group.get("::".join(name.split("::")[:2])) or guess

    def usable(self, name):
        """A test that did not pass where nothing was broken tells nothing; C programs name what failed."""
        entry = self.entry(name)
        return (entry["verdict"] in ("pass", "xfail") or
                          (self.screen.side == "c" and entry["verdict"] == "fail"))

    def tests(self, row):
        catching = {entry["test"] for entry in self.screen.noted("run", "row").values()
                    if entry.get("test") and self.function(entry["row"]) == row["function"]}
        names = [name for name in self.screen.tests if self.usable(name) and self.can_notice(name, row)]
        hint = self.last_time.get(row["name"])
        if hint in self.screen.tests and hint not in names:
            names.append(hint)
        if self.args.tests:
            names = [name for name in names if re.search(self.args.tests, name)]
        chosen = sorted(names, key=lambda name: (name != hint, self.cost(name, row, catching)))
        if self.screen.side == "c" or self.args.all:
            return chosen
        first = [name for name in chosen if name in representatives(self.screen.tests) or name in catching or name == hint]
        rest = [] if self.args.quick else [name for name in chosen if name not in first]
        return first + rest

    def can_notice(self, name, row):
        """Whether the test calls the mutated function; where `reach` has not run, whether its target may."""
        entry = self.known.get(name) or self.by_group.get("::".join(name.split("::")[:2]))
        if entry:
            return row["reach"] in entry["reached"]
        return self.screen.side == "ours" and name.split(".")[0] in row["targets"].split()

    def function(self, name):
        return next((row["function"] for row in self.screen.rows if row["name"] == name), None)

    def cost(self, name, row, catching):
        entry = self.entry(name)
        cost = max(entry["seconds"], 0.3) * math.sqrt(1 + len(entry["reached"]))
        if name.split(".")[0] in row["targets"].split():
            cost /= 5
        return cost / 20 if name in catching else cost

    def limited(self, name):
        entry = self.entry(name)
        return {**self.screen.tests[name], "limit": int(12 + 5 * entry["seconds"]),
                "failed": entry["failed"], "kernel": entry["kernel"]}


def run(args):
    screen = Screen(args)
    choice = Choice(screen, args)
    wanted = [row for row in screen.rows if not args.names or row["name"] in args.names]
    if args.drawn:
        wanted = [row for row in wanted if row["drawn"] == args.drawn]
    died = {}
    while True:
        results = screen.noted("run", "row")
        left = [row for row in wanted if row["name"] not in results or
                (args.again and not results[row["name"]].get("test") and not results[row["name"]].get("again"))]
        if not left:
            return 0
        jobs = []
        for row in left[:args.batch]:
            names, room = [], args.budget
            for name in died.get(row["name"], [])[-1:] + choice.tests(row):
                room -= choice.entry(name)["seconds"] + 0.2
                if room < 0 and names:
                    break
                if name not in names:
                    names.append(name)
            if names:
                jobs.append({"name": row["name"], "tests": names, "all": len(names) == len(choice.tests(row))})
            else:  # no test calls the function
                found(screen, row["name"], None, [], args, 0, 0, whole=True)
        if not jobs:
            continue
        tests = {name: choice.limited(name) for job in jobs for name in job["tests"]}
        whole = {job["name"]: job["all"] for job in jobs}
        follow(screen, jobs, tests, whole, died, args)


def follow(screen, jobs, tests, whole, died, args):
    """Notes what one guest finds out."""
    current, count, seconds, once = None, {}, {}, {}
    for event in screen.boot(jobs, tests):
        row = event.get("row")
        if event["event"] == "begin":
            current = (row, event["test"])
        elif event["event"] == "end":
            current = None
            count[row] = count.get(row, 0) + 1
            seconds[row] = seconds.get(row, 0) + event["seconds"]
        elif event["event"] == "caught":
            found(screen, row, event["test"], event["news"], args, count.get(row), seconds.get(row))
        elif event["event"] == "once":
            once.setdefault(row, []).append([event["test"], event["news"][:1]])
        elif event["event"] == "unsteady":
            died.setdefault(row, []).append(event["test"])
            if died[row].count(event["test"]) > 1:
                found(screen, row, None, event["news"], args, count.get(row), seconds.get(row), unsteady=event["test"])
        elif event["event"] == "missed":
            found(screen, row, None, [], args, count.get(row, 0), seconds.get(row, 0), whole=whole[row], once=once.get(row, []))
        elif event["event"] == "stop":
            current = None
            print(f"  a new guest: {event['why']}", flush=True)
        elif event["event"] == "gone" and current:
            row, test = current
            died.setdefault(row, []).append(test)
            print(f"  the guest died: {row} in {test}", flush=True)
            if died[row].count(test) > 1:
                found(screen, row, test, ["the kernel died"], args, count.get(row, 0), 0)


def found(screen, row, test, news, args, count, seconds, **more):
    entry = {"row": row, "test": test, "news": news[:3], "tests": count, "seconds": round(seconds or 0, 1), **more}
    if args.again:
        entry["again"] = True
    screen.note("run", entry)
    extra = "" if test else f" ({count} tests, {seconds:.0f} s{'' if more.get('whole') else ', not all'})"
    print(f"| `{row}` | {test or '**nothing**'} | {(news or [''])[0][:110]}{extra} |", flush=True)


def table(args):
    out = pathlib.Path(args.out).resolve()
    args.side = "ours"
    rows = json.loads((out / "rows.json").read_text())
    sides = {}
    for side in ("ours", "c"):
        path = out / "screen" / f"{side}-run.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        sides[side] = {entry["row"]: entry for entry in map(json.loads, lines)}
    for row in rows:
        ours, c = (sides[side].get(row["name"]) for side in ("ours", "c"))
        if ours or c:
            cells = [f"`{entry['test']}`" if entry and entry.get("test") else "**nothing**" if entry else "not run"
                     for entry in (ours, c)]
            print(f"| `{row['name']}` | {row['file']} `{row['function']}()` | {row['drawn']} | {' | '.join(cells)} |")
    for side, results in sides.items():
        caught = sum(bool(entry.get("test")) for entry in results.values())
        print(f"{side}: {caught} of {len(results)}")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("reach", "run", "table"))
    parser.add_argument("names", nargs="*", help="mutations; for reach, expressions that match tests")
    parser.add_argument("--out", required=True, help="folder of the image; results go to its folder `screen`")
    parser.add_argument("--side", choices=("ours", "c"), default="ours", help="whose tests [ours]")
    parser.add_argument("--programs", type=lambda path: pathlib.Path(path).resolve(),
                        help="folder of test programs, named as their targets, to use instead of what is built here")
    parser.add_argument("--drawn", help="only mutations drawn this way")
    parser.add_argument("--tests", help="only tests that match this expression")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds of tests for one mutation")
    parser.add_argument("--limit", type=int, help="seconds that `reach` gives one test [C: 900, ours: 60]")
    parser.add_argument("--batch", type=int, default=40, help="mutations for one guest, at most")
    parser.add_argument("--quick", action="store_true", help="one variant of each test only")
    parser.add_argument("--again", action="store_true", help="those once more that were missed")
    parser.add_argument("--all", action="store_true", help="all variants of tests alike")
    args = parser.parse_intermixed_args()
    sys.exit({"reach": reach, "run": run, "table": table}[args.verb](args))


if __name__ == "__main__":
    main()
