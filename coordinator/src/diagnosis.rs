//! What the trainers tell of single images, summed up window by window, on a thread of its own beside the machine. What they score
//! the model at is heard on the same thread, and judged in [`crate::evaluation`].
//!
//! Nothing that is decided about a run hangs on it, so it is not among the machine's inputs: its queue is bounded and what finds no
//! room is dropped, which shows as a lower count. A step that is computed again takes the place of the one before.
//!
//! A trainer tells of a step's images before its losses of the step after; so a window is whole once the step behind it is.

use std::collections::BTreeMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use began::diagnosis::{LaneSample, Schedule, StepSample, Window};
use began::{RunConfig, Step, StepRecord};
use began_proto::v1::{EvaluationDone, ImageLosses, LaneImages};
use began_record::{DiagnosisRow, Entry, EvaluationRow};

use crate::beside::Beside;
use crate::courtesy;
use crate::evaluation::{Evaluations, Told};
use crate::page::feed::News;
use crate::recorder::{self, Record};

/// Messages that may wait.
const QUEUE: usize = 4096;
/// Steps that images may be ahead of the last step that is known to be whole.
const AHEAD: u64 = 64;

/// What the thread is told.
#[derive(Debug)]
enum Command {
    Images(ImageLosses),
    Diversity(Step, f64),
    /// By a trainer of this generation.
    Evaluated(EvaluationDone, u64),
    Step(StepRecord),
    Rewind(Step),
    Back(u64),
    Finish,
}

/// Tells the thread; never waits. Clones share it.
#[derive(Clone, Debug)]
pub struct Collector(SyncSender<Command>);

/// The thread's end, to be waited for.
#[derive(Debug)]
pub struct Collecting {
    collector: Collector,
    thread: thread::JoinHandle<()>,
}

impl Collector {
    /// Starts the thread. `known` are the last steps of the journal: of a window that a coordinator before this one began, the
    /// losses are known, the images are not. `scored` are the journal's scores.
    ///
    /// # Errors
    /// If the system has none left.
    pub fn start(
        config: RunConfig,
        lineage: u64,
        (known, scored): (&[StepRecord], &[EvaluationRow]),
        beside: Beside,
    ) -> std::io::Result<(Self, Collecting)> {
        let (queue, commands) = sync_channel(QUEUE);
        let next = known.last().map_or(0, |record| record.step.0 + 1);
        let mut evaluations = Evaluations::new(config.clone(), Step(next), scored);
        let mut desk = Desk::new(config, lineage);
        let window = desk.schedule.window_of(Step(next));
        for record in known.iter().filter(|record| window.contains(&record.step.0)) {
            desk.steps.entry(record.step.0).or_default().record = Some(*record);
        }
        desk.next = next;
        let work = move || {
            courtesy::give_way(courtesy::LEFT_OVER);
            while let Ok(command) = commands.recv() {
                let over = matches!(command, Command::Finish);
                for told in hear(&mut evaluations, &command) {
                    told.tell(&beside);
                }
                for row in desk.take(command) {
                    let to = row.step;
                    beside.recorder.record(Record::Entry(Entry::Diagnosis(row)));
                    beside.page.tell(|| News::Window(to));
                }
                if over {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("diagnosis".into()).spawn(work)?;
        let collector = Self(queue);
        Ok((collector.clone(), Collecting { collector, thread }))
    }

    fn tell(&self, command: Command) {
        let _ = self.0.try_send(command);
    }

    /// What a trainer tells of a step's images.
    pub fn images(&self, images: ImageLosses) {
        self.tell(Command::Images(images));
    }

    /// The diversity of the samples drawn in the state of this step; 0 was not measured.
    pub fn diversity(&self, step: u64, diversity: f64) {
        if diversity.is_finite() && diversity > 0.0 {
            self.tell(Command::Diversity(Step(step), diversity));
        }
    }

    /// What a trainer of this generation scored the model at.
    pub fn evaluated(&self, done: EvaluationDone, generation: u64) {
        self.tell(Command::Evaluated(done, generation));
    }

    /// A step is whole.
    pub fn step(&self, record: StepRecord) {
        self.tell(Command::Step(record));
    }

    /// Steps from this one on are computed again.
    pub fn rewind(&self, step: Step) {
        self.tell(Command::Rewind(step));
    }

    /// The run went back for good: what follows is of this lineage.
    pub fn back(&self, lineage: u64) {
        self.tell(Command::Back(lineage));
    }
}

impl Collecting {
    /// Sums up what is left and ends the thread. Blocks, at most `limit`.
    pub fn finish(self, limit: Duration) {
        recorder::end(&self.collector.0, || Command::Finish, &self.thread, limit);
    }
}

/// What of it is about scores.
fn hear(evaluations: &mut Evaluations, command: &Command) -> Vec<Told> {
    match command {
        Command::Evaluated(done, generation) => evaluations.done(done.clone(), *generation).unwrap_or_else(|why| {
            tracing::warn!("ignored: {why}");
            Vec::new()
        }),
        Command::Step(record) => {
            evaluations.step(record.step);
            Vec::new()
        }
        Command::Rewind(step) => {
            evaluations.rewind(*step);
            Vec::new()
        }
        Command::Finish => evaluations.finish(),
        Command::Images(_) | Command::Diversity(..) | Command::Back(_) => Vec::new(),
    }
}

/// What is known of the steps of the window that is open, and of the one before it.
struct Desk {
    config: RunConfig,
    schedule: Schedule,
    lineage: u64,
    /// The step after the last one that is whole.
    next: u64,
    steps: BTreeMap<u64, StepSample>,
}

impl Desk {
    fn new(config: RunConfig, lineage: u64) -> Self {
        let schedule = Schedule::of(&config.run);
        Self { config, schedule, lineage, next: 0, steps: BTreeMap::new() }
    }

    /// Takes something in; the windows that are whole with it.
    fn take(&mut self, command: Command) -> Vec<DiagnosisRow> {
        match command {
            Command::Images(images) => self.images(images),
            Command::Diversity(step, diversity) => {
                if self.expects(step.0) {
                    self.steps.entry(step.0).or_default().diversity = Some(diversity);
                }
            }
            Command::Step(record) => return self.step(record),
            Command::Rewind(step) => {
                let _ = self.steps.split_off(&step.0);
                self.next = self.next.min(step.0);
            }
            Command::Back(lineage) => self.lineage = lineage,
            Command::Evaluated(..) => {}
            Command::Finish => {
                let open = self.schedule.window_of(Step(self.next.saturating_sub(1))).start;
                return if self.next > open { vec![self.row(open..self.next)] } else { Vec::new() };
            }
        }
        Vec::new()
    }

    fn step(&mut self, record: StepRecord) -> Vec<DiagnosisRow> {
        let step = record.step.0;
        let before = self.schedule.window_of(Step(self.next.saturating_sub(1)));
        let now = self.schedule.window_of(record.step);
        let closed = (self.next > 0 && step >= before.end).then(|| self.row(before.clone()));
        if closed.is_some() {
            // What a step back may make a part of an open window again is kept; what lies before that is not.
            self.steps = self.steps.split_off(&before.start.min(now.start));
        }
        self.steps.entry(step).or_default().record = Some(record);
        self.next = step + 1;
        closed.into_iter().collect()
    }

    fn row(&self, range: std::ops::Range<u64>) -> DiagnosisRow {
        let window = Window::of(range, self.config.objective.gamma, &self.steps);
        let text = serde_json::to_string(&window).unwrap_or_default();
        DiagnosisRow { step: window.to, lineage: self.lineage, window: text }
    }

    /// Whether a step is near enough to the last one to be kept: bounds what peers can fill the memory with.
    fn expects(&self, step: u64) -> bool {
        let open = self.schedule.window_of(Step(self.next)).start;
        (open.saturating_sub(self.schedule.window)..=self.next.saturating_add(AHEAD)).contains(&step)
    }

    fn images(&mut self, images: ImageLosses) {
        if !self.expects(images.step) {
            return;
        }
        for lane in images.lanes {
            let number = lane.lane;
            if number < self.config.run.lanes
                && let Some(sample) = self.sample(lane)
            {
                self.steps.entry(images.step).or_default().lanes.insert(number, sample);
            }
        }
    }

    /// A lane's measurements, if they can be such.
    fn sample(&self, lane: LaneImages) -> Option<LaneSample> {
        let (batch, size) = (self.config.run.batch as usize, u64::from(self.config.model.size));
        let most = 3 * size * size * batch as u64;
        let sound = lane.real.len() == batch
            && lane.fake.len() == batch
            && lane.values <= most
            && lane.out_of_range <= lane.values
            && lane.inner <= most
            && lane.specks <= lane.inner;
        sound.then_some(LaneSample {
            real: lane.real,
            fake: lane.fake,
            values: lane.values,
            out_of_range: lane.out_of_range,
            inner: lane.inner,
            specks: lane.specks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk() -> Desk {
        let mut config = RunConfig::default();
        (config.run.steps, config.run.lanes, config.run.batch) = (200, 2, 3);
        Desk::new(config, 0)
    }

    fn record(step: u64) -> Command {
        Command::Step(StepRecord { step: Step(step), real: 1.0, fake: 0.5, k: 0.0, rate: 1e-4, m_global: 1.0 })
    }

    fn images(step: u64, lane: u32, loss: f32) -> Command {
        let lane = LaneImages { lane, real: vec![loss; 3], fake: vec![0.5; 3], ..LaneImages::default() };
        Command::Images(ImageLosses { step, lanes: vec![lane] })
    }

    fn window(row: &DiagnosisRow) -> Window {
        serde_json::from_str(&row.window).unwrap_or_default()
    }

    /// Steps 0 to 10 of two lanes, in this order of lanes.
    fn first_window(lanes: [u32; 2]) -> Vec<DiagnosisRow> {
        let mut desk = desk();
        let mut rows = Vec::new();
        for step in 0..=10 {
            for lane in lanes {
                desk.take(images(step, lane, step as f32 + lane as f32 / 10.0));
            }
            rows.extend(desk.take(record(step)));
        }
        rows
    }

    #[test]
    fn a_window_is_summed_up_once_the_step_behind_it_is_whole_whoever_came_first() {
        let rows = first_window([0, 1]);
        assert_eq!(rows, first_window([1, 0]));
        let [row] = &rows[..] else { panic!("{rows:?}") };
        let window = window(row);
        assert_eq!((row.step, window.from, window.to, window.real.count), (10, 0, 10, 60));
        assert_eq!((window.k_at_0, window.crossings, window.specks), (Some(1.0), Some(0), None));
    }

    #[test]
    fn a_step_that_is_computed_again_counts_once_and_what_makes_no_sense_not_at_all() {
        let mut desk = desk();
        for step in 0..8 {
            desk.take(images(step, 0, 1.0));
            desk.take(record(step));
        }
        desk.take(Command::Rewind(Step(4)));
        desk.take(Command::Back(1));
        for step in 4..10 {
            desk.take(images(step, 0, 2.0));
            desk.take(images(step, 0, 2.0));
            desk.take(images(step, 7, 2.0));
            desk.take(images(step + 1_000, 1, 2.0));
            desk.take(record(step));
        }
        let rows = desk.take(record(10));
        let window = window(&rows[0]);
        assert_eq!((rows[0].lineage, window.real.count, window.real.mean), (1, 30, Some(1.6)));
    }

    #[test]
    fn a_run_that_ends_inside_a_window_has_a_shorter_one() {
        let mut desk = desk();
        for step in 0..14 {
            desk.take(record(step));
        }
        let rows = desk.take(Command::Finish);
        let window = window(&rows[0]);
        assert_eq!((window.from, window.to, window.real.count, window.real.mean), (10, 14, 0, None));
    }
}
