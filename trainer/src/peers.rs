//! Finding the peers of a generation, over Gloo or NCCL, on a thread of its own: the training loop looks up meanwhile.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nccl_rs::{Nccl, Search};
use tch::Device;
use torch_ext::{gloo, nccl};

use crate::collective::{CalledOff, Collective, Gloo};
use crate::exchange::Exchange;
use crate::reduce::Place;

/// How long peers may take to connect to each other.
pub const RENDEZVOUS: Duration = Duration::from_secs(30);

/// What carries gradients between trainers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// NCCL between GPUs, Gloo between CPUs.
    #[default]
    Auto,
    /// Gloo, over TCP.
    Gloo,
    /// NCCL. Between CPUs that takes a library over host memory, named by `BEGAN_NCCL`.
    Nccl,
}

/// What it takes to find peers, for a trainer's life.
#[derive(Clone, Debug)]
pub struct Peers {
    device: Device,
    /// Loaded once, where it is what carries gradients.
    nccl: Option<Nccl>,
    /// The coordinator's address: the peers are reached on the way to it.
    coordinator: String,
    /// Unless an address of ours was named.
    host: Option<IpAddr>,
}

/// An attempt under way. Dropping it calls it off.
pub enum Connecting {
    /// Over Gloo.
    Gloo(gloo::Connecting),
    /// Over NCCL.
    Nccl(nccl::Connecting),
}

/// A connected group, or why there is none.
pub type Connected = Result<Box<dyn Collective>>;

impl Peers {
    /// Loads what the backend needs.
    ///
    /// # Errors
    /// If NCCL is needed and does not load.
    pub fn new(backend: Backend, device: Device, coordinator: &str, host: Option<IpAddr>) -> Result<Self> {
        let over_nccl = match backend {
            Backend::Auto => device.is_cuda(),
            Backend::Gloo => false,
            Backend::Nccl => true,
        };
        let nccl = if over_nccl {
            let search = std::env::var_os("LIBTORCH").into_iter().fold(Search::new(), Search::directory);
            Some(Nccl::load(&search).context("gradients travel over NCCL")?)
        } else {
            None
        };
        Ok(Self { device, nccl, coordinator: coordinator.into(), host })
    }

    /// The library that carries gradients, where it is not libtorch's own.
    #[must_use]
    pub fn software(&self) -> Option<String> {
        self.nccl.as_ref().map(|nccl| format!("NCCL {}", nccl.version()))
    }

    /// Begins to connect; what came of it goes to `deliver`, from another thread, unless it is called off before. Operations of the
    /// group end within `operation`, and when `called_off` is raised.
    ///
    /// # Errors
    /// If no thread can be started, or there is no way to the coordinator.
    pub fn connect(
        &self,
        exchange: Exchange,
        place: Place,
        operation: Duration,
        called_off: &CalledOff,
        deliver: impl FnOnce(Connected) + Send + 'static,
    ) -> Result<Connecting> {
        let (rank, world, connect) = (place.rank, place.world, RENDEZVOUS);
        let store = Arc::new(exchange);
        let thread = "cannot start the thread that connects to the peers";
        if let Some(nccl) = &self.nccl {
            let member = nccl::Member { rank, world, device: self.device, connect, operation };
            let deliver = |group: Result<nccl::Group, _>| {
                deliver(group.map(|group| Box::new(group) as Box<dyn Collective>).map_err(anyhow::Error::from));
            };
            let connecting =
                nccl::Connecting::start(nccl.clone(), store, member, called_off.clone(), deliver).context(thread)?;
            return Ok(Connecting::Nccl(connecting));
        }
        let address = match self.host {
            Some(host) => host.to_string(),
            None => local_address(&self.coordinator)?,
        };
        let member = gloo::Member { rank, world, address, connect, operation };
        let called_off = called_off.clone();
        let deliver = move |group: Result<gloo::Group, _>| {
            let gloo = group.map(|group| Box::new(Gloo::new(group, called_off)) as Box<dyn Collective>);
            deliver(gloo.map_err(anyhow::Error::from));
        };
        Ok(Connecting::Gloo(gloo::Connecting::start(store, member, deliver).context(thread)?))
    }
}

impl Connecting {
    /// The group is there.
    pub fn delivered(self) {
        match self {
            Self::Gloo(connecting) => drop(connecting),
            Self::Nccl(connecting) => connecting.delivered(),
        }
    }
}

/// This host's address on the way to the coordinator: the one that other nodes can reach too.
fn local_address(coordinator: &str) -> Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").or_else(|_| UdpSocket::bind("[::]:0"));
    let found = socket.and_then(|socket| {
        socket.connect(coordinator)?;
        socket.local_addr()
    });
    Ok(found.with_context(|| format!("no route to the coordinator at {coordinator}"))?.ip().to_string())
}
