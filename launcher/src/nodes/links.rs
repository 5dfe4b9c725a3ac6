//! The network between the nodes before a run: every pair is measured once, and the slow one is named.
//!
//! Pairs that have no node in common are measured at the same time, in as many rounds as that takes; of many nodes only
//! neighbours are measured.

use super::probe::Link;

/// Up to so many nodes every pair is measured.
const ALL_PAIRS: usize = 24;

/// A way is slow if it has less than this part of the usual bandwidth, or a round trip so many times as long.
const SLOW: f64 = 3.0;

/// Round trips below this are never slow: they are the machine's own.
const QUICK: f64 = 1e-3;

/// Which pairs are measured together, round by round; nodes are counted from 0.
#[must_use]
pub fn rounds(nodes: usize) -> Vec<Vec<(usize, usize)>> {
    if nodes < 2 {
        return Vec::new();
    }
    // As in a tournament: one seat stays, the others go round. A player too few is a seat that stays empty.
    let seats = nodes.next_multiple_of(2);
    let rounds = if nodes <= ALL_PAIRS { seats - 1 } else { 2 };
    (0..rounds)
        .map(|round| {
            let seat = |index: usize| if index == 0 { 0 } else { (index - 1 + round) % (seats - 1) + 1 };
            (0..seats / 2)
                .map(|index| (seat(index), seat(seats - 1 - index)))
                .filter(|&(one, other)| one < nodes && other < nodes)
                .map(|(one, other)| (one.min(other), one.max(other)))
                .collect()
        })
        .collect()
}

/// What is to be said of measured ways: the usual one, and those that are much slower.
#[must_use]
pub fn verdict(links: &[((String, String), Link)]) -> Vec<String> {
    let Some(usual) = usual(links) else { return Vec::new() };
    let mut said = vec![format!(
        "network: {} measured, {} usual",
        if links.len() == 1 { "1 way".into() } else { format!("{} ways", links.len()) },
        describe(usual)
    )];
    for ((one, other), link) in links {
        let slow = link.bandwidth * SLOW < usual.bandwidth
            || (link.round_trip > usual.round_trip * SLOW && link.round_trip > QUICK);
        if slow {
            said.push(format!("the way between {one} and {other} is slow: {}", describe(*link)));
        }
    }
    said
}

fn usual(links: &[((String, String), Link)]) -> Option<Link> {
    let median = |of: fn(&Link) -> f64| {
        let mut values: Vec<f64> = links.iter().map(|(_, link)| of(link)).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Some(Link { round_trip: median(|link| link.round_trip)?, bandwidth: median(|link| link.bandwidth)? })
}

/// "1.2 GB/s and 0.15 ms".
#[must_use]
pub fn describe(link: Link) -> String {
    let megabytes = link.bandwidth / 1e6;
    let bandwidth =
        if megabytes >= 1000.0 { format!("{:.1} GB/s", megabytes / 1000.0) } else { format!("{megabytes:.0} MB/s") };
    format!("{bandwidth} and {:.2} ms", link.round_trip * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_pair_is_measured_once_and_nobody_twice_at_a_time() {
        for nodes in 0..=ALL_PAIRS {
            let mut seen = BTreeSet::new();
            for round in rounds(nodes) {
                let mut busy = BTreeSet::new();
                for (one, other) in round {
                    assert!(one < other && seen.insert((one, other)), "{nodes}: {one}-{other} twice");
                    assert!(busy.insert(one) && busy.insert(other), "{nodes}: two at a time");
                }
            }
            assert_eq!(seen.len(), nodes * nodes.saturating_sub(1) / 2, "{nodes}");
        }
        assert!(rounds(1000).len() == 2);
    }

    #[test]
    fn the_slow_way_is_named() {
        let link = |bandwidth, round_trip| Link { round_trip, bandwidth };
        let between = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        let mut links = vec![
            (between("a", "b"), link(1e9, 1e-4)),
            (between("a", "c"), link(1.1e9, 1e-4)),
            (between("b", "c"), link(1e8, 1e-4)),
        ];
        let said = verdict(&links);
        assert_eq!(said.len(), 2);
        assert!(said[0].contains("3 ways measured, 1.0 GB/s and 0.10 ms usual"), "{said:?}");
        assert!(said[1].contains("between b and c is slow: 100 MB/s"), "{said:?}");
        links[2].1 = link(1e9, 5e-3);
        assert!(verdict(&links)[1].contains("5.00 ms"));
        assert!(verdict(&[]).is_empty());
    }
}
