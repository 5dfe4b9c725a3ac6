//! The real library on a real GPU. Where there is no GPU, `BEGAN_NCCL` may name a library over host memory: the tests then run on
//! that. Where neither is there they pass, with the reason printed.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_void;
use std::time::{Duration, Instant};

use nccl_rs::{Communicator, Config, Elements, Error, Nccl, ReduceOp, Search, StopFlag, Stream};

#[path = "support/gpu.rs"]
mod gpu;

const BOUND: Duration = Duration::from_secs(60);

/// Where the tensors of a test are.
enum Place {
    Gpu(gpu::Driver),
    Host,
}

enum Memory<'d> {
    Gpu(gpu::Memory<'d>),
    Host(Box<[Cell<f32>]>),
}

impl Place {
    fn stream(&self) -> *mut c_void {
        match self {
            Self::Gpu(driver) => driver.stream(),
            // On the host a stream is an address that nothing else has.
            Self::Host => Box::leak(Box::new(0u8)) as *mut u8 as *mut c_void,
        }
    }

    fn is_idle(&self, nccl: &Nccl, stream: *mut c_void) -> Result<bool, String> {
        match self {
            Self::Gpu(driver) => driver.is_idle(stream),
            Self::Host => {
                nccl.host_stream_is_idle(Stream::from_raw(stream)).ok_or_else(|| "no streams on the host".into())
            }
        }
    }

    fn upload(&self, values: &[f32]) -> Memory<'_> {
        match self {
            Self::Gpu(driver) => Memory::Gpu(driver.upload(values)),
            Self::Host => Memory::Host(values.iter().copied().map(Cell::new).collect()),
        }
    }
}

impl Memory<'_> {
    fn pointer(&self) -> *mut c_void {
        match self {
            Self::Gpu(memory) => memory.pointer(),
            Self::Host(values) => values.as_ptr().cast_mut().cast(),
        }
    }

    fn download(&self) -> Vec<f32> {
        match self {
            Self::Gpu(memory) => memory.download(),
            Self::Host(values) => values.iter().map(Cell::get).collect(),
        }
    }
}

/// The library and where it works, with the first device current; or `None`, with the reason printed.
fn machine() -> Option<(Nccl, Place)> {
    let has_gpu = gpu::count() > 0;
    if !has_gpu && std::env::var_os(nccl_rs::VARIABLE).is_none() {
        println!("skipped: no GPU here");
        return None;
    }
    let built = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../third_party/libtorch/torch");
    let libtorch = std::env::var_os("LIBTORCH").map(std::path::PathBuf::from);
    let search = libtorch.into_iter().chain([built]).fold(Search::new(), Search::directory);
    let nccl = match Nccl::load(&search) {
        Ok(nccl) => nccl,
        Err(error) => {
            println!("skipped: no NCCL: {}", error.to_string().replace('\n', " "));
            return None;
        }
    };
    if !has_gpu {
        if !nccl.is_of_host_memory() {
            println!("skipped: no GPU here");
            return None;
        }
        return Some((nccl, Place::Host));
    }
    let driver = gpu::Driver::load()?;
    driver.make_current();
    Some((nccl, Place::Gpu(driver)))
}

#[test]
fn one_rank_reduces_gathers_and_sends_to_itself_on_a_gpu() {
    let Some((nccl, place)) = machine() else { return };
    let id = nccl.unique_id().unwrap();
    let comm = Communicator::init(&nccl, &id, 0, 1, &Config::new().init_timeout(BOUND)).unwrap();
    assert_eq!((comm.rank(), comm.size(), comm.device()), (0, 1, 0));
    let raw = place.stream();
    let stream = Stream::from_raw(raw);
    let values: Vec<f32> = (0..1000u16).map(f32::from).collect();
    let (send, recv) = (place.upload(&values), place.upload(&vec![-1.0; 1000]));
    let elements = Elements::f32(1000);
    // SAFETY: a thousand floats each, kept until after each wait.
    unsafe {
        comm.all_reduce(send.pointer(), recv.pointer(), elements, ReduceOp::Sum, stream).unwrap();
        comm.try_wait("the sum", BOUND, || place.is_idle(&nccl, raw)).unwrap();
        assert_eq!(recv.download(), values);

        let recv = place.upload(&vec![-1.0; 1000]);
        comm.group(|| {
            comm.send(send.pointer(), elements, 0, stream)?;
            comm.recv(recv.pointer(), elements, 0, stream)
        })
        .unwrap();
        comm.try_wait("what it sent itself", BOUND, || place.is_idle(&nccl, raw)).unwrap();
        assert_eq!(recv.download(), values);
    }
    let part = comm.split(Some(0), 0, &Config::new()).unwrap().unwrap();
    part.finalize(BOUND).unwrap();
    comm.finalize(BOUND).unwrap();
}

#[test]
fn memory_of_nccls_own_is_registered_and_given_back_on_a_gpu() {
    let Some((nccl, _place)) = machine() else { return };
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
    let Some((nccl, _place)) = machine() else { return };
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
    let Some((nccl, _place)) = machine() else { return };
    let id = nccl.unique_id().unwrap();
    let comm = Communicator::init(&nccl, &id, 0, 1, &Config::new().init_timeout(BOUND)).unwrap();
    let started = Instant::now();
    drop(comm);
    assert!(started.elapsed() < Duration::from_secs(20));
}
