//! What can be asked of a communicator when it is made.

use std::ffi::{CString, c_int};
use std::ptr;
use std::time::Duration;

use crate::error::Error;
use crate::ffi;
use crate::stop::StopFlag;
use crate::version::Version;

/// How a communicator is made and how long it waits. NCCL's own choice stands for whatever is not set.
///
/// ```
/// use std::time::Duration;
/// use nccl_rs::{Config, StopFlag};
///
/// let stop = StopFlag::new();
/// let config = Config::new().stop(&stop).init_timeout(Duration::from_secs(20)).name("generation 7")?;
/// # Ok::<(), nccl_rs::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) stop: StopFlag,
    pub(crate) init_timeout: Duration,
    pub(crate) enqueue_timeout: Duration,
    name: Option<CString>,
    network: Option<CString>,
    min_ctas: Option<u16>,
    max_ctas: Option<u16>,
    traffic_class: Option<u16>,
    split_share: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stop: StopFlag::new(),
            init_timeout: Duration::from_secs(60),
            enqueue_timeout: Duration::from_secs(60),
            name: None,
            network: None,
            min_ctas: None,
            max_ctas: None,
            traffic_class: None,
            split_share: false,
        }
    }
}

impl Config {
    /// NCCL's defaults, 60 s for initialisation and for putting an operation on a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The flag that ends every wait of the communicator. Without it only the bounds do.
    #[must_use]
    pub fn stop(mut self, flag: &StopFlag) -> Self {
        self.stop = flag.clone();
        self
    }

    /// How long initialisation and [`split`](crate::Communicator::split) wait for the other ranks.
    #[must_use]
    pub fn init_timeout(mut self, bound: Duration) -> Self {
        self.init_timeout = bound;
        self
    }

    /// How long a call waits until its operation is on the stream. That takes long at most once for each peer, when NCCL
    /// connects to it.
    #[must_use]
    pub fn enqueue_timeout(mut self, bound: Duration) -> Self {
        self.enqueue_timeout = bound;
        self
    }

    /// A name for NCCL's log and profilers; used by NCCL 2.27 and later.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is a NUL in it.
    pub fn name(mut self, name: &str) -> Result<Self, Error> {
        self.name = Some(text("a communicator's name", name)?);
        Ok(self)
    }

    /// The network module to use, as `NCCL_NET` would name it: `Socket`, `IB`.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is a NUL in it.
    pub fn network(mut self, name: &str) -> Result<Self, Error> {
        self.network = Some(text("a network's name", name)?);
        Ok(self)
    }

    /// The fewest and the most thread blocks an operation may use on the device.
    ///
    /// # Errors
    /// [`Error::Refused`] unless 1 <= `fewest` <= `most`.
    pub fn blocks(mut self, fewest: u16, most: u16) -> Result<Self, Error> {
        if fewest == 0 || most < fewest {
            return Err(Error::Refused(format!("from {fewest} to {most} thread blocks is no range from 1 up")));
        }
        (self.min_ctas, self.max_ctas) = (Some(fewest), Some(most));
        Ok(self)
    }

    /// The network's traffic class; used by NCCL 2.25 and later.
    #[must_use]
    pub fn traffic_class(mut self, class: u16) -> Self {
        self.traffic_class = Some(class);
        self
    }

    /// Whether communicators split off share this one's resources. Then aborting one aborts all of them, which is why it
    /// is off unless asked for.
    #[must_use]
    pub fn split_share(mut self, share: bool) -> Self {
        self.split_share = share;
        self
    }

    /// In the layout that the loaded version knows: a library may refuse a size it has never heard of. The texts stay
    /// owned by `self`.
    pub(crate) fn to_ffi(&self, loaded: Version) -> ffi::Config {
        let number = |value: Option<u16>| value.map_or(ffi::UNDEFINED_INT, c_int::from);
        let (size, version) = layout(loaded);
        ffi::Config {
            size,
            magic: ffi::CONFIG_MAGIC,
            version: version.unsigned_abs(),
            // Never anything else: a blocking call could be ended neither by a bound nor by a flag.
            blocking: 0,
            cga_cluster_size: ffi::UNDEFINED_INT,
            min_ctas: number(self.min_ctas),
            max_ctas: number(self.max_ctas),
            net_name: self.network.as_ref().map_or(ptr::null(), |name| name.as_ptr()),
            split_share: c_int::from(self.split_share),
            traffic_class: number(self.traffic_class),
            comm_name: self.name.as_ref().map_or(ptr::null(), |name| name.as_ptr()),
            collnet_enable: ffi::UNDEFINED_INT,
            cta_policy: ffi::UNDEFINED_INT,
            shrink_share: ffi::UNDEFINED_INT,
            nvls_ctas: ffi::UNDEFINED_INT,
            n_channels_per_net_peer: ffi::UNDEFINED_INT,
            nvlink_centric_sched: ffi::UNDEFINED_INT,
        }
    }
}

/// How many bytes of the structure a version has, and the version to give with them.
fn layout(loaded: Version) -> (usize, c_int) {
    let code = |minor: u32, patch: u32| c_int::try_from(20_000 + minor * 100 + patch).unwrap_or(ffi::CONFIG_VERSION);
    match (loaded.major, loaded.minor) {
        // Up to splitShare; trafficClass (2.25) lies in what was padding before.
        (2, minor @ ..=26) => (48, code(minor, loaded.patch)),
        (2, 27) => (72, code(27, loaded.patch)),
        _ => (size_of::<ffi::Config>(), ffi::CONFIG_VERSION),
    }
}

fn text(what: &str, text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Refused(format!("{what} has a NUL in it: {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_has_the_layout_of_the_loaded_version() {
        assert_eq!(layout(Version::new(2, 18, 3)), (48, 21803));
        assert_eq!(layout(Version::new(2, 27, 5)), (72, 22705));
        assert_eq!(layout(Version::new(2, 28, 9)), (80, 22809));
        // A later one reads as much as it is told to.
        assert_eq!(layout(Version::new(2, 31, 0)), (80, 22809));
        assert_eq!(layout(Version::new(3, 0, 0)), (80, 22809));
    }

    #[test]
    fn communicators_never_block_and_what_is_not_set_stays_nccls_choice() {
        let raw = Config::new().to_ffi(Version::new(2, 28, 9));
        assert_eq!((raw.magic, raw.blocking, raw.split_share), (0xcafe_beef, 0, 0));
        assert_eq!((raw.min_ctas, raw.traffic_class, raw.nvls_ctas), (c_int::MIN, c_int::MIN, c_int::MIN));
        assert!(raw.comm_name.is_null());
    }

    #[test]
    fn nonsense_is_refused_before_nccl_sees_it() {
        assert!(Config::new().name("a\0b").is_err());
        assert!(Config::new().blocks(0, 3).is_err());
        assert!(Config::new().blocks(4, 3).is_err());
        let raw = Config::new().blocks(2, 8).unwrap().to_ffi(Version::OLDEST);
        assert_eq!((raw.min_ctas, raw.max_ctas), (2, 8));
    }
}
