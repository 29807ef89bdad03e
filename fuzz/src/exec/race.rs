// SPDX-License-Identifier: GPL-2.0-only
//! A racing block in one process: its threads are made, run and joined; then
//! the process looks at what it finds, and the model is brought to that.

use super::lane::{Ground, Lane};
use super::observe::Observer;
use super::process::{self, Process};
use super::rally::control;
use super::violation::{Oracle, Violation};
use crate::model::Facts;
use crate::program::{Move, Op, PROCESSES, Step};

/// Stack of a thread; a process that is forked in it lives on it.
const STACK: usize = 512 << 10;

struct Nothing;

impl Facts for Nothing {
    fn mapped(&self, _: usize) -> bool {
        true
    }

    fn locked(&self, _: usize) -> bool {
        true
    }
}

impl Process<'_> {
    /// Plans the block and lets it run. False if nothing of it can be carried out.
    pub(super) fn plan(&mut self, first: usize) -> bool {
        let board = self.board();
        if !self
            .setup
            .rally
            .prepare(board, first, board.block_end(first))
        {
            return false;
        }
        board.begin_run(first);
        true
    }

    /// Runs the threads that this process has in the block, and waits for its end.
    pub(super) fn race(&mut self, turn: u32) {
        let board = self.setup.board;
        let threads: Vec<usize> = self.setup.rally.threads_of(&board, self.me).collect();
        self.inject = None;
        self.areas = None;
        self.open_mirrors();
        let ground = Ground {
            setup: self.setup,
            me: self.me,
            turn,
            tracker: self.tracker.as_ref(),
            mirrors: self.mirrors.files(),
        };
        self.areas = std::thread::scope(|scope| {
            let mut running = Vec::new();
            for thread in threads {
                let lane = Lane::new(&ground, thread);
                let builder = std::thread::Builder::new().stack_size(STACK);
                match builder.spawn_scoped(scope, move || lane.run()) {
                    Ok(handle) => running.push(handle),
                    // the others must not wait for it
                    Err(_) => ground.setup.rally.give_up(&board, self.me, turn),
                }
            }
            let models = running.into_iter().filter_map(|handle| handle.join().ok());
            models.flatten().last()
        });
        while board.turn() == turn {
            board.wait_turn(turn, std::time::Duration::from_secs(60));
        }
    }

    /// Opens the files of the mirror devices that its threads use.
    fn open_mirrors(&mut self) {
        let board = self.setup.board;
        let steps: Vec<Step> = self
            .setup
            .rally
            .plan()
            .carried(&|index| board.step(index))
            .collect();
        for step in steps {
            if let Op::Device { mirror, .. } = step.op
                && step.process.index() == self.me
            {
                // its threads see that it is not there
                let _ = self.mirrors.file(mirror);
            }
        }
    }

    /// Looks at what the block has left in this process.
    pub(super) fn look(&mut self, turn: u32) -> Result<(), Box<Violation>> {
        if self.me == 0 {
            self.settle_processes(turn)?;
        }
        let first = (turn & 0xffff) as usize;
        let areas = self.areas.take();
        let looked = Observer::new(self, areas).and_then(|mut observer| observer.look());
        looked.map_err(|(oracle, what, detail)| {
            let step = self.board().step(first);
            let name = self.racing(first);
            let text = step.map_or(String::new(), |step| crate::text::step(&step));
            Box::new(Violation {
                oracle,
                step: Some(first),
                title: format!("{what} after a race"),
                detail: format!("p{} after a race of {name}, from {text}\n{detail}", self.me),
            })
        })
    }

    /// The operations of a block, each once, for titles.
    fn racing(&self, first: usize) -> String {
        let range = first..self.board().block_end(first);
        let plan = self.setup.rally.plan();
        let steps = range.filter(|index| plan.carried[*index]);
        let steps = steps.filter_map(|index| self.board().step(index));
        let mut names: Vec<String> = steps.map(|step| process::name_of(&step.op)).collect();
        names.sort();
        names.dedup();
        names.join(", ")
    }

    /// What the block returned, and which processes there are now.
    fn settle_processes(&self, turn: u32) -> Result<(), Box<Violation>> {
        let (board, rally) = (self.board(), &self.setup.rally);
        let first = (turn & 0xffff) as usize;
        let carried: Vec<(usize, Step)> = (first..board.block_end(first))
            .filter(|index| rally.plan().carried[*index])
            .filter_map(|index| Some((index, board.step(index)?)))
            .collect();
        for (index, step) in &carried {
            self.settle_results(*index, step)?;
        }
        let model = board.model();
        for (_, step) in &carried {
            match step.op {
                Op::Fork { child } if board.pid(child.index()) > 0 => {
                    let _ = model.apply(step, 0, &Nothing);
                }
                Op::Mremap {
                    how: Move::Dontunmap,
                    ..
                } => model.forget_locks(step.process.index()),
                _ => {}
            }
        }
        for who in 1..PROCESSES {
            if rally.control(who) == control::MANY {
                model.forget_locks(who);
            }
            if rally.is_dead(who) {
                let exit = Step::new(crate::program::Proc(who as u8), Op::Exit {});
                let _ = model.apply(&exit, 0, &Nothing);
            }
        }
        model.end_race(rally.history().now());
        Ok(())
    }

    fn settle_results(&self, index: usize, step: &Step) -> Result<(), Box<Violation>> {
        let (board, rally) = (self.board(), &self.setup.rally);
        let [succeeded, failed] = rally.counts(index);
        let stats = board.stats();
        // threads that load and store do so without end: one call, as elsewhere
        let most = match step.op {
            Op::Read { .. } | Op::Write { .. } => 1,
            _ => u32::MAX,
        };
        stats.calls += u64::from((succeeded + failed).min(most));
        stats.succeeded += u64::from(succeeded.min(most));
        let last = rally.results(index).last().unwrap_or(0);
        board.set_result(index, if succeeded > 0 { 0 } else { last });
        let returns = rally.plan().returns(step);
        let success = (succeeded > 0).then_some(0);
        let wrong = rally
            .results(index)
            .chain(success)
            .find(|got| !returns.allows(*got));
        match wrong {
            None => Ok(()),
            Some(got) => {
                let wanted = returns.errnos.first().copied().unwrap_or(0);
                let wanted = if returns.success { 0 } else { wanted };
                let what = format!("{}, racing", process::returned(got, wanted));
                let detail = format!("allowed: {returns:?}");
                Err(process::violation(index, step, Oracle::Errno, what, detail))
            }
        }
    }
}
