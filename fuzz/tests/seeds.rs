// SPDX-License-Identifier: GPL-2.0-only
//! The seed programs are programs, in the text form that the fuzzer writes.

use std::fs;
use std::path::Path;

use hugeprobe_fuzz::model::Model;
use hugeprobe_fuzz::model::race::refuses;
use hugeprobe_fuzz::program::Target;
use hugeprobe_fuzz::text;

#[test]
fn every_seed_reads_back_and_every_step_of_it_is_carried_out() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for target in Target::ALL {
        let mut count = 0;
        for entry in fs::read_dir(folder.join(target.name())).unwrap() {
            let path = entry.unwrap().path();
            let program = text::parse(&fs::read_to_string(&path).unwrap())
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!(text::parse(&text::print(&program)), Ok(program.clone()));
            let mut model = Model::boxed();
            let mut before = Model::boxed();
            model.start();
            for (index, step) in program.steps.iter().enumerate() {
                let block = program.block(index);
                if block.is_some_and(|block| block.start == index) {
                    before.copy_from(&model);
                }
                assert!(
                    step.race.is_none() || !refuses(&before, step),
                    "{}: does not race: {}",
                    path.display(),
                    text::step(step)
                );
                let state = if step.race.is_some() { &before } else { &model };
                assert!(
                    !state.skips(step),
                    "{}: skipped: {}",
                    path.display(),
                    text::step(step)
                );
                model.assume(step);
            }
            count += 1;
        }
        assert!(count > 0, "{} has no seeds", target.name());
    }
}
