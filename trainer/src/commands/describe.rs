//! `trainer describe`: the network's layers, shapes and counts, as the trainer would build it.

use anyhow::Result;
use began::network::{Kind, Layer, discriminator, generator, parameter_count, step_flops};

use crate::commands::ConfigArgs;

/// Print layers, shapes, parameter counts and arithmetic of a configuration's networks.
#[derive(Debug, clap::Args)]
pub struct Describe {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Describe {
    /// Prints it.
    ///
    /// # Errors
    /// If the configuration does not hold.
    pub fn run(&self) -> Result<()> {
        let config = self.config.resolve()?;
        let model = &config.model;
        println!("{} px, n = {}, h = {}\n", model.size, model.filters, model.latent);
        let (d, g) = (discriminator(model), generator(model));
        let counts = [print("discriminator", &d), print("generator", &g)];
        println!("both           {:>12} parameters", grouped(counts.iter().sum()));
        println!("a step         {:>12.2} GFLOP an image (6 D + 3 G forward passes)", step_flops(model) as f64 / 1e9);
        Ok(())
    }
}

fn print(name: &str, layers: &[Layer]) -> u64 {
    println!("{:<36} {:<12} {:>18} {:>16} {:>12}", "layer", "kind", "weight", "output", "parameters");
    for layer in layers {
        let kind = match layer.kind {
            Kind::Linear => "linear".to_owned(),
            Kind::Conv { stride } => format!("conv 3x3/{stride}"),
        };
        let shape = |dims: &[u64]| dims.iter().map(u64::to_string).collect::<Vec<_>>().join("x");
        println!(
            "{:<36} {kind:<12} {:>18} {:>16} {:>12}",
            layer.name,
            shape(&layer.parameters()[0].shape),
            shape(&layer.output_shape()),
            grouped(layer.parameter_count())
        );
    }
    let count = parameter_count(layers);
    println!("{name:<14} {:>12} parameters\n", grouped(count));
    count
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
