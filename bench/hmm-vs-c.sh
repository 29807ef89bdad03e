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
    cat > "$work/guest.sh" <<GUEST
mount -t debugfs none /sys/kernel/debug 2> /dev/null
mount -t tmpfs none /tmp 2> /dev/null
mount -t tmpfs none /run 2> /dev/null
cp $work/hmm-c $work/hmm-rust /tmp/
export HUGEPROBE_GUEST=1
names=\$(/tmp/hmm-rust --list --format terse | sed -n 's/: test\$//p' | grep -E '_device_(private|coherent)\$' | grep -v benchmark)
echo 2 > /proc/sys/vm/nr_hugepages
# Background work rests, as in every guest of hugeprobe; for both suites.
python3 -c 'import mmap, time; m = mmap.mmap(-1, 4 << 20); m.madvise(mmap.MADV_HUGEPAGE); time.sleep(9999)' &
thp=/sys/kernel/mm/transparent_hugepage/khugepaged
echo 1000000 > \$thp/pages_to_scan
echo 3600000 > \$thp/alloc_sleep_millisecs
sleep 1
echo 3600000 > \$thp/scan_sleep_millisecs
sleep 1
now() { date +%s%3N; }
start=\$(now)
/tmp/hmm-c -T benchmark_thp_migration > /tmp/c.out 2>&1
c=\$((\$(now) - start))
start=\$(now); passed=0; count=0
for name in \$names; do
    count=\$((count + 1))
    if /tmp/hmm-rust "\$name" --exact --nocapture --test-threads=1 > /tmp/rust.out 2>&1; then
        passed=\$((passed + 1))
    else
        echo "not passed: \$name"
    fi
done
rust=\$((\$(now) - start))
grep '^# Totals' /tmp/c.out
echo "C suite: \$c ms; Rust: \$rust ms for \$count tests (\$passed passed)"
echo "Rust / C = \$((rust * 100 / c)) / 100"
GUEST
}

build_c
build_rust
guest_script
exec "$out/hugeprobe" boot --kernel "$image" --mem 6G \
    --append 'memmap=512M$0x100000000 memmap=512M$0x130000000 test_hmm.spm_addr_dev0=0x100000000 test_hmm.spm_addr_dev1=0x130000000' \
    --exec "bash $work/guest.sh"
