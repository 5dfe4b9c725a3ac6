//! Groups end on every path, and what comes of it is seen.

#![allow(unsafe_code)]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use nccl_rs::{Communicator, Elements, Error, Group, ReduceOp};
use support::{Rank, config, nccl, ranks, told, tried_ranks};

fn alone(config: &nccl_rs::Config) -> Rank {
    Rank::init(&nccl().unique_id().unwrap(), 0, 1, config).unwrap()
}

#[test]
fn nothing_of_a_group_starts_before_its_end() {
    ranks(1, &config(), |rank| {
        let mut values = vec![1.0; 3];
        let group = Group::start(&[&rank.comm]).unwrap();
        rank.sum(&mut values).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(rank.is_idle(), "the operation is on its stream before the group's end");
        group.end().unwrap();
        rank.wait().unwrap();
    });
}

#[test]
fn a_groups_operations_may_need_a_while_until_they_start() {
    ranks(2, &told("busy=50 at op 2"), |rank| {
        let (mut a, mut b) = (vec![1.0f32; 3], vec![2.0f32; 3]);
        rank.comm
            .group(|| {
                rank.sum(&mut a)?;
                rank.sum(&mut b)
            })
            .unwrap();
        rank.wait().unwrap();
        assert_eq!((a, b), (vec![2.0; 3], vec![4.0; 3]));
        rank.check().unwrap();
    });
}

#[test]
fn two_communicators_may_be_in_one_group() {
    ranks(2, &config(), |rank| {
        let other = rank.comm.split(Some(0), 0, &config()).unwrap().unwrap();
        let (mut a, mut b) = (vec![1.0f32; 3], vec![2.0f32; 3]);
        let group = Group::start(&[&rank.comm, &other]).unwrap();
        rank.sum(&mut a).unwrap();
        let pointer = b.as_mut_ptr().cast();
        // SAFETY: three floats, alive until the wait is over.
        unsafe { other.all_reduce(pointer, pointer, Elements::f32(3), ReduceOp::Sum, rank.stream).unwrap() };
        group.end().unwrap();
        rank.wait().unwrap();
        assert_eq!((a, b), (vec![2.0; 3], vec![4.0; 3]));
        other.finalize(support::BOUND).unwrap();
    });
}

#[test]
fn an_early_return_closes_the_group_and_ends_the_communicator() {
    let rank = alone(&config());
    let mut values = vec![1.0; 3];
    let result: Result<(), Error> = rank.comm.group(|| {
        rank.sum(&mut values)?;
        Err(Error::Refused("the caller changed its mind".to_owned()))
    });
    assert_eq!(result.unwrap_err().to_string(), "the caller changed its mind");
    // Its peers would wait for what never comes.
    let reason = rank.comm.aborted().unwrap();
    assert_eq!(reason, "a group was left with 1 operations in it: its body failed");
    assert!(matches!(rank.sum(&mut values), Err(Error::Aborted { .. })));
    // The thread is out of the group.
    alone(&config()).check().unwrap();
}

#[test]
fn an_early_return_before_any_operation_leaves_the_communicator_as_it_was() {
    let rank = alone(&config());
    let result: Result<(), Error> = rank.comm.group(|| Err(Error::Refused("not today".to_owned())));
    assert!(result.is_err());
    rank.check().unwrap();
}

#[test]
fn a_panic_inside_a_group_closes_it() {
    let rank = alone(&config());
    let mut values = vec![1.0; 3];
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _: Result<(), Error> = rank.comm.group(|| {
            rank.sum(&mut values)?;
            panic!("in the middle of a group, as this test wants it")
        });
    }));
    assert!(panicked.is_err());
    assert_eq!(rank.comm.aborted().unwrap(), "a group was left with 1 operations in it: a panic");
    alone(&config()).check().unwrap();
}

#[test]
fn a_guard_that_is_dropped_closes_its_group() {
    let rank = alone(&config());
    drop(Group::start(&[&rank.comm]).unwrap());
    rank.check().unwrap();
}

#[test]
fn an_operation_that_fails_inside_fails_the_group() {
    let rank = alone(&told("refuse at op 2"));
    let (mut a, mut b) = (vec![1.0f32; 3], vec![2.0f32; 3]);
    let group = Group::start(&[&rank.comm]).unwrap();
    rank.sum(&mut a).unwrap();
    let inside = rank.sum(&mut b).unwrap_err();
    // Even where the caller looks away.
    let at_end = group.end().unwrap_err();
    assert!(inside.to_string().contains("told to refuse"), "{inside}");
    assert!(at_end.to_string().contains("ncclGroupEnd failed"), "{at_end}");
    assert_eq!(rank.comm.aborted(), Some(inside.to_string()));
    assert_eq!(a, [1.0; 3], "the group started in part");
    alone(&config()).check().unwrap();
}

#[test]
fn what_nccl_would_silently_put_off_is_refused_inside_a_group() {
    let (rank, stranger) = (alone(&config()), alone(&config()));
    let mut values = vec![1.0; 3];
    rank.comm
        .group(|| {
            let refused = [
                rank.wait(),
                rank.comm.split(None, 0, &config()).map(drop),
                Communicator::init(&nccl(), &nccl().unique_id()?, 0, 1, &config()).map(drop),
                Group::start(&[&rank.comm]).map(drop),
                stranger.sum(&mut values),
                // SAFETY: refused before it looks.
                unsafe { rank.comm.register(values.as_mut_ptr().cast(), 12) }.map(drop),
            ];
            for result in refused {
                assert!(matches!(result, Err(Error::Refused(_))), "{result:?}");
            }
            Ok::<(), Error>(())
        })
        .unwrap();
    rank.check().unwrap();
    stranger.check().unwrap();
    assert!(matches!(Group::start(&[]), Err(Error::Refused(_))));
}

#[test]
fn a_communicator_that_ends_while_a_group_is_open_is_freed_after_it() {
    tried_ranks(
        2,
        |_| config(),
        |rank, number| {
            let rank = rank.unwrap();
            let mine = alone(&config());
            if number == 0 {
                mine.comm
                    .group(|| {
                        // The other rank sees it end, and not only when this thread comes to it.
                        drop(rank);
                        Ok::<(), Error>(())
                    })
                    .unwrap();
            } else {
                let mut values = vec![1.0; 3];
                let error = rank.sum(&mut values).and_then(|()| rank.wait()).unwrap_err();
                assert!(error.to_string().contains("ncclRemoteError"), "{error}");
            }
            mine.check().unwrap();
        },
    );
}
