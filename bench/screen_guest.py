#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""The guest's half of bench/screen.py: runs tests under one mutation after another.

Reads the job that the host wrote, prints one JSON line for each event, and ends
early, having said why, when this kernel cannot be trusted any longer.
"""

import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

KNOB = "/sys/module/memory/parameters/mutant"
PROGRAMS = "/run/hugeprobe"
# What the kernel says when something is wrong: the kinds of vm/src/splat.
COMPLAINT = re.compile(
    r"WARNING: .* at |WARNING: (possible|suspicious)|^BUG|kernel BUG|Oops|general protection fault|Bad page|Bad rss"
    r"|[Bb]ad pmd|bad pud|nrecognized swap entry|Bad swap|Unused swap offset|non-zero pgtables|UBSAN"
    r"|blocked for more than|soft lockup|stall|list_(add|del) corruption|refcount_t|Unable to handle")
# After one of these nothing that follows can be believed.
LASTING = re.compile(r"^BUG: (?!Bad rss|non-zero pgtables)|kernel BUG|Oops|general protection|blocked for more"
                     r"|soft lockup|corruption|stall")
LATE = re.compile(r"Bad rss|non-zero pgtables")
ENVIRONMENT = {"HUGEPROBE_GUEST": "1", "HOME": "/root", "TERM": "dumb", "TMPDIR": "/tmp",
               "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


# Complaints in one event: a line of it must fit into a terminal's 4096 bytes.
SHOWN = 5


def say(**event):
    for key in ("failed", "kernel", "news"):
        if key in event:
            event[key] = [what[:200] for what in event[key][:SHOWN]]
    print("@@" + json.dumps(event), flush=True)


def put(path, value):
    try:
        with open(path, "w") as knob:
            knob.write(value)
    except OSError:
        pass  # what a kernel lacks needs no setting


def choose(mutant):
    """Unlike other settings, this one must be there."""
    with open(KNOB, "w") as knob:
        knob.write(mutant)


class Log:
    """The kernel's log, read as it grows."""

    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        self.complaints()

    def complaints(self):
        """The complaints since the last call; counters of vm.stat_refresh among them."""
        found = []
        for _ in range(20000):  # a kernel may complain without end
            try:
                record = os.read(self.fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return found
            except OSError:
                continue  # overwritten before we read it
            text = record.split("\n")[0].partition(";")[2]
            counter = re.match(r"vmstat_refresh: (\S+) -(\d+)", text)
            if COMPLAINT.search(text) or (counter and int(counter[2]) > 32):
                found.append(re.sub(r"(CPU: \d+ |PID: \d+|0x[0-9a-f]+|pid:?\d+|#\d+)", "", text)[:160])
        return found


SETTINGS = ("/sys/kernel/mm/transparent_hugepage/**/*", "/proc/sys/vm/*", "/proc/sys/kernel/numa_balancing")


def settings():
    """What tests may change, for those that are killed before they change it back."""
    values = {}
    for path in (path for pattern in SETTINGS for path in glob.glob(pattern, recursive=True)):
        try:
            if os.stat(path).st_mode & 0o200 and not os.path.isdir(path):
                with open(path) as file:
                    text = file.read().strip()
                chosen = re.search(r"\[(\S+)\]", text)
                values[path] = chosen[1] if chosen else text
        except OSError:
            pass  # for writing only
    return values


def kill_others():
    """Ends all processes but this one, its parents and the kernel's: a test's children among them."""
    spared, parent = {1}, os.getpid()
    while parent > 1:
        spared.add(parent)
        with open(f"/proc/{parent}/stat") as stat:
            parent = int(stat.read().rpartition(")")[2].split()[1])
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            if pid not in spared and os.readlink(f"/proc/{pid}/exe"):
                os.kill(pid, signal.SIGKILL)
        except OSError:
            pass  # a thread of the kernel, or gone


class Screen:
    def __init__(self, job):
        self.job, self.log = job, Log()
        self.local = {}

    def prepare(self):
        for name, value in (("kernel/watchdog_thresh", "20"), ("kernel/hung_task_timeout_secs", "60"),
                            ("kernel/printk_ratelimit", "0"), ("vm/compaction_proactiveness", "0"),
                            ("kernel/numa_balancing", "0")):
            put(f"/proc/sys/{name}", value)
        if self.job.get("module"):
            subprocess.run(["insmod", *self.job["module"].split()], check=False)
        if self.job["side"] == "c":
            put("/proc/sys/vm/nr_hugepages", "64")
            os.makedirs("/run/ext4", exist_ok=True)
            disk = f"{PROGRAMS}/disk"
            # Not `mount -o loop`, which still holds the device for writing when it mounts: a kernel
            # without CONFIG_BLK_DEV_WRITE_MOUNTED refuses.
            for command in (f"truncate -s 512M {disk}", f"mkfs.ext4 -q {disk}", f"losetup /dev/loop7 {disk}",
                            "mount /dev/loop7 /run/ext4"):
                subprocess.run(command.split(), check=False, stdout=subprocess.DEVNULL)
        else:
            # As in every guest of ours: khugepaged has scanned once and sleeps.
            import mmap
            self.memory = mmap.mmap(-1, 4 << 20)
            self.memory.madvise(mmap.MADV_HUGEPAGE)
            for name, value in (("pages_to_scan", "1000000"), ("alloc_sleep_millisecs", "3600000"),
                                ("scan_sleep_millisecs", "3600000")):
                put(f"/sys/kernel/mm/transparent_hugepage/khugepaged/{name}", value)
            time.sleep(1)
        self.log.complaints()
        self.settings = settings()

    def restore(self):
        now = settings()
        for path, value in self.settings.items():
            if now.get(path) != value:
                put(path, value)

    def program(self, path):
        if path not in self.local:
            folder = f"{PROGRAMS}/s{len(self.local)}"
            os.makedirs(folder, exist_ok=True)
            self.local[path] = shutil.copy(path, folder)
        return self.local[path]

    def run(self, mutant, test):
        """Runs one test; what it says is in `failed`, nothing when it is content."""
        program = self.program(test["program"])
        put("/sys/kernel/debug/clear_warn_once", "1")
        choose(mutant)
        began = time.monotonic()
        process = subprocess.Popen([program, *test["arguments"]], env=ENVIRONMENT, cwd="/", start_new_session=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        timed_out = False
        try:
            output = process.communicate(timeout=test["limit"])[0]
        except subprocess.TimeoutExpired:
            timed_out = True
            kill_others()
            try:
                output = process.communicate(timeout=20)[0]
            except subprocess.TimeoutExpired:
                output = b""
        seconds = time.monotonic() - began
        with open(KNOB) as knob:
            reached = [int(number) for number in knob.read().split()]
        choose("none")
        put("/proc/sys/vm/stat_refresh", "1")
        kill_others()
        judge = verdict_of_c if self.job["side"] == "c" else verdict_of_ours
        verdict, failed = judge(output.decode(errors="replace"), process.returncode)
        if timed_out:
            verdict, failed = "timeout", failed + [f"did not end within {test['limit']} s"]
        complaints = self.log.complaints()
        return {"verdict": verdict, "failed": failed, "kernel": complaints, "seconds": round(seconds, 2), "reached": reached}


def verdict_of_ours(output, code):
    if code == 0 and "test result: ok. 1 passed" in output:
        return "pass", []
    if code in (2, 4):
        return {2: "xfail", 4: "skip"}[code], []
    panic = re.search(r"panicked at ([^\n]*)\n([^\n]*)", output)
    return "fail", [f"{panic[2]} ({panic[1].rstrip(':')})" if panic else f"exit code {code}"]


def verdict_of_c(output, code):
    """Each failed result is named, so that what fails anyhow can be told from what is new."""
    failed = sorted(set(re.findall(r"^(?:# )*not ok \d+ (?!.*# SKIP)(.*)$", output, re.M)))
    # Some of the programs speak no TAP.
    failed += sorted(set(re.findall(r"^.*\.\.\. Fail.*$|^.*\[FAIL\].*$", output, re.M)))
    if code not in (0, 1, 2, 4):
        failed.append(f"ended with {code}")
    results = len(re.findall(r"^ok \d+|\.\.\. OK", output, re.M))
    if code == 1 and not failed:
        failed.append("exit code 1")
    return ("fail" if failed or code == 1 else "skip" if code == 4 else "pass"), failed + [f"results: {results}"]


def plain(complaint):
    """A complaint without the CPU and the process it came from."""
    return re.sub(r",? (on )?CPU.*| Comm:.*", "", complaint)


def new_in(result, usual):
    """What `result` complains of and the unmutated kernel does not."""
    known = set(usual.get("failed", [])) | {plain(what) for what in usual.get("kernel", [])}
    of_tests = [what for what in result["failed"] if what not in known and not what.startswith("results:")]
    return of_tests + [f"the kernel: {what}" for what in result["kernel"] if plain(what) not in known]


def screen(job):
    guest = Screen(job)
    guest.prepare()
    say(event="ready")
    for row in job["rows"]:
        for name in row["tests"]:
            test = job["tests"][name]
            say(event="begin", row=row["name"], test=name)
            result = guest.run(row["name"], test)
            news = new_in(result, test)
            say(event="end", row=row["name"], test=name, news=news, **result)
            lasting = any(LASTING.search(what) for what in result["kernel"])
            if row["name"] == "none":
                if lasting or result["verdict"] == "timeout":
                    return say(event="stop", why=f"{name} on the unmutated kernel")
                continue
            if not news:
                continue
            if result["verdict"] == "timeout":
                guest.restore()
            if lasting:
                say(event="caught", row=row["name"], test=name, news=news)
                return say(event="stop", why=f"{row['name']} in {name}")
            control = guest.run("none", test)
            # Counters that went wrong before are told of when a process ends, maybe only now.
            unsteady = [what for what in new_in(control, test) if not LATE.search(what)]
            if unsteady:
                say(event="unsteady", row=row["name"], test=name, news=unsteady)
                return say(event="stop", why=f"{name} fails without {row['name']}, too")
            # What did not end costs too much to be seen twice.
            again = result["verdict"] == "timeout" or new_in(guest.run(row["name"], test), test)
            if again:
                say(event="caught", row=row["name"], test=name, news=news)
                break
            say(event="once", row=row["name"], test=name, news=news)
        else:
            if row["name"] != "none":
                say(event="missed", row=row["name"])
        memory = re.search(r"MemAvailable: +(\d+)", open("/proc/meminfo").read())
        if int(memory[1]) < 1500 << 10:
            return say(event="stop", why="memory was used up")
    say(event="done")


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        screen(json.load(file))
