//! Streams: a thread for each address, which runs what was put on it in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Stream {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    running: bool,
}

static STREAMS: Mutex<BTreeMap<usize, Arc<Stream>>> = Mutex::new(BTreeMap::new());

/// A lock whose holder panicked is as good as any: nothing here is left half-way.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts a job on a stream, which comes to be with its first.
pub fn submit(key: usize, job: Job) -> Result<(), String> {
    let mut streams = lock(&STREAMS);
    let stream = match streams.get(&key) {
        Some(stream) => Arc::clone(stream),
        None => {
            let stream = Arc::new(Stream::default());
            let worker = Arc::clone(&stream);
            let started = thread::Builder::new().name(format!("stream {key:#x}")).spawn(move || worker.work());
            started.map_err(|error| format!("the thread of stream {key:#x}: {error}"))?;
            streams.insert(key, Arc::clone(&stream));
            stream
        }
    };
    drop(streams);
    lock(&stream.queue).jobs.push_back(job);
    stream.changed.notify_all();
    Ok(())
}

/// Whether everything on a stream is done. A stream that nothing was ever put on is.
pub fn is_idle(key: usize) -> bool {
    find(key).is_none_or(|stream| lock(&stream.queue).is_idle())
}

/// Waits for that, at most so long, and says whether it came about.
pub fn synchronize(key: usize, bound: Duration) -> bool {
    let Some(stream) = find(key) else { return true };
    let until = Instant::now() + bound;
    let mut queue = lock(&stream.queue);
    while !queue.is_idle() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        queue = stream.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    true
}

fn find(key: usize) -> Option<Arc<Stream>> {
    lock(&STREAMS).get(&key).cloned()
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.jobs.is_empty() && !self.running
    }
}

impl Stream {
    fn work(&self) {
        loop {
            let mut queue = lock(&self.queue);
            let job = loop {
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            };
            queue.running = true;
            drop(queue);
            job();
            lock(&self.queue).running = false;
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_stream_runs_its_jobs_in_order_and_calls_return_at_once() {
        let (sender, receiver) = mpsc::channel();
        let (release, gate) = mpsc::channel::<()>();
        submit(1, Box::new(move || gate.recv().unwrap())).unwrap();
        for i in 0..3 {
            let sender = sender.clone();
            submit(1, Box::new(move || sender.send(i).unwrap())).unwrap();
        }
        assert!(!is_idle(1));
        assert!(!synchronize(1, Duration::from_millis(10)));
        release.send(()).unwrap();
        assert!(synchronize(1, Duration::from_secs(5)));
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
        assert!(is_idle(2));
    }
}
