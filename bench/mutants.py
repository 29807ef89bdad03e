#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Builds kernels with one bug each and tells which targets notice it.

A mutation is one line in bench/mutations.tsv: name, file, function, the text
to find in that function and what replaces it. Source and build directory are
never written to: both are lower layers of an overlay mount in a mount
namespace of this script's own, so that only the changed file and the link are
built. Needs root.

    bench/mutants.py build --source TREE --build OBJDIR --out IMAGES [NAME...]
    bench/mutants.py run   --out IMAGES [--targets "pmd_split hmm"] [NAME...]
"""

import argparse
import csv
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
HUGEPROBE = HERE.parent / "target/x86_64-unknown-linux-gnu/debug/hugeprobe"


def mutations(names):
    """The mutations asked for, or all, as dictionaries."""
    with open(HERE / "mutations.tsv", newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))
    if not names:
        return rows
    known = {row["name"]: row for row in rows}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no mutation named {', '.join(unknown)} in bench/mutations.tsv")
    return [known[name] for name in names]


def mutated(text, function, find, replace):
    """The file with the first occurrence of `find` inside `function` replaced."""
    start = re.search(rf"^[a-z][^;{{}}]*\b{re.escape(function)}\([^;{{}}]*\)\s*\{{", text, re.M)
    if not start:
        raise ValueError(f"no definition of {function}()")
    end = text.index("\n}", start.end())
    body = text[start.end():end]
    find, replace = find.replace("\\n", "\n").replace("\\t", "\t"), replace.replace("\\n", "\n").replace("\\t", "\t")
    if find not in body:
        raise ValueError(f"'{find}' is not in {function}()")
    return text[: start.end()] + body.replace(find, replace, 1) + text[end:]


def build_one(row, args):
    """Builds one mutated image; the caller is in its own mount namespace."""
    work = pathlib.Path(tempfile.mkdtemp(prefix="mutant-", dir=args.scratch))
    mounted = []
    try:
        for name, lower in (("source", args.source), ("build", args.build)):
            upper, inner = work / name, work / f"{name}.work"
            upper.mkdir()
            inner.mkdir()
            options = f"lowerdir={lower},upperdir={upper},workdir={inner}"
            subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, lower], check=True)
            mounted.append(lower)
        victim = pathlib.Path(args.source) / row["file"]
        victim.write_text(mutated(victim.read_text(), row["function"], row["find"], row["replace"]))
        with open(pathlib.Path(args.out) / f"{row['name']}.log", "w") as log:
            done = subprocess.run(
                ["make", "-C", args.build, f"-j{os.cpu_count() + 1}", "bzImage", *args.make],
                stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            return False
        shutil.copy(pathlib.Path(args.build) / "arch/x86/boot/bzImage",
                    pathlib.Path(args.out) / f"{row['name']}.bzImage")
        return True
    finally:
        for lower in reversed(mounted):
            subprocess.run(["umount", "-l", lower], check=False)
        shutil.rmtree(work, ignore_errors=True)


def build(args):
    if os.environ.get("MUTANTS_UNSHARED") != "1":
        os.execvpe("unshare", ["unshare", "--mount", "--propagation", "private",
                               sys.executable, *sys.argv], {**os.environ, "MUTANTS_UNSHARED": "1"})
    args.source, args.build = os.path.realpath(args.source), os.path.realpath(args.build)
    pathlib.Path(args.out).mkdir(parents=True, exist_ok=True)
    failed = 0
    for row in mutations(args.names):
        if (pathlib.Path(args.out) / f"{row['name']}.bzImage").exists():
            continue
        try:
            good = build_one(row, args)
        except ValueError as error:
            print(f"{row['name']}: {error}")
            good = False
        print(f"{row['name']}: {'built' if good else 'NOT built'}", flush=True)
        failed += not good
    return 1 if failed else 0


def run(args):
    print("| mutation | noticed by |\n|---|---|")
    missed = 0
    for row in mutations(args.names):
        image = pathlib.Path(args.out) / f"{row['name']}.bzImage"
        if not image.exists():
            print(f"| {row['name']} | (not built) |", flush=True)
            continue
        results = pathlib.Path(args.out) / f"{row['name']}.results"
        shutil.rmtree(results, ignore_errors=True)
        targets = args.targets or row["targets"]
        command = [str(HUGEPROBE), "run", "--kernel", str(image), "--output", str(results)]
        if args.tests:
            command += ["--tests", args.tests]
        command += targets.split()
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       stdin=subprocess.DEVNULL, check=False)
        failed = []
        for line in open(results / "events.jsonl"):
            event = json.loads(line)
            if event["event"] == "test_ends" and event["verdict"] in ("fail", "timeout", "crashed"):
                failed.append(f"{event['test']['target']}.{event['test']['name']}")
        missed += not failed
        shown = ", ".join(failed[:6]) + (f" and {len(failed) - 6} more" if len(failed) > 6 else "")
        print(f"| {row['name']} | {shown or 'nothing'} |", flush=True)
    return 1 if missed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    builder = verbs.add_parser("build", help="build an image for each mutation")
    builder.add_argument("--source", required=True, help="kernel tree, not written to")
    builder.add_argument("--build", required=True, help="its finished build directory, not written to")
    builder.add_argument("--scratch", default=tempfile.gettempdir(), help="where the overlays live")
    builder.add_argument("--make", action="append", default=[], help="further argument for make")
    runner = verbs.add_parser("run", help="run the targets on each image")
    runner.add_argument("--targets", help="instead of those in the table")
    runner.add_argument("--tests", help="only tests matching this expression")
    for verb in (builder, runner):
        verb.add_argument("--out", required=True, help="folder of the images")
        verb.add_argument("names", nargs="*", help="mutations; all when none is named")
    args = parser.parse_args()
    sys.exit(build(args) if args.verb == "build" else run(args))


if __name__ == "__main__":
    main()
