//! How many GPUs a machine has, by the type that clouds put into the label `node.kubernetes.io/instance-type`.

use anyhow::{Result, bail};

use super::names;

/// What a machine is taken to have when nobody says what it is: as many as nearly all machines for training have at most.
pub const USUAL: u32 = 8;

/// The types known by name.
const KNOWN: [(&str, u32); 30] = [
    ("p5en.48xlarge", 8),
    ("p5e.48xlarge", 8),
    ("p5.48xlarge", 8),
    ("p5.4xlarge", 1),
    ("p4de.24xlarge", 8),
    ("p4d.24xlarge", 8),
    ("p3.16xlarge", 8),
    ("p3.8xlarge", 4),
    ("p3.2xlarge", 1),
    ("g6e.48xlarge", 8),
    ("g6e.24xlarge", 4),
    ("g6.48xlarge", 8),
    ("g6.24xlarge", 4),
    ("g5.48xlarge", 8),
    ("g5.24xlarge", 4),
    ("a3-ultragpu-8g", 8),
    ("a3-megagpu-8g", 8),
    ("a3-highgpu-8g", 8),
    ("a3-highgpu-1g", 1),
    ("a2-ultragpu-8g", 8),
    ("a2-megagpu-16g", 16),
    ("a2-highgpu-8g", 8),
    ("a2-highgpu-4g", 4),
    ("a2-highgpu-1g", 1),
    ("g2-standard-96", 8),
    ("Standard_ND96isr_H200_v5", 8),
    ("Standard_ND96isr_H100_v5", 8),
    ("Standard_ND96amsr_A100_v4", 8),
    ("Standard_ND96asr_v4", 8),
    ("Standard_NC24ads_A100_v4", 1),
];

/// A type of machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// As its label has it.
    pub kind: String,
    /// How many GPUs it has.
    pub gpus: u32,
}

impl Machine {
    /// Reads `TYPE`, or `TYPE:GPUS` for one that is not known.
    ///
    /// # Errors
    /// If the type is not known and the number not said, or they differ.
    pub fn parse(text: &str) -> Result<Self> {
        let (kind, said) = text.split_once(':').map_or((text, None), |(kind, said)| (kind, Some(said)));
        let kind = names::value("--machine", kind)?;
        let known = KNOWN.iter().find(|(name, _)| *name == kind).map(|(_, gpus)| *gpus);
        let said = match said.map(str::parse::<u32>) {
            Some(Ok(gpus)) if gpus <= 1024 => Some(gpus),
            Some(_) => {
                bail!("--machine {text:?}: expected TYPE:GPUS with a number of GPUs up to 1024, as in my-type:8")
            }
            None => None,
        };
        match (known, said) {
            (Some(known), Some(said)) if known != said => {
                bail!("--machine {text}: a {kind} has {known} GPUs, not {said}")
            }
            (Some(gpus), _) | (None, Some(gpus)) => Ok(Self { kind, gpus }),
            (None, None) => bail!(
                "--machine {kind}: how many GPUs does it have? Say --machine {kind}:GPUS; known are {}",
                KNOWN.map(|(name, _)| name).join(", ")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_type_has_its_gpus_and_another_those_that_are_said() -> Result<()> {
        assert_eq!(Machine::parse("p5.48xlarge")?.gpus, 8);
        assert_eq!(Machine::parse("a2-megagpu-16g:16")?.gpus, 16);
        assert_eq!(Machine::parse("our-box:10")?, Machine { kind: "our-box".into(), gpus: 10 });
        for (wrong, words) in [
            ("our-box", "--machine our-box:GPUS"),
            ("p5.48xlarge:16", "has 8 GPUs"),
            ("box:", "TYPE:GPUS"),
            ("box:-1", "TYPE:GPUS"),
            ("", "--machine"),
            ("b x:8", "--machine"),
        ] {
            let error = Machine::parse(wrong).map(drop).expect_err(wrong).to_string();
            assert!(error.contains(words), "{wrong}: {error}");
        }
        Ok(())
    }
}
