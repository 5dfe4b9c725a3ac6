//! A communicator of the double: who is in it, what has come for it, what state it is in.

use std::collections::HashMap;
use std::ffi::CStr;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::registry;
use crate::script::{Action, Place, Script};
use crate::stream::lock;
use crate::wire::{Message, Series, Signature};

pub const SUCCESS: i32 = 0;
pub const SYSTEM_ERROR: i32 = 2;
pub const INTERNAL_ERROR: i32 = 3;
pub const INVALID_ARGUMENT: i32 = 4;
pub const INVALID_USAGE: i32 = 5;
pub const REMOTE_ERROR: i32 = 6;
pub const IN_PROGRESS: i32 = 7;

/// Nothing in the double waits longer, whatever happens: a test that forgot to abort still ends.
const LIMIT: Duration = Duration::from_secs(120);

/// Why something on a stream did not come to its end.
#[derive(Debug)]
pub enum Halt {
    /// The communicator was aborted: leave, and touch no memory.
    Aborted,
    /// It failed; the code and the text.
    Failed(i32, String),
}

pub struct Communicator {
    pub handle: usize,
    pub rank: usize,
    pub size: usize,
    pub blocking: bool,
    pub script: Script,
    state: AtomicI32,
    pub text: Mutex<Option<&'static CStr>>,
    inner: Mutex<Inner>,
    changed: Condvar,
    links: OnceLock<Vec<Option<Mutex<TcpStream>>>>,
    /// Numbers of the series: collective, and point to point for each peer and direction.
    collectives: AtomicU64,
    sends: Vec<AtomicU64>,
    receives: Vec<AtomicU64>,
    operations: AtomicU64,
}

#[derive(Default)]
struct Inner {
    aborted: bool,
    finalized: bool,
    mail: HashMap<(usize, Series, u64), (Signature, Vec<u8>)>,
    goodbyes: usize,
    /// Jobs on streams that are inside this communicator's memory now.
    running: usize,
    /// Operations issued and not done.
    outstanding: usize,
    /// Threads that bring it up, split it or finalise it.
    background: usize,
    registrations: Vec<usize>,
}

impl Communicator {
    /// A new one, in progress, known by its handle.
    pub fn create(rank: usize, size: usize, blocking: bool, script: Script) -> Arc<Self> {
        let counters = || (0..size).map(|_| AtomicU64::new(0)).collect();
        let communicator = Arc::new(Self {
            handle: registry::next_handle(),
            rank,
            size,
            blocking,
            script,
            state: AtomicI32::new(IN_PROGRESS),
            text: Mutex::new(None),
            inner: Mutex::new(Inner::default()),
            changed: Condvar::new(),
            links: OnceLock::new(),
            collectives: AtomicU64::new(0),
            sends: counters(),
            receives: counters(),
            operations: AtomicU64::new(0),
        });
        registry::add(&communicator);
        communicator
    }

    /// Makes it usable: a reader for every connection, then success.
    pub fn connect(self: &Arc<Self>, links: Vec<Option<TcpStream>>) -> Result<(), String> {
        let mut kept = Vec::with_capacity(links.len());
        for (peer, link) in links.into_iter().enumerate() {
            let Some(stream) = link else {
                kept.push(None);
                continue;
            };
            let problem = |error: std::io::Error| format!("the connection to rank {peer}: {error}");
            let mut reading = stream.try_clone().map_err(problem)?;
            reading.set_read_timeout(None).map_err(problem)?;
            let this = Arc::clone(self);
            let name = format!("mail from {peer}");
            thread::Builder::new().name(name).spawn(move || this.read_mail(peer, &mut reading)).map_err(problem)?;
            kept.push(Some(Mutex::new(stream)));
        }
        self.links.set(kept).map_err(|_| "connected twice".to_owned())?;
        if self.is_aborted() {
            self.disconnect();
        }
        Ok(())
    }

    fn read_mail(&self, peer: usize, stream: &mut TcpStream) {
        let mut goodbye = false;
        loop {
            match Message::read(stream) {
                Ok(Message { series: Series::Goodbye, .. }) => {
                    goodbye = true;
                    lock(&self.inner).goodbyes += 1;
                }
                Ok(Message { series, number, signature, body }) => {
                    lock(&self.inner).mail.insert((peer, series, number), (signature, body));
                }
                Err(error) => {
                    if !goodbye && !self.is_aborted() {
                        let text = format!("rank {peer} of {} is gone: {error}", self.size);
                        self.set_failed(REMOTE_ERROR, &text);
                    }
                    self.changed.notify_all();
                    return;
                }
            }
            self.changed.notify_all();
        }
    }

    // ---- state ----

    pub fn state(&self) -> i32 {
        self.state.load(Ordering::Acquire)
    }

    /// Nothing is in progress any more, unless it failed meanwhile.
    pub fn set_ready(&self) {
        let _ = self.state.compare_exchange(IN_PROGRESS, SUCCESS, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Something is in progress, unless it failed before.
    pub fn set_in_progress(&self) {
        let _ = self.state.compare_exchange(SUCCESS, IN_PROGRESS, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Notes the failure: the first stays. Returns the code.
    pub fn set_failed(&self, code: i32, text: &str) -> i32 {
        let mut kept_text = lock(&self.text);
        if matches!(self.state(), SUCCESS | IN_PROGRESS) {
            *kept_text = registry::kept(&format!("[double] {text}"));
            self.state.store(code, Ordering::Release);
        }
        drop(kept_text);
        self.changed.notify_all();
        code
    }

    pub fn is_aborted(&self) -> bool {
        lock(&self.inner).aborted
    }

    /// The script's word for the next operation.
    pub fn next_operation(&self) -> Option<Action> {
        let number = self.operations.fetch_add(1, Ordering::Relaxed) + 1;
        self.script.at(Place::Operation(number), self.rank)
    }

    pub fn next_collective(&self) -> u64 {
        self.collectives.fetch_add(1, Ordering::Relaxed)
    }

    pub fn next_send(&self, peer: usize) -> u64 {
        self.sends[peer].fetch_add(1, Ordering::Relaxed)
    }

    pub fn next_receive(&self, peer: usize) -> u64 {
        self.receives[peer].fetch_add(1, Ordering::Relaxed)
    }

    // ---- waiting ----

    /// Waits until `found` finds something.
    fn wait<T>(&self, what: &str, mut found: impl FnMut(&mut Inner) -> Option<T>) -> Result<T, Halt> {
        let until = Instant::now() + LIMIT;
        let mut inner = lock(&self.inner);
        loop {
            if inner.aborted {
                return Err(Halt::Aborted);
            }
            if let Some(value) = found(&mut inner) {
                return Ok(value);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Halt::Failed(SYSTEM_ERROR, format!("{LIMIT:?} are over for {what}")));
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What a real operation does when it cannot go on: it stays on the device until it is aborted.
    pub fn wait_for_abort(&self) {
        let _ = self.wait("an abort", |_| None::<()>);
    }

    /// Lets time pass, unless aborted.
    pub fn pause(&self, time: Duration) -> Result<(), Halt> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            if self.is_aborted() {
                return Err(Halt::Aborted);
            }
            thread::sleep(time.min(Duration::from_millis(1)));
        }
        Ok(())
    }

    // ---- messages ----

    pub fn post(
        &self,
        peer: usize,
        series: Series,
        number: u64,
        signature: Signature,
        body: Vec<u8>,
    ) -> Result<(), Halt> {
        if peer == self.rank {
            lock(&self.inner).mail.insert((peer, series, number), (signature, body));
            self.changed.notify_all();
            return Ok(());
        }
        let Some(Some(link)) = self.links.get().and_then(|links| links.get(peer)) else {
            return Err(Halt::Failed(INTERNAL_ERROR, format!("no connection to rank {peer}")));
        };
        let message = Message { series, number, signature, body };
        message.write(&mut lock(link), &|| self.is_aborted()).map_err(|error| match self.is_aborted() {
            true => Halt::Aborted,
            false => Halt::Failed(REMOTE_ERROR, format!("rank {peer} of {} is gone: {error}", self.size)),
        })
    }

    /// The next message of a series, which must be what is expected, of the length expected (if any is).
    pub fn take(
        &self,
        peer: usize,
        series: Series,
        number: u64,
        expected: Signature,
        length: Option<usize>,
    ) -> Result<Vec<u8>, Halt> {
        let (signature, body) = self.wait("a message", |inner| inner.mail.remove(&(peer, series, number)))?;
        if signature != expected || length.is_some_and(|length| length != body.len()) {
            let text = format!(
                "rank {peer} called {signature:?} with {} bytes, and rank {} {expected:?} with {length:?}",
                body.len(),
                self.rank
            );
            return Err(Halt::Failed(INVALID_USAGE, text));
        }
        Ok(body)
    }

    // ---- jobs ----

    pub fn issued(&self, count: usize) {
        lock(&self.inner).outstanding += count;
    }

    /// A job is about to touch memory; not if aborted.
    pub fn enter(&self) -> bool {
        let mut inner = lock(&self.inner);
        inner.running += usize::from(!inner.aborted);
        !inner.aborted
    }

    pub fn leave(&self, done: usize) {
        let mut inner = lock(&self.inner);
        inner.running -= 1;
        inner.outstanding = inner.outstanding.saturating_sub(done);
        drop(inner);
        self.changed.notify_all();
    }

    /// Does something on a thread of its own, which an abort waits for.
    pub fn background(self: &Arc<Self>, work: impl FnOnce(&Arc<Self>) + Send + 'static) -> i32 {
        lock(&self.inner).background += 1;
        let this = Arc::clone(self);
        let started = thread::Builder::new().name("background".to_owned()).spawn(move || {
            work(&this);
            lock(&this.inner).background -= 1;
            this.changed.notify_all();
        });
        match started {
            Ok(thread) if self.blocking => {
                let _ = thread.join();
                self.state()
            }
            Ok(_) => IN_PROGRESS,
            Err(error) => {
                lock(&self.inner).background -= 1;
                self.set_failed(SYSTEM_ERROR, &format!("a thread: {error}"))
            }
        }
    }

    // ---- its end ----

    /// All that was issued is done here, and everywhere.
    pub fn finalize(&self) -> Result<(), Halt> {
        self.wait("operations to end", |inner| (inner.outstanding == 0).then_some(()))?;
        let nothing = Signature { kind: 0, of: 0, reduction: 0, root: 0 };
        for peer in (0..self.size).filter(|peer| *peer != self.rank) {
            self.post(peer, Series::Goodbye, 0, nothing, Vec::new())?;
        }
        self.wait("goodbyes", |inner| (inner.goodbyes + 1 == self.size).then_some(()))?;
        lock(&self.inner).finalized = true;
        Ok(())
    }

    pub fn is_finalized(&self) -> bool {
        lock(&self.inner).finalized
    }

    /// Calls everything off, waits until nothing of it touches memory, and forgets it.
    pub fn abort(&self) -> i32 {
        lock(&self.inner).aborted = true;
        self.changed.notify_all();
        self.disconnect();
        let until = Instant::now() + Duration::from_secs(10);
        let mut inner = lock(&self.inner);
        while inner.running + inner.background > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(inner);
                return registry::failed(
                    INTERNAL_ERROR,
                    "[double] something did not leave an aborted communicator for 10 s",
                );
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(inner);
        // Again, for the connections that a writer held.
        self.disconnect();
        registry::forget(self.handle);
        SUCCESS
    }

    fn disconnect(&self) {
        for link in self.links.get().into_iter().flatten().flatten() {
            // Not through the lock: a writer may hold it, and this is what ends its write.
            let _ = match link.try_lock() {
                Ok(stream) => stream.shutdown(Shutdown::Both),
                Err(_) => Ok(()),
            };
        }
    }

    // ---- registrations ----

    pub fn register(&self) -> usize {
        let handle = registry::next_handle();
        lock(&self.inner).registrations.push(handle);
        handle
    }

    pub fn deregister(&self, handle: usize) -> bool {
        let mut inner = lock(&self.inner);
        let before = inner.registrations.len();
        inner.registrations.retain(|known| *known != handle);
        inner.registrations.len() < before
    }

    pub fn registrations(&self) -> usize {
        lock(&self.inner).registrations.len()
    }
}
