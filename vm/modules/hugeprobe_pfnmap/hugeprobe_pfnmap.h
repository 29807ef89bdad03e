/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What /dev/hugeprobe_pfnmap and its users agree on. The Rust side is
 * selftests/src/pfndev.rs; a change here is a change there.
 */
#ifndef HUGEPROBE_PFNMAP_H
#define HUGEPROBE_PFNMAP_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* How mmap() of an open file maps the range. */
enum hpp_mode {
	HPP_REMAP = 0,		/* remap_pfn_range(), no fault handler */
	HPP_REMAP_FAULT = 1,	/* remap_pfn_range() in a VMA that has one */
	HPP_FAULT_PTE = 2,	/* the fault handler inserts PTEs */
	HPP_FAULT_PMD = 3,	/* ... PMDs where alignment allows */
	HPP_FAULT_PUD = 4,	/* ... PUDs, else PMDs, where alignment allows */
};

/* Cache attribute of the mappings of an open file. */
enum hpp_cache {
	HPP_CACHE_WB = 0,
	HPP_CACHE_WC = 1,
	HPP_CACHE_UC = 2,
};

/* Bits of hpp_info.levels. */
#define HPP_LEVEL_PTE	1
#define HPP_LEVEL_PMD	2
#define HPP_LEVEL_PUD	4

struct hpp_info {
	__u64 phys;		/* first byte of the range */
	__u64 size;		/* bytes, a multiple of the page size */
	__u32 levels;		/* what the fault handler can insert here */
	__u32 ram;		/* 1: pages of the kernel's, not a reserved range */
};

struct hpp_setup {
	__u32 mode;		/* enum hpp_mode */
	__u32 cache;		/* enum hpp_cache */
	__u32 split_align;	/* VMAs split only at this log2 alignment; 0: anywhere */
	__u32 reserved;		/* must be 0 */
};

struct hpp_stats {
	__u64 inserted_pte;	/* entries the fault handler inserted, by level */
	__u64 inserted_pmd;
	__u64 inserted_pud;
	__u64 fallbacks;	/* huge faults refused for their alignment */
	__u64 opens;		/* VMAs that came by fork, split or move */
	__u64 closes;		/* VMAs that went */
};

/* Bytes of the range whose mappings, in all processes, a driver takes back. */
struct hpp_zap {
	__u64 offset;
	__u64 len;
};

/* A run of equal leaves of consecutive page frames. */
struct hpp_leaf {
	__u64 addr;
	__u64 len;
	__u64 pfn;
	__u64 flags;		/* the entry without its frame number */
	__u32 level;		/* 0 PTE, 1 PMD, 2 PUD */
	__u32 reserved;
};

/* The caller's page tables between two addresses. */
struct hpp_walk {
	__u64 start;
	__u64 end;
	__u64 leaves;		/* struct hpp_leaf [max] */
	__u32 max;
	__u32 count;		/* result */
};

#define HPP_IOC_INFO	_IOR('h', 0x60, struct hpp_info)
#define HPP_IOC_SETUP	_IOW('h', 0x61, struct hpp_setup)
#define HPP_IOC_STATS	_IOR('h', 0x62, struct hpp_stats)
#define HPP_IOC_ZAP	_IOW('h', 0x63, struct hpp_zap)
#define HPP_IOC_WALK	_IOWR('h', 0x64, struct hpp_walk)

#endif
