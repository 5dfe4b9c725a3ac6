//! Ranks over the double: as threads of the test, or as processes that run the same test as somebody else.

#![allow(unsafe_code, dead_code)]

use std::env;
use std::ffi::c_void;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nccl_double::Device;
use nccl_rs::{Communicator, Config, Elements, Error, Nccl, ReduceOp, Search, Stream, UniqueId};

/// Longer than anything here takes, and short enough that a hang is a failure and no lost afternoon.
pub const BOUND: Duration = Duration::from_secs(15);

/// The double, as the library under test sees it.
pub fn nccl() -> Nccl {
    static NCCL: OnceLock<Nccl> = OnceLock::new();
    NCCL.get_or_init(|| Nccl::load(&Search::exactly(nccl_double::library().unwrap())).unwrap()).clone()
}

pub fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    *DEVICE.get_or_init(|| Device::open().unwrap())
}

pub fn config() -> Config {
    Config::new().init_timeout(BOUND).enqueue_timeout(BOUND)
}

/// A configuration under which the double does what a script says.
pub fn told(script: &str) -> Config {
    config().name(&format!("double:{script}")).unwrap()
}

/// One rank of a test.
pub struct Rank {
    pub comm: Communicator,
    pub stream: Stream,
}

impl Rank {
    pub fn init(id: &UniqueId, rank: usize, size: usize, config: &Config) -> Result<Self, Error> {
        let comm = Communicator::init(&nccl(), id, rank, size, config)?;
        Ok(Self { comm, stream: Stream::from_raw(device().stream()) })
    }

    pub fn is_idle(&self) -> bool {
        device().is_idle(self.stream.as_raw())
    }

    /// Waits for the stream as a program would for an event.
    pub fn wait(&self) -> Result<(), Error> {
        self.wait_at_most(BOUND)
    }

    pub fn wait_at_most(&self, bound: Duration) -> Result<(), Error> {
        self.comm.wait("the stream", bound, || self.is_idle())
    }

    /// Sums in place, without waiting.
    pub fn sum(&self, values: &mut [f32]) -> Result<(), Error> {
        let pointer: *mut c_void = values.as_mut_ptr().cast();
        // SAFETY: as long as it says; every test waits, or aborts, before the values go.
        unsafe { self.comm.all_reduce(pointer, pointer, Elements::f32(values.len()), ReduceOp::Sum, self.stream) }
    }

    /// Sums the ranks' numbers from 1, which shows that they all work together.
    pub fn check(&self) -> Result<(), Error> {
        let mut values = vec![(self.comm.rank() + 1) as f32; 5];
        self.sum(&mut values)?;
        self.wait()?;
        let size = self.comm.size();
        assert_eq!(values, [(size * (size + 1) / 2) as f32; 5]);
        Ok(())
    }
}

/// Runs every rank on a thread, finalises, and gives what they returned in the order of ranks.
pub fn ranks<R: Send>(size: usize, config: &Config, body: impl Fn(&Rank) -> R + Sync) -> Vec<R> {
    tried_ranks(
        size,
        |_| config.clone(),
        |rank, _| {
            let rank = rank.unwrap();
            let result = body(&rank);
            rank.comm.finalize(BOUND).unwrap();
            result
        },
    )
}

/// As [`ranks`], with a configuration for each, where initialisation may fail and nothing is
/// finalised. Nobody begins before all have initialised: a rank that ends at once would be an error to one that has not.
pub fn tried_ranks<R: Send>(
    size: usize,
    config: impl Fn(usize) -> Config + Sync,
    body: impl Fn(Result<Rank, Error>, usize) -> R + Sync,
) -> Vec<R> {
    let id = nccl().unique_id().unwrap();
    let (config, body, together) = (&config, &body, &Barrier::new(size));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..size)
            .map(|rank| {
                scope.spawn(move || {
                    let initialised = Rank::init(&id, rank, size, &config(rank));
                    together.wait();
                    body(initialised, rank)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

const ROLE: &str = "NCCL_RS_TEST_ROLE";

/// What this process is to be, if a test started it.
pub fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// The same test in a process of its own, in a role. It is killed when dropped.
pub struct Process {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    pub fn start(test: &str, role: &str, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// What it said with [`say`], the next time. Lines of the test harness are passed over.
    pub fn hears(&mut self) -> String {
        let said = self
            .lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("said: ").map(|(_, text)| text.to_owned()));
        said.unwrap_or_else(|| panic!("the process ended without a word: {:?}", self.child.wait()))
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn ends(&mut self) -> ExitStatus {
        let until = Instant::now() + BOUND;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            thread::sleep(Duration::from_millis(2));
        }
        panic!("a process did not end within {BOUND:?}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells the test that started this process something.
pub fn say(text: &str) {
    println!("\nsaid: {text}");
}
