#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Builds a kernel with many bugs, one at a time, and tells which tests notice.

A mutation is one line in bench/mutations.tsv: name, file, function, the text
to find in that function and what replaces it. One kernel holds all of them:
each mutated function exists once more for each mutation, and the word
`mutant=NAME` on the kernel's command line says which one is called, or a write
to /sys/module/memory/parameters/mutant. So there is one build, and a bug costs
a boot; bench/screen.py spares even that.

Source and build directory are never written to: both are lower layers of an
overlay mount in a mount namespace of this script's own, so that only the
changed files and the link are built. Needs root.

    bench/mutants.py build --source TREE --build OBJDIR --out DIR [NAME...]
    bench/mutants.py run   --out DIR [--targets "pmd_split hmm"] [NAME...]
    bench/mutants.py table --out DIR
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
HUGEPROBE = pathlib.Path(os.environ.get("HUGEPROBE") or HERE.parent / "target/x86_64-unknown-linux-gnu/debug/hugeprobe")
MODULE = "hugeprobe_pfnmap"
# Which file defines the switch does not matter; this one is always built.
SWITCH_FILE = "mm/memory.c"
SWITCH = """
#include <linux/moduleparam.h>

int mutant __read_mostly;
/* Which mutated functions were called since the last choice, by their first mutant. */
unsigned char mutant_reached[{count} + 1];
static const char * const mutant_names[] = {{ {names} }};

static int choose_mutant(char *name)
{{
	mutant = match_string(mutant_names, ARRAY_SIZE(mutant_names), name) + 1;
	if (mutant <= 0)
		panic("no mutant %s", name);
	pr_notice("mutant: %s\\n", name);
	return 0;
}}
early_param("mutant", choose_mutant);

/* At run time a name, or `none`; reading gives the functions reached. */
static int mutant_set(const char *value, const struct kernel_param *param)
{{
	int number = 0;

	if (!sysfs_streq(value, "none")) {{
		number = __sysfs_match_string(mutant_names, ARRAY_SIZE(mutant_names), value) + 1;
		if (number <= 0)
			return -EINVAL;
	}}
	WRITE_ONCE(mutant, number);
	memset(mutant_reached, 0, sizeof(mutant_reached));
	return 0;
}}

static int mutant_get(char *buffer, const struct kernel_param *param)
{{
	int number, length = 0;

	for (number = 1; number < ARRAY_SIZE(mutant_reached); number++)
		if (mutant_reached[number])
			length += scnprintf(buffer + length, PAGE_SIZE - length, "%d ", number);
	return length;
}}

static const struct kernel_param_ops mutant_ops = {{ .set = mutant_set, .get = mutant_get }};
module_param_cb(mutant, &mutant_ops, NULL, 0600);
"""


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


class Function:
    """A function definition in a C file."""

    def __init__(self, text, name):
        # Words for sparse may stand between arguments and body: __releases(vmf->ptl).
        pattern = (rf"^(?P<type>[a-z][^;{{}}()]*)\b{re.escape(name)}\((?P<args>[^;{{}}]*?)\)"
                   r"\s*(?:__\w+\([^)]*\)\s*)*\{")
        found = re.search(pattern, text, re.M)
        if not found:
            raise ValueError(f"no definition of {name}()")
        self.name, self.start, self.body = name, found.start(), found.end()
        self.end = text.index("\n}", found.end()) + 3
        self.type, self.args = found["type"], found["args"]
        self.head, self.code = text[found.start():found.end()], text[found.end():self.end]

    def copy(self, name, find, replace):
        """The whole function under another name with one change in it."""
        if find not in self.code:
            raise ValueError(f"'{find}' is not in {self.name}()")
        head = re.sub(rf"\b{re.escape(self.name)}\(", f"{name}(", self.head, count=1)
        if "static" not in self.type:
            head = "static " + head
        return head + self.code.replace(find, replace, 1) + "\n"

    def call(self, name):
        """Statement that calls `name` as this function was called, and returns."""
        args = [re.search(r"(\w+)(\[\])*$", arg.strip())[1] for arg in self.args.split(",")]
        call = f"{name}({', '.join(arg for arg in args if arg != 'void')});"
        if re.search(r"\bvoid\s*$", self.type):
            return f"{{ {call} return; }}"
        return f"return {call}"


def mutate(text, rows):
    """The file with a copy of the function for each of `rows` in front of it."""
    by_function = {}
    for row in rows:
        by_function.setdefault(row["function"], []).append(row)
    for name, rows_here in by_function.items():
        function = Function(text, name)
        reached = f"mutant_reached[{rows_here[0]['number']}]"
        copies, calls = "", f"\n\tif (unlikely(!{reached}))\n\t\t{reached} = 1;"
        for row in rows_here:
            find, replace = (row[key].replace("\\n", "\n").replace("\\t", "\t") for key in ("find", "replace"))
            copy_name = f"{name}__{row['name']}"
            copies += function.copy(copy_name, find, replace)
            row["reach"] = rows_here[0]["number"]
            calls += f"\n\tif (unlikely(mutant == {row['number']})) {function.call(copy_name)}"
        text = text[:function.start] + copies + function.head + calls + function.code + text[function.end:]
    return "extern int mutant;\nextern unsigned char mutant_reached[];\n" + text


def compiler(args):
    """How the folder was built: another word for the compiler would rebuild all of it."""
    saved = pathlib.Path(args.build) / "init/.main.o.cmd"
    through_ccache = saved.exists() and ":= ccache gcc " in saved.read_text().splitlines()[0]
    return ["CC=ccache gcc"] if through_ccache else []


def build_all(rows, args):
    """Builds the kernel; the caller is in its own mount namespace."""
    work = pathlib.Path(tempfile.mkdtemp(prefix="mutants-", dir=args.scratch))
    mounted = []
    try:
        for name, lower in (("source", args.source), ("build", args.build)):
            upper, inner = work / name, work / f"{name}.work"
            upper.mkdir()
            inner.mkdir()
            options = f"lowerdir={lower},upperdir={upper},workdir={inner}"
            subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, lower], check=True)
            mounted.append(lower)
        for number, row in enumerate(rows, 1):
            row["number"] = number
        for file in sorted({row["file"] for row in rows} | {SWITCH_FILE}):
            victim = pathlib.Path(args.source) / file
            text = mutate(victim.read_text(), [row for row in rows if row["file"] == file])
            if file == SWITCH_FILE:
                text += SWITCH.format(names=", ".join(f'"{row["name"]}"' for row in rows), count=len(rows))
            victim.write_text(text)
        log_path = pathlib.Path(args.out) / "build.log"
        with open(log_path, "w") as log:
            done = subprocess.run(
                ["make", "-C", args.build, f"-j{os.cpu_count()}", *compiler(args), "bzImage", *args.make],
                stdout=log, stderr=subprocess.STDOUT, check=False,
                env={**os.environ, "KBUILD_BUILD_USER": "hugeprobe", "KBUILD_BUILD_HOST": "hugeprobe"})
        if done.returncode:
            print(f"the kernel did not build; see {log_path}")
            return 1
        shutil.copy(pathlib.Path(args.build) / "arch/x86/boot/bzImage", pathlib.Path(args.out) / "bzImage")
        # Which number stands for which mutation, and for its function.
        (pathlib.Path(args.out) / "rows.json").write_text(json.dumps(rows, indent=1))
        build_module(args)
        # Leads to where modules for it can be built: the unmutated folder fits.
        symbols = pathlib.Path(args.out) / "Module.symvers"
        symbols.unlink(missing_ok=True)
        symbols.symlink_to(pathlib.Path(args.build) / "Module.symvers")
        return 0
    finally:
        for lower in reversed(mounted):
            subprocess.run(["umount", "-l", lower], check=False)
        shutil.rmtree(work, ignore_errors=True)


def build_module(args):
    """The module of ours that some targets want; without it their tests skip."""
    with tempfile.TemporaryDirectory() as work:
        shutil.copytree(HERE.parent / "vm/modules" / MODULE, work, dirs_exist_ok=True)
        subprocess.run(["make", "-s", "-C", args.build, f"M={work}", "modules"], check=False, stdout=subprocess.DEVNULL)
        if (pathlib.Path(work) / f"{MODULE}.ko").exists():
            shutil.copy(pathlib.Path(work) / f"{MODULE}.ko", args.out)


def build(args):
    if os.environ.get("MUTANTS_UNSHARED") != "1":
        os.execvpe("unshare", ["unshare", "--mount", "--propagation", "private",
                               sys.executable, *sys.argv], {**os.environ, "MUTANTS_UNSHARED": "1"})
    args.source, args.build = os.path.realpath(args.source), os.path.realpath(args.build)
    pathlib.Path(args.out).mkdir(parents=True, exist_ok=True)
    rows = []
    for row in mutations(args.names):
        try:
            mutate((pathlib.Path(args.source) / row["file"]).read_text(), [{**row, "number": 1}])
            rows.append(row)
        except ValueError as error:
            print(f"{row['name']}: left out: {error}", flush=True)
    return build_all(rows, args)


def noticed(results):
    """The tests that failed in a run, or what the machines died of before any."""
    failed, fates = [], []
    for line in open(results / "events.jsonl"):
        event = json.loads(line)
        if event["event"] == "test_ends" and event["verdict"] in ("fail", "timeout", "crashed"):
            failed.append(f"{event['test']['target']}.{event['test']['name']}")
        elif event["event"] == "stray_splat" and not event["splat"].get("allowed"):
            fates.append(f"the kernel: {event['splat']['title']}")
        elif event["event"] == "vm_ends" and event["fate"]["kind"] in ("panic", "hang", "lost"):
            fates.append(f"the kernel: {event['fate'].get('title') or event['fate'].get('detail')}")
    return failed or fates


def run(args):
    missed = 0
    for row in mutations(args.names):
        results = pathlib.Path(args.out) / "results" / row["name"]
        shutil.rmtree(results, ignore_errors=True)
        results.parent.mkdir(exist_ok=True)
        command = [str(HUGEPROBE), "run", "--kernel", str(pathlib.Path(args.out) / "bzImage"),
                   "--append", f"mutant={row['name']}", "--output", str(results)]
        if not args.all:
            command.append("--fail-fast")
        if args.tests:
            command += ["--tests", args.tests]
        command += (args.targets or row["targets"]).split()
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       stdin=subprocess.DEVNULL, check=False)
        failed = noticed(results) if (results / "events.jsonl").exists() else ["(did not run)"]
        missed += not failed
        print(line_of(row["name"], failed), flush=True)
    return 1 if missed else 0


def line_of(name, failed):
    shown = ", ".join(failed[:3]) + (f" and {len(failed) - 3} more" if len(failed) > 3 else "")
    return f"| {name} | {shown or 'nothing'} |"


def table(args):
    print("| mutation | noticed by |\n|---|---|")
    caught = count = 0
    for row in mutations(args.names):
        results = pathlib.Path(args.out) / "results" / row["name"]
        if not (results / "events.jsonl").exists():
            continue
        failed = noticed(results)
        count += 1
        caught += bool(failed)
        print(line_of(row["name"], failed))
    print(f"\n{caught} of {count} noticed")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    builder = verbs.add_parser("build", help="build the kernel that has all mutations")
    builder.add_argument("--source", required=True, help="kernel tree, not written to")
    builder.add_argument("--build", required=True, help="its finished build directory, not written to")
    builder.add_argument("--scratch", default=tempfile.gettempdir(), help="where the overlays live")
    builder.add_argument("--make", action="append", default=[], help="further argument for make")
    runner = verbs.add_parser("run", help="boot each mutation and run its targets")
    runner.add_argument("--targets", help="instead of those in the table")
    runner.add_argument("--tests", help="only tests matching this expression")
    runner.add_argument("--all", action="store_true", help="go on after the first failure")
    tabler = verbs.add_parser("table", help="what the runs so far found, as a table")
    for verb in (builder, runner, tabler):
        verb.add_argument("--out", required=True, help="folder of the image and the results")
        verb.add_argument("names", nargs="*", help="mutations; all when none is named")
    args = parser.parse_args()
    sys.exit({"build": build, "run": run, "table": table}[args.verb](args))


if __name__ == "__main__":
    main()
