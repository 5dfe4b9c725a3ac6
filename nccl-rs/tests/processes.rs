//! Ranks in processes of their own, as in earnest: also when one is killed.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use nccl_rs::{Error, UniqueId};
use support::{BOUND, Process, Rank, config, nccl, role, say};

/// What a rank's role says: what to do, the rank, the number of ranks, the identifier.
struct Role {
    task: String,
    rank: usize,
    size: usize,
    id: UniqueId,
}

impl Role {
    fn mine() -> Option<Self> {
        let role = role()?;
        let words: Vec<&str> = role.split(' ').collect();
        let [task, rank, size, id] = words[..] else { panic!("no role: {role}") };
        Some(Self {
            task: task.to_owned(),
            rank: rank.parse().unwrap(),
            size: size.parse().unwrap(),
            id: id.parse().unwrap(),
        })
    }

    fn init(&self) -> Rank {
        Rank::init(&self.id, self.rank, self.size, &config()).unwrap()
    }
}

fn start(test: &str, task: &str, rank: usize, size: usize, id: &UniqueId, environment: &[(&str, &str)]) -> Process {
    Process::start(test, &format!("{task} {rank} {size} {id}"), environment)
}

#[test]
fn processes_work_together_for_one_to_four_ranks() {
    const NAME: &str = "processes_work_together_for_one_to_four_ranks";
    if let Some(role) = Role::mine() {
        let rank = role.init();
        rank.check().unwrap();
        let half = rank.comm.split(Some(role.rank as u32 % 2), 0, &config()).unwrap().unwrap();
        say(&format!("{} of {}", half.rank(), half.size()));
        half.finalize(BOUND).unwrap();
        rank.comm.finalize(BOUND).unwrap();
        return;
    }
    for size in 1..=4 {
        let id = nccl().unique_id().unwrap();
        let mut processes: Vec<Process> = (0..size).map(|rank| start(NAME, "check", rank, size, &id, &[])).collect();
        for (rank, process) in processes.iter_mut().enumerate() {
            // Of the even or of the odd ones.
            assert_eq!(process.hears(), format!("{} of {}", rank / 2, (size - rank % 2).div_ceil(2)));
            assert!(process.ends().success());
        }
    }
}

#[test]
fn a_peer_that_is_killed_is_an_error_to_the_others_at_once_and_they_go_on_with_a_fresh_communicator() {
    const NAME: &str =
        "a_peer_that_is_killed_is_an_error_to_the_others_at_once_and_they_go_on_with_a_fresh_communicator";
    if let Some(role) = Role::mine() {
        let rank = role.init();
        rank.check().unwrap();
        say("up");
        if role.task == "die" {
            thread::sleep(BOUND);
        }
        // The one that dies never comes to this one.
        let mut values = vec![1.0; 1000];
        rank.sum(&mut values).unwrap();
        say("issued");
        let started = Instant::now();
        let error = rank.wait().unwrap_err();
        assert!(support::device().synchronize(rank.stream.as_raw(), Duration::from_secs(1)));
        say(&error.to_string());
        say(&started.elapsed().as_millis().to_string());
        drop(rank);
        // The next generation, without it.
        let next = std::env::var("NCCL_RS_TEST_NEXT").unwrap();
        let survivor = Role { id: next.parse().unwrap(), size: role.size - 1, ..role };
        let rank = survivor.init();
        rank.check().unwrap();
        rank.comm.finalize(BOUND).unwrap();
        return say("on again");
    }
    let id = nccl().unique_id().unwrap();
    let next = nccl().unique_id().unwrap().to_string();
    let environment = [("NCCL_RS_TEST_NEXT", next.as_str())];
    let mut survivors: Vec<Process> = (0..2).map(|rank| start(NAME, "wait", rank, 3, &id, &environment)).collect();
    let mut victim = start(NAME, "die", 2, 3, &id, &environment);
    for process in survivors.iter_mut().chain([&mut victim]) {
        assert_eq!(process.hears(), "up");
    }
    for survivor in &mut survivors {
        assert_eq!(survivor.hears(), "issued");
    }
    thread::sleep(Duration::from_millis(50));
    let killed = Instant::now();
    victim.kill();
    for survivor in &mut survivors {
        let error = survivor.hears();
        assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
        assert!(error.contains("ncclRemoteError") && error.contains("is gone"), "{error}");
        assert!(error.contains("all_reduce of 1000 f32"), "{error}");
        let waited: u64 = survivor.hears().parse().unwrap();
        assert!(waited < 5000, "{waited} ms");
        assert_eq!(survivor.hears(), "on again");
        assert!(survivor.ends().success());
    }
}

#[test]
fn a_peer_that_ends_in_the_middle_of_an_operation_is_an_error_to_the_others() {
    const NAME: &str = "a_peer_that_ends_in_the_middle_of_an_operation_is_an_error_to_the_others";
    if let Some(role) = Role::mine() {
        let rank = role.init();
        rank.check().unwrap();
        // When the other has passed its second check, this one has passed its first and may not have passed its second.
        let mut values = vec![1.0; 10];
        let error = rank.check().and_then(|()| rank.sum(&mut values)).and_then(|()| rank.wait()).unwrap_err();
        return say(&error.to_string());
    }
    let id = nccl().unique_id().unwrap();
    let script = [("NCCL_DOUBLE", "exit at op 3 on 1")];
    let mut processes: Vec<Process> = (0..2).map(|rank| start(NAME, "sum", rank, 2, &id, &script)).collect();
    let error = processes[0].hears();
    assert!(error.contains("ncclRemoteError"), "{error}");
    assert_eq!(processes[1].ends().code(), Some(99));
}

#[test]
fn the_process_that_made_the_identifier_may_die_before_the_others_have_come() {
    const NAME: &str = "the_process_that_made_the_identifier_may_die_before_the_others_have_come";
    if let Some(role) = role() {
        say(&nccl().unique_id().unwrap().to_string());
        assert_eq!(role, "make an identifier");
        return thread::sleep(BOUND);
    }
    let mut maker = Process::start(NAME, "make an identifier", &[]);
    let id: UniqueId = maker.hears().parse().unwrap();
    let waiting = thread::spawn(move || Rank::init(&id, 1, 2, &config()).err().unwrap());
    thread::sleep(Duration::from_millis(100));
    maker.kill();
    let error = waiting.join().unwrap();
    assert!(matches!(error, Error::Asynchronous { .. }), "{error}");
    // And whoever comes later finds nobody.
    let error = Rank::init(&id, 0, 2, &config()).err().unwrap();
    assert!(error.to_string().contains("nobody serves this unique id"), "{error}");
}
