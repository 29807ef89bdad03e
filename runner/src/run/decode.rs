// SPDX-License-Identifier: GPL-2.0-only
//! Writes the kernel's reports of each test into a file of its own, with
//! function names and source lines by the tree's own `decode_stacktrace.sh`.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hugeprobe_vm::event::Splat;

use crate::kernel::Kernel;
use crate::report::{Report, events, splat_path};

/// Decoding is a courtesy: it must not hold up the reports.
const LIMIT: Duration = Duration::from_secs(60);

/// Writes the splats of all tests in the results folder `dir`.
///
/// # Errors
/// When files cannot be read or written; a failed decoding leaves the raw text.
pub fn splats(dir: &Path, kernel: &Kernel) -> io::Result<()> {
    let report = Report::from_events(&events::read(dir)?);
    for test in report.tests.iter().filter(|test| !test.splats.is_empty()) {
        let path = splat_path(dir, &test.id);
        fs_err::create_dir_all(path.parent().unwrap_or(dir))?;
        fs_err::write(path, text(&test.splats, kernel)?)?;
    }
    Ok(())
}

fn text(splats: &[Splat], kernel: &Kernel) -> io::Result<String> {
    let mut raw = String::new();
    for splat in splats {
        raw.push_str(&splat.title);
        raw.push('\n');
        for line in &splat.lines {
            raw.push_str(line);
            raw.push('\n');
        }
        if let Some(reason) = &splat.allowed {
            raw.push_str(&format!("(allowed: {reason})\n"));
        }
    }
    decoded(&raw, kernel)
}

/// `raw` with source lines, where symbols and the script are at hand; else as
/// it is.
///
/// # Errors
/// When the script cannot be run or read.
pub fn decoded(raw: &str, kernel: &Kernel) -> io::Result<String> {
    let decoded = by_script(raw, kernel)?;
    Ok(decoded.map_or_else(|| raw.to_owned(), |text| without_disassembly(&text)))
}

/// The script also takes each `Code:` line apart, which is longer than all the rest
/// and says less than the source line.
fn without_disassembly(text: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.lines() {
        inside = match line {
            "All code" => true,
            _ if inside => is_disassembly(line),
            _ => false,
        };
        if !inside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

fn is_disassembly(line: &str) -> bool {
    let address = line.split(':').next().unwrap_or_default().trim();
    let code = line.contains(":\t") || line.contains(":*\t");
    line.trim().is_empty()
        || line.trim() == "..."
        || line.starts_with("====")
        || line == "Code starting with the faulting instruction"
        || code && address.chars().all(|c| c.is_ascii_hexdigit() || c == '*')
}

fn by_script(raw: &str, kernel: &Kernel) -> io::Result<Option<String>> {
    let (Some(vmlinux), Some(source)) = (&kernel.vmlinux, &kernel.source) else {
        return Ok(None);
    };
    let script = source.join("scripts/decode_stacktrace.sh");
    if !vmlinux.is_file() || !script.is_file() {
        return Ok(None);
    }
    let mut child = Command::new(script)
        .arg(vmlinux)
        .arg(source)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let raw = raw.to_owned();
    // Both ends move at once: neither pipe can fill up and block the other. A
    // script that ends early is seen by its status.
    let writer = std::thread::spawn(move || stdin.write_all(raw.as_bytes()));
    let reader = std::thread::spawn(move || io::read_to_string(&mut stdout));
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => {
                child.kill()?;
                child.wait()?;
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let _ = writer.join();
    let text = reader.join().ok().and_then(Result::ok);
    let succeeded = status.is_some_and(|status| status.success());
    Ok(text.filter(|text| succeeded && !text.trim().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disassembly_goes_and_the_registers_after_it_stay() {
        let text = "RIP: 0010:f (mm/migrate.c:368)\nCode: ee 18\nAll code\n========\n   \
                    0:\tee                   \tout    %al,(%dx)\n  2a:*\t0f 0b                \tud2\n\
                    \t...\n\nCode starting with the faulting instruction\n====\n   \
                    0:\t0f 0b                \tud2\nRSP: 0018:ffa0 EFLAGS: 0246\n\nend\n";
        let wanted =
            "RIP: 0010:f (mm/migrate.c:368)\nCode: ee 18\nRSP: 0018:ffa0 EFLAGS: 0246\n\nend\n";
        assert_eq!(without_disassembly(text), wanted);
    }
}
