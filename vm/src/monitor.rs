// SPDX-License-Identifier: GPL-2.0-only
//! QEMU's monitor (QMP), for the one thing we ask of it: make a silent guest
//! say where it is.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The kernel's answer to an NMI that nobody claims: a panic with the stack of
/// the CPU that took it (`Documentation/admin-guide/kernel-parameters.txt`).
pub const KERNEL_WORD: &str = "unknown_nmi_panic";

/// How long the guest may take to print its stack.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Our end of QEMU's monitor.
#[derive(Debug)]
pub struct Monitor(UnixStream);

impl Monitor {
    /// Wraps our end of the socket whose other end QEMU has.
    pub fn new(socket: UnixStream) -> Self {
        // A QEMU that does not read must not stop us.
        let _ = socket.set_write_timeout(Some(Duration::from_secs(1)));
        Self(socket)
    }

    /// Sends a non-maskable interrupt to each CPU. Whether it arrived shows on
    /// the console; QEMU's replies tell nothing more and stay unread.
    pub fn inject_nmi(&mut self) {
        const COMMANDS: &str = concat!(
            r#"{"execute":"qmp_capabilities"}"#,
            "\n",
            r#"{"execute":"inject-nmi"}"#,
            "\n"
        );
        let _ = self.0.write_all(COMMANDS.as_bytes());
    }
}
