// SPDX-License-Identifier: GPL-2.0-only
//! The arguments that choose the same kernel and guest again. Pure.

use std::path::Path;

use crate::cli::{FuzzArgs, GuestArgs, KernelArgs, Profile, RunArgs};
use crate::kernel::Origin;

/// Those of a run.
pub fn run(args: &RunArgs, origin: &Origin) -> Vec<String> {
    let mut words = kernel_and_guest(&args.kernel, &args.guest, origin);
    if args.known_bugs {
        words.push("--known-bugs".to_owned());
    }
    words
}

/// Those of a campaign, target included. The newest version is named: what is
/// newest changes.
pub fn fuzz(args: &FuzzArgs, origin: &Origin, release: &str) -> Vec<String> {
    let origin = match origin {
        Origin::Version(None) => Origin::Version(Some(series(release))),
        other => other.clone(),
    };
    let target = [args.target.name().to_owned()];
    let rest = kernel_and_guest(&args.kernel, &args.guest(), &origin);
    target.into_iter().chain(rest).collect()
}

/// `7.3` of `7.3.4-1-amd64`.
fn series(release: &str) -> String {
    let parts: Vec<&str> = release.splitn(3, ['.', '-']).take(2).collect();
    parts.join(".")
}

fn kernel_and_guest(kernel: &KernelArgs, guest: &GuestArgs, origin: &Origin) -> Vec<String> {
    let mut words = Vec::new();
    let mut add = |flag: &str, value: Option<String>| {
        words.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
    };
    let absolute = |path: &Path| {
        let path = std::path::absolute(path).unwrap_or(path.to_owned());
        path.display().to_string()
    };
    match origin {
        Origin::Tree(dir) => add("--kdir", Some(absolute(dir))),
        Origin::Image(image) => add("--kernel", Some(absolute(image))),
        Origin::DebianImage => add("--kernel", Some("debian".into())),
        Origin::Version(version) => add("--kver", version.clone()),
    }
    let profile = Some(kernel.profile).filter(|&profile| profile != Profile::default());
    add(
        "--profile",
        profile.map(|profile| profile.name().to_owned()),
    );
    add("--cpus", guest.cpus.map(|cpus| cpus.to_string()));
    add("--mem", guest.mem.clone());
    for append in &guest.append {
        add("--append", Some(append.clone()));
    }
    words
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn the_arguments_of_a_campaign_choose_the_same_again() {
        let line = "hugeprobe fuzz hmm --kver 7.2 --profile kasan --cpus 1 --mem 3G --append a=b";
        let parse = |words: Vec<String>| {
            let Command::Fuzz(args) = Cli::try_parse_from(words).unwrap().command else {
                panic!("it says fuzz")
            };
            args
        };
        let args = parse(line.split(' ').map(str::to_owned).collect());
        let origin = Origin::Version(Some("7.2".into()));
        let words = [
            vec!["hugeprobe".to_owned(), "fuzz".to_owned()],
            fuzz(&args, &origin, "7.2.1"),
        ];
        let again = parse(words.concat());
        assert_eq!(
            (again.target, again.kernel, again.guest),
            (args.target, args.kernel, args.guest)
        );
    }

    #[test]
    fn the_newest_version_is_named() {
        assert_eq!(series("7.3.4"), "7.3");
        assert_eq!(series("6.12.9-amd64"), "6.12");
        assert_eq!(series("7.3-rc7"), "7.3");
    }
}
