#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Builds the kernel's own C tests of memory management, for comparison.
#
#   bench/c-suites.sh KDIR OUT [NAME...]   KDIR: kernel tree, not written to
#
# Programs land in OUT, statically linked, with OUT/missing naming what did not
# build. They are other people's work and never stored here. Needs gcc and make,
# and libnuma-dev for two of them.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
kdir=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
shift 2
# Those that have to do with huge pages, page tables or device memory.
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(hmm-tests khugepaged split_huge_page_test folio_split_race_test
    pfnmap transhuge-stress cow mremap_test mremap_dontunmap soft-dirty uffd-unit-tests uffd-wp-mremap
    uffd-stress pagemap_ioctl madv_populate migration mkdirty mlock2-tests rmap process_madv
    guard-regions gup_longterm gup_test ksm_functional_tests prctl_thp_disable merge memory-failure
    mrelease_test droppable on-fault-limit)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The tests want to be at home in a kernel tree.
tests=$work/tree/tools/testing
mkdir -p "$tests" "$work/tree/lib" "$work/tree/mm"
cp -r "$kdir/tools/testing/selftests" "$tests/"
ln -s "$kdir/tools/include" "$work/tree/tools/include"
cp "$kdir/lib/test_hmm_uapi.h" "$work/tree/lib/"
cp "$kdir/mm/gup_test.h" "$work/tree/mm/"
make -s -C "$kdir" O="$work/headers" headers > "$work/headers.log" 2>&1 || { cat "$work/headers.log"; exit 1; }

cd "$tests/selftests/mm"
: > local_config.h_gen
: > local_config.h
: > "$out/missing"
# The helpers were renamed over time; the suites link what is there.
common=()
for file in vm_util.c hugepage_settings.c thp_settings.c; do
    if [ -e "$file" ]; then common+=("$file"); fi
done

build() {
    local name=$1 helpers=("${common[@]}") libraries=()
    case $name in
        uffd-*) helpers+=(uffd-common.c) ;;
        migration | rmap) libraries+=(-lnuma) ;;
    esac
    gcc -O2 -U_FORTIFY_SOURCE -D_GNU_SOURCE= -w -I.. -I"$work/tree" -isystem "$work/headers/usr/include" \
        -isystem "$kdir/tools/include/uapi" "$name.c" "${helpers[@]}" -static "${libraries[@]}" -lpthread -lrt -lm -o "$out/$name"
}

for name in "${names[@]}"; do
    build "$name" 2> "$out/$name.log" && rm "$out/$name.log" || echo "$name" >> "$out/missing"
done
echo "built: $(cd "$out" && find . -type f -executable | wc -l) of ${#names[@]}; missing: $(paste -sd' ' "$out/missing")"
