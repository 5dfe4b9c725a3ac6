//! A model of the step over many GPUs: the measured step of one lane, the sizes of the messages, and given link speeds.
//!
//! It is arithmetic, not a measurement, and says so in what it prints. One lane a GPU; D's reduction travels under G's backward;
//! G's reduction, shorter by far, is not hidden. Both reductions go inside a node first, where a node holds whole subtrees.

use began::config::Model;
use began::network::{discriminator, generator, parameter_count};

use super::round3;
use super::stages::Stages;

/// Speeds of links, each direction, for one GPU.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Links {
    /// For the scaling model: GPUs in a node.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    gpus_per_node: u32,
    /// For the scaling model: GB/s of one GPU to the others in its node.
    #[arg(long, default_value_t = 350.0, value_parser = positive)]
    intra_gb_per_s: f64,
    /// For the scaling model: GB/s of one GPU to other nodes.
    #[arg(long, default_value_t = 45.0, value_parser = positive)]
    inter_gb_per_s: f64,
    /// For the scaling model: microseconds until a collective's first byte is there, and for each round of messages.
    #[arg(long, default_value_t = 15.0, value_parser = positive)]
    latency_us: f64,
    /// For the scaling model: microseconds that each further message of a round costs.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    message_us: f64,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("expected a number above 0".into()),
    }
}

/// Worlds that the model is asked about.
const WORLDS: [u32; 4] = [8, 32, 256, 1024];

impl Links {
    /// Seconds to sum `bytes` over `world` GPUs in the fixed tree: all-to-all, additions, all-gather, inside the node and then
    /// between nodes, where each GPU has only its node's share of the buffer left.
    fn tree(&self, bytes: f64, world: u32, copy: f64) -> f64 {
        let (inside, nodes) = self.shape(world);
        let level = |bytes: f64, members: u32, speed: f64| {
            let others = f64::from(members - 1);
            if members == 1 {
                return 0.0;
            }
            let moved = 2.0 * bytes * others / f64::from(members) / (speed * 1e9);
            // Each partial is read and the running sum read and written.
            let added = 3.0 * bytes * others / f64::from(members) / (copy * 1e9);
            moved + added + 2.0 * (self.latency_us + self.message_us * others) * 1e-6
        };
        let share = bytes / f64::from(inside);
        level(bytes, inside, self.intra_gb_per_s) + level(share, nodes, self.inter_gb_per_s)
    }

    /// Seconds of the library's own all-reduce: reduce-scatter and all-gather inside, a ring or tree between nodes.
    fn fast(&self, bytes: f64, world: u32) -> f64 {
        let (inside, nodes) = self.shape(world);
        let moved = |bytes: f64, members: u32, speed: f64| {
            2.0 * bytes * f64::from(members - 1) / f64::from(members) / (speed * 1e9)
        };
        let rounds = 2.0 * (f64::from(inside).log2() + f64::from(nodes).log2());
        moved(bytes, inside, self.intra_gb_per_s)
            + moved(bytes / f64::from(inside), nodes, self.inter_gb_per_s)
            + rounds.max(1.0) * self.latency_us * 1e-6
    }

    fn shape(&self, world: u32) -> (u32, u32) {
        let inside = self.gpus_per_node.min(world);
        (inside, world.div_ceil(inside))
    }

    /// What is expected, for each world and both reductions. `step` is one lane's step on one GPU, in seconds; `copy` GB/s of
    /// its memory, read and written.
    #[must_use]
    pub fn model(&self, model: &Model, stages: &Stages, step: f64, copy: f64) -> serde_json::Value {
        let bytes = |layers: &[began::network::Layer]| 4.0 * parameter_count(layers) as f64;
        let (d, g) = (bytes(&discriminator(model)), bytes(&generator(model)));
        let rows = WORLDS.map(|world| {
            let efficiency = |d_sum: f64, g_sum: f64| {
                let exposed = (d_sum - stages.generator_backward()).max(0.0) + g_sum;
                (step / (step + exposed), exposed)
            };
            let tree = efficiency(self.tree(d, world, copy), self.tree(g, world, copy));
            let fast = efficiency(self.fast(d, world), self.fast(g, world));
            serde_json::json!({
                "gpus": world,
                "tree_efficiency": round3(tree.0),
                "fast_efficiency": round3(fast.0),
                "tree_exposed_ms": round3(tree.1 * 1e3),
                "fast_exposed_ms": round3(fast.1 * 1e3),
                "tree_over_fast": round3((step + tree.1) / (step + fast.1)),
            })
        });
        serde_json::json!({
            "is": "a model, not a measurement",
            "gpus_per_node": self.gpus_per_node,
            "intra_gb_per_s": self.intra_gb_per_s,
            "inter_gb_per_s": self.inter_gb_per_s,
            "latency_us": self.latency_us,
            "message_us": self.message_us,
            "d_mb": round3(d / 1e6),
            "g_mb": round3(g / 1e6),
            "worlds": rows,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINKS: Links =
        Links { gpus_per_node: 8, intra_gb_per_s: 350.0, inter_gb_per_s: 45.0, latency_us: 15.0, message_us: 1.0 };

    #[test]
    fn more_gpus_and_more_bytes_take_longer_and_one_gpu_nothing() {
        assert_eq!(LINKS.tree(1e8, 1, 3000.0), 0.0);
        let times: Vec<f64> = WORLDS.iter().map(|&world| LINKS.tree(6e7, world, 3000.0)).collect();
        assert!(times.is_sorted(), "{times:?}");
        assert!(LINKS.tree(6e7, 8, 3000.0) < LINKS.tree(1.2e8, 8, 3000.0));
        // 60 MB in a node: out and back at 350 GB/s, and some latency.
        assert!((3e-4..6e-4).contains(&LINKS.fast(6e7, 8)), "{}", LINKS.fast(6e7, 8));
    }

    #[test]
    fn what_travels_under_gs_backward_costs_nothing() {
        let model = Model { size: 128, filters: 128, latent: 64 };
        let found = |backward: f64| {
            let stages = Stages([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, backward, 1.0]);
            let json = LINKS.model(&model, &stages, 0.01, 3000.0);
            json["worlds"][0]["tree_efficiency"].as_f64().unwrap_or(0.0)
        };
        assert!(found(5.0) > found(0.0) && found(5.0) == found(50.0) && found(50.0) < 1.0);
    }
}
