// SPDX-License-Identifier: GPL-2.0-only
//! QEMU's command line as data: what virtme-ng proposes is parsed, and what
//! hugeprobe does differently is changed in it. Pure.

use crate::words::{split_kernel, split_shell};

/// A QEMU command: the program, its options and the kernel's command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuCommand {
    /// The QEMU program.
    pub program: String,
    /// All options but `-append`, in order.
    options: Vec<String>,
    /// The words of the kernel's command line.
    kernel_words: Vec<String>,
}

impl QemuCommand {
    /// Takes apart a command line in shell syntax.
    ///
    /// # Errors
    /// Says what is missing for it to be a QEMU command that boots a kernel.
    pub fn parse(line: &str) -> Result<Self, String> {
        let mut words = split_shell(line)?.into_iter();
        let program = words.next().ok_or("it is empty")?;
        if !program.contains("qemu") {
            return Err(format!("it starts with `{program}`, which is not QEMU"));
        }
        let mut options = Vec::new();
        let mut kernel_words = None;
        while let Some(word) = words.next() {
            if word == "-append" {
                let value = words.next().ok_or("-append has no value")?;
                kernel_words = Some(split_kernel(&value));
            } else {
                options.push(word);
            }
        }
        Ok(Self {
            program,
            options,
            kernel_words: kernel_words.ok_or("it has no -append")?,
        })
    }

    /// Removes what virtme-ng's own guest tools need and ours do not: its
    /// character devices and serial ports, the watchdog, the `virtme*` words
    /// and `init=` of the kernel's command line.
    ///
    /// Each device left out saves its firmware and driver probe at boot.
    pub fn strip_virtme(&mut self) {
        let mut kept = Vec::new();
        let mut options = std::mem::take(&mut self.options).into_iter().peekable();
        while let Some(option) = options.next() {
            let takes_value = options.peek().is_some_and(|v| !v.starts_with('-'));
            let value = if takes_value { options.next() } else { None };
            let unwanted = match option.as_str() {
                "-chardev" | "-serial" | "-monitor" | "-mon" => true,
                "-device" => value.as_deref().is_some_and(|v| {
                    ["virtio-serial-pci", "virtserialport", "i6300esb"]
                        .iter()
                        .any(|device| v.starts_with(device))
                }),
                _ => false,
            };
            if !unwanted {
                kept.push(option);
                kept.extend(value);
            }
        }
        self.options = kept;
        self.kernel_words.retain(|word| {
            !word.starts_with("virtme")
                && !word.starts_with("init=")
                && !word.starts_with("nr_open=")
        });
    }

    /// Adds options at the end.
    pub fn add<S: Into<String>>(&mut self, options: impl IntoIterator<Item = S>) {
        self.options.extend(options.into_iter().map(Into::into));
    }

    /// The value after the first `option`, for instance `-machine`.
    pub fn value_mut(&mut self, option: &str) -> Option<&mut String> {
        let at = self.options.iter().position(|word| word == option)?;
        self.options.get_mut(at + 1)
    }

    /// Where the values of an option are that begin like this.
    fn find(&self, option: &str, beginning: &str) -> Vec<usize> {
        let values = self.options.iter().enumerate().skip(1);
        values
            .filter(|(at, value)| self.options[at - 1] == option && value.starts_with(beginning))
            .map(|(at, _)| at)
            .collect()
    }

    /// Sizes of the backends of the guest's memory, as written.
    pub fn memory_sizes(&self) -> Vec<String> {
        let size = |at: usize| {
            let mut words = self.options[at].split(',');
            words.find_map(|word| word.strip_prefix("size=").map(str::to_owned))
        };
        let backends = self.find("-object", "memory-backend-");
        backends.into_iter().filter_map(size).collect()
    }

    /// Lets files back the guest's memory, one for each of
    /// [`Self::memory_sizes`]. What the guest writes goes to them if `shared`.
    pub fn back_memory(&mut self, files: &[String], shared: bool) {
        let share = if shared { "on" } else { "off" };
        let backends = self.find("-object", "memory-backend-");
        for (at, file) in backends.into_iter().zip(files) {
            let words = self.options[at].split(',');
            let kept: Vec<&str> = words
                .filter(|word| word.starts_with("id=") || word.starts_with("size="))
                .collect();
            self.options[at] = format!(
                "memory-backend-file,{},mem-path={file},share={share}",
                kept.join(",")
            );
        }
    }

    /// Takes the host's root away from the guest.
    pub fn without_root(&mut self) {
        let kinds = [
            ("-fsdev", "local,", ",path=/,"),
            ("-device", "virtio-9p-pci,", ",mount_tag=/dev/root"),
        ];
        for (option, beginning, root) in kinds {
            for at in self.find(option, beginning).into_iter().rev() {
                if self.options[at].contains(root) {
                    self.options.drain(at - 1..=at);
                }
            }
        }
        self.kernel_words
            .retain(|word| !word.starts_with("rootfstype=") && !word.starts_with("rootflags="));
    }

    /// Adds words at the end of the kernel's command line, where they override
    /// earlier ones.
    pub fn add_kernel_words<S: Into<String>>(&mut self, words: impl IntoIterator<Item = S>) {
        self.kernel_words.extend(words.into_iter().map(Into::into));
    }

    /// All arguments for [`Self::program`].
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = self.options.clone();
        arguments.push("-append".into());
        arguments.push(self.kernel_words.join(" "));
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::QemuCommand;

    /// Shortened from virtme-ng 1.42.
    const SAMPLE: &str = "/usr/bin/qemu-system-x86_64 -name virtme-ng -m 4G \
        -fsdev local,id=virtfs13,path=/,security_model=none,readonly=on,multidevs=remap \
        -device virtio-9p-pci,fsdev=virtfs13,mount_tag=/dev/root -device i6300esb,id=watchdog0 \
        -machine q35 -cpu max -display none -serial chardev:console \
        -chardev file,id=console,path=/proc/self/fd/2 -device virtio-serial-pci \
        -device virtserialport,name=virtme.stdin,chardev=stdin -no-reboot -kernel /k/bzImage \
        -append 'virtme_hostname=virtme-ng nr_open=1048576 console=ttyS0 virtme.exec=`L2Jp` ro \
        \"x=a b\" init=/venv/virtme-ng-init'";

    #[test]
    fn guest_tools_go_and_root_stays() {
        let mut command = QemuCommand::parse(SAMPLE).expect("sample parses");
        command.strip_virtme();
        command.add_kernel_words(["init=/ours"]);
        assert_eq!(command.program, "/usr/bin/qemu-system-x86_64");
        assert_eq!(
            command.arguments(),
            [
                "-name",
                "virtme-ng",
                "-m",
                "4G",
                "-fsdev",
                "local,id=virtfs13,path=/,security_model=none,readonly=on,multidevs=remap",
                "-device",
                "virtio-9p-pci,fsdev=virtfs13,mount_tag=/dev/root",
                "-machine",
                "q35",
                "-cpu",
                "max",
                "-display",
                "none",
                "-no-reboot",
                "-kernel",
                "/k/bzImage",
                "-append",
                "console=ttyS0 ro \"x=a b\" init=/ours",
            ]
        );
    }

    #[test]
    fn a_value_can_be_changed_in_place() {
        let mut command = QemuCommand::parse(SAMPLE).expect("sample parses");
        command
            .value_mut("-machine")
            .expect("there is one")
            .push_str(",accel=kvm");
        assert!(command.arguments().contains(&"q35,accel=kvm".to_owned()));
        assert_eq!(command.value_mut("-initrd"), None);
    }

    #[test]
    fn memory_can_be_backed_by_files_and_the_root_be_taken_away() {
        let line = SAMPLE.replace(
            "-m 4G",
            "-m 4G -object memory-backend-memfd,id=mem1,size=2048M,share=on -numa node,memdev=mem1",
        );
        let mut command = QemuCommand::parse(&line).expect("sample parses");
        assert_eq!(command.memory_sizes(), ["2048M"]);
        command.back_memory(&["/f".to_owned()], false);
        command.add(["-fsdev", "local,id=rw,path=/c,security_model=none"]);
        command.without_root();
        let arguments = command.arguments().join(" ");
        assert!(
            arguments.contains(
                "-object memory-backend-file,id=mem1,size=2048M,mem-path=/f,share=off -numa"
            ),
            "{arguments}"
        );
        assert!(!arguments.contains("9p"), "{arguments}");
        assert!(arguments.contains("path=/c,"), "{arguments}");
        assert!(arguments.contains("-device i6300esb"), "{arguments}");
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(QemuCommand::parse("").is_err());
        assert!(QemuCommand::parse("warning: no such kernel").is_err());
        assert!(QemuCommand::parse("qemu-system-x86_64 -m 4G").is_err());
    }
}
