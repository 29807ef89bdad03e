// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe bench`: runs the hidden target `bench` and shows what it measured.

use hugeprobe_vm::event::{Event, Stamped};

use super::kernel::requests;
use crate::bench::{Sample, levels, svg, table};
use crate::cli::{BenchArgs, RunArgs, SelectArgs};
use crate::exit::{Exit, Failure, OrExit, Outcome};
use crate::programs::{self, Layout};
use crate::report::{self, events};
use crate::run::{self, Chosen, Results};

/// Measures, prints the table, and writes `bench.json` and `bench.svg`.
pub fn run(args: &BenchArgs) -> Outcome {
    let requests = requests(&args.kernel);
    let [request] = requests.as_slice() else {
        return Err(Failure::new(
            Exit::Usage,
            "bench takes one kernel; give one version",
        ));
    };
    let layout = Layout::detect()?;
    let programs = programs::find(&layout)?;
    let run_args = RunArgs {
        known_bugs: false,
        select: SelectArgs {
            targets: vec!["bench".into()],
            tests: Some(format!("^bench\\.{}::", args.bench.name())),
        },
        timeout: None,
        fail_fast: false,
        patience: u32::MAX,
        kernel: args.kernel.clone(),
        guest: args.guest.clone(),
        output: args.output.clone(),
        verbose: false,
    };
    let chosen = Chosen::of(&layout, &programs, &run_args.select)?;
    let results = Results::create(args.output.as_deref()).or_exit(Exit::Usage)?;
    let finished = run::run(&run_args, request, &chosen, &results)?;
    eprint!("{}", report::summary(&finished.report, &finished.dir));
    let samples = samples(&events::read(&finished.dir)?)?;
    if samples.is_empty() {
        return Ok(finished.report.exit().worse(Exit::NothingRan));
    }
    let table = if levels::are(&samples) {
        levels::write(&samples)
    } else {
        table::write(&samples)
    };
    println!("{table}");
    let json = serde_json::to_string_pretty(&samples)?;
    fs_err::write(finished.dir.join("bench.json"), json)?;
    fs_err::write(finished.dir.join("bench.svg"), svg::write(&samples))?;
    println!("{}", finished.dir.join("bench.svg").display());
    Ok(finished.report.exit())
}

fn samples(events: &[Stamped]) -> Result<Vec<Sample>, serde_json::Error> {
    let lines = events.iter().filter_map(|stamped| match &stamped.event {
        Event::TestOutput { line, .. } => Sample::json_in(line),
        _ => None,
    });
    lines.map(serde_json::from_str).collect()
}
