// SPDX-License-Identifier: GPL-2.0-only
//! The verbs about fuzzing: `fuzz`, `repro` and `cov`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};

use super::{Cli, Command, GuestArgs, KernelArgs, SelectArgs};

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
