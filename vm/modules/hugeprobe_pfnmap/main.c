// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/hugeprobe_pfnmap: maps one physical range into user space in each way
 * that a driver has: remap_pfn_range() at mmap() time, or a fault handler that
 * inserts PTE, PMD or PUD entries. It stands in for the devices whose drivers
 * do that (frame buffers, vfio with large BARs), so that tests need none.
 *
 * The range is a reserved one (boot with memmap=SIZE$START and load with
 * start=START size=SIZE) or, without parameters, 4 MiB of the kernel's pages.
 */
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 17, 0)
#include <linux/pfn_t.h>
#endif

#include "hugeprobe_pfnmap.h"
#include "walk.h"

#define HPP_RAM_ORDER	10

static unsigned long start;
module_param(start, ulong, 0444);
MODULE_PARM_DESC(start, "physical address of a reserved range (0: use 4 MiB of RAM)");

static unsigned long size;
module_param(size, ulong, 0444);
MODULE_PARM_DESC(size, "bytes in the reserved range");

static struct page *ram_pages;

/*
 * One open file. Its VMAs hold it, so its cache type stays reserved as long as
 * any of them exists.
 */
struct hpp_file {
	struct mutex lock;	/* serialises setup against mmap */
	u32 mode;
	u32 cache;
	u32 split_align;
	bool mapped;
	void *alias;		/* keeps the memory type of the range */
	atomic64_t inserted[3];
	atomic64_t fallbacks;
	atomic64_t opens;
	atomic64_t closes;
};

static u32 supported_levels(void)
{
	u32 levels = HPP_LEVEL_PTE;

	if (IS_ENABLED(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP))
		levels |= HPP_LEVEL_PMD;
	if (IS_ENABLED(CONFIG_ARCH_SUPPORTS_PUD_PFNMAP))
		levels |= HPP_LEVEL_PUD;
	return levels;
}

/*
 * Faults look the memory type of a page up and get uncached where nobody has
 * reserved another one, so a fault-mode file holds a kernel mapping.
 */
static void *reserve_cache_type(u32 cache)
{
	switch (cache) {
	case HPP_CACHE_WB:
		return memremap(start, size, MEMREMAP_WB);
	case HPP_CACHE_WC:
		return memremap(start, size, MEMREMAP_WC);
	default:
		return (void __force *)ioremap(start, size);
	}
}

static void drop_cache_type(struct hpp_file *hf)
{
	if (!hf->alias)
		return;
	if (hf->cache == HPP_CACHE_UC)
		iounmap((void __iomem __force *)hf->alias);
	else
		memunmap(hf->alias);
	hf->alias = NULL;
}

/* The page frame behind an address; the mapping was checked at mmap() time. */
static unsigned long fault_pfn(struct vm_fault *vmf, unsigned long addr)
{
	struct vm_area_struct *vma = vmf->vma;

	return PHYS_PFN(start) + vma->vm_pgoff +
	       ((addr - vma->vm_start) >> PAGE_SHIFT);
}

static vm_fault_t hpp_fault(struct vm_fault *vmf)
{
	struct hpp_file *hf = vmf->vma->vm_file->private_data;
	unsigned long addr = vmf->address & PAGE_MASK;
	vm_fault_t ret;

	ret = vmf_insert_pfn(vmf->vma, addr, fault_pfn(vmf, addr));
	if (ret == VM_FAULT_NOPAGE)
		atomic64_inc(&hf->inserted[0]);
	return ret;
}

#if IS_ENABLED(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP)
/* Whether one leaf of @leaf bytes fits the VMA and the physical range. */
static bool leaf_fits(struct vm_fault *vmf, unsigned long leaf)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long addr = ALIGN_DOWN(vmf->address, leaf);

	return addr >= vma->vm_start && addr + leaf <= vma->vm_end &&
	       IS_ALIGNED(fault_pfn(vmf, addr), leaf >> PAGE_SHIFT);
}

static vm_fault_t insert_pmd_leaf(struct vm_fault *vmf)
{
	unsigned long pfn = fault_pfn(vmf, ALIGN_DOWN(vmf->address, PMD_SIZE));
	bool write = vmf->flags & FAULT_FLAG_WRITE;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0)
	return vmf_insert_pfn_pmd(vmf, pfn, write);
#else
	return vmf_insert_pfn_pmd(vmf, pfn_to_pfn_t(pfn), write);
#endif
}

#if IS_ENABLED(CONFIG_ARCH_SUPPORTS_PUD_PFNMAP)
static vm_fault_t insert_pud_leaf(struct vm_fault *vmf)
{
	unsigned long pfn = fault_pfn(vmf, ALIGN_DOWN(vmf->address, PUD_SIZE));
	bool write = vmf->flags & FAULT_FLAG_WRITE;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0)
	return vmf_insert_pfn_pud(vmf, pfn, write);
#else
	return vmf_insert_pfn_pud(vmf, pfn_to_pfn_t(pfn), write);
#endif
}
#endif

static vm_fault_t hpp_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	struct hpp_file *hf = vmf->vma->vm_file->private_data;
	vm_fault_t ret = VM_FAULT_FALLBACK;
	int level = 0;

	if (order == PMD_SHIFT - PAGE_SHIFT && hf->mode >= HPP_FAULT_PMD) {
		level = 1;
		if (leaf_fits(vmf, PMD_SIZE))
			ret = insert_pmd_leaf(vmf);
	}
#if IS_ENABLED(CONFIG_ARCH_SUPPORTS_PUD_PFNMAP)
	if (order == PUD_SHIFT - PAGE_SHIFT && hf->mode >= HPP_FAULT_PUD) {
		level = 2;
		if (leaf_fits(vmf, PUD_SIZE))
			ret = insert_pud_leaf(vmf);
	}
#endif
	if (ret == VM_FAULT_NOPAGE)
		atomic64_inc(&hf->inserted[level]);
	else if (level)
		atomic64_inc(&hf->fallbacks);
	return ret;
}
#endif

static void hpp_vma_open(struct vm_area_struct *vma)
{
	struct hpp_file *hf = vma->vm_file->private_data;

	atomic64_inc(&hf->opens);
}

static void hpp_vma_close(struct vm_area_struct *vma)
{
	struct hpp_file *hf = vma->vm_file->private_data;

	atomic64_inc(&hf->closes);
}

static int hpp_may_split(struct vm_area_struct *vma, unsigned long addr)
{
	struct hpp_file *hf = vma->vm_file->private_data;

	if (hf->split_align && !IS_ALIGNED(addr, 1UL << hf->split_align))
		return -EINVAL;
	return 0;
}

static const struct vm_operations_struct hpp_fault_ops = {
	.open = hpp_vma_open,
	.close = hpp_vma_close,
	.may_split = hpp_may_split,
#ifdef CONFIG_HAVE_IOREMAP_PROT
	.access = generic_access_phys,
#endif
	.fault = hpp_fault,
#if IS_ENABLED(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP)
	.huge_fault = hpp_huge_fault,
#endif
};

static pgprot_t cache_prot(u32 cache, pgprot_t prot)
{
	switch (cache) {
	case HPP_CACHE_WC:
		return pgprot_writecombine(prot);
	case HPP_CACHE_UC:
		return pgprot_noncached(prot);
	default:
		return prot;
	}
}

static int map_by_fault(struct hpp_file *hf, struct vm_area_struct *vma)
{
	/* A private writable PFN mapping would have to copy on write. */
	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	vma->vm_ops = &hpp_fault_ops;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);
#else
	vma->vm_flags |= VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP;
#endif
	return 0;
}

static int hpp_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct hpp_file *hf = file->private_data;
	unsigned long len = vma->vm_end - vma->vm_start;
	unsigned long pfn;
	int ret;

	if (vma->vm_pgoff > size >> PAGE_SHIFT ||
	    len > size - (vma->vm_pgoff << PAGE_SHIFT))
		return -EINVAL;
	pfn = PHYS_PFN(start) + vma->vm_pgoff;

	mutex_lock(&hf->lock);
	hf->mapped = true;
	vma->vm_page_prot = cache_prot(hf->cache, vma->vm_page_prot);
	if (hf->mode >= HPP_FAULT_PTE) {
		ret = map_by_fault(hf, vma);
	} else {
		if (hf->mode == HPP_REMAP_FAULT)
			vma->vm_ops = &hpp_fault_ops;
		ret = remap_pfn_range(vma, vma->vm_start, pfn, len,
				      vma->vm_page_prot);
	}
	mutex_unlock(&hf->lock);
	return ret;
}

static int check_setup(const struct hpp_setup *setup)
{
	u32 levels = supported_levels();

	if (setup->reserved || setup->mode > HPP_FAULT_PUD ||
	    setup->cache > HPP_CACHE_UC || setup->split_align > PUD_SHIFT)
		return -EINVAL;
	if (setup->mode == HPP_FAULT_PMD && !(levels & HPP_LEVEL_PMD))
		return -EOPNOTSUPP;
	if (setup->mode == HPP_FAULT_PUD && !(levels & HPP_LEVEL_PUD))
		return -EOPNOTSUPP;
	/* The kernel maps its own pages write-back; no aliases of another type. */
	if (ram_pages && setup->cache != HPP_CACHE_WB)
		return -EOPNOTSUPP;
	return 0;
}

static long hpp_setup(struct hpp_file *hf, const struct hpp_setup *setup)
{
	int ret = check_setup(setup);

	if (ret)
		return ret;
	mutex_lock(&hf->lock);
	if (hf->mapped) {
		ret = -EBUSY;
		goto out;
	}
	drop_cache_type(hf);
	hf->mode = setup->mode;
	hf->cache = setup->cache;
	hf->split_align = setup->split_align;
	if (setup->mode >= HPP_FAULT_PTE && !ram_pages) {
		hf->alias = reserve_cache_type(setup->cache);
		if (!hf->alias)
			ret = -ENOMEM;
	}
out:
	mutex_unlock(&hf->lock);
	return ret;
}

static long report_info(void __user *user)
{
	struct hpp_info info = {
		.phys = start,
		.size = size,
		.levels = supported_levels(),
		.ram = ram_pages != NULL,
	};

	return copy_to_user(user, &info, sizeof(info)) ? -EFAULT : 0;
}

static long report_stats(struct hpp_file *hf, void __user *user)
{
	struct hpp_stats stats = {
		.inserted_pte = atomic64_read(&hf->inserted[0]),
		.inserted_pmd = atomic64_read(&hf->inserted[1]),
		.inserted_pud = atomic64_read(&hf->inserted[2]),
		.fallbacks = atomic64_read(&hf->fallbacks),
		.opens = atomic64_read(&hf->opens),
		.closes = atomic64_read(&hf->closes),
	};

	return copy_to_user(user, &stats, sizeof(stats)) ? -EFAULT : 0;
}

/* What a driver does when its device goes away: nobody may see the range. */
static long zap(struct file *file, const struct hpp_zap *zap)
{
	if (!zap->len || zap->offset > size || zap->len > size - zap->offset)
		return -EINVAL;
	unmap_mapping_range(file->f_mapping, zap->offset, zap->len, 1);
	return 0;
}

static long walk(void __user *user)
{
	struct hpp_walk walk;
	long ret;

	if (copy_from_user(&walk, user, sizeof(walk)))
		return -EFAULT;
	ret = hpp_walk_current(&walk);
	if (!ret && copy_to_user(user, &walk, sizeof(walk)))
		ret = -EFAULT;
	return ret;
}

static long hpp_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct hpp_file *hf = file->private_data;
	void __user *user = (void __user *)arg;
	struct hpp_setup setup;
	struct hpp_zap range;

	switch (cmd) {
	case HPP_IOC_INFO:
		return report_info(user);
	case HPP_IOC_SETUP:
		if (copy_from_user(&setup, user, sizeof(setup)))
			return -EFAULT;
		return hpp_setup(hf, &setup);
	case HPP_IOC_STATS:
		return report_stats(hf, user);
	case HPP_IOC_ZAP:
		if (copy_from_user(&range, user, sizeof(range)))
			return -EFAULT;
		return zap(file, &range);
	case HPP_IOC_WALK:
		return walk(user);
	default:
		return -ENOTTY;
	}
}

static int hpp_open(struct inode *inode, struct file *file)
{
	struct hpp_file *hf = kzalloc(sizeof(*hf), GFP_KERNEL);

	if (!hf)
		return -ENOMEM;
	mutex_init(&hf->lock);
	file->private_data = hf;
	return 0;
}

static int hpp_release(struct inode *inode, struct file *file)
{
	struct hpp_file *hf = file->private_data;

	drop_cache_type(hf);
	kfree(hf);
	return 0;
}

static const struct file_operations hpp_fops = {
	.owner = THIS_MODULE,
	.open = hpp_open,
	.release = hpp_release,
	.mmap = hpp_mmap,
	.unlocked_ioctl = hpp_ioctl,
};

static struct miscdevice hpp_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "hugeprobe_pfnmap",
	.fops = &hpp_fops,
	.mode = 0600,
};

static int claim_range(void)
{
	if (!start) {
		ram_pages = alloc_pages(GFP_KERNEL | __GFP_ZERO, HPP_RAM_ORDER);
		if (!ram_pages)
			return -ENOMEM;
		start = page_to_phys(ram_pages);
		size = PAGE_SIZE << HPP_RAM_ORDER;
		return 0;
	}
	if (!size || !PAGE_ALIGNED(start) || !PAGE_ALIGNED(size))
		return -EINVAL;
	if (region_intersects(start, size, IORESOURCE_SYSTEM_RAM,
			      IORES_DESC_NONE) != REGION_DISJOINT) {
		pr_err("hugeprobe_pfnmap: %#lx+%#lx is RAM; boot with memmap=%#lx$%#lx\n",
		       start, size, size, start);
		return -EBUSY;
	}
	if (!request_mem_region(start, size, "hugeprobe_pfnmap"))
		return -EBUSY;
	return 0;
}

static void release_range(void)
{
	if (ram_pages)
		__free_pages(ram_pages, HPP_RAM_ORDER);
	else
		release_mem_region(start, size);
}

static int __init hpp_init(void)
{
	int ret = claim_range();

	if (ret)
		return ret;
	ret = misc_register(&hpp_misc);
	if (ret)
		release_range();
	return ret;
}

static void __exit hpp_exit(void)
{
	misc_deregister(&hpp_misc);
	release_range();
}

module_init(hpp_init);
module_exit(hpp_exit);
MODULE_DESCRIPTION("PFN mappings at every page table level, for tests");
MODULE_LICENSE("GPL");
