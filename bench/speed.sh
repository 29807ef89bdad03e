#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# The figures of docs/performance.md that concern building and booting, as
# ratios from one run:
#
#   bench/speed.sh boot IMAGE [RUNS]     machine start to first test, against plain QEMU to init
#   bench/speed.sh build SOURCE PROFILE  `hugeprobe kernel build` against a bare make of the same .config
#
# Needs qemu-system-x86_64, gcc, cpio; run it on an idle machine.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
hugeprobe=$here/target/x86_64-unknown-linux-gnu/debug/hugeprobe
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

now_ms() { date +%s%3N; }
median() { sort -n | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

# An initramfs whose init ends the machine at once.
make_initramfs() {
    mkdir "$work/root"
    cat > "$work/init.c" <<'C'
#include <sys/reboot.h>
int main(void) { return reboot(RB_AUTOBOOT); }
C
    gcc -static -O2 -o "$work/root/init" "$work/init.c"
    (cd "$work/root" && echo init | cpio --quiet -o -H newc) > "$work/initramfs"
}

plain_ms() {
    local start
    start=$(now_ms)
    timeout 120 qemu-system-x86_64 -machine q35,accel=tcg -cpu max -smp 2 -m 6G -display none -no-reboot \
        -serial null -kernel "$1" -initrd "$work/initramfs" -append 'panic=-1 quiet' < /dev/null > /dev/null
    echo $(($(now_ms) - start))
}

# From "vm_boots" to the first "test_begins" of a run's events.
ours_ms() {
    "$hugeprobe" run --kernel "$1" --accel tcg --output "$work/results" --tests '^pmd_split\.accounting::rss$' pmd_split \
        > /dev/null 2>&1 < /dev/null || true
    python3 - "$work/results/events.jsonl" <<'PY'
import json, sys
events = [json.loads(line) for line in open(sys.argv[1])]
at = lambda name: next(e["ms"] for e in events if e["event"] == name)
print(at("test_begins") - at("vm_boots"))
PY
    rm -rf "$work/results"
}

boot() {
    local image=$1 runs=${2:-5} i
    make_initramfs
    for ((i = 0; i < runs; i++)); do
        plain_ms "$image" >> "$work/plain"
        ours_ms "$image" >> "$work/ours"
    done
    awk -v plain="$(median < "$work/plain")" -v ours="$(median < "$work/ours")" -v runs="$runs" 'BEGIN {
        printf "plain QEMU to init: %d ms; machine start to first test: %d ms (medians of %d)\n", plain, ours, runs
        printf "limit 1.5 x plain + 2000 ms = %d ms; ours is %.2f of it\n", 1.5 * plain + 2000, ours / (1.5 * plain + 2000)
    }'
}

build() {
    local source=$1 profile=$2 start ours bare config jobs
    jobs=$(nproc)
    export HUGEPROBE_CACHE=$work/cache
    start=$(now_ms)
    "$hugeprobe" kernel build --kdir "$source" --profile "$profile" > "$work/build.out"
    ours=$(($(now_ms) - start))
    config=$(find "$work/cache" -name .config | head -n 1)
    mkdir "$work/bare"
    cp "$config" "$work/bare/.config"
    start=$(now_ms)
    make -C "$source" O="$work/bare" -j"$jobs" olddefconfig bzImage > /dev/null
    bare=$(($(now_ms) - start))
    awk -v ours="$ours" -v bare="$bare" 'BEGIN { printf "hugeprobe kernel build / bare make: %.2f (%d s / %d s)\n", ours / bare, ours / 1000, bare / 1000 }'
}

case ${1:-} in
boot) shift; boot "$@" ;;
build) shift; build "$@" ;;
*) sed -n '3,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
