// SPDX-License-Identifier: GPL-2.0-only
//! The command line: clap types and nothing else. Help, man page and shell
//! completion come from them and cannot drift.

mod fuzz;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use fuzz::{CovArgs, FuzzArgs, FuzzTarget, Harm, ReproArgs};

/// Tell whether a Linux tree still handles huge pages correctly.
///
/// Builds the tree, boots it in a virtual machine, runs selftests and fuzzers
/// inside, and reports in KTAP.
#[derive(Debug, Parser)]
#[command(name = "hugeprobe", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check what this machine can do, and say how to get what is missing
    Doctor,
    /// Fetch, configure or build a kernel, each stage alone
    Kernel(KernelCommand),
    /// Boot the kernel and give a shell in the guest
    Boot(BootArgs),
    /// List the tests
    List(ListArgs),
    /// Build the kernel, boot it, run tests in it, report
    Run(RunArgs),
    /// Measure a feature in the guest: a table, JSON and a picture
    Bench(BenchArgs),
    /// Fuzz the kernel in virtual machines, checked against a model of huge pages
    Fuzz(FuzzArgs),
    /// Count what programs and tests reach of the kernel: files, functions, lines
    Cov(CovArgs),
    /// Run the program of a finding again, in fresh machines
    Repro(ReproArgs),
    /// Make the reports of a results folder again from its events
    Report(ReportArgs),
    /// Run for `git bisect run`: what says nothing about the kernel exits with 125
    Bisect(RunArgs),
    /// Write many runs as plain data, run one of them, or merge their results
    Plan(PlanCommand),
    /// Install the test programs in the layout of the kernel's kselftest
    Install(InstallArgs),
    /// Print the completion script of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the man page
    Man,
    /// Run a target on the kernel that runs now, as a kselftest does
    #[command(hide = true)]
    Here {
        /// The target
        target: String,
    },
    /// Run hugeprobe's own tests, those in virtual machines included
    #[command(hide = true)]
    SelfTest,
    /// Write docs/targets.md from the doc comments of the tests
    #[command(hide = true)]
    Docs {
        /// Only check that the file is up to date
        #[arg(long)]
        check: bool,
    },
}

/// Which kernel: a tree, an image or a version.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "Kernel")]
pub struct KernelArgs {
    /// Kernel tree to build (never written to)
    #[arg(long, value_name = "DIR", conflicts_with = "kernel")]
    pub kdir: Option<PathBuf>,
    /// Built bzImage to boot instead of building one, or `debian` for the archive's own image
    #[arg(long, value_name = "IMAGE")]
    pub kernel: Option<String>,
    /// Version to fetch, such as 7.2; several with commas: one after another [default: the newest]
    #[arg(long, value_name = "VERSION", value_delimiter = ',', conflicts_with_all = ["kdir", "kernel"])]
    pub kver: Vec<String>,
    /// How to configure the kernel
    #[arg(long, value_enum, default_value_t)]
    pub profile: Profile,
    /// Build jobs [default: the number of CPUs]
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<usize>,
}

/// Sets of configuration fragments; see `kconfigs/`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// What the selftests need, with the cheap debug checks
    #[default]
    Selftest,
    /// As selftest without debug checks
    Lean,
    /// As selftest with KASAN
    Kasan,
    /// As selftest with lock debugging
    Lockdep,
    /// As selftest with KCOV, for fuzzing
    Kcov,
}

impl Profile {
    /// The name as typed and as used in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Selftest => "selftest",
            Self::Lean => "lean",
            Self::Kasan => "kasan",
            Self::Lockdep => "lockdep",
            Self::Kcov => "kcov",
        }
    }
}

/// `hugeprobe kernel`.
#[derive(Args, Debug)]
pub struct KernelCommand {
    /// Up to which stage
    #[command(subcommand)]
    pub stage: KernelStage,
}

/// The stages of getting a kernel; each one does those before it.
#[derive(Debug, Subcommand)]
pub enum KernelStage {
    /// Get the source
    Fetch(KernelArgs),
    /// Make the .config and verify that every wanted line survived
    Config(KernelArgs),
    /// Build the image
    Build(KernelArgs),
}

/// What the virtual machine is made of.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "Virtual machine")]
pub struct GuestArgs {
    /// CPUs of the guest [default: 2; 1 for a fuzzer whose steps do not race]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: Option<u32>,
    /// Memory of the guest, such as 6G [default: what the targets need]
    #[arg(long, value_name = "SIZE")]
    pub mem: Option<String>,
    /// More arguments for the kernel command line
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub append: Vec<String>,
    /// How to run the guest; `auto` uses KVM only after a probe boot has worked
    #[arg(long, value_enum, default_value_t)]
    pub accel: AccelArg,
}

impl GuestArgs {
    /// CPUs of a guest, unless the user says otherwise.
    pub(super) const CPUS: u32 = 2;

    /// CPUs of a guest that runs tests.
    pub fn cpus(&self) -> u32 {
        self.cpus.unwrap_or(Self::CPUS)
    }
}

/// How to run a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AccelArg {
    /// KVM where a probe boot works, else emulation
    #[default]
    Auto,
    /// KVM
    Kvm,
    /// Emulation
    Tcg,
}

/// `hugeprobe boot`.
#[derive(Args, Debug)]
pub struct BootArgs {
    #[command(flatten)]
    pub kernel: KernelArgs,
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Run this shell command instead of an interactive shell
    #[arg(long, value_name = "CMD")]
    pub exec: Option<String>,
}

/// Which tests.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Tests")]
pub struct SelectArgs {
    /// Targets to run [default: all]
    #[arg(value_name = "TARGET")]
    pub targets: Vec<String>,
    /// Only tests whose `target.name` matches this regular expression
    #[arg(long, value_name = "REGEX")]
    pub tests: Option<String>,
}

/// `hugeprobe list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    pub select: SelectArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `hugeprobe run` and `hugeprobe bisect`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    pub select: SelectArgs,
    /// Time limit for one test in seconds, instead of each target's own
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Tests")]
    pub timeout: Option<u32>,
    /// Run the tests, too, that stop a kernel with a known bug of mainline, and expect them to fail
    #[arg(long, help_heading = "Tests")]
    pub known_bugs: bool,
    /// Stop at the first failure; the tests that have not begun by then are skipped
    #[arg(long, help_heading = "Tests")]
    pub fail_fast: bool,
    /// How many tests may crash the kernel or not end before the rest is left out
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..), help_heading = "Tests")]
    pub patience: u32,
    #[command(flatten)]
    pub kernel: KernelArgs,
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Results folder [default: results/<time>, with results/latest pointing to it]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Show the kernel log and every line of passing tests too
    #[arg(short, long)]
    pub verbose: bool,
}

/// `hugeprobe bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// What to measure
    #[arg(value_enum)]
    pub bench: Bench,
    #[command(flatten)]
    pub kernel: KernelArgs,
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Results folder [default: results/<time>, with results/latest pointing to it]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

/// The measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// Migration to a device and back, huge pages against small ones
    Hmm,
    /// Loads and copies from a PFN mapping with 4 KiB, 2 MiB and 1 GiB entries
    Pfnmap,
}

impl Bench {
    /// The name as typed, and the module of its tests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hmm => "hmm",
            Self::Pfnmap => "pfnmap",
        }
    }
}

/// `hugeprobe report`.
#[derive(Args, Debug)]
pub struct ReportArgs {
    /// Results folder
    #[arg(value_name = "DIR", default_value = "results/latest")]
    pub dir: PathBuf,
}

/// `hugeprobe plan`.
#[derive(Args, Debug)]
pub struct PlanCommand {
    /// What to do with the plan
    #[command(subcommand)]
    pub action: PlanAction,
}

/// What can be done with a plan of many runs.
#[derive(Debug, Subcommand)]
pub enum PlanAction {
    /// Write plan.json: one cell for each kernel, profile and target
    Write {
        /// Kernel versions
        #[arg(long, value_name = "VERSION", value_delimiter = ',')]
        kver: Vec<String>,
        /// Kernel trees
        #[arg(long, value_name = "DIR", value_delimiter = ',')]
        kdir: Vec<PathBuf>,
        /// Profiles
        #[arg(long, value_enum, value_delimiter = ',', default_value = "selftest")]
        profile: Vec<Profile>,
        /// Targets [default: all]
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
        /// File to write
        #[arg(short, long, default_value = "plan.json")]
        output: PathBuf,
    },
    /// Run the cell with this index (as a Slurm array job does)
    Cell {
        /// The plan
        plan: PathBuf,
        /// Counts from 0
        #[arg(env = "SLURM_ARRAY_TASK_ID")]
        index: usize,
        /// Folder that holds one results folder for each cell
        #[arg(short, long, default_value = "results/cells")]
        output: PathBuf,
    },
    /// Merge the results of all cells into one matrix report
    Merge {
        /// The plan
        plan: PathBuf,
        /// Folder that holds one results folder for each cell
        #[arg(short, long, default_value = "results/cells")]
        output: PathBuf,
    },
}

/// `hugeprobe install`.
#[derive(Args, Debug)]
pub struct InstallArgs {
    /// Where to
    #[arg(value_name = "DIR", default_value = "kselftest_install")]
    pub dir: PathBuf,
    /// Kernel tree whose run_kselftest.sh is copied along
    #[arg(long, value_name = "DIR")]
    pub kdir: Option<PathBuf>,
}
