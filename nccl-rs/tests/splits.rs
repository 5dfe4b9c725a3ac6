//! Communicators made of the ranks of another, and registered buffers.

#![allow(unsafe_code)]

mod support;

use std::time::{Duration, Instant};

use nccl_rs::{Error, Stream};
use support::{BOUND, Rank, config, device, nccl, ranks, told, tried_ranks};

/// The other half of a rank: its stream, for a communicator split off.
fn with_stream(comm: nccl_rs::Communicator) -> Rank {
    Rank { comm, stream: Stream::from_raw(device().stream()) }
}

#[test]
fn a_split_makes_a_communicator_for_each_color_in_the_order_of_keys() {
    ranks(4, &config(), |rank| {
        let me = rank.comm.rank();
        let key = -i32::try_from(me).unwrap();
        let half = with_stream(rank.comm.split(Some(me as u32 % 2), key, &config()).unwrap().unwrap());
        assert_eq!(half.comm.size(), 2);
        // The keys turn the order around: of 0 and 2, 2 is the first.
        assert_eq!(half.comm.rank(), 1 - me / 2);
        half.check().unwrap();
        rank.check().unwrap();
        half.comm.finalize(BOUND).unwrap();
    });
}

#[test]
fn a_rank_without_a_color_is_in_no_part() {
    ranks(3, &config(), |rank| {
        let color = (rank.comm.rank() != 1).then_some(7);
        let part = rank.comm.split(color, 0, &config()).unwrap();
        assert_eq!(
            part.as_ref().map(|part| (part.rank(), part.size())),
            [Some((0, 2)), None, Some((1, 2))][rank.comm.rank()]
        );
        if let Some(part) = part.map(with_stream) {
            part.check().unwrap();
            part.comm.finalize(BOUND).unwrap();
        }
        rank.check().unwrap();
    });
}

#[test]
fn a_part_lives_on_when_the_whole_is_aborted() {
    tried_ranks(
        2,
        |_| config(),
        |rank, _| {
            let rank = rank.unwrap();
            let part = with_stream(rank.comm.split(Some(0), 0, &config()).unwrap().unwrap());
            rank.check().unwrap();
            // Nobody aborts before everybody has checked.
            part.check().unwrap();
            rank.comm.abort().unwrap();
            part.check().unwrap();
            part.comm.finalize(BOUND).unwrap();
        },
    );
}

#[test]
fn a_split_that_a_rank_does_not_come_to_ends_at_its_bound() {
    tried_ranks(
        2,
        |_| told("hang at split on 1"),
        |rank, number| {
            let rank = rank.unwrap();
            let bound = Duration::from_millis(150 + 500 * number as u64);
            let started = Instant::now();
            let error = rank.comm.split(Some(0), 0, &config().init_timeout(bound)).unwrap_err();
            assert!(started.elapsed() < bound + Duration::from_secs(1));
            if number == 0 {
                assert!(error.to_string().contains("for a split into color 0, on rank 1; the bound"), "{error}");
            }
            assert!(rank.comm.aborted().is_some());
        },
    );
}

#[test]
fn a_split_that_fails_says_so() {
    tried_ranks(
        1,
        |_| told("refuse at split"),
        |rank, _| {
            let rank = rank.unwrap();
            let error = rank.comm.split(Some(0), 0, &config()).unwrap_err();
            assert!(error.to_string().starts_with("ncclCommSplit failed on rank 0 of 1"), "{error}");
            let error = rank.comm.split(Some(0), 0, &config()).unwrap_err();
            assert!(matches!(error, Error::Aborted { .. }));
        },
    );
    tried_ranks(
        1,
        |_| config(),
        |rank, _| {
            let rank = rank.unwrap();
            // The part's own initialisation is what fails here; the whole cannot go on without it.
            assert!(rank.comm.split(Some(u32::MAX), 0, &config()).is_err());
            rank.check().unwrap();
            let error = rank.comm.split(Some(0), 0, &told("nonsense")).unwrap_err();
            assert!(error.to_string().contains("no entry of a script"), "{error}");
        },
    );
}

#[test]
fn a_registration_ends_when_it_is_given_back_or_with_its_communicator() {
    ranks(2, &config(), |rank| {
        let memory = nccl().allocate(4096).unwrap();
        let other = nccl().allocate(4096).unwrap();
        assert_eq!((memory.bytes(), memory.pointer().is_null()), (4096, false));
        // SAFETY: the memory is there until after the communicator is finalised, or given back before.
        let (first, _kept) = unsafe {
            (rank.comm.register(memory.pointer(), 4096).unwrap(), rank.comm.register(other.pointer(), 4096).unwrap())
        };
        rank.comm.deregister(first).unwrap();
        memory.free().unwrap();
        // The double refuses to destroy a communicator with registrations, and every rank is finalised after this. That
        // the host's memory stands in for the device's, nobody registered sees.
        std::mem::forget(other);
        rank.check().unwrap();
    });
}

#[test]
fn a_registration_of_another_communicator_is_refused() {
    let alone = || Rank::init(&nccl().unique_id().unwrap(), 0, 1, &config()).unwrap();
    let (one, two) = (alone(), alone());
    let memory = nccl().allocate(16).unwrap();
    // SAFETY: the memory outlives both communicators.
    let registration = unsafe { one.comm.register(memory.pointer(), 16).unwrap() };
    assert!(matches!(two.comm.deregister(registration), Err(Error::Refused(_))));
    two.check().unwrap();
    // SAFETY: refused.
    let nothing = unsafe { one.comm.register(std::ptr::null_mut(), 16) };
    assert!(matches!(nothing, Err(Error::Refused(_))));
    one.check().unwrap();
    drop((one, two));
}

#[test]
fn registrations_of_an_aborted_communicator_have_ended_and_giving_them_back_is_no_error() {
    let rank = Rank::init(&nccl().unique_id().unwrap(), 0, 1, &told("refuse at op 1")).unwrap();
    let memory = nccl().allocate(16).unwrap();
    // SAFETY: the memory outlives the communicator.
    let registration = unsafe { rank.comm.register(memory.pointer(), 16).unwrap() };
    assert!(rank.check().is_err());
    rank.comm.deregister(registration).unwrap();
    drop(rank);
    memory.free().unwrap();
}

#[test]
fn memory_that_cannot_be_is_an_error() {
    assert!(matches!(nccl().allocate(0), Err(Error::Refused(_))));
    let error = nccl().allocate(usize::MAX / 2).unwrap_err();
    assert!(error.to_string().starts_with("ncclMemAlloc failed: ncclUnhandledCudaError"), "{error}");
}
