//! A few hundred made-up histories; `simulate` plays as many as one likes.

use simulation::faults::KINDS;
use simulation::{Report, World};

/// Plays them; a broken promise panics, and the seed is the last that was said.
fn played(seeds: std::ops::Range<u64>) -> Vec<Report> {
    let play = |seed| {
        println!("seed {seed}; to watch it: simulate --seed {seed}");
        World::new(seed, false).play()
    };
    seeds.map(play).collect()
}

#[test]
fn no_promise_is_broken_in_six_hundred_histories_full_of_faults() {
    let reports = played(0..600);
    let happened = |kind: usize| reports.iter().map(|report| report.faults[kind]).sum::<u64>();
    // Every kind of fault was among them, or this would say less than it seems to.
    for (kind, name) in KINDS.iter().enumerate() {
        assert!(happened(kind) > 0, "no history has the fault {name:?}");
    }
    assert!(reports.iter().any(|report| report.coordinator_lives > 3));
    assert!(reports.iter().any(|report| report.generations > 10));
}

#[test]
fn a_seed_gives_the_same_history_every_time() {
    assert_eq!(played(4_000..4_020), played(4_000..4_020));
}

#[test]
fn two_seeds_give_two_histories() {
    let reports = played(5_000..5_010);
    assert!(reports.windows(2).all(|pair| pair[0] != pair[1]));
}
