/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef HUGEPROBE_WALK_H
#define HUGEPROBE_WALK_H

struct hpp_walk;

/* Fills walk->leaves and walk->count; -E2BIG when there are more than max. */
long hpp_walk_current(struct hpp_walk *walk);

#endif
