//! One trainer process of an agent: how it is started, and what is heard of it.
//!
//! It must be started from the main thread (the kernel ties it to the thread that forked), and nothing in the agent's
//! environment may change the bits it computes.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::report::{self, End, Progressed, Report};
use crate::child::{self, Child, Exit, Stdout};
use crate::cli::AgentArgs;
use crate::nodes::probe;
use crate::output::Log;
use crate::{binaries, node_log, tied};

/// After a trainer's end, the rest of its stdout is awaited for this long: something it started may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What is heard of a trainer, by its index on the node.
#[derive(Clone, Copy, Debug)]
pub enum Heard {
    /// It committed steps in a new generation.
    Committed {
        /// Its index.
        local_rank: u32,
        /// How many steps are committed.
        step: u64,
    },
    /// It ended.
    Ended {
        /// Its index.
        local_rank: u32,
        /// How.
        exit: Exit,
    },
}

/// A trainer that was started.
pub struct Trainer {
    rank: u32,
    local_rank: u32,
    /// Its process.
    pub child: Child,
    log: Log,
    /// Whether the agent has asked it to end.
    pub asked: bool,
}

impl Trainer {
    /// Starts the trainer of a place, with this in its environment; what is heard of it goes to `ears`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(
        args: &AgentArgs,
        environment: &[(&'static str, OsString)],
        local_rank: u32,
        ears: &mpsc::UnboundedSender<Heard>,
    ) -> Result<Self> {
        let rank = args.first_rank() + local_rank;
        let program = binaries::trainer()?;
        let mut command: Command = if args.deaf { tied::deaf(&program)? } else { tied::command(&program)? };
        command
            .args(["run", "--coordinator", &args.coordinator, "--run"])
            .arg(&args.run)
            .args(["--node", &args.node.to_string(), "--local-rank", &local_rank.to_string()])
            .args(["--device", &args.device, "--supervised"])
            .envs(environment.iter().cloned())
            // Read when libtorch is loaded. The bits of a step depend on both, so nothing in the environment may change
            // them: one CPU thread, and cuBLAS with the fixed workspace that its deterministic kernels need.
            .env("OMP_NUM_THREADS", "1")
            .env("MKL_NUM_THREADS", "1")
            .env("CUBLAS_WORKSPACE_CONFIG", ":4096:8");
        if args.share_gpu {
            share_gpu(&mut command, rank);
        }
        if let Some(interface) = &args.interface {
            command.args(["--host", &probe::address_of(interface)?.to_string()]);
            if std::env::var_os("NCCL_SOCKET_IFNAME").is_none() {
                // With the sign, exactly this one and not all that begin so.
                command.env("NCCL_SOCKET_IFNAME", format!("={interface}"));
            }
        }
        let sink = args.forward_logs.then(|| {
            Box::new(move |line: &str| report::send(&Report::Output { rank, line: line.into() }))
                as Box<dyn Fn(&str) + Send>
        });
        let log = Log::append_to(&node_log(&args.run, args.node, Some(rank)), sink);
        let (child, mut waiter, stdout) = child::start(command, &log, Stdout::Ours)
            .with_context(|| format!("cannot start trainer {rank} ({})", program.display()))?;
        report::send(&Report::Started { rank, local_rank, pid: child.pid() });
        let listener = tokio::spawn(listen(stdout, local_rank, log.clone(), ears.clone()));
        let ears = ears.clone();
        tokio::spawn(async move {
            let exit = waiter.wait().await;
            // A step that it committed counts before its end does.
            let _ = timeout(LAST_WORDS, listener).await;
            let _ = ears.send(Heard::Ended { local_rank, exit });
        });
        Ok(Self { rank, local_rank, child, log, asked: false })
    }

    /// Its end, for a report.
    #[must_use]
    pub fn end(&self, exit: Exit) -> End {
        End {
            rank: self.rank,
            local_rank: self.local_rank,
            pid: self.child.pid(),
            exit,
            last_lines: self.log.last_lines(),
        }
    }
}

/// NCCL refuses two ranks on one GPU of one host. Told that each is on a host of its own, it sends over loopback, in one small kernel at
/// a time: all ranks' kernels must fit on the GPU at once, or they wait for each other for ever.
fn share_gpu(command: &mut Command, rank: u32) {
    command.arg("--share-gpu");
    for (name, value) in [
        ("NCCL_SOCKET_IFNAME", "lo"),
        ("NCCL_NET", "Socket"),
        ("NCCL_NET_PLUGIN", "none"),
        ("NCCL_IB_DISABLE", "1"),
        ("NCCL_MNNVL_ENABLE", "0"),
        ("NCCL_NVLS_ENABLE", "0"),
        ("NCCL_MAX_CTAS", "1"),
        ("NCCL_ALGO", "Ring"),
        ("NCCL_PROTO", "Simple"),
        ("NCCL_BUFFSIZE", "1048576"),
        // Its own sockets between ranks, which would stay with one that was killed.
        ("NCCL_RAS_ENABLE", "0"),
    ] {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    command.env("NCCL_HOSTID", format!("rank{rank}"));
}

/// Reads a trainer's stdout: lines about progress are heard, all else goes into its log.
async fn listen(stdout: Option<ChildStdout>, local_rank: u32, log: Log, ears: mpsc::UnboundedSender<Heard>) {
    let Some(stdout) = stdout else { return };
    let mut lines = BufReader::new(stdout).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        match serde_json::from_slice::<Progressed>(&line) {
            Ok(Progressed { committed }) => {
                let _ = ears.send(Heard::Committed { local_rank, step: committed });
            }
            Err(_) => log.note(&String::from_utf8_lossy(&line)),
        }
    }
}
