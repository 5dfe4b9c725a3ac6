//! The trainer: one process, one device.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`flat`], [`network`] | the paper's networks over flat parameters |
//! | [`arithmetic`] | in what numbers and by which ways they are computed |
//! | [`activation`] | a convolution's bias and ELU |
//! | [`upsampled`], [`kernels`] | convolutions over enlarged images, at the lower size |
//! | [`step`] | one lane's part of a step |
//! | [`pool`], [`reduce`], [`collective`], [`reduction_thread`] | the sum over lanes, the same bits in any world |
//! | [`optimizer`], [`average`], [`state`] | Adam, the average of G's weights, and what moves when a step is committed |
//! | [`feed`], [`leases`] | what goes into a step: leased shards, noise |
//! | [`transfer`] | its way to the device, and the losses' way back |
//! | [`images`] | what is measured of single images, for the diagnosis |
//! | [`membership`] | one generation after the other: peers, state, training, leaving |
//! | [`training`], [`duties`] | the loop; what is done outside the step |
//! | [`coordination`], [`session`], [`exchange`] | the coordinator, as the loop sees it and over gRPC |
//! | [`peers`], [`heal`] | finding the peers; handing the state around |
//! | [`checkpoint`], [`checkpoint_writer`], [`digest`], [`pictures`] | what is written, hashed and shown |
//! | [`pickle`] | PyTorch's old weight files, read without executing them |
//! | [`flip`] | a fault for tests |
//! | [`evaluation`], [`evaluator`] | scores of images against real ones; the thread that scores the model during a run |
//! | [`drawing`] | the generator's images, for whatever is made of them |
//! | [`latent`], [`inversion`], [`animation`] | using a model: ways through noise, the noise of an image, pictures that move |
//! | [`device`] | the process's device and its ties to whoever started it |
//! | [`commands`] | what the command line offers |

pub mod activation;
pub mod animation;
pub mod arithmetic;
pub mod average;
pub mod checkpoint;
pub mod checkpoint_writer;
pub mod collective;
pub mod commands;
pub mod coordination;
pub mod device;
pub mod digest;
pub mod drawing;
pub mod duties;
pub mod evaluation;
pub mod evaluator;
pub mod exchange;
pub mod feed;
pub mod flat;
pub mod flip;
pub mod heal;
pub mod images;
pub mod inversion;
pub mod kernels;
pub mod latent;
pub mod leases;
pub mod membership;
pub mod network;
pub mod optimizer;
pub mod peers;
pub mod pickle;
pub mod pictures;
pub mod pool;
pub mod reduce;
pub mod reduction_thread;
pub mod session;
pub mod state;
pub mod step;
pub mod training;
pub mod transfer;
pub mod upsampled;
