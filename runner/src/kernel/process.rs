// SPDX-License-Identifier: GPL-2.0-only
//! Runs the programs that this part depends on (apt, tar, make): each dies with
//! us, and each one's status is read.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::error::KernelError;

/// How many lines of a failed program's output its error carries.
const TAIL_LINES: usize = 12;

/// How long a silent program is waited for before the caller is told.
const TICK: Duration = Duration::from_millis(250);

/// A command that is killed when the calling thread ends, speaks English and
/// reads nothing from the terminal.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").stdin(Stdio::null());
    // SAFETY: prctl(2) is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(std::io::Error::from)
        });
    }
    command
}

/// A `make` that knows nothing of the `make` it may have been called by: that one's
/// CPUS=, O= or job server are not meant for the kernel's build.
pub fn make() -> Command {
    let mut make = command("make");
    for name in [
        "MAKEFLAGS",
        "MFLAGS",
        "MAKEOVERRIDES",
        "MAKELEVEL",
        "KBUILD_OUTPUT",
        "O",
        "V",
        "TARGETS",
    ] {
        make.env_remove(name);
    }
    make
}

/// The command as a user could type it, for messages.
pub fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// Runs to the end and returns standard output.
///
/// # Errors
/// [`KernelError::Command`] with the end of its output when it fails.
pub fn stdout_of(command: &mut Command) -> Result<String, KernelError> {
    let output = output_of(command)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(failure(command, output.status, &text))
}

/// Runs to the end; a failure is the caller's to judge.
///
/// # Errors
/// [`KernelError::MissingTool`] when the program is not installed,
/// [`KernelError::Interrupted`] when Ctrl-C ended it.
pub fn output_of(command: &mut Command) -> Result<Output, KernelError> {
    let output = command
        .output()
        .map_err(|error| cannot_start(command, error))?;
    if output.status.signal() == Some(Signal::SIGINT as i32) {
        return Err(KernelError::Interrupted);
    }
    Ok(output)
}

/// Runs to the end and hands over each line of standard output and standard
/// error as it comes, and `None` whenever nothing came for a while.
///
/// # Errors
/// As [`output_of`].
pub fn stream(
    command: &mut Command,
    mut each: impl FnMut(Option<&str>),
) -> Result<ExitStatus, KernelError> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| cannot_start(command, error))?;
    let lines = lines_of(&mut child);
    loop {
        match lines.recv_timeout(TICK) {
            Ok(line) => each(Some(&line)),
            Err(RecvTimeoutError::Timeout) => each(None),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait()?;
    if status.signal() == Some(Signal::SIGINT as i32) {
        return Err(KernelError::Interrupted);
    }
    Ok(status)
}

/// Both outputs of a child, merged line by line, until both are closed.
fn lines_of(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let stdout = child
        .stdout
        .take()
        .map(|pipe| Box::new(pipe) as Box<dyn std::io::Read + Send>);
    let stderr = child
        .stderr
        .take()
        .map(|pipe| Box::new(pipe) as Box<dyn std::io::Read + Send>);
    for pipe in [stdout, stderr].into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            // Lossy on purpose: compilers quote source lines in any encoding.
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

/// The error of a command that ended badly.
pub fn failure(command: &Command, status: ExitStatus, output: &str) -> KernelError {
    KernelError::Command {
        command: describe(command),
        status: status.to_string(),
        output: tail(output, TAIL_LINES),
    }
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn cannot_start(command: &Command, error: std::io::Error) -> KernelError {
    if error.kind() != std::io::ErrorKind::NotFound {
        return KernelError::Io(error);
    }
    KernelError::MissingTool {
        what: format!(
            "`{}` is not installed",
            command.get_program().to_string_lossy()
        ),
        next: "run `hugeprobe doctor`".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_command_reports_its_output_and_status() {
        let error = stdout_of(command("sh").args(["-c", "echo out; echo err >&2; exit 3"]))
            .expect_err("exit 3 is a failure");
        let text = error.to_string();
        assert!(
            text.contains("exit status: 3") && text.contains("err"),
            "{text}"
        );
    }

    #[test]
    fn missing_program_is_named_with_the_next_step() {
        let error = stdout_of(&mut command("hugeprobe-no-such-program")).expect_err("not there");
        assert!(error.to_string().contains("hugeprobe doctor"), "{error}");
    }

    #[test]
    fn stream_delivers_lines_of_both_outputs() {
        let mut lines = Vec::new();
        let status = stream(command("sh").args(["-c", "echo a; echo b >&2"]), |line| {
            lines.extend(line.map(str::to_owned));
        })
        .unwrap();
        lines.sort();
        assert!(status.success());
        assert_eq!(lines, ["a", "b"]);
    }

    #[test]
    fn tail_keeps_the_end_without_blank_lines() {
        assert_eq!(tail("a\n\nb\nc\n", 2), "b\nc");
    }
}
