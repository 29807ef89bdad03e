// SPDX-License-Identifier: GPL-2.0-only
//! Release tarballs from kernel.org, for hosts without Debian's archive and for
//! versions that it does not have. Checked against the published SHA-256 list,
//! which TLS authenticates.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use sha2::{Digest, Sha256};
use ureq::Agent;

use super::cache::{Cache, disk_full_or, says_disk_full, unfinished};
use super::error::KernelError;
use super::process::{command, failure, output_of};
use super::progress::Ui;
use super::source::{Source, of_cached, remove_if_there, tree};
use super::version::{DebianVersion, Wanted};

const SITE: &str = "https://cdn.kernel.org/pub/linux/kernel";
const RELEASES: &str = "https://www.kernel.org/releases.json";

/// A server that does not answer for so long is as good as none.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Fetches a release, or the newest stable one, unless the cache has it.
///
/// # Errors
/// Unknown version, no network, wrong checksum, disk full.
pub fn fetch(cache: &Cache, wanted: Option<&Wanted>, ui: &Ui) -> Result<Source, KernelError> {
    let agent: Agent = Agent::config_builder()
        .timeout_connect(Some(ANSWER_WITHIN))
        .timeout_recv_response(Some(ANSWER_WITHIN))
        .build()
        .into();
    let wanted = match wanted {
        Some(wanted) => wanted.clone(),
        None => newest_stable(&agent)?,
    };
    let major = wanted.series.split('.').next().unwrap_or_default();
    let folder = format!("{SITE}/v{major}.x");
    let sums = text(&agent, &format!("{folder}/sha256sums.asc"))?;
    let (version, sum) = choose(&sums, &wanted)?;
    let dir = cache.dir("src")?.join(format!("linux_{version}"));
    let source = of_cached(&dir, &format!("linux {version}"));
    if dir.exists() {
        return Ok(source);
    }
    let name = format!("linux-{version}.tar.xz");
    let file = cache.dir("tarballs")?.join(&name);
    download(&agent, &format!("{folder}/{name}"), &file, ui)?;
    if sha256(&file)? != sum {
        fs::remove_file(&file)?;
        return Err(KernelError::Checksum { what: name });
    }
    unpack(&file, &dir, ui)?;
    Ok(source)
}

fn newest_stable(agent: &Agent) -> Result<Wanted, KernelError> {
    let releases = text(agent, RELEASES)?;
    let releases: serde_json::Value =
        serde_json::from_str(&releases).map_err(|error| failed(RELEASES, &error))?;
    let version = releases["latest_stable"]["version"].as_str();
    Wanted::parse(version.ok_or_else(|| failed(RELEASES, &"it names no stable release"))?)
}

/// The newest version in the checksum list that is wanted, and its checksum.
fn choose(sums: &str, wanted: &Wanted) -> Result<(String, String), KernelError> {
    let mut found: Vec<(DebianVersion, String)> = sums
        .lines()
        .filter_map(|line| {
            let (sum, name) = line.split_once("  ")?;
            let version = name.strip_prefix("linux-")?.strip_suffix(".tar.xz")?;
            Wanted::parse(version).ok()?;
            Some((DebianVersion::new(version), sum.to_owned()))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let hit = found
        .iter()
        .rev()
        .find(|(version, _)| wanted.matches(version));
    hit.map(|(version, sum)| (version.to_string(), sum.clone()))
        .ok_or_else(|| {
            let newest: Vec<&str> = found
                .iter()
                .rev()
                .take(10)
                .map(|(v, _)| v.as_str())
                .collect();
            KernelError::UnknownVersion {
                wanted: wanted.to_string(),
                available: newest.join(", "),
            }
        })
}

fn failed(what: &str, why: &dyn std::fmt::Display) -> KernelError {
    KernelError::Download {
        what: what.to_owned(),
        why: why.to_string(),
    }
}

fn text(agent: &Agent, url: &str) -> Result<String, KernelError> {
    let mut response = agent.get(url).call().map_err(|error| failed(url, &error))?;
    response
        .body_mut()
        .read_to_string()
        .map_err(|error| failed(url, &error))
}

/// Downloads to `file`, going on where `file.part` ends.
fn download(agent: &Agent, url: &str, file: &Path, ui: &Ui) -> Result<(), KernelError> {
    if file.exists() {
        return Ok(());
    }
    ui.step(&format!("downloading {url}"));
    let part = PathBuf::from(format!("{}.part", file.display()));
    let have = fs::metadata(&part).map_or(0, |metadata| metadata.len());
    let response = agent
        .get(url)
        .header("Range", format!("bytes={have}-"))
        .call()
        .map_err(|error| failed(url, &error))?;
    // 206 goes on; a server that knows no ranges begins again with 200.
    let resumed = response.status() == 206;
    let mut done = if resumed { have } else { 0 };
    let mut out = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .append(resumed)
        .truncate(!resumed)
        .open(&part)?;
    let total = response
        .body()
        .content_length()
        .map_or(0, |length| length + done);
    let mut task = ui.task("download", total);
    let mut reader = response.into_body().into_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = reader
            .read(&mut buffer)
            .map_err(|error| failed(url, &error))?;
        if count == 0 {
            break;
        }
        out.write_all(&buffer[..count])
            .map_err(|error| disk_full_or(error, &part))?;
        done += count as u64;
        task.at(done, "");
    }
    out.sync_all()?;
    Ok(fs::rename(&part, file)?)
}

fn sha256(file: &Path) -> Result<String, KernelError> {
    let mut hash = Sha256::new();
    let mut file = fs::File::open(file)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hash
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect());
        }
        hash.update(&buffer[..count]);
    }
}

fn unpack(file: &Path, dir: &Path, ui: &Ui) -> Result<(), KernelError> {
    ui.step(&format!("unpacking {}", file.display()));
    let temporary = unfinished(dir);
    remove_if_there(&temporary)?;
    fs::create_dir_all(&temporary)?;
    let mut tar = command("tar");
    tar.args(["-x", "--strip-components=1", "-f"])
        .arg(file)
        .arg("-C")
        .arg(&temporary);
    let output = output_of(&mut tar)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if says_disk_full(&errors) {
        remove_if_there(&temporary)?;
        return Err(KernelError::DiskFull { path: temporary });
    }
    if !output.status.success() {
        return Err(failure(&tar, output.status, &errors));
    }
    tree(&temporary)?;
    fs::rename(&temporary, dir)?;
    Ok(fs::remove_file(file)?)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use super::*;

    const SUMS: &str = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n\
        aa11  linux-7.3.tar.xz\nbb22  linux-7.3.10.tar.xz\ncc33  linux-7.3.9.tar.xz\n\
        dd44  patch-7.3.9.xz\nee55  linux-7.30.tar.xz\n";

    #[test]
    fn newest_of_the_series_is_chosen_with_its_sum() {
        let wanted = Wanted::parse("7.3").unwrap();
        assert_eq!(
            choose(SUMS, &wanted).unwrap(),
            ("7.3.10".to_owned(), "bb22".to_owned())
        );
        let wanted = Wanted::parse("7.3.9").unwrap();
        assert_eq!(choose(SUMS, &wanted).unwrap().1, "cc33");
    }

    #[test]
    fn unknown_version_lists_the_newest() {
        let error = choose(SUMS, &Wanted::parse("7.4").unwrap()).expect_err("not there");
        assert!(error.to_string().contains("7.30, 7.3.10"), "{error}");
    }

    /// Serves `content` once, honouring a range, and returns the address.
    fn serve_once(content: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/file", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut start = 0;
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                let line = line.unwrap().to_lowercase();
                if let Some(range) = line.strip_prefix("range: bytes=") {
                    start = range.trim_end_matches('-').parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            let body = &content[start..];
            write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )
            .unwrap();
            stream.write_all(body).unwrap();
        });
        address
    }

    #[test]
    fn partial_download_resumes_where_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.tar.xz");
        fs::write(dir.path().join("x.tar.xz.part"), b"hello ").unwrap();
        let agent: Agent = Agent::config_builder().build().into();
        download(&agent, &serve_once(b"HELLO world"), &file, &Ui::silent()).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"hello world");
    }

    #[test]
    fn checksum_is_the_published_form() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("abc");
        fs::write(&file, b"abc").unwrap();
        assert_eq!(
            sha256(&file).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
