//! Groups of threads that find each other through a store in memory and reduce over loopback.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tch::{Kind, Tensor};
use torch_ext::TorchError;
use torch_ext::gloo::{Attempt, Group, Member, Operation, Rendezvous};

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

    fn add(&self, key: &str, amount: i64) -> Result<i64, String> {
        let mut map = self.keys.lock().map_err(|e| e.to_string())?;
        let now = map.get(key).and_then(|v| String::from_utf8(v.clone()).ok()?.parse::<i64>().ok()).unwrap_or(0);
        map.insert(key.into(), (now + amount).to_string().into_bytes());
        self.changed.notify_all();
        Ok(now + amount)
    }

    fn append(&self, key: &str, value: &[u8]) -> Result<(), String> {
        self.keys.lock().map_err(|e| e.to_string())?.entry(key.into()).or_default().extend(value);
        self.changed.notify_all();
        Ok(())
    }

    fn delete(&self, key: &str) -> Result<bool, String> {
        Ok(self.keys.lock().map_err(|e| e.to_string())?.remove(key).is_some())
    }

    fn compare_set(&self, key: &str, _: &[u8], desired: &[u8]) -> Result<Vec<u8>, String> {
        self.set(key, desired)?;
        Ok(desired.into())
    }
}

fn member(rank: u32, world: u32, seconds: u64) -> Member {
    let limit = Duration::from_secs(seconds);
    Member { rank, world, address: "127.0.0.1".into(), connect: limit, operation: limit }
}

/// All stay until the last is done: in one process, one that leaves takes the sockets of all.
fn world<T: Send + 'static>(
    size: u32,
    work: impl Fn(u32, &mut Group) -> Result<T, TorchError> + Send + Sync + 'static,
) -> Result<Vec<T>, TorchError> {
    let (store, work) = (Arc::new(Store::default()), Arc::new(work));
    let threads: Vec<_> = (0..size)
        .map(|rank| {
            let (store, work) = (store.clone(), work.clone());
            thread::spawn(move || {
                let mut group = Group::connect(store, &member(rank, size, 20), &Attempt::default())?;
                Ok((work(rank, &mut group)?, group))
            })
        })
        .collect();
    let ended = threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(TorchError("a thread panicked".into()))));
    let ended: Vec<_> = ended.collect();
    ended.into_iter().map(|end| end.map(|(outcome, _group)| outcome)).collect()
}

fn done(mut operation: Operation) -> Result<(), TorchError> {
    while !operation.wait(Duration::from_millis(20))? {}
    Ok(())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor).unwrap_or_default()
}

#[test]
fn uneven_pieces_reach_their_owners_and_everyone_gathers_the_whole() -> Result<(), TorchError> {
    // Rank r sends r + 1 copies of 10 r + destination to each destination.
    let received = world(3, |rank, group| {
        let count = i64::from(rank) + 1;
        let input: Vec<f32> = (0..3).flat_map(|to| vec![(10 * rank + to) as f32; count as usize]).collect();
        let input = Tensor::from_slice(&input);
        let output = Tensor::zeros([6], (Kind::Float, tch::Device::Cpu));
        done(group.all_to_all(&output, &input, &[1, 2, 3], &[count; 3])?)?;
        let gathered = Tensor::zeros([9], (Kind::Float, tch::Device::Cpu));
        done(group.all_gather(&gathered, &output.narrow(0, 0, 3).contiguous())?)?;
        // Only rank 0 sends, to rank 1 alone: the others take part with nothing.
        let one = |mine: bool| i64::from(mine);
        let given = Tensor::zeros([one(rank == 0)], (Kind::Float, tch::Device::Cpu)) + 7.0;
        let got = Tensor::zeros([one(rank == 1)], (Kind::Float, tch::Device::Cpu));
        done(group.all_to_all(&got, &given, &[one(rank == 1), 0, 0], &[0, one(rank == 0), 0])?)?;
        assert_eq!(values(&got), vec![7.0; usize::from(rank == 1)]);
        Ok((values(&output), values(&gathered)))
    })?;
    for (rank, (output, gathered)) in received.into_iter().enumerate() {
        let r = rank as f32;
        assert_eq!(output, [r, 10.0 + r, 10.0 + r, 20.0 + r, 20.0 + r, 20.0 + r]);
        assert_eq!(gathered, [0.0, 10.0, 10.0, 1.0, 11.0, 11.0, 2.0, 12.0, 12.0]);
    }
    Ok(())
}

#[test]
fn a_wait_is_bounded() -> Result<(), TorchError> {
    world(2, |rank, group| {
        let (input, output) = (Tensor::from_slice(&[1f32; 100]), Tensor::from_slice(&[0f32; 200]));
        if rank == 1 {
            thread::sleep(Duration::from_millis(300));
            return done(group.all_gather(&output, &input)?);
        }
        let mut operation = group.all_gather(&output, &input)?;
        let started = Instant::now();
        assert!(!operation.wait(Duration::from_millis(30))?);
        assert!(started.elapsed() < Duration::from_millis(250));
        done(operation)
    })?;
    Ok(())
}

#[test]
fn a_member_that_never_comes_is_an_error_within_the_time_limit() {
    let started = Instant::now();
    let store = Arc::new(Store::default());
    let alone = Group::connect(store, &member(0, 2, 1), &Attempt::default());
    assert!(alone.is_err_and(|error| !error.to_string().is_empty()));
    assert!(started.elapsed() < Duration::from_secs(3));
}
