#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Wall time of target `hmm` against the C suite it covers, in one run in one
# VM: the same tests by name (36 + 3, each for private and coherent memory),
# without the C suite's benchmark.
#
#   bench/hmm-vs-c.sh KDIR IMAGE     KDIR: the tree that IMAGE was built from
#
# The C suite is built from KDIR in a scratch folder and not kept. Needs gcc and
# make; run it on an idle machine.
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2; }
kdir=$(realpath "$1") image=$(realpath "$2")
here=$(cd "$(dirname "$0")/.." && pwd)
out=$here/target/x86_64-unknown-linux-gnu/debug
work=$(mktemp -d "$here/target/hmm-vs-c.XXXXXX")
trap 'rm -rf "$work"' EXIT

build_c() {
    local tests=$work/tree/tools/testing
    mkdir -p "$tests" "$work/tree/lib" "$work/tree/mm"
    cp -r "$kdir/tools/testing/selftests" "$tests/"
    cp "$kdir/lib/test_hmm_uapi.h" "$work/tree/lib/"
    cp "$kdir/mm/gup_test.h" "$work/tree/mm/"
    make -s -C "$kdir" O="$work/headers" headers > /dev/null
    cd "$tests/selftests/mm"
    local helpers=() file
    # The helpers were renamed over time; the suite links what is there.
    for file in vm_util.c hugepage_settings.c thp_settings.c; do
        if [ -e "$file" ]; then helpers+=("$file"); fi
    done
    gcc -O2 -D_GNU_SOURCE= -w -I.. -I"$work/tree" -isystem "$work/headers/usr/include" \
        hmm-tests.c "${helpers[@]}" -static -lpthread -lrt -lm -o "$work/hmm-c"
    cd "$here"
}

build_rust() {
    (cd "$here" && cargo test --quiet --no-run -p selftests --test hmm)
    local newest
    newest=$(find "$out/deps" -name 'hmm-*' -type f -executable -printf '%T@ %p\n' | sort -n | tail -n 1)
    cp "${newest#* }" "$work/hmm-rust"
}

# What runs in the guest: each suite as it is meant to run, one process per test.
guest_script() {
    cat > "$work/guest.py" <<'GUEST'
import mmap, os, re, shutil, subprocess, sys, time

work = sys.argv[1]
for name in ("hmm-c", "hmm-rust"):
    shutil.copy(f"{work}/{name}", "/run/")
os.environ["HUGEPROBE_GUEST"] = "1"
with open("/proc/sys/vm/nr_hugepages", "w") as knob:
    knob.write("2")
# Background work rests, as in every guest that runs tests; for both suites.
memory = mmap.mmap(-1, 4 << 20)
memory.madvise(mmap.MADV_HUGEPAGE)
for name, value in (("pages_to_scan", 1000000), ("alloc_sleep_millisecs", 3600000), ("scan_sleep_millisecs", 3600000)):
    with open(f"/sys/kernel/mm/transparent_hugepage/khugepaged/{name}", "w") as knob:
        knob.write(str(value))
time.sleep(1)

listing = subprocess.run(["/run/hmm-rust", "--list", "--format", "terse"], capture_output=True, text=True).stdout
names = [line.removesuffix(": test") for line in listing.splitlines() if line.endswith(": test")]
names = [name for name in names if re.search(r"_device_(private|coherent)$", name) and "benchmark" not in name]

start = time.monotonic()
c = subprocess.run(["/run/hmm-c", "-T", "benchmark_thp_migration"], capture_output=True, text=True)
c_seconds = time.monotonic() - start
start = time.monotonic()
failed = [name for name in names if subprocess.run(
    ["/run/hmm-rust", name, "--exact", "--nocapture", "--test-threads=1"], capture_output=True).returncode]
rust_seconds = time.monotonic() - start

print(*re.findall(r"^# Totals.*", c.stdout, re.M))
print(f"C suite: {c_seconds:.1f} s; Rust: {rust_seconds:.1f} s for {len(names)} tests, not passed: {failed}")
print(f"Rust / C = {rust_seconds / c_seconds:.2f}")
GUEST
}

build_c
build_rust
guest_script
exec "$out/hugeprobe" boot --kernel "$image" --mem 6G \
    --append 'memmap=512M$0x100000000 memmap=512M$0x130000000 test_hmm.spm_addr_dev0=0x100000000 test_hmm.spm_addr_dev1=0x130000000' \
    --exec "python3 $work/guest.py $work"
