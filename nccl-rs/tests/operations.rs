//! Every operation, over the double, for one to four ranks.

#![allow(unsafe_code)]

mod support;

use std::ffi::c_void;

use nccl_rs::{DataType, Elements, Error, ReduceOp};
use support::{config, ranks};

/// What a rank starts from: different on every rank and at every place, and exact in every sum of four.
fn values(rank: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| (rank * 100 + i) as f32).collect()
}

fn raw(values: &[f32]) -> *const c_void {
    values.as_ptr().cast()
}

fn raw_mut(values: &mut [f32]) -> *mut c_void {
    values.as_mut_ptr().cast()
}

#[test]
fn all_reduce_gives_every_rank_the_sum() {
    for size in 1..=4 {
        ranks(size, &config(), |rank| {
            let send = values(rank.comm.rank(), 7);
            let mut recv = vec![0.0; 7];
            // SAFETY: seven floats each, alive until the wait is over.
            unsafe {
                let elements = Elements::f32(7);
                rank.comm.all_reduce(raw(&send), raw_mut(&mut recv), elements, ReduceOp::Sum, rank.stream).unwrap();
            }
            rank.wait().unwrap();
            let expected: Vec<f32> = (0..7).map(|i| (0..size).map(|r| (r * 100 + i) as f32).sum()).collect();
            assert_eq!(recv, expected);
        });
    }
}

#[test]
fn all_reduce_in_place_takes_every_reduction() {
    let expected = [
        (ReduceOp::Sum, 6.0),
        (ReduceOp::Product, 6.0),
        (ReduceOp::Max, 3.0),
        (ReduceOp::Min, 1.0),
        (ReduceOp::Average, 2.0),
    ];
    ranks(3, &config(), |rank| {
        for (op, result) in expected {
            let mut values = [(rank.comm.rank() + 1) as f32; 3];
            let pointer = raw_mut(&mut values);
            // SAFETY: three floats, alive until the wait is over.
            unsafe { rank.comm.all_reduce(pointer, pointer, Elements::f32(3), op, rank.stream).unwrap() };
            rank.wait().unwrap();
            assert_eq!(values, [result; 3], "{op:?}");
        }
    });
}

#[test]
fn every_type_is_reduced_as_what_it_is() {
    // One and two of each type, and three: as bytes.
    let cases: [(DataType, [&[u8]; 3]); 10] = [
        (DataType::I8, [&[1], &[2], &[3]]),
        (DataType::U8, [&[1], &[2], &[3]]),
        (DataType::I32, [&[1, 0, 0, 0], &[2, 0, 0, 0], &[3, 0, 0, 0]]),
        (DataType::U32, [&[1, 0, 0, 0], &[2, 0, 0, 0], &[3, 0, 0, 0]]),
        (DataType::I64, [&[1, 0, 0, 0, 0, 0, 0, 0], &[2, 0, 0, 0, 0, 0, 0, 0], &[3, 0, 0, 0, 0, 0, 0, 0]]),
        (DataType::U64, [&[1, 0, 0, 0, 0, 0, 0, 0], &[2, 0, 0, 0, 0, 0, 0, 0], &[3, 0, 0, 0, 0, 0, 0, 0]]),
        (DataType::F16, [&[0x00, 0x3c], &[0x00, 0x40], &[0x00, 0x42]]),
        (DataType::Bf16, [&[0x80, 0x3f], &[0x00, 0x40], &[0x40, 0x40]]),
        (DataType::F32, [&[0, 0, 0x80, 0x3f], &[0, 0, 0, 0x40], &[0, 0, 0x40, 0x40]]),
        (DataType::F64, [&[0, 0, 0, 0, 0, 0, 0xf0, 0x3f], &[0, 0, 0, 0, 0, 0, 0, 0x40], &[0, 0, 0, 0, 0, 0, 8, 0x40]]),
    ];
    ranks(2, &config(), |rank| {
        for (of, parts) in &cases {
            assert_eq!(parts[0].len(), of.bytes());
            let mut bytes = parts[rank.comm.rank()].to_vec();
            let pointer: *mut c_void = bytes.as_mut_ptr().cast();
            // SAFETY: one element, alive until the wait is over.
            unsafe {
                rank.comm.all_reduce(pointer, pointer, Elements::new(1, *of), ReduceOp::Sum, rank.stream).unwrap()
            };
            rank.wait().unwrap();
            assert_eq!(bytes, parts[2], "{of}");
        }
    });
}

#[test]
fn all_gather_gives_every_rank_all_parts_in_the_order_of_ranks() {
    for size in 1..=4 {
        ranks(size, &config(), |rank| {
            let mut whole = vec![-1.0; 3 * size];
            let mine = rank.comm.rank() * 3;
            whole[mine..mine + 3].copy_from_slice(&values(rank.comm.rank(), 3));
            // SAFETY: in place, three floats of each rank, alive until the wait is over.
            unsafe {
                let recv = raw_mut(&mut whole);
                let send = recv.cast::<f32>().add(mine).cast();
                rank.comm.all_gather(send, recv, Elements::f32(3), rank.stream).unwrap();
            }
            rank.wait().unwrap();
            assert_eq!(whole, (0..size).flat_map(|r| values(r, 3)).collect::<Vec<_>>());
        });
    }
}

#[test]
fn reduce_scatter_leaves_each_rank_its_part_of_the_sum() {
    for size in 1..=4 {
        ranks(size, &config(), |rank| {
            let send = values(rank.comm.rank(), 2 * size);
            let mut recv = vec![0.0; 2];
            // SAFETY: two floats of each rank, alive until the wait is over.
            unsafe {
                let elements = Elements::f32(2);
                rank.comm.reduce_scatter(raw(&send), raw_mut(&mut recv), elements, ReduceOp::Sum, rank.stream).unwrap();
            }
            rank.wait().unwrap();
            let part = |i: usize| (0..size).map(|r| (r * 100 + rank.comm.rank() * 2 + i) as f32).sum::<f32>();
            assert_eq!(recv, [part(0), part(1)]);
        });
    }
}

#[test]
fn broadcast_copies_the_roots_values_from_any_root() {
    for size in 1..=4 {
        ranks(size, &config(), |rank| {
            for root in 0..size {
                let mut values = values(rank.comm.rank(), 4);
                let pointer = raw_mut(&mut values);
                // SAFETY: in place, four floats, alive until the wait is over.
                unsafe { rank.comm.broadcast(pointer, pointer, Elements::f32(4), root, rank.stream).unwrap() };
                rank.wait().unwrap();
                assert_eq!(values, self::values(root, 4));
            }
        });
    }
}

#[test]
fn reduce_gives_the_root_the_sum_and_leaves_the_others_as_they_were() {
    for size in 1..=4 {
        ranks(size, &config(), |rank| {
            let root = size - 1;
            let send = values(rank.comm.rank(), 3);
            let mut recv = vec![-1.0; 3];
            // SAFETY: three floats, alive until the wait is over.
            unsafe {
                let elements = Elements::f32(3);
                rank.comm.reduce(raw(&send), raw_mut(&mut recv), elements, ReduceOp::Sum, root, rank.stream).unwrap();
            }
            rank.wait().unwrap();
            let sum: Vec<f32> = (0..3).map(|i| (0..size).map(|r| (r * 100 + i) as f32).sum()).collect();
            assert_eq!(recv, if rank.comm.rank() == root { sum } else { vec![-1.0; 3] });
        });
    }
}

#[test]
fn an_uneven_all_to_all_in_a_group_brings_every_piece_to_its_place() {
    // From s to r travel s + 2r + 1 numbers.
    let length = |from: usize, to: usize| from + 2 * to + 1;
    let piece = |from: usize, to: usize| -> Vec<f32> {
        (0..length(from, to)).map(|i| (from * 1000 + to * 100 + i) as f32).collect()
    };
    for size in 1..=4 {
        ranks(size, &config(), |rank| {
            let me = rank.comm.rank();
            let send: Vec<Vec<f32>> = (0..size).map(|to| piece(me, to)).collect();
            let mut recv: Vec<Vec<f32>> = (0..size).map(|from| vec![0.0; length(from, me)]).collect();
            rank.comm
                .group(|| {
                    for (peer, (send, recv)) in send.iter().zip(&mut recv).enumerate() {
                        // SAFETY: each as long as it says, alive until the wait is over.
                        unsafe {
                            rank.comm.send(raw(send), Elements::f32(send.len()), peer, rank.stream)?;
                            rank.comm.recv(raw_mut(recv), Elements::f32(recv.len()), peer, rank.stream)?;
                        }
                    }
                    Ok::<(), Error>(())
                })
                .unwrap();
            rank.wait().unwrap();
            assert_eq!(recv, (0..size).map(|from| piece(from, me)).collect::<Vec<_>>());
        });
    }
}

#[test]
fn operations_of_no_elements_need_no_memory() {
    ranks(2, &config(), |rank| {
        let null = std::ptr::null_mut();
        // SAFETY: no element is touched.
        unsafe { rank.comm.all_reduce(null, null, Elements::f32(0), ReduceOp::Sum, rank.stream).unwrap() };
        rank.wait().unwrap();
    });
}

#[test]
fn megabytes_arrive_whole() {
    ranks(3, &config(), |rank| {
        let mut values = vec![1.0; 1 << 20];
        rank.sum(&mut values).unwrap();
        rank.wait().unwrap();
        assert!(values.iter().all(|value| *value == 3.0));
    });
}

#[test]
fn calls_return_before_the_operation_is_done() {
    ranks(2, &support::told("slow=150 at op 1"), |rank| {
        let mut values = vec![1.0; 3];
        let before = std::time::Instant::now();
        rank.sum(&mut values).unwrap();
        assert!(before.elapsed().as_millis() < 100, "the call took {:?}", before.elapsed());
        rank.wait().unwrap();
        assert!(before.elapsed().as_millis() >= 150);
        assert_eq!(values, [2.0; 3]);
    });
}

#[test]
fn a_first_operation_that_takes_time_to_be_put_on_its_stream_is_waited_for() {
    ranks(2, &support::told("busy=50 at op 1"), |rank| {
        let mut values = vec![1.0; 3];
        let before = std::time::Instant::now();
        rank.sum(&mut values).unwrap();
        assert!(before.elapsed().as_millis() >= 50);
        // Without the wait inside the call above, NCCL would refuse this one.
        rank.wait().unwrap();
        rank.check().unwrap();
    });
}

#[test]
fn arguments_that_cannot_be_are_refused_and_leave_the_communicator_as_it_was() {
    ranks(2, &config(), |rank| {
        let (null, stream) = (std::ptr::null_mut(), rank.stream);
        let mut one = [0.0];
        let some = raw_mut(&mut one);
        let comm = &rank.comm;
        // SAFETY: every one of them is refused before any memory is touched.
        let refused = unsafe {
            [
                comm.all_reduce(null, null, Elements::f32(1), ReduceOp::Sum, stream),
                comm.all_reduce(some, some, Elements::f32(usize::MAX / 2), ReduceOp::Sum, stream),
                comm.all_gather(some, some, Elements::f32(usize::MAX / 8), stream),
                comm.broadcast(some, some, Elements::f32(1), 2, stream),
                comm.reduce(some, some, Elements::f32(1), ReduceOp::Sum, usize::MAX, stream),
                comm.send(some, Elements::f32(1), 2, stream),
                comm.recv(null, Elements::f32(1), 1 - comm.rank(), stream),
            ]
        };
        for result in refused {
            assert!(matches!(result, Err(Error::Refused(_))), "{result:?}");
        }
        let error = unsafe { comm.send(some, Elements::f32(1), 7, stream) }.unwrap_err();
        assert_eq!(error.to_string(), format!("send of 1 f32 on rank {} of 2 names rank 7 of 2", comm.rank()));
        rank.check().unwrap();
    });
}
