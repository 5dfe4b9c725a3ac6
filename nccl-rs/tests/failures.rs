//! Peers that hang, fail, differ or go, over the double with ranks as threads: everything ends soon, and says why.

#![allow(unsafe_code)]

mod support;

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use nccl_rs::{Elements, Error, Status, StopFlag};
use support::{BOUND, Rank, config, nccl, ranks, told, tried_ranks};

/// What "at once" means on a busy machine.
const SOON: Duration = Duration::from_secs(1);

#[test]
fn a_rank_that_never_comes_is_waited_for_until_the_bound() {
    let id = nccl().unique_id().unwrap();
    let bound = Duration::from_millis(200);
    let started = Instant::now();
    let error = Rank::init(&id, 0, 3, &config().init_timeout(bound)).err().unwrap();
    assert!(started.elapsed() >= bound && started.elapsed() < bound + SOON, "{:?}", started.elapsed());
    assert_eq!(
        error.to_string(),
        "rank 0 of 3 waited 0.2 s for a communicator of 3, on ranks 1, 2; the bound is 0.2 s"
    );
}

#[test]
fn a_rank_that_never_comes_is_given_up_at_once_when_the_flag_is_raised() {
    let id = nccl().unique_id().unwrap();
    let stop = StopFlag::new();
    let other = stop.clone();
    let error = thread::scope(|scope| {
        let waiting = scope.spawn(|| (Rank::init(&id, 0, 2, &config().stop(&stop)).err(), Instant::now()));
        thread::sleep(Duration::from_millis(100));
        other.stop("generation 4 is over");
        let raised = Instant::now();
        let (error, seen) = waiting.join().unwrap();
        assert!(seen - raised < SOON, "it took {:?}", seen - raised);
        error.unwrap()
    });
    assert!(matches!(&error, Error::Stopped { reason, .. } if reason == "generation 4 is over"), "{error}");
    assert!(error.to_string().contains("for a communicator of 2, on rank 1; then it was called off"), "{error}");
}

#[test]
fn a_flag_that_is_raised_already_stops_a_communicator_before_it_is_made() {
    let stop = StopFlag::new();
    stop.stop("the run is over");
    let id = nccl().unique_id().unwrap();
    assert!(matches!(Rank::init(&id, 0, 1, &config().stop(&stop)), Err(Error::Stopped { .. })));
}

#[test]
fn initialisation_that_fails_says_nccls_own_words() {
    let id = nccl().unique_id().unwrap();
    let refused = Rank::init(&id, 0, 1, &told("refuse at init")).err().unwrap();
    let text = "ncclCommInitRankConfig failed on rank 0 of 1: ncclInternalError (an internal error of the double); \
                NCCL's last error: [double] ";
    assert!(refused.to_string().starts_with(text), "{refused}");
    let failed = Rank::init(&id, 0, 1, &told("fail at init")).err().unwrap().to_string();
    assert!(failed.contains("told to fail") && failed.contains("for a communicator of 1"), "{failed}");
    // A thread that was refused is not left inside a group of NCCL's.
    let id = nccl().unique_id().unwrap();
    Rank::init(&id, 0, 1, &config()).unwrap().check().unwrap();
}

#[test]
fn two_ranks_of_one_number_do_not_become_a_communicator() {
    let id = nccl().unique_id().unwrap();
    let short = config().init_timeout(Duration::from_millis(500));
    let errors: Vec<String> = thread::scope(|scope| {
        let twice: Vec<_> = (0..2).map(|_| scope.spawn(|| Rank::init(&id, 1, 2, &short).err().unwrap())).collect();
        twice.into_iter().map(|thread| thread.join().unwrap().to_string()).collect()
    });
    assert!(errors.iter().any(|error| error.contains("another rank 1 came before")), "{errors:?}");
}

#[test]
fn bytes_that_are_no_unique_id_are_refused() {
    let error = Rank::init(&nccl_rs::UniqueId::from_bytes([7; 128]), 0, 1, &config()).err().unwrap();
    assert!(matches!(&error, Error::Call { report, .. } if report.status == Status::InvalidArgument), "{error}");
}

#[test]
fn aborting_during_a_hang_frees_the_device_within_a_second() {
    let issued = Barrier::new(2);
    let freed = tried_ranks(
        2,
        |_| told("hang at op 1"),
        |rank, _| {
            let rank = rank.unwrap();
            let mut values = vec![1.0; 3];
            rank.sum(&mut values).unwrap();
            issued.wait();
            thread::sleep(Duration::from_millis(50));
            assert!(!rank.is_idle());
            let started = Instant::now();
            let stream = rank.stream.as_raw();
            rank.comm.abort().unwrap();
            assert!(support::device().synchronize(stream, SOON));
            assert_eq!(values, [1.0; 3]);
            started.elapsed()
        },
    );
    assert!(freed.iter().all(|time| *time < SOON), "{freed:?}");
}

#[test]
fn dropping_during_a_hang_does_not_hang() {
    let issued = Barrier::new(2);
    let times = tried_ranks(
        2,
        |_| told("hang at op 1"),
        |rank, _| {
            let rank = rank.unwrap();
            let mut values = vec![1.0; 3];
            rank.sum(&mut values).unwrap();
            issued.wait();
            let started = Instant::now();
            drop(rank);
            started.elapsed()
        },
    );
    assert!(times.iter().all(|time| *time < SOON), "{times:?}");
}

#[test]
fn a_wait_that_reaches_its_bound_says_for_what_and_on_whom_and_frees_the_device() {
    let issued = Barrier::new(3);
    let together = Barrier::new(3);
    tried_ranks(
        3,
        |_| told("hang at op 2 on 1"),
        |rank, number| {
            let rank = rank.unwrap();
            rank.check().unwrap();
            together.wait();
            let mut values = vec![1.0; 10];
            rank.sum(&mut values).unwrap();
            issued.wait();
            let error = rank.wait_at_most(Duration::from_millis(200)).unwrap_err();
            // The first to give up is a remote error to the others.
            match &error {
                Error::TimedOut { .. } => {
                    let others = ["ranks 1, 2", "ranks 0, 2", "ranks 0, 1"][number];
                    let text = format!(
                        "rank {number} of 3 waited 0.2 s for the stream (operation 2: all_reduce of 10 f32), on {others}; the bound is 0.2 s"
                    );
                    assert_eq!(error.to_string(), text);
                }
                Error::Asynchronous { report, .. } => assert_eq!(report.status, Status::RemoteError),
                other => panic!("{other}"),
            }
            assert!(support::device().synchronize(rank.stream.as_raw(), SOON), "the device is still busy");
            assert_eq!(rank.comm.aborted(), Some(error.to_string()));
            let again = rank.sum(&mut values).unwrap_err();
            assert_eq!(again, Error::Aborted { reason: error.to_string() });
        },
    );
}

#[test]
fn a_wait_ends_at_once_when_another_thread_raises_the_flag() {
    let stop = StopFlag::new();
    let raised = thread::scope(|scope| {
        let ranks = scope.spawn(|| {
            tried_ranks(
                2,
                |_| told("hang at op 1").stop(&stop),
                |rank, _| {
                    let rank = rank.unwrap();
                    let mut values = vec![1.0; 3];
                    let error = rank.sum(&mut values).and_then(|()| rank.wait()).unwrap_err();
                    let seen = Instant::now();
                    // Both see the flag, or one of them that the other has just aborted.
                    assert!(matches!(error, Error::Stopped { .. } | Error::Asynchronous { .. }), "{error}");
                    assert!(support::device().synchronize(rank.stream.as_raw(), SOON));
                    (seen, matches!(error, Error::Stopped { .. }))
                },
            )
        });
        thread::sleep(Duration::from_millis(150));
        stop.stop("rank 1 lost its heartbeat");
        let raised = Instant::now();
        let seen = ranks.join().unwrap();
        assert!(seen.iter().any(|(_, stopped)| *stopped));
        seen.into_iter().map(|(seen, _)| seen.saturating_duration_since(raised)).max().unwrap()
    });
    assert!(raised < SOON, "{raised:?}");
}

#[test]
fn a_raised_flag_ends_a_loop_of_operations_that_never_waits() {
    ranks_with_stop(|rank, stop| {
        let mut values = vec![1.0; 3];
        rank.sum(&mut values).unwrap();
        rank.wait().unwrap();
        stop.stop("enough");
        assert!(matches!(rank.sum(&mut values), Err(Error::Stopped { .. })));
        assert!(rank.comm.aborted().unwrap().contains("enough"));
    });
}

fn ranks_with_stop(body: impl Fn(&Rank, &StopFlag) + Sync) {
    let stop = StopFlag::new();
    tried_ranks(1, |_| config().stop(&stop), |rank, _| body(&rank.unwrap(), &stop));
}

#[test]
fn a_look_at_the_device_that_fails_ends_the_communicator() {
    let id = nccl().unique_id().unwrap();
    let rank = Rank::init(&id, 0, 1, &config()).unwrap();
    let error = rank.comm.try_wait("step 3", BOUND, || Err::<bool, _>("an illegal memory access")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rank 0 of 1 waited 0.0 s for step 3 (no operation was issued), on nobody but itself; \
         then the look at the device failed: an illegal memory access"
    );
    assert!(rank.comm.aborted().is_some());
}

#[test]
fn an_operation_that_fails_later_ends_the_wait_with_nccls_words() {
    tried_ranks(
        1,
        |_| told("fail at op 1"),
        |rank, _| {
            let rank = rank.unwrap();
            let mut values = vec![1.0; 3];
            rank.sum(&mut values).unwrap();
            let error = rank.wait().unwrap_err();
            assert!(
                matches!(&error, Error::Asynchronous { report, .. } if report.last_error.contains("told to fail")),
                "{error}"
            );
        },
    );
}

#[test]
fn an_operation_that_is_refused_says_which_and_ends_the_communicator() {
    tried_ranks(
        1,
        |_| told("refuse at op 1"),
        |rank, _| {
            let rank = rank.unwrap();
            let mut values = vec![1.0; 3];
            let error = rank.sum(&mut values).unwrap_err();
            assert!(error.to_string().starts_with("ncclAllReduce failed on rank 0 of 1: ncclInternalError"), "{error}");
            assert!(error.to_string().contains("told to refuse an operation"), "{error}");
            assert!(matches!(rank.wait(), Err(Error::Aborted { .. })));
        },
    );
}

#[test]
fn ranks_that_call_different_operations_are_told_so() {
    let errors = tried_ranks(
        2,
        |_| config(),
        |rank, number| {
            let rank = rank.unwrap();
            let mut values = vec![1.0; 3 + number];
            rank.sum(&mut values).unwrap();
            rank.wait().unwrap_err().to_string()
        },
    );
    assert!(errors.iter().any(|error| error.contains("ncclInvalidUsage")), "{errors:?}");
}

#[test]
fn a_rank_that_aborts_is_an_error_to_the_ones_that_wait_for_it() {
    let together = Barrier::new(3);
    tried_ranks(
        3,
        |_| config(),
        |rank, number| {
            let rank = rank.unwrap();
            rank.check().unwrap();
            together.wait();
            if number == 2 {
                rank.comm.abort().unwrap();
                return;
            }
            let mut values = vec![1.0; 3];
            // The error may be there before the operation is issued.
            let error = rank.sum(&mut values).and_then(|()| rank.wait()).unwrap_err();
            assert!(error.to_string().contains("ncclRemoteError"), "{error}");
        },
    );
}

#[test]
fn an_error_that_came_between_calls_can_be_looked_at() {
    tried_ranks(
        2,
        |_| config(),
        |rank, number| {
            let rank = rank.unwrap();
            if number == 1 {
                return;
            }
            let started = Instant::now();
            while rank.comm.asynchronous_error().unwrap().is_none() {
                assert!(started.elapsed() < BOUND);
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(rank.comm.asynchronous_error().unwrap(), Some(Status::RemoteError));
            assert_eq!(rank.comm.aborted(), None);
        },
    );
}

#[test]
fn finalising_waits_for_what_was_issued() {
    tried_ranks(
        2,
        |_| told("slow=100 at op 1"),
        |rank, _| {
            let rank = rank.unwrap();
            let mut values = vec![1.0; 3];
            rank.sum(&mut values).unwrap();
            rank.comm.finalize(BOUND).unwrap();
            assert_eq!(values, [2.0; 3]);
        },
    );
}

#[test]
fn finalising_without_the_others_ends_at_its_bound() {
    let id = nccl().unique_id().unwrap();
    thread::scope(|scope| {
        let there = scope.spawn(|| Rank::init(&id, 1, 2, &config()).unwrap());
        let rank = Rank::init(&id, 0, 2, &config()).unwrap();
        let other = there.join().unwrap();
        let started = Instant::now();
        let error = rank.comm.finalize(Duration::from_millis(150)).unwrap_err();
        assert!(started.elapsed() < SOON);
        assert!(error.to_string().contains("for all ranks to finalise, on rank 1"), "{error}");
        drop(other);
    });
}

#[test]
fn finalising_that_fails_says_so() {
    let id = nccl().unique_id().unwrap();
    let rank = Rank::init(&id, 0, 1, &told("refuse at finalize")).unwrap();
    let error = rank.comm.finalize(BOUND).unwrap_err();
    assert!(error.to_string().contains("ncclCommFinalize failed on rank 0 of 1"), "{error}");
    let id = nccl().unique_id().unwrap();
    let rank = Rank::init(&id, 0, 1, &told("fail at finalize")).unwrap();
    assert!(matches!(rank.comm.finalize(BOUND), Err(Error::Asynchronous { .. })));
}

#[test]
fn a_communicator_moves_to_another_thread() {
    ranks(2, &config(), |rank| rank.check().unwrap());
    tried_ranks(
        2,
        |_| config(),
        |rank, _| {
            let rank = rank.unwrap();
            thread::spawn(move || {
                rank.check().unwrap();
                rank.comm.finalize(BOUND).unwrap();
            })
            .join()
            .unwrap();
        },
    );
}

#[test]
fn a_wait_for_a_send_names_its_peer_alone() {
    let done = Barrier::new(3);
    tried_ranks(
        3,
        |_| config(),
        |rank, number| {
            let rank = rank.unwrap();
            if number != 0 {
                // Their end is not what ends the wait.
                done.wait();
                return;
            }
            let mut value = [0.0f32; 2];
            // SAFETY: two floats, alive until the wait aborts.
            unsafe { rank.comm.recv(value.as_mut_ptr().cast(), Elements::f32(2), 2, rank.stream).unwrap() };
            let error = rank.wait_at_most(Duration::from_millis(100)).unwrap_err();
            done.wait();
            assert!(error.to_string().contains("(operation 1: recv of 2 f32), on rank 2;"), "{error}");
        },
    );
}
