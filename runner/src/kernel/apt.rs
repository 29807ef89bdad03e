// SPDX-License-Identifier: GPL-2.0-only
//! Debian's archive through apt, with a state of its own: lists, cache and
//! package status are in our cache, so the host's configuration and its view of
//! the archive stay as they are. Mirror, proxy and the like come from the host.
//! Signatures are verified with Debian's archive keyring.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fs_err as fs;

use super::cache::{Cache, says_disk_full, write_whole};
use super::error::KernelError;
use super::process::{command, output_of, stdout_of, stream, tail};
use super::progress::Ui;
use super::version::DebianVersion;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where kernels are: sid and its backports have the newest release,
/// experimental the candidates, bookworm the oldest that is of interest.
const SUITES: &[&str] = &[
    "sid",
    "experimental",
    "trixie-backports",
    "bookworm-backports",
    "bookworm",
];

/// Suites move daily; older lists name files that are gone from the mirror.
const LISTS_ARE_FRESH_FOR: Duration = Duration::from_secs(24 * 3600);

/// A version that the archive has, and the suite that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Package, for instance `linux-source-7.3`.
    pub package: String,
    /// Its version.
    pub version: DebianVersion,
    /// For instance `trixie-backports`.
    pub suite: String,
}

/// Debian's archive as this cache sees it.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    config: PathBuf,
}

/// Whether this host can use Debian's archive at all.
pub fn is_usable() -> bool {
    Path::new("/usr/bin/apt-get").exists() && Path::new(KEYRING).exists()
}

impl Archive {
    /// Prepares apt's state in the cache. Hold the cache's `apt` lock.
    ///
    /// # Errors
    /// When the cache cannot be written or apt does not run.
    pub fn open(cache: &Cache) -> Result<Self, KernelError> {
        let dir = cache.dir("apt")?;
        for part in ["lists/partial", "cache/archives/partial", "deb"] {
            fs::create_dir_all(dir.join(part))?;
        }
        if !dir.join("status").exists() {
            write_whole(&dir.join("status"), b"")?;
        }
        let mirror = mirror_of_host()?;
        write_whole(&dir.join("sources.sources"), sources(&mirror).as_bytes())?;
        let config = dir.join("apt.conf");
        write_whole(&config, configuration(&dir).as_bytes())?;
        Ok(Self { dir, config })
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = command(program);
        // -c is read after the host's own files, so proxies and certificates
        // stay and only what we set is replaced.
        apt.arg("-c")
            .arg(&self.config)
            .current_dir(self.dir.join("deb"));
        apt
    }

    /// Whether the lists are younger than a day.
    pub fn is_fresh(&self) -> bool {
        let age = fs::metadata(self.dir.join("updated")).and_then(|m| m.modified());
        age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < LISTS_ARE_FRESH_FOR))
    }

    /// Fetches the lists. A suite that cannot be verified (an old keyring) or
    /// reached is left out with a notice, as long as one remains.
    ///
    /// # Errors
    /// [`KernelError::Download`] when no list could be fetched.
    pub fn update(&self, ui: &Ui) -> Result<(), KernelError> {
        ui.step("asking Debian's archive which kernels it has");
        let output = output_of(self.apt("apt-get").args(["-q", "update"]))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if says_disk_full(&text) {
            return Err(KernelError::DiskFull {
                path: self.dir.clone(),
            });
        }
        let problems: Vec<&str> = text.lines().filter(|line| line.starts_with("E:")).collect();
        if !output.status.success() || !problems.is_empty() {
            if self.candidates("linux-source-")?.is_empty() {
                let why = tail(&text, 4);
                return Err(KernelError::Download {
                    what: "the archive's index".to_owned(),
                    why,
                });
            }
            for problem in problems {
                ui.step(&format!("left out: {problem}"));
            }
        }
        write_whole(&self.dir.join("updated"), b"")
    }

    /// All versions of all packages whose name begins with `prefix`.
    ///
    /// # Errors
    /// When apt cannot read its lists.
    pub fn candidates(&self, prefix: &str) -> Result<Vec<Candidate>, KernelError> {
        let names = stdout_of(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        let names: Vec<&str> = names.lines().collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        Ok(parse_madison(&stdout_of(
            self.apt("apt-cache").arg("madison").args(names),
        )?))
    }

    /// Downloads one package, resuming a partial download, and returns the
    /// file. apt checks its hash against the signed lists.
    ///
    /// # Errors
    /// [`KernelError::Download`]; the caller may refresh the lists and try again.
    pub fn download(&self, candidate: &Candidate, ui: &Ui) -> Result<PathBuf, KernelError> {
        let wanted = format!("{}={}", candidate.package, candidate.version);
        ui.step(&format!("downloading {wanted} from {}", candidate.suite));
        let prefix = format!("{}_{}_", candidate.package, candidate.version);
        let size = self.size_of(&wanted);
        let mut task = ui.task(&format!("download {}", candidate.package), size);
        let mut errors = String::new();
        let status = stream(
            self.apt("apt-get").args(["-q", "download", &wanted]),
            |line| {
                if let Some(line) = line.filter(|line| line.starts_with("E:")) {
                    errors.push_str(line);
                    errors.push('\n');
                }
                let done = self
                    .file_of(&prefix)
                    .and_then(|path| fs::metadata(path).ok());
                task.at(done.map_or(0, |file| file.len()), "");
            },
        )?;
        if says_disk_full(&errors) {
            return Err(KernelError::DiskFull {
                path: self.dir.join("deb"),
            });
        }
        match self.file_of(&prefix) {
            Some(path) if status.success() => Ok(path),
            _ => Err(KernelError::Download {
                what: wanted,
                why: tail(&errors, 3),
            }),
        }
    }

    /// The `Depends` field of a package.
    ///
    /// # Errors
    /// When apt cannot read its lists.
    pub fn depends(&self, candidate: &Candidate) -> Result<String, KernelError> {
        let wanted = format!("{}={}", candidate.package, candidate.version);
        let text = stdout_of(self.apt("apt-cache").args(["show", &wanted]))?;
        let field = text.lines().find_map(|line| line.strip_prefix("Depends: "));
        Ok(field.unwrap_or_default().to_owned())
    }

    /// Bytes that a download will have, for the progress bar; 0 if unknown.
    fn size_of(&self, wanted: &str) -> u64 {
        let uris = stdout_of(
            self.apt("apt-get")
                .args(["-q", "download", "--print-uris", wanted]),
        );
        let size = uris
            .ok()
            .and_then(|text| text.split_whitespace().nth(2)?.parse().ok());
        size.unwrap_or(0)
    }

    /// The downloaded file whose name begins so, complete or not.
    fn file_of(&self, prefix: &str) -> Option<PathBuf> {
        let entries = fs::read_dir(self.dir.join("deb")).ok()?;
        let mut names = entries.filter_map(|entry| Some(entry.ok()?.path()));
        names.find(|path| {
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            name.is_some_and(|name| name.starts_with(prefix) && name.ends_with(".deb"))
        })
    }
}

/// The mirror that the host itself uses for Debian's archive.
fn mirror_of_host() -> Result<String, KernelError> {
    // apt knows all the formats that sources are written in; it prints what it
    // would fetch, also where no list was ever fetched.
    stdout_of(command("apt-get").args(["update", "--print-uris"]))
        .ok()
        .and_then(|text| parse_mirror(&text))
        .ok_or_else(|| KernelError::Download {
            what: "the archive's index".to_owned(),
            why: "apt's sources name no Debian archive; add one, or set KDIR or KERNEL".to_owned(),
        })
}

/// Finds Debian's main archive in what `apt-get update --print-uris` prints.
fn parse_mirror(uris: &str) -> Option<String> {
    let releases = uris
        .lines()
        .filter_map(|line| line.strip_prefix('\'')?.split('\'').next());
    let base = |uri: &str| {
        let (base, rest) = uri.split_once("/dists/")?;
        let suite = rest.strip_suffix("/InRelease")?;
        // Only the archive proper: security and third parties have no sid.
        let debian = base.trim_end_matches('/').ends_with("/debian") && !suite.contains("security");
        debian.then(|| base.to_owned())
    };
    releases.filter_map(base).next()
}

fn sources(mirror: &str) -> String {
    // "Targets" leaves out translations and the data of software centres.
    format!(
        "Types: deb\nURIs: {mirror}\nSuites: {}\nComponents: main\nTargets: Packages\nSigned-By: {KEYRING}\n",
        SUITES.join(" ")
    )
}

fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    // Hooks of the host (software centres, cleaners of its cache) must not run
    // for a state that is not the host's.
    format!(
        "#clear APT::Update::Pre-Invoke;\n\
         #clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n\
         #clear APT::Default-Release;\n\
         Dir::State \"{dir}/state\";\n\
         Dir::State::lists \"{dir}/lists\";\n\
         Dir::State::status \"{dir}/status\";\n\
         Dir::Cache \"{dir}/cache\";\n\
         Dir::Cache::archives \"{dir}/cache/archives\";\n\
         Dir::Cache::pkgcache \"pkgcache.bin\";\n\
         Dir::Cache::srcpkgcache \"\";\n\
         Dir::Etc::SourceList \"{dir}/sources.sources\";\n\
         Dir::Etc::SourceParts \"/dev/null\";\n\
         Dir::Etc::Preferences \"/dev/null\";\n\
         Dir::Etc::PreferencesParts \"/dev/null\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::PDiffs \"false\";\n\
         Acquire::Retries \"3\";\n\
         APT::Sandbox::User \"root\";\n"
    )
}

/// Parses `apt-cache madison`: package, version and origin between bars.
fn parse_madison(text: &str) -> Vec<Candidate> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split('|').map(str::trim);
            let (package, version, origin) = (fields.next()?, fields.next()?, fields.next()?);
            let mut words = origin.split_whitespace();
            let suite = words.nth(1)?.split('/').next()?;
            (words.last()? == "Packages").then(|| Candidate {
                package: package.to_owned(),
                version: DebianVersion::new(version),
                suite: suite.to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn madison_gives_package_version_and_suite() {
        let text = " linux-source-7.3 | 7.3.4-1~bpo13+1 | http://mirror.example/debian trixie-backports/main amd64 Packages\n\
                    linux-source-7.2 |   7.2.13-1 | http://mirror.example/debian sid/main amd64 Packages\n\
                    linux-source-7.2 |   7.2.13-1 | http://mirror.example/debian sid/main Sources\n\
                    N: a notice\n";
        let found = parse_madison(text);
        let short: Vec<_> = found
            .iter()
            .map(|c| (c.package.as_str(), c.version.as_str(), c.suite.as_str()))
            .collect();
        assert_eq!(
            short,
            [
                ("linux-source-7.3", "7.3.4-1~bpo13+1", "trixie-backports"),
                ("linux-source-7.2", "7.2.13-1", "sid"),
            ]
        );
    }

    #[test]
    fn mirror_is_the_hosts_own() {
        let text = "'http://mirror.example/debian-security/dists/bookworm-security/InRelease' x 0 \n\
                    'http://mirror.example/third/dists/stable/InRelease' x 0 \n\
                    'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' x 0 \n\
                    'http://mirror.example/debian/dists/bookworm/InRelease' x 0 \n";
        assert_eq!(
            parse_mirror(text).as_deref(),
            Some("http://mirror.example/debian")
        );
    }

    #[test]
    fn host_without_debians_archive_has_no_mirror() {
        let text = "'http://archive.example/ubuntu/dists/noble/InRelease' x 0 \n";
        assert_eq!(parse_mirror(text), None);
    }
}
