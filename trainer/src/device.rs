//! The process's device, and its ties to whoever started it.

use std::io::Read;

use anyhow::{Context, Result, bail};
use tch::Device;

/// What to compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DeviceChoice {
    /// A GPU if there is one.
    Auto,
    /// A GPU.
    Cuda,
    /// The CPU, one thread.
    Cpu,
}

/// Readies libtorch and picks the device of a trainer: the device, and its name.
///
/// # Errors
/// If a GPU was asked for and is not there.
pub fn choose(choice: DeviceChoice, local_rank: u32) -> Result<(Device, String)> {
    torch_ext::keep_memory();
    torch_ext::single_threaded().context("libtorch's threads")?;
    let loaded = if choice == DeviceChoice::Cpu { Ok(()) } else { torch_ext::load_cuda() };
    let device = match choice {
        DeviceChoice::Cpu => None,
        _ if loaded.is_ok() && tch::Cuda::is_available() => {
            let count = tch::Cuda::device_count();
            if i64::from(local_rank) >= count {
                bail!("trainer {local_rank} of this node has no GPU: libtorch sees {count}");
            }
            Some(Device::Cuda(local_rank as usize))
        }
        DeviceChoice::Auto => None,
        DeviceChoice::Cuda => match loaded {
            Ok(()) => bail!("--device cuda: libtorch sees no GPU here"),
            Err(error) => bail!("--device cuda: libtorch's CUDA part does not load: {error}"),
        },
    };
    torch_ext::deterministic().context("deterministic kernels")?;
    Ok(match device {
        Some(device @ Device::Cuda(index)) => (device, format!("cuda:{index}")),
        _ => (Device::Cpu, format!("cpu ({})", cpu_name())),
    })
}

/// Versions that decide the bits, for the run's manifest.
#[must_use]
pub fn software() -> String {
    format!(
        "trainer {}, libtorch {}, {} kernels",
        env!("CARGO_PKG_VERSION"),
        torch_ext::torch_version(),
        torch_ext::cpu_capability()
    )
}

fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    name.unwrap_or("unknown").trim().to_owned()
}

/// This host's name.
#[must_use]
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown".into() } else { name.trim().into() }
}

/// Ends this process when whoever started it is gone, however it went: its end of standard input closes, or the kernel says so.
///
/// # Errors
/// If no thread can be started.
pub fn end_with_parent() -> Result<()> {
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    std::thread::Builder::new()
        .name("parent".into())
        .spawn(|| {
            let mut nothing = [0; 64];
            let mut input = std::io::stdin().lock();
            while !matches!(input.read(&mut nothing), Ok(0) | Err(_)) {}
            eprintln!("trainer: whoever started this is gone");
            // Without running destructors: libtorch's threads may be in the middle of anything.
            nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL).unwrap_or_default();
        })
        .context("cannot start the thread that watches standard input")?;
    Ok(())
}
