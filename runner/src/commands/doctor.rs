// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe doctor`: a check list of what this machine can do, each with the
//! next step. Exits with 75 when something that is needed is missing.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use hugeprobe_vm::probe;

use crate::exit::{Exit, Outcome};
use crate::kernel::KernelError;
use crate::kernel::cache::Cache;
use crate::kernel::process::{command, stdout_of};
use crate::kernel::profile;
use crate::kernel::progress::Ui;
use crate::kernel::tools::{NEEDS, Need, how_to_get, in_path, may_install};
use crate::kernel::virtme;

/// A source tree, its build and the downloads beside it take about this much.
const DISK_GIB: u64 = 6;

/// What a check found.
enum Finding {
    /// It works; what was seen.
    Fine(String),
    /// It works without, slower or with less.
    Worse(String),
    /// It does not work; the next step.
    Missing(String),
}

/// Runs the verb.
pub fn run() -> Outcome {
    let cache = Cache::open().map_err(KernelError::into_failure)?;
    let mut findings: Vec<(String, Finding)> = NEEDS.iter().map(check_need).collect();
    findings.push(("virtme-ng".to_owned(), check_virtme(&cache)));
    findings.push(("KVM".to_owned(), check_kvm(&cache)));
    findings.push(("ccache".to_owned(), check_ccache()));
    findings.push(("disk".to_owned(), check_disk(cache.root())));
    findings.push(("memory".to_owned(), check_memory()));
    let mut healthy = true;
    for (name, finding) in &findings {
        let (mark, text) = match finding {
            Finding::Fine(text) => ("ok", text),
            Finding::Worse(text) => ("note", text),
            Finding::Missing(text) => ("MISSING", text),
        };
        healthy &= !matches!(finding, Finding::Missing(_));
        println!("{mark:<8}{name:<20}{text}");
    }
    println!("\ncache   {}", cache.root().display());
    for kernel in built_kernels(&cache) {
        println!("        {kernel}");
    }
    Ok(if healthy {
        Exit::Passed
    } else {
        Exit::Infrastructure
    })
}

fn check_need(need: &Need) -> (String, Finding) {
    let finding = if need.is_met() {
        Finding::Fine(version_of(need.name).unwrap_or_default())
    } else if may_install() {
        Finding::Worse("not installed; the first run installs it".to_owned())
    } else {
        Finding::Missing(how_to_get(&[need]))
    };
    (need.name.to_owned(), finding)
}

/// First line of `--version` for the programs whose version matters.
fn version_of(name: &str) -> Option<String> {
    let telling = ["gcc", "make", "qemu-system-x86_64", "python3"];
    let program = telling.contains(&name).then_some(name)?;
    let text = stdout_of(command(program).arg("--version")).ok()?;
    text.lines().next().map(str::to_owned)
}

/// Makes the private environment when there is none: only that proves that it
/// can be made. Packages of the system are the first run's to install, as
/// somebody who asks for a check does not expect changes.
fn check_virtme(cache: &Cache) -> Finding {
    let lacks_tools = NEEDS.iter().any(|need| !need.is_met());
    if lacks_tools && may_install() {
        return Finding::Worse("the first run installs it into the cache".to_owned());
    }
    match virtme::find_or_install(cache, &Ui::stderr(false)) {
        Ok(vng) => Finding::Fine(vng.display().to_string()),
        Err(error) => Finding::Missing(error.to_string()),
    }
}

fn check_kvm(cache: &Cache) -> Finding {
    const EMULATED: &str = "guests are emulated, about 10 times slower";
    let usable = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    match usable {
        Ok(_) => match cache.dir("probe").ok().and_then(|dir| probe::known(&dir)) {
            Some(true) => Finding::Fine("a probe boot has worked".to_owned()),
            Some(false) => Finding::Worse(format!(
                "/dev/kvm opens, but a guest hung in it; {EMULATED}"
            )),
            None => {
                Finding::Fine("/dev/kvm opens; the first run tries it with a probe boot".to_owned())
            }
        },
        Err(error) => Finding::Worse(format!("/dev/kvm: {error}; {EMULATED}")),
    }
}

fn check_ccache() -> Finding {
    match in_path("ccache") {
        Some(path) => Finding::Fine(path.display().to_string()),
        None => Finding::Worse(
            "not installed; kernels that differ little build faster with it".to_owned(),
        ),
    }
}

fn check_disk(cache: &Path) -> Finding {
    let free = match statvfs(cache) {
        Ok(found) => found.blocks_available() * found.fragment_size() / (1 << 30),
        Err(error) => return Finding::Missing(format!("{}: {error}", cache.display())),
    };
    if free >= DISK_GIB {
        return Finding::Fine(format!("{free} GiB free"));
    }
    Finding::Missing(format!(
        "{free} GiB free, a kernel takes {DISK_GIB}; set HUGEPROBE_CACHE to a folder on a larger disk"
    ))
}

fn check_memory() -> Finding {
    let wanted = profile::find("selftest").map_or(0, |profile| profile.memory_mib);
    let meminfo = fs_err::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = available_mib(&meminfo);
    let seen = format!("{available} MiB available, the default guest takes {wanted}");
    if available >= wanted {
        Finding::Fine(seen)
    } else {
        Finding::Worse(format!("{seen}; give MEM= less, some tests will skip"))
    }
}

/// `MemAvailable` of /proc/meminfo in MiB.
fn available_mib(meminfo: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn built_kernels(cache: &Cache) -> Vec<String> {
    let entries = cache
        .dir("build")
        .ok()
        .and_then(|dir| std::fs::read_dir(dir).ok());
    let names = entries.into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        let built = entry.path().join("hugeprobe-built").exists();
        let state = if built { "built" } else { "unfinished" };
        Some(format!("{state} {}", entry.path().display()))
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read() {
        let text = "MemTotal:       24619568 kB\nMemAvailable:   22913304 kB\n";
        assert_eq!(available_mib(text), 22376);
        assert_eq!(available_mib(""), 0);
    }

    #[test]
    fn unmet_need_names_its_package() {
        let flex = NEEDS.iter().find(|need| need.name == "flex").unwrap();
        assert!(how_to_get(&[flex]).contains("flex"));
    }
}
