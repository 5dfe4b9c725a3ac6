//! Who was not let in, or asked for what it may not: said once for each peer and reason, counted after that.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::wire;

/// Peers and reasons that are told apart; the rest is one.
const TOLD_APART: usize = 256;

/// See the module.
pub struct TurnedAway {
    seen: Mutex<Seen>,
    tell: Box<dyn Fn(String) + Send + Sync>,
}

#[derive(Default)]
struct Seen {
    times: BTreeMap<(IpAddr, String), u64>,
    others: u64,
}

impl TurnedAway {
    /// What is said goes to `tell`.
    #[must_use]
    pub fn new(tell: Box<dyn Fn(String) + Send + Sync>) -> Self {
        Self { seen: Mutex::default(), tell }
    }

    /// Says something that is about nobody.
    pub fn say(&self, text: String) {
        (self.tell)(text);
    }

    /// One from this address was turned away.
    pub fn note(&self, from: IpAddr, why: &str) {
        let why = wire::text(why);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = seen.times.get_mut(&(from, why.clone())) {
            *times += 1;
            return;
        }
        if seen.times.len() >= TOLD_APART {
            seen.others += 1;
            let first = seen.others == 1;
            drop(seen);
            if first {
                self.say(format!("turned away {from}: {why}; whoever else comes is counted and not named"));
            }
            return;
        }
        seen.times.insert((from, why.clone()), 1);
        drop(seen);
        self.say(format!("turned away {from}: {why} (said once)"));
    }

    /// How often in all, if ever.
    #[must_use]
    pub fn total(&self) -> Option<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let all = seen.times.values().sum::<u64>() + seen.others;
        let most = seen.times.iter().max_by_key(|(_, times)| **times);
        let ((from, why), times) = most?;
        Some(format!("{all} were turned away in all; most often ({times} times) {from}, because {why}"))
    }
}

impl std::fmt::Debug for TurnedAway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TurnedAway")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn each_reason_is_said_once_a_peer_and_strangers_do_not_fill_the_log() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let into = said.clone();
        let log = TurnedAway::new(Box::new(move |text| {
            if let Ok(mut said) = into.lock() {
                said.push(text);
            }
        }));
        for _ in 0..1000 {
            log.note([10, 0, 0, 1].into(), "no certificate");
            log.note([10, 0, 0, 1].into(), "expired\nforged line");
        }
        for address in 0..5000u32 {
            log.note(IpAddr::V4(address.into()), "plain text");
        }
        let said = said.lock().map(|said| said.clone()).unwrap_or_default();
        assert_eq!(said.len(), TOLD_APART + 1);
        assert!(said[1].contains("expired") && said.iter().all(|line| !line.contains('\n')), "{}", said[1]);
        assert!(log.total().is_some_and(|total| total.starts_with("7000 were")), "{:?}", log.total());
    }
}
