// SPDX-License-Identifier: GPL-2.0-only
//! The command line: clap types and nothing else. Help, man page and shell
//! completion come from them and cannot drift.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    const CPUS: u32 = 2;

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

/// What the fuzzers drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FuzzTarget {
    /// Memory and process operations
    Mm,
    /// The same, and the two test devices with memory of their own
    Hmm,
    /// khugepaged, mTHP, swap, reclaim
    Collapse,
    /// Mappings of page frame numbers
    Pfnmap,
}

impl FuzzTarget {
    /// The name as typed and as used in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mm => "mm",
            Self::Hmm => "hmm",
            Self::Collapse => "collapse",
            Self::Pfnmap => "pfnmap",
        }
    }

    /// The test targets that need the same of a guest.
    pub fn tested_by(self) -> &'static [&'static str] {
        match self {
            Self::Mm => &[],
            Self::Hmm => &["hmm"],
            Self::Collapse => &["khugepaged"],
            Self::Pfnmap => &["pfnmap"],
        }
    }
}

impl FuzzArgs {
    /// The guest's arguments with the number of CPUs filled in. Processes of a program work
    /// one at a time, so a second CPU would only cost; threads that race need it.
    pub fn guest(&self) -> GuestArgs {
        let usual = if self.racing { GuestArgs::CPUS } else { 1 };
        GuestArgs {
            cpus: Some(self.guest.cpus.unwrap_or(usual)),
            ..self.guest.clone()
        }
    }
}

/// `hugeprobe fuzz`.
#[derive(Args, Clone, Debug)]
pub struct FuzzArgs {
    /// What to fuzz
    #[arg(value_enum, value_name = "TARGET", default_value = "mm")]
    pub target: FuzzTarget,
    /// How long, such as 90s, 10m or 8h; confirming and minimising come on top
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_time)]
    pub time: Duration,
    /// Seed of the fuzzer's dice
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u32,
    /// How many machines fuzz at a time, with one corpus and different dice [default: what CPUs
    /// and memory of the host allow, at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub vms: Option<u32>,
    /// Let steps race in several threads, too; slow, and what races report needs a second look
    #[arg(long)]
    pub racing: bool,
    /// End with the first finding that is not a known bug
    #[arg(long)]
    pub first: bool,
    #[command(flatten)]
    pub instead: FuzzInstead,
    /// Folder of the campaign; one that exists goes on [default: results/fuzz/TARGET]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub kernel: KernelArgs,
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Say more
    #[arg(short, long)]
    pub verbose: bool,
    /// Let the first machine come to harm, or see a lie, for hugeprobe's own tests
    #[arg(long, value_enum, hide = true)]
    pub harm: Option<Harm>,
}

/// What can be done instead of fuzzing.
#[derive(Args, Clone, Debug, Default)]
#[group(multiple = false)]
pub struct FuzzInstead {
    /// Run the programs of this folder once each, instead of fuzzing
    #[arg(long, value_name = "DIR")]
    pub check: Option<PathBuf>,
    /// Minimise a corpus: those of its programs that reach all that it reaches, in DIR.min
    #[arg(long, value_name = "DIR")]
    pub cmin: Option<PathBuf>,
    /// Minimise a program that shows a violation or a crash, to FILE.min
    #[arg(long, value_name = "FILE")]
    pub tmin: Option<PathBuf>,
}

/// What a fuzzer does to its own machine after some programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Harm {
    /// The kernel panics
    Panic,
    /// The machine hangs
    Hang,
    /// Programs are said to show a violation that they do not show
    Lie,
}

impl Harm {
    /// The name as the guest's programs know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Hang => "hang",
            Self::Lie => "lie",
        }
    }
}

/// `hugeprobe repro`.
#[derive(Args, Clone, Debug)]
pub struct ReproArgs {
    /// Folder of a finding: CAMPAIGN/crashes/TITLE
    #[arg(value_name = "DIR")]
    pub finding: PathBuf,
    /// How many fresh machines try
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub machines: u32,
    /// As in `hugeprobe fuzz`
    #[arg(long, value_enum, hide = true)]
    pub harm: Option<Harm>,
    /// The target, instead of that of the finding
    #[arg(long, value_enum, value_name = "TARGET")]
    pub target: Option<FuzzTarget>,
    #[command(flatten)]
    pub kernel: KernelArgs,
    #[command(flatten)]
    pub guest: GuestArgs,
}

impl ReproArgs {
    /// The arguments of the campaign that made a finding, with what the user
    /// wishes instead: all of a kernel or all of a guest.
    ///
    /// # Errors
    /// When the arguments are not those of a campaign.
    pub fn as_fuzz(&self, made: &[String]) -> Result<FuzzArgs, clap::Error> {
        let words = ["hugeprobe", "fuzz"].map(str::to_owned);
        let cli = Cli::try_parse_from(words.iter().chain(made))?;
        let Command::Fuzz(mut args) = cli.command else {
            unreachable!("it says fuzz")
        };
        args.target = self.target.unwrap_or(args.target);
        args.harm = self.harm;
        if self.kernel != KernelArgs::default() {
            args.kernel = self.kernel.clone();
        }
        let accel = self.guest.accel;
        let usual = GuestArgs {
            accel,
            ..GuestArgs::default()
        };
        if self.guest != usual {
            args.guest = self.guest.clone();
        }
        args.guest.accel = accel;
        Ok(args)
    }
}

/// `hugeprobe cov`.
#[derive(Args, Clone, Debug)]
pub struct CovArgs {
    /// Run the programs of this folder, such as a campaign's corpus; may be given again
    #[arg(long, value_name = "DIR")]
    pub corpus: Vec<PathBuf>,
    /// The fuzz target whose programs they are
    #[arg(long, value_enum, value_name = "TARGET", default_value = "mm")]
    pub fuzz_target: FuzzTarget,
    /// Run all tests; naming a target or --tests runs those
    #[arg(long)]
    pub selftests: bool,
    #[command(flatten)]
    pub select: SelectArgs,
    /// Add the addresses of this file, such as the pcs.txt of another run; may be given again
    #[arg(long, value_name = "FILE")]
    pub pcs: Vec<PathBuf>,
    /// Tell what differs from that run: its folder or cov.json
    #[arg(long, value_name = "DIR")]
    pub compare: Option<PathBuf>,
    /// Folder of the reports [default: results/cov]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub kernel: KernelArgs,
    #[command(flatten)]
    pub guest: GuestArgs,
}

impl CovArgs {
    /// The same wishes for kernel and guest, as the fuzzer's.
    pub fn as_fuzz(&self) -> FuzzArgs {
        FuzzArgs {
            target: self.fuzz_target,
            time: Duration::ZERO,
            seed: 0,
            vms: Some(1),
            racing: false,
            first: false,
            instead: FuzzInstead::default(),
            output: None,
            kernel: self.kernel.clone(),
            guest: self.guest.clone(),
            verbose: false,
            harm: None,
        }
    }
}

/// `90`, `90s`, `10m` or `8h`.
fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(['s', 'm', 'h']);
    let factor = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        unit => return Err(format!("`{unit}` is no unit; s, m and h are")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a time is a number with s, m or h behind it".to_owned())?;
    Ok(Duration::from_secs(number.saturating_mul(factor)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn repro(words: &str) -> ReproArgs {
        let words = format!("hugeprobe repro crashes/x {words}");
        let Command::Repro(args) = Cli::try_parse_from(words.split_whitespace())
            .unwrap()
            .command
        else {
            panic!("it says repro")
        };
        args
    }

    #[test]
    fn a_finding_brings_its_kernel_and_guest_along() {
        let made = ["hmm", "--kver", "7.2", "--cpus", "1", "--mem", "3G"].map(str::to_owned);
        let args = repro("").as_fuzz(&made).unwrap();
        assert_eq!((args.target, args.guest.cpus), (FuzzTarget::Hmm, Some(1)));
        assert_eq!(args.kernel.kver, ["7.2"]);
        // Another kernel, the same guest.
        let args = repro("--kver 7.3").as_fuzz(&made).unwrap();
        assert_eq!(
            (args.kernel.kver, args.guest.cpus),
            (vec!["7.3".into()], Some(1))
        );
        let args = repro("--mem 2G --target mm").as_fuzz(&made).unwrap();
        assert_eq!((args.target, args.guest.cpus), (FuzzTarget::Mm, None));
        assert!(repro("").as_fuzz(&["--no-such".to_owned()]).is_err());
    }
}
