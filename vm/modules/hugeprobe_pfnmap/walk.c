// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reads the calling process's page tables: which frames are mapped at which
 * level, with which bits. The kernel's own dump (PTDUMP_DEBUGFS) walks the
 * whole address space each time and leaves the frame numbers out.
 */
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pgtable.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "hugeprobe_pfnmap.h"
#include "walk.h"

#define MAX_LEAVES	16384

struct collector {
	struct hpp_leaf *leaves;
	u32 max;
	u32 count;
};

static int collect(struct collector *c, unsigned long addr, unsigned long len,
		   unsigned long pfn, u64 flags, u32 level)
{
	struct hpp_leaf *last = c->count ? &c->leaves[c->count - 1] : NULL;

	if (last && last->level == level && last->flags == flags &&
	    last->addr + last->len == addr &&
	    last->pfn + (last->len >> PAGE_SHIFT) == pfn) {
		last->len += len;
		return 0;
	}
	if (c->count == c->max)
		return -E2BIG;
	c->leaves[c->count++] = (struct hpp_leaf) {
		.addr = addr,
		.len = len,
		.pfn = pfn,
		.flags = flags,
		.level = level,
	};
	return 0;
}

static int walk_ptes(struct collector *c, pmd_t pmd, unsigned long addr,
		     unsigned long end)
{
	int ret = 0;

	for (; addr != end && !ret; addr += PAGE_SIZE) {
		pte_t pte = READ_ONCE(*pte_offset_kernel(&pmd, addr));

		if (pte_present(pte))
			ret = collect(c, addr, PAGE_SIZE, pte_pfn(pte),
				      pte_flags(pte), 0);
	}
	return ret;
}

static int walk_pmds(struct collector *c, pud_t pud, unsigned long addr,
		     unsigned long end)
{
	unsigned long next;
	int ret = 0;

	for (; addr != end && !ret; addr = next) {
		pmd_t pmd = READ_ONCE(*pmd_offset(&pud, addr));

		next = pmd_addr_end(addr, end);
		if (pmd_none(pmd) || !pmd_present(pmd))
			continue;
		if (pmd_leaf(pmd))
			ret = collect(c, addr & PMD_MASK, PMD_SIZE,
				      pmd_pfn(pmd), pmd_flags(pmd), 1);
		else
			ret = walk_ptes(c, pmd, addr, next);
	}
	return ret;
}

static int walk_puds(struct collector *c, p4d_t *p4d, unsigned long addr,
		     unsigned long end)
{
	unsigned long next;
	int ret = 0;

	for (; addr != end && !ret; addr = next) {
		pud_t pud = READ_ONCE(*pud_offset(p4d, addr));

		next = pud_addr_end(addr, end);
		if (pud_none(pud) || !pud_present(pud))
			continue;
		if (pud_leaf(pud))
			ret = collect(c, addr & PUD_MASK, PUD_SIZE,
				      pud_pfn(pud), pud_flags(pud), 2);
		else
			ret = walk_pmds(c, pud, addr, next);
	}
	return ret;
}

static int walk_range(struct collector *c, unsigned long addr, unsigned long end)
{
	unsigned long next;
	int ret = 0;

	for (; addr != end && !ret; addr = next) {
		pgd_t *pgd = pgd_offset(current->mm, addr);
		p4d_t *p4d;

		next = p4d_addr_end(addr, pgd_addr_end(addr, end));
		if (pgd_none(*pgd))
			continue;
		p4d = p4d_offset(pgd, addr);
		if (!p4d_none(*p4d))
			ret = walk_puds(c, p4d, addr, next);
	}
	return ret;
}

long hpp_walk_current(struct hpp_walk *walk)
{
	struct collector c = { .max = min_t(u32, walk->max, MAX_LEAVES) };
	long ret;

	if (!PAGE_ALIGNED(walk->start) || !PAGE_ALIGNED(walk->end) ||
	    walk->start > walk->end || walk->end > TASK_SIZE_MAX)
		return -EINVAL;
	c.leaves = kvcalloc(c.max, sizeof(*c.leaves), GFP_KERNEL);
	if (!c.leaves)
		return -ENOMEM;

	mmap_read_lock(current->mm);
	ret = walk_range(&c, walk->start, walk->end);
	mmap_read_unlock(current->mm);

	/* A fault on the buffer needs the lock, so it is written without it. */
	if (!ret && copy_to_user(u64_to_user_ptr(walk->leaves), c.leaves,
				 c.count * sizeof(*c.leaves)))
		ret = -EFAULT;
	walk->count = c.count;
	kvfree(c.leaves);
	return ret;
}
