//! The real library on a real GPU. Where one of the two is missing, the tests pass with the reason printed.

#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use nccl_rs::{Communicator, Config, Elements, Error, Nccl, ReduceOp, Search, StopFlag, Stream};

#[path = "support/gpu.rs"]
mod gpu;

const BOUND: Duration = Duration::from_secs(60);

/// The library and the driver, with the first device current, or `None` with the reason printed.
fn machine(test: &str) -> Option<(Nccl, gpu::Driver)> {
    if gpu::count() == 0 {
        println!("{test}: skipped, no GPU");
        return None;
    }
    let libtorch = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../third_party/libtorch/torch");
    let nccl = match Nccl::load(&Search::new().directory(libtorch)) {
        Ok(nccl) => nccl,
        Err(error) => {
            println!("{test}: skipped, {error}");
            return None;
        }
    };
    let driver = gpu::Driver::load()?;
    driver.make_current();
    Some((nccl, driver))
}

#[test]
fn one_rank_reduces_gathers_and_sends_to_itself_on_a_gpu() {
    let Some((nccl, driver)) = machine("one_rank_reduces_gathers_and_sends_to_itself_on_a_gpu") else { return };
    let id = nccl.unique_id().unwrap();
    let comm = Communicator::init(&nccl, &id, 0, 1, &Config::new().init_timeout(BOUND)).unwrap();
    assert_eq!((comm.rank(), comm.size(), comm.device()), (0, 1, 0));
    let raw = driver.stream();
    let stream = Stream::from_raw(raw);
    let values: Vec<f32> = (0..1000u16).map(f32::from).collect();
    let (send, recv) = (driver.upload(&values), driver.upload(&vec![-1.0; 1000]));
    let elements = Elements::f32(1000);
    // SAFETY: a thousand floats each, kept until after each wait.
    unsafe {
        comm.all_reduce(send.pointer(), recv.pointer(), elements, ReduceOp::Sum, stream).unwrap();
        comm.try_wait("the sum", BOUND, || driver.is_idle(raw)).unwrap();
        assert_eq!(recv.download(), values);

        let recv = driver.upload(&vec![-1.0; 1000]);
        comm.group(|| {
            comm.send(send.pointer(), elements, 0, stream)?;
            comm.recv(recv.pointer(), elements, 0, stream)
        })
        .unwrap();
        comm.try_wait("what it sent itself", BOUND, || driver.is_idle(raw)).unwrap();
        assert_eq!(recv.download(), values);
    }
    let part = comm.split(Some(0), 0, &Config::new()).unwrap().unwrap();
    part.finalize(BOUND).unwrap();
    comm.finalize(BOUND).unwrap();
}

#[test]
fn memory_of_nccls_own_is_registered_and_given_back_on_a_gpu() {
    let Some((nccl, _driver)) = machine("memory_of_nccls_own_is_registered_and_given_back_on_a_gpu") else { return };
    let id = nccl.unique_id().unwrap();
    let comm = Communicator::init(&nccl, &id, 0, 1, &Config::new().init_timeout(BOUND)).unwrap();
    let memory = nccl.allocate(1 << 20).unwrap();
    // SAFETY: the memory is freed after it is given back.
    let registration = unsafe { comm.register(memory.pointer(), memory.bytes()).unwrap() };
    comm.deregister(registration).unwrap();
    memory.free().unwrap();
    comm.finalize(BOUND).unwrap();
}

#[test]
fn a_missing_rank_is_given_up_at_once_when_the_flag_is_raised_on_a_gpu() {
    let name = "a_missing_rank_is_given_up_at_once_when_the_flag_is_raised_on_a_gpu";
    let Some((nccl, _driver)) = machine(name) else { return };
    let id = nccl.unique_id().unwrap();
    let stop = StopFlag::new();
    let other = stop.clone();
    let raising = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(2));
        other.stop("rank 1 never came");
        Instant::now()
    });
    let error = Communicator::init(&nccl, &id, 0, 2, &Config::new().stop(&stop).init_timeout(BOUND)).unwrap_err();
    let seen = Instant::now();
    assert!(matches!(error, Error::Stopped { .. }), "{error}");
    assert!(seen.saturating_duration_since(raising.join().unwrap()) < Duration::from_secs(10));
}

#[test]
fn dropping_a_communicator_on_a_gpu_does_not_hang() {
    let Some((nccl, _driver)) = machine("dropping_a_communicator_on_a_gpu_does_not_hang") else { return };
    let id = nccl.unique_id().unwrap();
    let comm = Communicator::init(&nccl, &id, 0, 1, &Config::new().init_timeout(BOUND)).unwrap();
    let started = Instant::now();
    drop(comm);
    assert!(started.elapsed() < Duration::from_secs(20));
}
