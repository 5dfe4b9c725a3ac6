//! The key-value rendezvous of a generation: NCCL's unique id, Gloo's addresses. Its operations are those of a torch store.
//!
//! There is one room, for the generation that is open. Who asks for another generation, or is not in it, is refused by name;
//! who waits in a room that closes is told so at once. Nothing here waits without a bound or grows without one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use began_proto::v1::{ExchangeRequest, ExchangeResponse, exchange_request::Op};
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Status;

/// Bytes of a key.
pub const LONGEST_KEY: usize = 1 << 10;
/// Bytes of a value.
pub const LONGEST_VALUE: usize = 4 << 20;
/// Keys in a room.
pub const MOST_KEYS: usize = 1 << 18;
/// Bytes in a room.
pub const MOST_BYTES: usize = 256 << 20;
/// The longest wait for a key.
pub const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The rendezvous.
#[derive(Debug)]
pub struct Exchange {
    run: String,
    room: Mutex<Option<Room>>,
    changed: Notify,
}

#[derive(Debug)]
struct Room {
    generation: u64,
    trainers: BTreeSet<String>,
    values: BTreeMap<String, Vec<u8>>,
    bytes: usize,
}

impl Exchange {
    /// No room is open at first.
    #[must_use]
    pub fn new(run: String) -> Self {
        Self { run, room: Mutex::new(None), changed: Notify::new() }
    }

    /// Opens the room of a generation, in place of any other.
    pub fn open(&self, generation: u64, trainers: impl IntoIterator<Item = String>) {
        let trainers = trainers.into_iter().collect();
        *self.lock() = Some(Room { generation, trainers, values: BTreeMap::new(), bytes: 0 });
        self.changed.notify_waiters();
    }

    /// Closes the room; who waits in it is told.
    pub fn close(&self) {
        *self.lock() = None;
        self.changed.notify_waiters();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Room>> {
        // Every change below is complete before the lock is let go, so a poisoned room is a whole one.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request.
    ///
    /// # Errors
    /// `FailedPrecondition` for another run or generation, or who is not in it; `InvalidArgument` for what cannot be done;
    /// `ResourceExhausted` for what is too large.
    pub async fn serve(&self, request: ExchangeRequest) -> Result<ExchangeResponse, Status> {
        let ExchangeRequest { run, generation, trainer, op } = request;
        if run != self.run {
            let why = format!("exchange for run {run:?}, this is {:?}", self.run);
            return Err(Status::failed_precondition(why));
        }
        let op = op.ok_or_else(|| Status::invalid_argument("an exchange without an operation"))?;
        let get = match op {
            Op::Get(get) => get,
            op => {
                let response = self.enter(generation, &trainer, |room| room.apply(op))?;
                self.changed.notify_waiters();
                return Ok(response);
            }
        };
        get.keys.iter().try_for_each(|key| check_key(key))?;
        if get.wait_seconds.is_nan() || get.wait_seconds < 0.0 {
            return Err(Status::invalid_argument(format!("wait_seconds must be at least 0, got {}", get.wait_seconds)));
        }
        let wait = Duration::try_from_secs_f64(get.wait_seconds).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        let until = Instant::now() + wait;
        loop {
            // Made before looking, so that what comes between looking and waiting is not missed.
            let changed = self.changed.notified();
            let found = self.enter(generation, &trainer, |room| room.get(&get.keys))?;
            if found.missing.is_empty() || tokio::time::timeout_at(until, changed).await.is_err() {
                return Ok(found);
            }
        }
    }

    fn enter<T>(
        &self,
        generation: u64,
        trainer: &str,
        act: impl FnOnce(&mut Room) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let mut room = self.lock();
        match room.as_mut() {
            Some(room) if room.generation != generation => {
                let open = room.generation;
                let why = format!("exchange for generation {generation}, the one that is open is {open}");
                Err(Status::failed_precondition(why))
            }
            Some(room) if !room.trainers.contains(trainer) => {
                let trainer = crate::wire::text(trainer);
                let why = format!("the trainer {trainer:?} is not in generation {generation}");
                Err(Status::failed_precondition(why))
            }
            Some(room) => act(room),
            None => {
                let why = format!("exchange for generation {generation}, but no generation is open");
                Err(Status::failed_precondition(why))
            }
        }
    }
}

fn check_key(key: &str) -> Result<(), Status> {
    if key.is_empty() || key.len() > LONGEST_KEY {
        let why = format!("a key must have 1 to {LONGEST_KEY} bytes, got {}", key.len());
        return Err(Status::invalid_argument(why));
    }
    Ok(())
}

impl Room {
    fn apply(&mut self, op: Op) -> Result<ExchangeResponse, Status> {
        match op {
            Op::Set(set) => {
                // All of it or none.
                let growth: usize = set.pairs.iter().map(|pair| pair.key.len() + pair.value.len()).sum();
                self.check_room(set.pairs.len(), growth)?;
                for pair in &set.pairs {
                    check_key(&pair.key)?;
                    check_value(&pair.key, pair.value.len())?;
                }
                for pair in set.pairs {
                    self.put(pair.key, pair.value);
                }
                Ok(ExchangeResponse::default())
            }
            Op::Get(get) => self.get(&get.keys),
            Op::Add(add) => {
                check_key(&add.key)?;
                let not_a_number = || Status::invalid_argument(format!("the value of {:?} is not a number", add.key));
                let old = match self.values.get(&add.key) {
                    None => 0,
                    Some(value) => std::str::from_utf8(value)
                        .ok()
                        .and_then(|text| text.parse::<i64>().ok())
                        .ok_or_else(not_a_number)?,
                };
                let number = old.checked_add(add.amount).ok_or_else(|| {
                    Status::invalid_argument(format!("{old} + {} in {:?} does not fit 64 bits", add.amount, add.key))
                })?;
                self.check_room(1, add.key.len() + 20)?;
                self.put(add.key, number.to_string().into_bytes());
                Ok(ExchangeResponse { number, ..Default::default() })
            }
            Op::Delete(delete) => {
                let removed = self.values.remove(&delete.key);
                if let Some(value) = &removed {
                    self.bytes -= delete.key.len() + value.len();
                }
                Ok(ExchangeResponse { number: removed.is_some().into(), ..Default::default() })
            }
            Op::CompareSet(op) => {
                check_key(&op.key)?;
                check_value(&op.key, op.desired.len())?;
                self.check_room(1, op.key.len() + op.desired.len())?;
                // Nothing there counts as an empty value, as in torch's own store.
                let there = self.values.get(&op.key).cloned().unwrap_or_default();
                let now = if there == op.expected {
                    self.put(op.key, op.desired.clone());
                    op.desired
                } else {
                    there
                };
                Ok(ExchangeResponse { values: vec![now], ..Default::default() })
            }
            Op::Append(append) => {
                check_key(&append.key)?;
                let mut value = self.values.get(&append.key).cloned().unwrap_or_default();
                check_value(&append.key, value.len() + append.value.len())?;
                self.check_room(1, append.key.len() + append.value.len())?;
                value.extend_from_slice(&append.value);
                self.put(append.key, value);
                Ok(ExchangeResponse::default())
            }
        }
    }

    fn get(&mut self, keys: &[String]) -> Result<ExchangeResponse, Status> {
        let missing: Vec<String> = keys.iter().filter(|key| !self.values.contains_key(*key)).cloned().collect();
        if !missing.is_empty() {
            return Ok(ExchangeResponse { missing, ..Default::default() });
        }
        let found = || keys.iter().filter_map(|key| self.values.get(key));
        let bytes: usize = found().map(Vec::len).sum();
        if bytes + 16 * keys.len() > began_proto::MAX_MESSAGE - 1024 {
            let why = format!("{} values of {bytes} bytes do not fit one message", keys.len());
            return Err(Status::resource_exhausted(why));
        }
        Ok(ExchangeResponse { values: found().cloned().collect(), ..Default::default() })
    }

    fn check_room(&self, keys: usize, bytes: usize) -> Result<(), Status> {
        if self.values.len() + keys > MOST_KEYS || self.bytes + bytes > MOST_BYTES {
            let why = format!(
                "the exchange of generation {} is full: {} keys of {MOST_KEYS}, {} bytes of {MOST_BYTES}",
                self.generation,
                self.values.len(),
                self.bytes
            );
            return Err(Status::resource_exhausted(why));
        }
        Ok(())
    }

    fn put(&mut self, key: String, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        let length = key.len();
        if let Some(old) = self.values.insert(key, value) {
            self.bytes -= length + old.len();
        }
    }
}

fn check_value(key: &str, length: usize) -> Result<(), Status> {
    if length > LONGEST_VALUE {
        let why = format!("the value of {key:?} would have {length} bytes, at most {LONGEST_VALUE} are kept");
        return Err(Status::resource_exhausted(why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use began_proto::v1::{
        ExchangeAdd, ExchangeAppend, ExchangeCompareSet, ExchangeDelete, ExchangeGet, ExchangePair, ExchangeSet,
    };
    use std::sync::Arc;
    use tonic::Code;

    fn ask(op: Op) -> ExchangeRequest {
        ExchangeRequest { run: "r".into(), generation: 2, trainer: "a".into(), op: Some(op) }
    }

    fn get(keys: &[&str], wait_seconds: f64) -> ExchangeRequest {
        ask(Op::Get(ExchangeGet { keys: keys.iter().map(|&key| key.into()).collect(), wait_seconds }))
    }

    fn set(key: &str, value: &[u8]) -> ExchangeRequest {
        ask(Op::Set(ExchangeSet { pairs: vec![ExchangePair { key: key.into(), value: value.into() }] }))
    }

    fn room() -> Arc<Exchange> {
        let exchange = Exchange::new("r".into());
        exchange.open(2, ["a".to_owned(), "b".to_owned()]);
        Arc::new(exchange)
    }

    #[tokio::test]
    async fn a_wait_ends_when_the_key_comes_when_time_is_up_and_when_the_room_closes() -> Result<(), Status> {
        let exchange = room();
        let missing = exchange.serve(get(&["x", "y"], 0.01)).await?;
        assert_eq!((missing.missing.len(), missing.values.len()), (2, 0));
        let waiting = |exchange: Arc<Exchange>| tokio::spawn(async move { exchange.serve(get(&["x"], 60.0)).await });
        let first = waiting(exchange.clone());
        tokio::task::yield_now().await;
        exchange.serve(set("x", b"1")).await?;
        let found = first.await.map_err(|error| Status::internal(error.to_string()))??;
        assert_eq!(found.values, [b"1"]);
        exchange.serve(ask(Op::Delete(ExchangeDelete { key: "x".into() }))).await?;
        let second = waiting(exchange.clone());
        tokio::task::yield_now().await;
        exchange.close();
        let closed = second.await.map_err(|error| Status::internal(error.to_string()))?;
        assert!(closed.is_err_and(|status| status.code() == Code::FailedPrecondition));
        Ok(())
    }

    #[tokio::test]
    async fn another_run_generation_or_trainer_is_refused_by_name() {
        let exchange = room();
        let mut requests = [get(&["x"], 9.0), get(&["x"], 9.0), get(&["x"], 9.0)];
        requests[0].run = "other".into();
        requests[1].generation = 1;
        requests[2].trainer = "stranger".into();
        for (request, named) in requests.into_iter().zip(["other", "generation 1", "stranger"]) {
            let Err(status) = exchange.serve(request).await else { panic!("{named} was let in") };
            assert_eq!(status.code(), Code::FailedPrecondition);
            assert!(status.message().contains(named), "{status}");
        }
    }

    #[tokio::test]
    async fn the_operations_are_those_of_a_torch_store() -> Result<(), Status> {
        let exchange = room();
        let add = |amount| ask(Op::Add(ExchangeAdd { key: "n".into(), amount }));
        assert_eq!(exchange.serve(add(5)).await?.number, 5);
        assert_eq!(exchange.serve(add(-2)).await?.number, 3);
        assert_eq!(exchange.serve(get(&["n"], 0.0)).await?.values, [b"3"]);
        assert!(exchange.serve(add(i64::MAX)).await.is_err());
        let swap = |expected: &[u8], desired: &[u8]| {
            ask(Op::CompareSet(ExchangeCompareSet {
                key: "c".into(),
                expected: expected.into(),
                desired: desired.into(),
            }))
        };
        assert_eq!(exchange.serve(swap(b"", b"1")).await?.values, [b"1"]);
        assert_eq!(exchange.serve(swap(b"0", b"2")).await?.values, [b"1"]);
        exchange.serve(ask(Op::Append(ExchangeAppend { key: "c".into(), value: b"23".to_vec() }))).await?;
        assert_eq!(exchange.serve(get(&["c", "n"], 0.0)).await?.values, [b"123".to_vec(), b"3".to_vec()]);
        Ok(())
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_and_nothing_of_it_kept() -> Result<(), Status> {
        let exchange = room();
        assert!(exchange.serve(set(&"k".repeat(LONGEST_KEY + 1), b"")).await.is_err());
        assert!(exchange.serve(set("k", &vec![0; LONGEST_VALUE + 1])).await.is_err());
        for wait in [f64::NAN, -1.0] {
            let refused = exchange.serve(get(&["k"], wait)).await;
            assert!(refused.is_err_and(|status| status.code() == Code::InvalidArgument));
        }
        for index in 0..MOST_BYTES / LONGEST_VALUE - 1 {
            exchange.serve(set(&format!("k{index}"), &vec![0; LONGEST_VALUE])).await?;
        }
        let full = exchange.serve(set("more", &vec![0; LONGEST_VALUE])).await;
        assert!(full.is_err_and(|status| status.code() == Code::ResourceExhausted));
        let many: Vec<String> = (0..5).map(|index| format!("k{index}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(exchange.serve(get(&many, 0.0)).await.is_err());
        Ok(())
    }
}
