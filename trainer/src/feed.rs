//! What goes into a lane's step: real images from the prepared data, and noise. Both are functions of (seed, step, lane).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use began::order::SampleOrder;
use began::random::{Purpose, Stream};
use began::{Lane, RunConfig, Step};
use began_data::{BatchPlan, DataSet, Loader};
use tch::{Device, Kind, Tensor};

use crate::leases::LeaseTable;
use crate::reduce::Place;

/// Batches that are ready before they are asked for, beyond one step's.
const AHEAD: usize = 2;

/// How long the coordinator may take to lease an epoch's shards, beyond the time that it may be gone.
const LEASE: Duration = Duration::from_secs(60);

/// The prepared data of a run.
#[derive(Clone)]
pub struct Feed {
    /// The images.
    pub data: Arc<DataSet>,
    /// Which goes where.
    pub order: Arc<SampleOrder>,
}

impl Feed {
    /// Opens the data that the configuration names.
    ///
    /// # Errors
    /// If it cannot be read, is not what the run is about, or has images of another size.
    pub fn open(config: &RunConfig, expected_digest: &str) -> Result<Self> {
        let path = Path::new(&config.data.path);
        let data = DataSet::open(path)?;
        let found = &data.manifest().digest;
        ensure!(
            found == expected_digest,
            "the data in {} has digest {found}, the run is about {expected_digest}",
            path.display()
        );
        ensure!(
            data.size() == config.model.size,
            "the data in {} is of {} px, model.size is {}",
            path.display(),
            data.size(),
            config.model.size
        );
        let order =
            SampleOrder::new(config.run.seed, data.manifest().shard_samples(), config.run.lanes, config.run.batch)
                .with_context(|| path.display().to_string())?;
        Ok(Self { data: Arc::new(data), order: Arc::new(order) })
    }

    /// Starts reading ahead for this place's lanes, from `step` on. Only leased shards are read.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(&self, config: &RunConfig, place: Place, step: Step, leases: Arc<LeaseTable>) -> Result<Loader> {
        let lanes = place.my_lanes();
        let depth = lanes.len() + AHEAD;
        let (order, flip, steps) = (self.order.clone(), config.data.flip, config.run.steps);
        let era = leases.era();
        let patience = Duration::from_secs_f64(config.run.coordinator_wait) + LEASE;
        let plans = (step.0..steps).flat_map(move |step| lanes.clone().map(move |lane| (step, lane))).map_while(
            move |(step, lane)| {
                let drawn = order.batch(Step(step), Lane(lane));
                for drawn in &drawn {
                    if leases.holds(era, drawn.epoch, drawn.sample.shard, patience) != Some(true) {
                        // The generation ended, or the coordinator leased this to another: the loop's own wait, with its
                        // bound, says that no batch came.
                        return None;
                    }
                }
                let sample = |d: &began::order::Drawn| (d.sample.shard, d.sample.index, flip && d.mirrored);
                Some(BatchPlan { step, lane, samples: drawn.iter().map(sample).collect() })
            },
        );
        Ok(Loader::start(self.data.clone(), plans, depth)?)
    }
}

/// A batch of bytes as `[B,3,size,size]` in [-1,1], channels-last.
///
/// # Errors
/// If the batch is not of this size.
pub fn images(pixels: &[u8], size: u32, kind: Kind, device: Device) -> Result<Tensor> {
    scaled(&bytes(pixels, size)?.f_to_device(device)?, kind)
}

/// A batch of bytes as it is: `[B,3,size,size]`, on the host.
///
/// # Errors
/// If the batch is not of this size.
pub fn bytes(pixels: &[u8], size: u32) -> Result<Tensor> {
    let side = i64::from(size);
    let count = pixels.len() as i64 / (3 * side * side);
    Ok(Tensor::f_from_data_size(pixels, &[count, 3, side, side], Kind::Uint8)?)
}

/// Bytes to [-1,1], channels-last, where the bytes are.
///
/// # Errors
/// If memory is short.
pub fn scaled(bytes: &Tensor, kind: Kind) -> Result<Tensor> {
    let scaled = bytes.f_to_kind(kind)?.f_div_scalar_(127.5)?.f_sub_scalar_(1.0)?;
    Ok(torch_ext::channels_last(&scaled)?)
}

/// The noise of one lane in one step: `[B,h]`, uniform in (-1,1).
///
/// # Errors
/// If memory is short.
pub fn noise(config: &RunConfig, step: Step, lane: u32, kind: Kind, device: Device) -> Result<Tensor> {
    let stream = Stream::new(config.run.seed, Purpose::Noise, step.0, lane);
    uniform(stream, config.run.batch.into(), config.model.latent.into(), kind, device)
}

/// `[count,latent]` from a stream, uniform in (-1,1).
///
/// # Errors
/// If memory is short.
pub fn uniform(stream: Stream, count: i64, latent: i64, kind: Kind, device: Device) -> Result<Tensor> {
    let mut values = vec![0f32; (count * latent) as usize];
    stream.uniform(1.0, &mut values);
    Ok(Tensor::f_from_slice(&values)?.f_view([count, latent])?.f_to_kind(kind)?.f_to_device(device)?)
}
