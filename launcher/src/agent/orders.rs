//! What reaches an agent from its launcher, over its stdin: lines of words, and the closing of it.
//!
//! Signals do not get to another machine, and a line does. Where a connection can break without either end being told, the
//! launcher says something now and then, and an agent that hears nothing for long ends.

use std::io::BufRead;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::stat::{SFlag, fstat};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The line that says: the run was asked to end, so let no trainer be started any more.
pub const NO_MORE_RESTARTS: &str = "no more restarts";
/// The line that says: end, with the whole time that trainers have for it. As TERM.
pub const TERMINATE: &str = "terminate";
/// The line that says: end everything at once.
pub const KILL: &str = "kill";
/// The line that says: the launcher is there; it is answered.
pub const HERE: &str = "here";

/// How the line begins that hands over what the trainers are to prove themselves with.
pub const CREDENTIALS: &str = "credentials ";

/// An order.
#[derive(Clone, PartialEq, Eq)]
pub enum Order {
    /// What the trainers are to prove themselves with; see [`crate::credentials::environment_from`].
    Credentials(String),
    /// Start no trainer any more; those that run go on.
    NoMoreRestarts,
    /// End in order.
    Terminate,
    /// Kill the trainers.
    Kill,
    /// Say that you are there.
    Here,
    /// The launcher closed the pipe, died, or is not heard of any more: end.
    End,
}

/// The orders as they come. Without a pipe on stdin (an agent started by hand) there never is one. `lost_after`: an agent that
/// hears nothing for this long is to end.
#[must_use]
pub fn listen(lost_after: Option<Duration>) -> mpsc::UnboundedReceiver<Order> {
    let (send, orders) = mpsc::unbounded_channel();
    let Some(mut lines) = lines() else {
        // Kept: a closed channel would read as an order.
        tokio::spawn(async move {
            let _send = send;
            std::future::pending::<()>().await;
        });
        return orders;
    };
    tokio::spawn(async move {
        loop {
            let line = match lost_after {
                Some(time) => timeout(time, lines.recv()).await,
                None => Ok(lines.recv().await),
            };
            let order = match line {
                Ok(Some(line)) => match line.as_str() {
                    NO_MORE_RESTARTS => Order::NoMoreRestarts,
                    TERMINATE => Order::Terminate,
                    KILL => Order::Kill,
                    HERE => Order::Here,
                    line => match line.strip_prefix(CREDENTIALS) {
                        Some(handed) => Order::Credentials(handed.to_owned()),
                        None => continue,
                    },
                },
                Ok(None) => Order::End,
                Err(_) => {
                    eprintln!(
                        "the launcher was not heard of for {} s (--lost-after): this node ends",
                        lost_after.unwrap_or_default().as_secs_f64()
                    );
                    Order::End
                }
            };
            let last = order == Order::End;
            if send.send(order).is_err() || last {
                return;
            }
        }
    });
    orders
}

/// The lines of stdin, if it is a pipe, or what sshd and srun use in place of one; read on a thread of its own, since not all of
/// these can be waited for in another way.
fn lines() -> Option<mpsc::UnboundedReceiver<String>> {
    let kind = SFlag::from_bits_truncate(fstat(std::io::stdin().as_fd()).ok()?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFIFO && kind != SFlag::S_IFSOCK {
        return None;
    }
    let (send, lines) = mpsc::unbounded_channel();
    let read = move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    };
    // Without the thread nobody would notice the launcher's end: better to end now, which the closed channel says.
    let _ = std::thread::Builder::new().name("orders".into()).spawn(read);
    Some(lines)
}
