# SPDX-License-Identifier: GPL-2.0-only
# A thin front with kselftest's habits: one line per goal, all logic is in the
# hugeprobe command. `make help` lists goals and variables.

CARGO ?= cargo
HUGEPROBE = target/x86_64-unknown-linux-gnu/debug/hugeprobe

kernel_args = $(if $(KDIR),--kdir '$(KDIR)') $(if $(KERNEL),--kernel '$(KERNEL)') $(if $(KVER),--kver '$(KVER)') \
	$(if $(PROFILE),--profile '$(PROFILE)') $(if $(JOBS),--jobs '$(JOBS)')
guest_args = $(if $(CPUS),--cpus '$(CPUS)') $(if $(MEM),--mem '$(MEM)')
tests_args = $(if $(TESTS),--tests '$(TESTS)') $(TARGETS)
run_args = $(kernel_args) $(guest_args) $(if $(O),--output '$(O)') $(if $(TIMEOUT),--timeout '$(TIMEOUT)') \
	$(if $(filter-out 0,$(FAILFAST)),--fail-fast) $(if $(filter-out 0,$(V)),--verbose) $(tests_args)

FUZZ ?= mm

.PHONY: fuzz run_tests list kernel doctor matrix test install clean help hugeprobe
.DEFAULT_GOAL := run_tests

run_tests: hugeprobe ## Build the kernel, boot it, run the tests in it, report (default)
	@$(HUGEPROBE) run $(run_args)
list: hugeprobe ## List the tests
	@$(HUGEPROBE) list $(tests_args)
kernel: hugeprobe ## Fetch, configure and build the kernel
	@$(HUGEPROBE) kernel build $(kernel_args)
doctor: hugeprobe ## Check what this machine can do
	@$(HUGEPROBE) doctor
matrix: KVER ?= 6.12,7.2,7.3
matrix: hugeprobe ## run_tests on one kernel after another (KVER=a,b,c), one report
	@$(HUGEPROBE) run $(run_args)
test: hugeprobe ## The project's own tests, in virtual machines too
	@$(HUGEPROBE) self-test
fuzz: hugeprobe ## Fuzz the kernel (FUZZ=mm, hmm, collapse or pfnmap; TIME=10m)
	@$(HUGEPROBE) fuzz $(FUZZ) $(if $(TIME),--time '$(TIME)') $(if $(VMS),--vms '$(VMS)') $(if $(filter-out 0,$(RACING)),--racing) $(if $(O),--output '$(O)') $(kernel_args) $(guest_args)
install: hugeprobe ## Install in kselftest's layout (INSTALL_PATH=, KDIR= for its runner)
	@$(HUGEPROBE) install $(if $(KDIR),--kdir '$(KDIR)') $(INSTALL_PATH)
clean: ## Remove what cargo built (kernels stay cached: see `hugeprobe doctor`)
	@$(CARGO) clean
help: ## This text
	@sed -n 's/^\([a-z_]*\):.*## /  \1|/p' Makefile | column -ts'|'
	@echo "Variables:"
	@sed -n 's/^#= /  /p' Makefile
#= KDIR=dir       kernel tree to build; it is never written to
#= KERNEL=image   built bzImage to boot, or debian for the archive's own
#= KVER=version   kernel to fetch, such as 7.2 (default: the newest)
#= PROFILE=name   selftest, lean, kasan, lockdep or kcov
#= TARGETS="..."  targets to run (default: all)
#= TESTS=regex    only tests whose target.name matches
#= O=dir          results folder (default: results/<time>)
#= FUZZ= TIME=    what to fuzz and how long (TIME=10m)
#= VMS=n          machines that fuzz at a time (default: what the host can do, at most 8)
#= RACING=1       let steps race in several threads, too
#= CPUS= MEM=     CPUs and memory of the guest, such as MEM=6G
#= TIMEOUT=secs   time limit for one test
#= FAILFAST=1     stop at the first failure
#= JOBS=n         build jobs
#= V=1            show the kernel log and passing tests' output too

hugeprobe:
	@$(CARGO) build --quiet --package hugeprobe
