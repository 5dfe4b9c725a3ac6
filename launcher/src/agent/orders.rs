//! What reaches an agent from its launcher, over its stdin: a line of words, and the closing of it.

use std::os::fd::AsFd;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// The line that says: the run was asked to end, so let no trainer be started any more.
pub const NO_MORE_RESTARTS: &str = "no more restarts";

/// An order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Start no trainer any more; those that run go on.
    NoMoreRestarts,
    /// The launcher closed the pipe or died: end.
    End,
}

/// The orders as they come. Without a pipe on stdin (an agent started by hand) there never is one.
#[must_use]
pub fn listen() -> mpsc::UnboundedReceiver<Order> {
    let (send, orders) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned();
        let Ok(stdin) = stdin.and_then(pipe::Receiver::from_owned_fd) else {
            // Never closed: a closed channel would read as an order.
            return std::future::pending().await;
        };
        let mut lines = BufReader::new(stdin).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line == NO_MORE_RESTARTS {
                let _ = send.send(Order::NoMoreRestarts);
            }
        }
        let _ = send.send(Order::End);
    });
    orders
}
