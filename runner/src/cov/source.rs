// SPDX-License-Identifier: GPL-2.0-only
//! Where call sites stand in the source, by the line tables of `vmlinux`.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;

use addr2line::Loader;
use anyhow::Context;

/// A file that every kernel has, by which the top of its tree is recognised.
const KNOWN: &str = "/init/main.c";
/// The symbol whose code that file holds.
const KNOWN_SYMBOL: &str = "start_kernel";

/// One call site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file whose code it is part of, below the top of the tree: that of
    /// the function as it was compiled, with all that was inlined into it.
    pub file: Rc<str>,
    /// From the inside out: file, line and function of each inlined call, and
    /// at last those of the function itself.
    pub frames: Vec<Frame>,
}

/// A line of the source, and the function that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The file, below the top of the tree.
    pub file: Rc<str>,
    /// The line.
    pub line: u32,
    /// The function.
    pub function: Rc<str>,
}

/// Looks addresses up in a `vmlinux`.
pub struct Lines {
    loader: Loader,
    top: String,
    names: HashMap<String, Rc<str>>,
}

impl Lines {
    /// # Errors
    /// When the file has no line tables.
    pub fn open(vmlinux: &Path) -> anyhow::Result<Self> {
        let failed = || format!("read the debug information of {}", vmlinux.display());
        let loader = Loader::new(vmlinux).map_err(plain).with_context(failed)?;
        let start = super::sites::symbol(vmlinux, KNOWN_SYMBOL)?;
        let top = start.and_then(|address| {
            let location = loader.find_location(address).ok().flatten()?;
            Some(location.file?.strip_suffix(KNOWN)?.to_owned() + "/")
        });
        let top = top.with_context(|| {
            format!(
                "{} has no line numbers: it needs CONFIG_DEBUG_INFO",
                vmlinux.display()
            )
        })?;
        Ok(Self {
            loader,
            top,
            names: HashMap::new(),
        })
    }

    /// The place of the call before `pc`; `None` without debug information,
    /// as for code from assembly.
    ///
    /// # Errors
    /// When the debug information is damaged.
    pub fn place(&mut self, pc: u64) -> anyhow::Result<Option<Place>> {
        let mut found = Vec::new();
        // Inside the call: the address behind it may be of another line.
        let mut frames = self.loader.find_frames(pc - 1).map_err(plain)?;
        while let Some(frame) = frames.next()? {
            let location = frame.location.as_ref();
            let file = location.and_then(|location| location.file);
            let function = match &frame.function {
                Some(function) => function.raw_name()?.into_owned(),
                None => String::new(),
            };
            found.push((
                file.unwrap_or_default().to_owned(),
                location.and_then(|location| location.line).unwrap_or(0),
                function,
            ));
        }
        drop(frames);
        let frames: Vec<Frame> = found
            .into_iter()
            .map(|(file, line, function)| Frame {
                file: self.below_top(&file),
                line,
                function: self.shared(function),
            })
            .collect();
        Ok(frames.last().map(|outer| Place {
            file: Rc::clone(&outer.file),
            frames: frames.clone(),
        }))
    }

    fn below_top(&mut self, file: &str) -> Rc<str> {
        let file = file.strip_prefix(&self.top).unwrap_or(file);
        let file = file.strip_prefix("./").unwrap_or(file);
        self.shared(file.to_owned())
    }

    /// The same text once in memory: there are thousands of places in a file.
    fn shared(&mut self, name: String) -> Rc<str> {
        if let Some(known) = self.names.get(&name) {
            return Rc::clone(known);
        }
        let shared: Rc<str> = name.as_str().into();
        self.names.insert(name, Rc::clone(&shared));
        shared
    }
}

/// An error of the loader, which is not made for threads.
fn plain(error: Box<dyn std::error::Error>) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}
