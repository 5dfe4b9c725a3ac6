//! The coordinator's door: takes connections, lets those in who show that they may, and hands them to the gRPC server.
//!
//! It must never stop taking connections, whatever comes and however many; never hold more of them than it has files for;
//! and never say the same thing about the same peer twice. Who is not let in sees a closed connection and learns nothing.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use began_credentials::{Role, Server, Stream};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tonic::transport::server::Connected;

pub mod admission;
pub mod pace;
pub mod turned_away;

pub use admission::Limits;
use admission::{Admission, Verdict};
use pace::Pace;
use turned_away::TurnedAway;

use crate::meters::{Meters, Unsent};

/// How long somebody may take to show who it is.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// An idle connection is asked for a sign of life after this time, by the kernel: HTTP/2's own way would cost each message to a
/// trainer a twentieth more.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// It is asked again this often, and is gone after so many times.
const AGAIN: (Duration, u32) = (Duration::from_secs(5), 4);
/// What was sent must be acknowledged within this time.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// After a failure to take a connection (out of files, out of memory), before the next try.
const BREATH: Duration = Duration::from_millis(50);
/// Connections that were let in and wait for the server to take them.
const HANDED_OVER: usize = 64;

/// Who is on a connection; on every request that comes over it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    /// Who it showed to be; nothing where nobody is asked.
    pub role: Option<Role>,
    /// How fast it may ask.
    pub pace: Arc<Pace>,
    /// What is on its way to it.
    pub unsent: Arc<Unsent>,
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    peer: Peer,
    _place: Place,
}

/// What was let in, as the gRPC server takes it. Dropping it closes the door.
#[derive(Debug)]
pub struct Incoming {
    let_in: mpsc::Receiver<Connection>,
    door: JoinHandle<()>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.door.abort();
    }
}

impl tokio_stream::Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.let_in.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

/// Opens the door.
#[must_use]
pub fn open(
    listener: TcpListener,
    server: Server,
    limits: Limits,
    log: Arc<TurnedAway>,
    meters: &Arc<Meters>,
) -> Incoming {
    let (hand_over, let_in) = mpsc::channel(HANDED_OVER);
    let hall = Arc::new(Hall { state: Mutex::new(Inside::new(limits)), started: Instant::now() });
    let door = Door { listener, server: Arc::new(server), hall, log, hand_over, meters: meters.clone() };
    Incoming { let_in, door: tokio::spawn(door.stand()) }
}

struct Door {
    listener: TcpListener,
    server: Arc<Server>,
    hall: Arc<Hall>,
    log: Arc<TurnedAway>,
    hand_over: mpsc::Sender<Connection>,
    meters: Arc<Meters>,
}

/// Who is inside, and who stands in the door.
#[derive(Debug)]
struct Hall {
    state: Mutex<Inside>,
    started: Instant,
}

#[derive(Debug)]
struct Inside {
    admission: Admission,
    /// Ends the handshakes that are going on.
    shaking: HashMap<u64, AbortHandle>,
}

impl Inside {
    fn new(limits: Limits) -> Self {
        Self { admission: Admission::new(limits), shaking: HashMap::new() }
    }
}

impl Hall {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inside> {
        // Every change is complete before the lock is let go.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place inside, until the connection is closed.
#[derive(Debug)]
struct Place {
    hall: Arc<Hall>,
    from: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hall.lock().admission.closed(self.from);
    }
}

impl Door {
    async fn stand(self) {
        let mut handshakes = JoinSet::new();
        let mut complained = false;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = handshakes.join_next() => continue,
            };
            match accepted {
                Ok((stream, address)) => self.comes(stream, address, &mut handshakes),
                Err(error) if is_the_peers(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        self.log.say(format!("no connection can be taken for now: {error}"));
                    }
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }

    fn comes(&self, stream: TcpStream, address: SocketAddr, handshakes: &mut JoinSet<()>) {
        let from = address.ip().to_canonical();
        let mut inside = self.hall.lock();
        let (number, instead_of) = match inside.admission.comes(from, self.hall.started.elapsed()) {
            Verdict::ShowYourself { number, instead_of } => (number, instead_of),
            Verdict::TooFast => {
                drop(inside);
                self.log.note(from, "it connects too often");
                return;
            }
        };
        if let Some(longest) = instead_of
            && let Some(handshake) = inside.shaking.remove(&longest.number)
        {
            handshake.abort();
            self.log.note(longest.from, "too many connections wait to show who they are, and its had waited longest");
        }
        let (server, hall, log) = (self.server.clone(), self.hall.clone(), self.log.clone());
        let (hand_over, meters) = (self.hand_over.clone(), self.meters.clone());
        let handshake = handshakes.spawn(async move {
            let admitted = match attend(&stream) {
                Ok(()) => server.admit(stream, PATIENCE).await,
                Err(error) => Err(error.into()),
            };
            let place = {
                let mut inside = hall.lock();
                inside.shaking.remove(&number);
                inside.admission.shown(number, admitted.is_ok())
            };
            match (admitted, place) {
                (Ok((stream, role)), Ok(())) => {
                    let (pace, unsent) = (Arc::new(Pace::of_calls()), Arc::new(Unsent::new(meters)));
                    let peer = Peer { address, role, pace, unsent };
                    let connection = Connection { stream, peer, _place: Place { hall, from } };
                    // An error is the server gone.
                    let _ = hand_over.send(connection).await;
                }
                (Ok(_), Err(full)) => log.note(from, full),
                (Err(refusal), _) => log.note(from, &refusal.to_string()),
            }
        });
        inside.shaking.insert(number, handshake);
    }
}

/// What every connection is set up with.
pub(crate) fn attend(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    let (interval, retries) = AGAIN;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(interval).with_retries(retries))
}

/// Whether an error is only about a connection that is gone again already.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Connection {
    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(_))) {
            self.peer.unsent.sent();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        let written = match bufs {
            // Nearly always; the system takes one piece a little faster than a list of one.
            [one] => stream.poll_write(cx, one),
            several => stream.poll_write_vectored(cx, several),
        };
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
