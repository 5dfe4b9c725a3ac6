//! The machine itself: what happened goes in, what to do comes out.

use std::time::Duration;

use began::{LaneLosses, Step};
use began_proto::v1::coordinator_message::Body as Down;
use began_proto::v1::trainer_message::Body as Up;
use began_proto::v1::{self as wire, CoordinatorMessage, TrainerMessage};

use crate::history::History;
use crate::link::{Due, Link};
use crate::outbox::Outbox;

/// How often [`Input::Tick`] is to come.
pub const TICK: Duration = Duration::from_millis(25);

/// Who this trainer is; see [`wire::Hello`].
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// What every hello says: everything but what this machine fills in itself.
    pub hello: wire::Hello,
}

/// Time limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How long to go on without a coordinator; until the first welcome, how long to look for it.
    pub patience: Duration,
    /// Between heartbeats; the welcome says another.
    pub heartbeat: Duration,
}

/// A place in a generation whose group is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which generation.
    pub generation: u64,
    /// The rank in it.
    pub rank: u32,
    /// Its size.
    pub world_size: u32,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passes.
    Tick,
    /// The stream that was asked for is open.
    Opened,
    /// A message came in.
    Received(Box<CoordinatorMessage>),
    /// The stream ended, or could not be opened; the transport's words.
    Broken(String),
    /// The training loop has something to say.
    Say(Say),
}

/// What the training loop has to say.
#[derive(Clone, Debug)]
pub enum Say {
    /// The losses of its lanes in a step.
    Losses(wire::StepLosses),
    /// This step was committed (the state is of the next one), with the losses of all lanes.
    Committed {
        /// Which step.
        step: Step,
        /// By lane.
        losses: Vec<LaneLosses>,
    },
    /// The state it holds whole from now on; none while it is being overwritten.
    Holds(Option<Step>),
    /// The losses of single images, for the diagnosis: said once, and lost with the stream.
    Images(wire::ImageLosses),
    /// The digest of the state.
    Digest(wire::StateDigest),
    /// A checkpoint was written, or could not be.
    Checkpoint(wire::CheckpointWritten),
    /// Samples were drawn, or could not be.
    Sample(wire::SampleWritten),
    /// The model was scored, or could not be.
    Evaluated(wire::EvaluationDone),
    /// Connected to all peers, and holding the generation's state.
    Ready(wire::Ready),
    /// This generation is left.
    Held(u64),
    /// A sum failed, or peers could not be reached; the generation is left.
    Severed(String),
    /// The checkpoint to begin with cannot be used; the generation is left.
    Unusable(wire::CheckpointUnusable),
    /// This trainer cannot go on.
    Failure(wire::Failure),
}

/// What the driver is to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Open a stream; [`Input::Opened`] or [`Input::Broken`] follows.
    Connect,
    /// Drop the stream, if there is one.
    Disconnect,
    /// Send this on the stream.
    Send(Box<TrainerMessage>),
    /// Send a heartbeat.
    Beat,
    /// Shards that may be read from now on.
    Lease(wire::ShardLease),
    /// No shard may be read any more: a generation begins.
    ForgetLeases,
    /// For the training loop.
    Tell(News),
}

/// What the training loop is told.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// Let in, for the first time.
    Welcome {
        /// The run's identity.
        run: String,
        /// `run.toml`, whole.
        config: String,
        /// Digest of the prepared data.
        data_digest: String,
    },
    /// A place in a new generation.
    Opened(u64, Box<wire::GenerationOpened>),
    /// What a step needs, with what to do after it.
    Equilibrium(Box<wire::Equilibrium>),
    /// Leave the generation and say [`Say::Held`].
    Halt(String),
    /// Write the held state; this belongs to it.
    WriteCheckpoint(Box<wire::Equilibrium>),
    /// The end.
    Stop(wire::Stop),
    /// Not let in.
    Refused(String),
    /// The coordinator has been gone for too long.
    Lost(String),
}

/// The machine. See the crate.
#[derive(Clone, Debug)]
pub struct Protocol {
    identity: Identity,
    settings: Settings,
    link: Link,
    last_words: String,
    run: String,
    /// The generation this trainer is in, or was in last.
    generation: u64,
    /// Kept until the loop says that it has left.
    place: Option<Place>,
    /// The loop was told to leave.
    halted: bool,
    /// The last hello claimed a place.
    claimed: bool,
    held: Option<Step>,
    /// A halt asked for the last digest.
    wants_digest: bool,
    /// How often the run had gone back before the held state.
    lineage: u64,
    history: History,
    outbox: Outbox,
    next_beat: Duration,
}

impl Protocol {
    /// Before the first stream.
    #[must_use]
    pub fn new(identity: Identity, settings: Settings, now: Duration) -> Self {
        Self {
            identity,
            settings,
            link: Link::new(now),
            last_words: String::new(),
            run: String::new(),
            generation: 0,
            place: None,
            halted: false,
            claimed: false,
            held: None,
            wants_digest: false,
            lineage: 0,
            history: History::default(),
            outbox: Outbox::default(),
            next_beat: now,
        }
    }

    /// The place it has, while its group is whole.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.place.filter(|_| !self.halted)
    }

    /// The state it holds whole.
    #[must_use]
    pub fn held(&self) -> Option<Step> {
        self.held
    }

    /// Another limit for how long to go on without a coordinator, once the configuration is known.
    pub fn set_patience(&mut self, patience: Duration) {
        self.settings.patience = patience;
    }

    /// A message as it goes out.
    #[must_use]
    pub fn message(&self, body: Up) -> TrainerMessage {
        TrainerMessage { run: self.run.clone(), generation: self.generation, body: Some(body) }
    }

    /// Takes in what happened; what is to be done, in order.
    pub fn handle(&mut self, input: Input, now: Duration) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Tick => self.tick(now, &mut out),
            Input::Opened => {
                self.link.opened(now);
                self.claimed = self.place.is_some();
                out.push(Output::Send(Box::new(self.message(Up::Hello(self.hello())))));
            }
            Input::Broken(reason) => {
                self.last_words = reason;
                self.link.broken(now);
            }
            Input::Received(message) => self.received(*message, now, &mut out),
            Input::Say(say) => self.say(say, &mut out),
        }
        out
    }

    fn tick(&mut self, now: Duration, out: &mut Vec<Output>) {
        match self.link.due(now, self.settings.patience) {
            Due::Nothing => {}
            Due::Connect => out.push(Output::Connect),
            Due::Drop => out.push(Output::Disconnect),
            Due::GiveUp => {
                out.push(Output::Disconnect);
                let waited = self.link.missing(now).as_secs_f64();
                let words = if self.last_words.is_empty() { String::new() } else { format!(": {}", self.last_words) };
                out.push(Output::Tell(News::Lost(format!("no coordinator for {waited:.1} s{words}"))));
            }
        }
        if self.link.is_up() && now >= self.next_beat {
            self.next_beat = now + self.settings.heartbeat;
            out.push(Output::Beat);
        }
    }

    fn hello(&self) -> wire::Hello {
        let place = self.place.unwrap_or(Place { generation: 0, rank: 0, world_size: 0 });
        wire::Hello {
            step: self.held.map(|step| step.0),
            generation: place.generation,
            rank: place.rank,
            world_size: place.world_size,
            given: self.history.newest().copied(),
            lineage: self.lineage,
            remembers: self.history.remembers(self.held),
            ..self.identity.hello.clone()
        }
    }

    fn send(&self, body: Up, out: &mut Vec<Output>) {
        if self.link.is_up() {
            out.push(Output::Send(Box::new(self.message(body))));
        }
    }

    fn say(&mut self, say: Say, out: &mut Vec<Output>) {
        let body = match say {
            Say::Losses(losses) => Up::Losses(losses),
            Say::Committed { step, losses } => {
                self.history.committed(step, &losses);
                self.held = Some(step.next());
                return;
            }
            Say::Holds(step) => {
                if step != self.held {
                    self.history.forget();
                }
                self.held = step;
                return;
            }
            Say::Images(images) => Up::Images(images),
            Say::Digest(digest) => Up::Digest(digest),
            Say::Checkpoint(written) => Up::Checkpoint(written),
            Say::Sample(written) => Up::Sample(written),
            Say::Evaluated(done) => Up::Evaluation(done),
            Say::Ready(ready) => Up::Ready(ready),
            Say::Held(left) => {
                // Said too late: the next one is open already, because this was known without it.
                if self.place.is_some_and(|place| place.generation > left) {
                    return;
                }
                self.place = None;
                self.say_held(out);
                return;
            }
            Say::Severed(reason) => {
                self.place = None;
                Up::Severed(wire::Severed { reason })
            }
            Say::Unusable(unusable) => {
                self.place = None;
                Up::CheckpointUnusable(unusable)
            }
            Say::Failure(failure) => Up::Failure(failure),
        };
        self.outbox.keep(&body);
        self.send(self.trimmed(body), out);
    }

    /// Only rank 0 tells the digest of each tensor without being asked.
    fn trimmed(&self, body: Up) -> Up {
        match body {
            Up::Digest(digest) if self.place.is_some_and(|place| place.rank > 0) => {
                Up::Digest(wire::StateDigest { tensors: Vec::new(), ..digest })
            }
            body => body,
        }
    }

    fn say_held(&mut self, out: &mut Vec<Output>) {
        let digest = match self.outbox.last_digest() {
            Some(Up::Digest(digest)) if std::mem::take(&mut self.wants_digest) => Some(digest.clone()),
            _ => None,
        };
        self.send(Up::Held(wire::Held { step: self.held.map(|step| step.0), digest, lineage: self.lineage }), out);
    }

    fn received(&mut self, message: CoordinatorMessage, now: Duration, out: &mut Vec<Output>) {
        let Some(body) = message.body else { return };
        match body {
            Down::Welcome(welcome) => self.welcomed(message.run, welcome, now, out),
            Down::Refused(refused) => {
                self.link.close();
                out.push(Output::Disconnect);
                out.push(Output::Tell(News::Refused(refused.reason)));
            }
            Down::Stop(stop) => {
                self.link.close();
                self.place = None;
                out.push(Output::Tell(News::Stop(stop)));
            }
            Down::Opened(opened) => {
                let place = Place { generation: message.generation, rank: opened.rank, world_size: opened.world_size };
                self.generation = place.generation;
                self.place = Some(place);
                self.halted = false;
                self.wants_digest = false;
                self.outbox.begin();
                if opened.lineage != self.lineage {
                    self.lineage = opened.lineage;
                    self.outbox.step_back();
                    self.held = None;
                    self.history.clear();
                }
                if let Some(equilibrium) = opened.equilibrium {
                    self.history.begin(equilibrium);
                }
                out.push(Output::ForgetLeases);
                out.push(Output::Tell(News::Opened(place.generation, Box::new(opened))));
            }
            Down::Lease(lease) if message.generation == self.generation => out.push(Output::Lease(lease)),
            Down::Lease(_) => {}
            Down::Equilibrium(equilibrium) => {
                // One that is known already came again with a new stream.
                let known = self.history.newest().is_some_and(|newest| newest.step >= equilibrium.step);
                let mine = self.place().is_some() && message.generation == self.generation;
                if mine && !known {
                    self.history.given(equilibrium);
                    out.push(Output::Tell(News::Equilibrium(Box::new(equilibrium))));
                }
            }
            Down::Halt(halt) => {
                self.halted = true;
                self.wants_digest = halt.digest;
                out.push(Output::Tell(News::Halt(halt.reason)));
            }
            Down::WriteCheckpoint(write) => {
                if let Some(equilibrium) = write.equilibrium {
                    out.push(Output::Tell(News::WriteCheckpoint(Box::new(equilibrium))));
                }
            }
            Down::Recall(recall) => self.send(Up::Recalled(self.history.recalled(recall.step, self.held)), out),
        }
    }

    fn welcomed(&mut self, run: String, welcome: wire::Welcome, now: Duration, out: &mut Vec<Output>) {
        let first = self.run.is_empty();
        self.run = run;
        self.link.welcomed();
        self.settings.heartbeat = Duration::from_secs_f64(welcome.heartbeat_seconds.clamp(0.01, 60.0));
        self.next_beat = now;
        if first {
            out.push(Output::Tell(News::Welcome {
                run: self.run.clone(),
                config: welcome.config,
                data_digest: welcome.data_digest,
            }));
            return;
        }
        match self.place {
            // It is leaving, and will say so.
            Some(_) if self.halted => {}
            Some(place) if place.generation == welcome.generation => {
                for body in self.outbox.again().cloned().collect::<Vec<_>>() {
                    self.send(self.trimmed(body), out);
                }
            }
            Some(place) => {
                self.halted = true;
                let text = format!("generation {} went on without this trainer", place.generation);
                out.push(Output::Tell(News::Halt(text)));
            }
            // Left since the hello, which claimed a place: what was said meanwhile was lost.
            None if self.claimed => self.say_held(out),
            // Left before: the hello said what is held.
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn protocol() -> Protocol {
        let settings = Settings { patience: 10 * SECOND, heartbeat: SECOND };
        Protocol::new(Identity { hello: wire::Hello::default() }, settings, Duration::ZERO)
    }

    fn down(generation: u64, body: Down) -> Input {
        Input::Received(Box::new(CoordinatorMessage { run: "r".into(), generation, body: Some(body) }))
    }

    fn welcome(generation: u64) -> Input {
        down(0, Down::Welcome(wire::Welcome { heartbeat_seconds: 1.0, generation, ..Default::default() }))
    }

    fn sent(out: &[Output]) -> Vec<&Up> {
        out.iter()
            .filter_map(|output| match output {
                Output::Send(message) => message.body.as_ref(),
                _ => None,
            })
            .collect()
    }

    fn equilibrium(step: u64, durable: u64) -> wire::Equilibrium {
        wire::Equilibrium { step, durable, ..Default::default() }
    }

    /// In generation 3, at step 7, with step 6 just committed.
    fn training() -> Protocol {
        let mut p = protocol();
        assert!(matches!(p.handle(Input::Tick, Duration::ZERO)[..], [Output::Connect]));
        p.handle(Input::Opened, Duration::ZERO);
        p.handle(welcome(0), Duration::ZERO);
        let opened = wire::GenerationOpened { world_size: 2, rank: 1, step: 5, ..Default::default() };
        let opened = wire::GenerationOpened { equilibrium: Some(equilibrium(5, 0)), ..opened };
        p.handle(down(3, Down::Opened(opened)), Duration::ZERO);
        p.handle(Input::Say(Say::Holds(Some(Step(5)))), Duration::ZERO);
        for step in 5..7 {
            p.handle(Input::Say(Say::Losses(wire::StepLosses { step, ..Default::default() })), SECOND);
            p.handle(down(3, Down::Equilibrium(equilibrium(step + 1, 0))), SECOND);
            let losses = vec![LaneLosses { real: step as f64, fake: 0.5, drawn: 1 }];
            p.handle(Input::Say(Say::Committed { step: Step(step), losses }), SECOND);
        }
        p
    }

    #[test]
    fn a_stream_that_breaks_is_opened_again_and_the_last_words_are_said_again() {
        let mut p = training();
        p.handle(Input::Say(Say::Losses(wire::StepLosses { step: 7, ..Default::default() })), SECOND);
        p.handle(Input::Broken("reset".into()), SECOND);
        assert!(sent(&p.handle(Input::Say(Say::Digest(wire::StateDigest::default())), SECOND)).is_empty());
        assert!(p.handle(Input::Tick, SECOND).is_empty());
        assert!(matches!(p.handle(Input::Tick, 2 * SECOND)[..], [Output::Connect]));
        let greeting = p.handle(Input::Opened, 2 * SECOND);
        let [Up::Hello(hello)] = sent(&greeting)[..] else { panic!("{greeting:?}") };
        assert_eq!((hello.generation, hello.rank, hello.world_size, hello.step), (3, 1, 2, Some(7)));
        assert_eq!(hello.given.map(|given| given.step), Some(7));
        let again = p.handle(welcome(3), 2 * SECOND);
        assert!(matches!(sent(&again)[..], [Up::Losses(_), Up::Losses(l), Up::Digest(_)] if l.step == 7), "{again:?}");
    }

    #[test]
    fn a_generation_that_went_on_alone_is_left() {
        let mut p = training();
        p.handle(Input::Broken("reset".into()), SECOND);
        p.handle(Input::Tick, 2 * SECOND);
        p.handle(Input::Opened, 2 * SECOND);
        let news = p.handle(welcome(4), 2 * SECOND);
        assert!(matches!(&news[..], [Output::Tell(News::Halt(why))] if why.contains("generation 3")), "{news:?}");
        assert_eq!(p.place(), None);
        let held = p.handle(Input::Say(Say::Held(3)), 2 * SECOND);
        assert!(matches!(sent(&held)[..], [Up::Held(held)] if held.step == Some(7)));
    }

    #[test]
    fn what_led_to_the_held_state_is_recalled_until_the_journal_has_it() {
        let mut p = training();
        let recall = |p: &mut Protocol, step| {
            let out = p.handle(down(3, Down::Recall(wire::Recall { step })), SECOND);
            let [Up::Recalled(recalled)] = sent(&out)[..] else { panic!("{out:?}") };
            recalled.clone()
        };
        let all = recall(&mut p, 0);
        assert_eq!((all.steps.len(), all.steps[1].losses[0].real), (2, 6.0));
        assert_eq!(all.given.iter().map(|given| given.step).collect::<Vec<_>>(), [7]);
        assert_eq!(recall(&mut p, 6).steps.len(), 1);
        p.handle(down(3, Down::Equilibrium(equilibrium(8, 6))), SECOND);
        let rest = recall(&mut p, 0);
        assert_eq!((rest.steps.len(), rest.given.len()), (1, 2));
    }

    #[test]
    fn a_halt_that_asks_for_it_is_answered_with_the_last_digest_and_words_of_another_generation_are_dropped() {
        let mut p = training();
        let digest = wire::StateDigest { step: 6, digest: "abc".into(), ..Default::default() };
        p.handle(Input::Say(Say::Digest(digest)), SECOND);
        let halt = |digest| Down::Halt(wire::Halt { reason: "x".into(), digest });
        assert!(p.handle(down(2, Down::Equilibrium(equilibrium(9, 0))), SECOND).is_empty());
        assert_eq!(p.handle(down(3, halt(true)), SECOND).len(), 1);
        let out = p.handle(Input::Say(Say::Held(3)), SECOND);
        assert!(matches!(sent(&out)[..], [Up::Held(held)] if held.digest.as_ref().is_some_and(|d| d.digest == "abc")));
    }

    #[test]
    fn a_coordinator_that_never_comes_back_is_given_up_after_the_limit_and_not_before() {
        let mut p = training();
        p.handle(Input::Broken("reset".into()), SECOND);
        let mut now = SECOND;
        let told = loop {
            now += Duration::from_millis(100);
            let out = p.handle(Input::Tick, now);
            if let Some(Output::Tell(News::Lost(why))) = out.last() {
                break why.clone();
            }
            if matches!(out[..], [Output::Connect]) {
                p.handle(Input::Broken("refused".into()), now);
            }
            assert!(now < 20 * SECOND);
        };
        assert!(now > 11 * SECOND && told.contains("refused"), "{now:?} {told}");
    }
}
