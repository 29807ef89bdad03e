// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe kernel fetch|config|build`: each stage of getting a kernel alone.
//! Prints the path of what the stage made.

use std::path::PathBuf;

use crate::cli::{KernelArgs, KernelCommand, KernelStage};
use crate::exit::{Exit, Outcome};
use crate::kernel::cache::Cache;
use crate::kernel::progress::Ui;
use crate::kernel::{self, KernelError, Origin, Request};

/// Runs the verb.
pub fn run(command: &KernelCommand) -> Outcome {
    let (KernelStage::Fetch(args) | KernelStage::Config(args) | KernelStage::Build(args)) =
        &command.stage;
    let stage = |cache: &Cache, request: &Request, ui: &Ui| -> Result<PathBuf, KernelError> {
        match command.stage {
            KernelStage::Fetch(_) => Ok(kernel::fetch(cache, &request.origin, ui)?.path),
            KernelStage::Config(_) => kernel::config(cache, request, ui),
            KernelStage::Build(_) => Ok(kernel::prepare(cache, request, ui)?.bzimage),
        }
    };
    let ui = Ui::stderr(false);
    let cache = Cache::open().map_err(KernelError::into_failure)?;
    for request in requests(args) {
        let path = stage(&cache, &request, &ui).map_err(KernelError::into_failure)?;
        println!("{}", path.display());
    }
    Ok(Exit::Passed)
}

/// The kernels that the arguments ask for: one, or one for each version.
pub fn requests(args: &KernelArgs) -> Vec<Request> {
    let origins = match (&args.kdir, args.kernel.as_deref()) {
        (Some(dir), _) => vec![Origin::Tree(dir.clone())],
        (None, Some("debian")) => vec![Origin::DebianImage],
        (None, Some(image)) => vec![Origin::Image(PathBuf::from(image))],
        (None, None) if args.kver.is_empty() => vec![Origin::Version(None)],
        (None, None) => {
            let version = |version: &String| Origin::Version(Some(version.clone()));
            args.kver.iter().map(version).collect()
        }
    };
    let request = |origin| Request {
        origin,
        profile: args.profile.name().to_owned(),
        jobs: args.jobs,
    };
    origins.into_iter().map(request).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_a_request_and_none_means_the_newest() {
        let args = KernelArgs {
            kver: vec!["6.12".to_owned(), "7.3".to_owned()],
            ..KernelArgs::default()
        };
        let origins: Vec<Origin> = requests(&args).into_iter().map(|r| r.origin).collect();
        assert_eq!(
            origins,
            ["6.12", "7.3"].map(|version| Origin::Version(Some(version.to_owned())))
        );
        assert_eq!(
            requests(&KernelArgs::default())[0].origin,
            Origin::Version(None)
        );
    }

    #[test]
    fn debian_is_the_archives_image_and_anything_else_a_path() {
        let origin = |kernel: &str| {
            let args = KernelArgs {
                kernel: Some(kernel.to_owned()),
                ..KernelArgs::default()
            };
            requests(&args).remove(0).origin
        };
        assert_eq!(origin("debian"), Origin::DebianImage);
        assert_eq!(origin("./debian"), Origin::Image(PathBuf::from("./debian")));
    }
}
