//! What the trainers compute on: how many GPUs this machine has, and whether they are enough.
//!
//! It never starts CUDA: a launcher that held a context on a GPU would take memory from its own trainers.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli::DeviceChoice;

/// What the trainers of a launch compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    Cpu,
    /// One GPU each.
    Cuda,
}

impl Device {
    /// As the trainer's `--device` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// The GPUs that were found, and how: the second is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpus {
    /// Their names as CUDA_VISIBLE_DEVICES takes them: indices, or what that variable already says.
    pub names: Vec<String>,
    /// Where that is known from.
    pub source: String,
}

impl Gpus {
    /// Looks for GPUs: what CUDA_VISIBLE_DEVICES leaves, of those that the driver or `nvidia-smi -L` shows.
    #[must_use]
    pub fn find() -> Self {
        let driver = Path::new("/proc/driver/nvidia/gpus");
        // In a guest the folder may be there and empty.
        let (count, source) = match std::fs::read_dir(driver).map_or(0, |entries| entries.flatten().count()) {
            0 => match listed_by_nvidia_smi() {
                Some(count) => (count, "by nvidia-smi -L".to_owned()),
                None => (0, format!("({} shows none, and nvidia-smi is not there)", driver.display())),
            },
            count => (count, format!("in {}", driver.display())),
        };
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        Self { names: (0..count).map(|index| index.to_string()).collect(), source }.limited(visible.as_deref())
    }

    /// Those that CUDA_VISIBLE_DEVICES leaves. CUDA itself stops reading that list at the first name it does not know.
    fn limited(self, visible: Option<&str>) -> Self {
        let Some(visible) = visible else { return self };
        let known = |name: &&str| {
            name.parse::<usize>().map_or(!name.is_empty() && !name.starts_with('-'), |index| index < self.names.len())
        };
        let names = visible.split(',').map(str::trim).take_while(known).take(self.names.len()).map(str::to_owned);
        Self {
            names: names.collect(),
            source: format!("{}, of which CUDA_VISIBLE_DEVICES={visible} leaves", self.source),
        }
    }
}

/// What to compute on, with the sentence to say about it where the choice was left to the launcher.
///
/// # Errors
/// If GPUs were asked for and there are too few.
pub fn choose(
    choice: DeviceChoice,
    needed: u32,
    find: impl FnOnce() -> Gpus,
) -> Result<(Device, Gpus, Option<String>)> {
    if choice == DeviceChoice::Cpu {
        return Ok((Device::Cpu, Gpus { names: Vec::new(), source: String::new() }, None));
    }
    let gpus = find();
    let found = format!(
        "{} {} found {}",
        gpus.names.len(),
        if gpus.names.len() == 1 { "GPU was" } else { "GPUs were" },
        gpus.source
    );
    if gpus.names.len() >= needed as usize {
        let said = (choice == DeviceChoice::Auto).then(|| format!("computing on GPUs: {found}, {needed} needed"));
        Ok((Device::Cuda, gpus, said))
    } else if choice == DeviceChoice::Cuda {
        bail!(
            "--device cuda needs one GPU for each of the {needed} trainers, but {found}; \
             take fewer trainers (--nodes, --gpus) or --device cpu"
        )
    } else {
        Ok((Device::Cpu, gpus, Some(format!("computing on the CPU: {found}, {needed} needed"))))
    }
}

fn listed_by_nvidia_smi() -> Option<usize> {
    let mut child = Command::new("nvidia-smi")
        .arg("-L")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    // A driver in a bad state can hold nvidia-smi for minutes.
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
    let text = std::io::read_to_string(child.stdout.take()?).ok()?;
    Some(text.lines().filter(|line| line.starts_with("GPU ")).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(count: usize) -> Gpus {
        Gpus { names: (0..count).map(|i| i.to_string()).collect(), source: "by counting".into() }
    }

    #[test]
    fn too_few_gpus_is_an_error_that_says_what_was_found() {
        let error = choose(DeviceChoice::Cuda, 32, || some(1)).unwrap_err().to_string();
        assert!(error.contains("32 trainers") && error.contains("1 GPU was found by counting"), "{error}");
    }

    #[test]
    fn auto_takes_gpus_only_if_there_is_one_for_each_trainer() -> Result<()> {
        let (device, _, said) = choose(DeviceChoice::Auto, 2, || some(2))?;
        assert_eq!((device, said.is_some()), (Device::Cuda, true));
        let (device, _, said) = choose(DeviceChoice::Auto, 3, || some(2))?;
        assert_eq!(device, Device::Cpu);
        assert!(said.is_some_and(|said| said.contains("2 GPUs were found")));
        Ok(())
    }

    #[test]
    fn the_cpu_needs_no_look_for_gpus() -> Result<()> {
        let (device, _, said) = choose(DeviceChoice::Cpu, 3, || panic!("looked"))?;
        assert_eq!((device, said), (Device::Cpu, None));
        Ok(())
    }

    #[test]
    fn visible_devices_limit_what_counts() {
        assert_eq!(some(4).limited(Some("2,3")).names, ["2", "3"]);
        assert_eq!(some(4).limited(Some("")).names, [""; 0]);
        assert_eq!(some(4).limited(Some("-1")).names, [""; 0]);
        assert_eq!(some(4).limited(Some("1,9,2")).names, ["1"]);
        assert_eq!(some(4).limited(None).names.len(), 4);
    }
}
