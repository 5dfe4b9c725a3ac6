//! Which of the process's sockets are a group's, and how to shut them down: Gloo has no way to end what is pending.
//!
//! One end of every connection of a group is the address at which one of its members listens, and a listener's address is
//! nobody else's while it is open. So a socket is the group's if its near end is our listener's address or its far end a
//! peer's. It is looked at and shut down through a duplicate of its descriptor, so that what was looked at is what is shut
//! down, even if Gloo closes it meanwhile and its number goes to another. Gloo's descriptors are never closed, and no other
//! socket is touched.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockType, getsockopt, recv, sockopt};

use crate::{TorchError, ffi};

/// The sockets of one group.
#[derive(Debug)]
pub(super) struct Sockets {
    listener: SocketAddr,
    peers: BTreeSet<SocketAddr>,
}

impl Sockets {
    pub(super) fn new(listener: SocketAddr, peers: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { listener, peers: peers.into_iter().collect() }
    }

    /// The connections that there are at this moment.
    pub(super) fn links(&self) -> Links {
        let link = |socket: OwnedFd| {
            let stream = TcpStream::from(socket);
            // One that listens, or is not connected yet, has no far end.
            let (near, far) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
            (near == self.listener || self.peers.contains(&far)).then_some((far, stream))
        };
        Links(tcp_sockets().into_iter().filter_map(link).collect())
    }
}

/// Duplicates of a group's connections, with the address at the other end.
#[derive(Debug)]
pub(super) struct Links(Vec<(SocketAddr, TcpStream)>);

impl Links {
    /// Shuts all down. What was sent already still arrives.
    pub(super) fn shut_down(&self) {
        for (_, stream) in &self.0 {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// The address of a peer whose connection is closed, with everything read that it sent.
    pub(super) fn closed(&self) -> Option<SocketAddr> {
        let closed = |(_, stream): &&(SocketAddr, TcpStream)| {
            let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
            !matches!(recv(stream.as_raw_fd(), &mut [0], peek), Ok(1..) | Err(Errno::EAGAIN | Errno::EINTR))
        };
        self.0.iter().find(closed).map(|(far, _)| *far)
    }
}

/// Duplicates of all TCP sockets that the process has open.
fn tcp_sockets() -> Vec<OwnedFd> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let numbers: Vec<RawFd> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    let duplicate = |number: RawFd| {
        // SAFETY: the number is only duplicated; if it was closed meanwhile, the kernel says so.
        let socket = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned().ok()?;
        (getsockopt(&socket, sockopt::SockType) == Ok(SockType::Stream)).then_some(socket)
    };
    numbers.into_iter().filter_map(duplicate).collect()
}

fn listening() -> BTreeSet<SocketAddr> {
    let listens = |socket: &OwnedFd| getsockopt(socket, sockopt::AcceptConn) == Ok(true);
    tcp_sockets().into_iter().filter(listens).filter_map(|s| TcpListener::from(s).local_addr().ok()).collect()
}

/// A device of Gloo's: a listening socket and the thread that serves all connections.
pub(super) struct Device {
    raw: *mut ffi::Device,
}

impl Device {
    /// A device, and the address at which it listens.
    pub(super) fn listen(address: &str) -> Result<(Self, SocketAddr), TorchError> {
        // Gloo does not say where it listens: it is the listener that was not there before. One device at a time.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let host = CString::new(address).map_err(|_| TorchError(format!("{address:?} is not an address")))?;
        let before = listening();
        // SAFETY: the address lives for the call.
        let raw = unsafe { ffi::began_gloo_device(host.as_ptr()) };
        if raw.is_null() {
            return Err(TorchError::last());
        }
        let device = Self { raw };
        let after = listening();
        let mut new = after.difference(&before);
        match (new.next(), new.next()) {
            (Some(&listener), None) => Ok((device, listener)),
            _ => Err(TorchError(format!("cannot tell at which port of {address} Gloo listens"))),
        }
    }

    pub(super) fn raw(&self) -> *const ffi::Device {
        self.raw
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: made by `began_gloo_device`, freed once; a group keeps a handle of its own.
        unsafe { ffi::began_gloo_device_free(self.raw) }
    }
}
