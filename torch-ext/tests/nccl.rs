//! Groups of threads over the double of NCCL: tensors on the host, operations on streams of their own.

use std::collections::HashMap;
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nccl_rs::{Nccl, Search, StopFlag};
use tch::{Device, Kind, Tensor};
use torch_ext::TorchError;
use torch_ext::gloo::Rendezvous;
use torch_ext::nccl::{Connecting, Group, Member};

#[derive(Default)]
struct Store {
    keys: Mutex<HashMap<String, Vec<u8>>>,
    changed: Condvar,
}

impl Rendezvous for Store {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), String> {
        self.keys.lock().map_err(|e| e.to_string())?.insert(key.into(), value.into());
        self.changed.notify_all();
        Ok(())
    }

    fn get(&self, keys: &[&str], timeout: Duration) -> Result<Vec<Vec<u8>>, String> {
        let there = |map: &HashMap<String, Vec<u8>>| keys.iter().all(|&key| map.contains_key(key));
        let guard = self.keys.lock().map_err(|e| e.to_string())?;
        let (map, late) =
            self.changed.wait_timeout_while(guard, timeout, |map| !there(map)).map_err(|e| e.to_string())?;
        if late.timed_out() {
            return Err(format!("one of {keys:?} did not come"));
        }
        Ok(keys.iter().map(|&key| map[key].clone()).collect())
    }

    fn add(&self, _: &str, _: i64) -> Result<i64, String> {
        Err("not for this".into())
    }

    fn append(&self, _: &str, _: &[u8]) -> Result<(), String> {
        Err("not for this".into())
    }

    fn delete(&self, _: &str) -> Result<bool, String> {
        Err("not for this".into())
    }

    fn compare_set(&self, _: &str, _: &[u8], _: &[u8]) -> Result<Vec<u8>, String> {
        Err("not for this".into())
    }
}

fn nccl() -> Nccl {
    Nccl::load(&Search::exactly(nccl_double::library().unwrap())).unwrap()
}

fn member(rank: u32, world: u32) -> Member {
    let seconds = Duration::from_secs;
    Member { rank, world, device: Device::Cpu, connect: seconds(20), operation: seconds(20) }
}

/// Runs `work` on a thread for each rank of a group; what each gave, by rank.
fn world<T: Send + 'static>(world: u32, work: impl Fn(u32, Group) -> (T, Group) + Clone + Send + 'static) -> Vec<T> {
    let store = Arc::new(Store::default());
    let spawn = |rank| {
        let (store, work) = (Arc::clone(&store), work.clone());
        thread::spawn(move || {
            let group = Group::connect(&nccl(), store.as_ref(), &member(rank, world), &StopFlag::new()).unwrap();
            let (given, group) = work(rank, group);
            group.leave(Duration::from_secs(10));
            given
        })
    };
    let running: Vec<_> = (0..world).map(spawn).collect();
    running.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// What `from` sends to `to`.
fn piece(from: u32, to: u32, len: i64) -> Tensor {
    Tensor::arange(len, (Kind::Float, Device::Cpu)) + f64::from(100 * from + 10 * to)
}

#[test]
fn uneven_pieces_reach_their_owners_and_everyone_gathers_the_whole() {
    for size in [2u32, 3, 4] {
        let len = |from: u32, to: u32| i64::from((from + 2 * to) % 4);
        let all = world(size, move |rank, mut group| {
            let to: Vec<i64> = (0..size).map(|peer| len(rank, peer)).collect();
            let from: Vec<i64> = (0..size).map(|peer| len(peer, rank)).collect();
            let input = Tensor::cat(&(0..size).map(|p| piece(rank, p, len(rank, p))).collect::<Vec<_>>(), 0);
            let output = Tensor::zeros([from.iter().sum::<i64>()], (Kind::Float, Device::Cpu));
            group.all_to_all(&output, &input, &from, &to).unwrap();
            let expected = Tensor::cat(&(0..size).map(|p| piece(p, rank, len(p, rank))).collect::<Vec<_>>(), 0);
            assert_eq!(output, expected);

            let mine = Tensor::full([5], f64::from(rank), (Kind::Double, Device::Cpu));
            let gathered = Tensor::zeros([5 * i64::from(size)], (Kind::Double, Device::Cpu));
            group.all_gather(&gathered, &mine).unwrap();
            group.all_reduce(&mine).unwrap();
            group.settle("the test's operations").unwrap();
            ((Vec::<f64>::try_from(gathered).unwrap(), Vec::<f64>::try_from(mine).unwrap()), group)
        });
        let ranks: Vec<f64> = (0..size).flat_map(|rank| [f64::from(rank); 5]).collect();
        let sum = f64::from(size * (size - 1) / 2);
        assert!(all.iter().all(|(gathered, reduced)| *gathered == ranks && *reduced == [sum; 5]), "{all:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused_by_a_sentence() {
    world(2, |_, mut group| {
        let four = Tensor::zeros([4], (Kind::Float, Device::Cpu));
        let refused = |found: Result<(), TorchError>, words: &str| {
            assert!(found.as_ref().is_err_and(|error| error.0.contains(words)), "{found:?}");
        };
        refused(group.all_to_all(&four, &four, &[2, 3], &[2, 2]), "does not split into [2, 3] of 2 members");
        refused(group.all_gather(&four, &four), "4 elements of 2 members into 4");
        refused(group.all_reduce(&four.to_kind(Kind::Int)), "tensors of Int do not travel");
        refused(group.all_reduce(&Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)).tr()), "not contiguous");
        // Refusals leave the group as it was.
        group.all_reduce(&four).unwrap();
        ((), group)
    });
}

#[test]
fn a_wait_for_one_that_left_is_called_off_at_once() {
    let stop = StopFlag::new();
    let (flag, store) = (stop.clone(), Arc::new(Store::default()));
    let (here, there) = channel();
    let peer = {
        let store = Arc::clone(&store);
        thread::spawn(move || {
            let group = Group::connect(&nccl(), store.as_ref(), &member(1, 2), &StopFlag::new()).unwrap();
            // It is there and never joins in, until the other has given up.
            there.recv_timeout(Duration::from_secs(20)).unwrap();
            drop(group);
        })
    };
    let mut group = Group::connect(&nccl(), store.as_ref(), &member(0, 2), &stop).unwrap();
    let called = thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        flag.stop("generation 4 is over");
    });
    let started = Instant::now();
    let error = group.all_reduce(&Tensor::zeros([8], (Kind::Float, Device::Cpu))).unwrap_err();
    assert!(error.0.contains("generation 4 is over") && error.0.contains("rank 1"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    drop(group);
    here.send(()).unwrap();
    called.join().unwrap();
    peer.join().unwrap();
}

#[test]
fn connecting_to_one_that_never_comes_is_called_off_and_delivers_nothing() {
    let (sender, receiver) = channel();
    let deliver = move |group: Result<Group, TorchError>| sender.send(group.is_ok()).unwrap();
    let connecting =
        Connecting::start(nccl(), Arc::new(Store::default()), member(1, 2), StopFlag::new(), deliver).unwrap();
    thread::sleep(Duration::from_millis(100));
    drop(connecting);
    // The thread ends, and its end of the channel with it.
    assert!(receiver.recv_timeout(Duration::from_secs(10)).is_err());
}

#[test]
fn a_library_for_gpus_is_not_used_on_a_cpu_and_the_other_way_round() {
    let member = Member { device: Device::Cuda(0), ..member(0, 1) };
    let refused = Group::connect(&nccl(), &Store::default(), &member, &StopFlag::new());
    assert!(refused.as_ref().is_err_and(|error| error.0.contains("cannot reduce tensors on Cuda(0)")), "{refused:?}");
}
