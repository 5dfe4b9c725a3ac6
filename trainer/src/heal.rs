//! Healing: whoever does not hold the state of a generation receives it from one who does.
//!
//! States travel in rounds over the generation's own group; in a round each holder gives to at most one. All ranks take part
//! in every round, most of them with nothing. The bits that arrive are the bits that were sent.

use anyhow::{Context, Result, ensure};
use began_proto::v1::Heal;
use tch::Tensor;

use crate::collective::Collective;

/// Takes part in all rounds. `state` are the flat tensors of the whole state, the same on every rank; those of a receiver are
/// filled.
///
/// # Errors
/// If a peer is gone, or the orders do not fit the world.
pub fn hand_around(collective: &mut dyn Collective, heal: &Heal, world: u32, state: &[Tensor]) -> Result<()> {
    let first = state.first().context("a state without tensors")?;
    let len: i64 = state.iter().map(|tensor| tensor.numel() as i64).sum();
    let options = (first.kind(), first.device());
    for round in 0..heal.rounds {
        let to = heal.to.get(round as usize).copied();
        let from = (heal.receives && heal.round == round).then_some(heal.from);
        ensure!(to.into_iter().chain(from).all(|rank| rank < world), "a state is to travel beyond a world of {world}");
        let splits =
            |rank: Option<u32>| (0..world).map(|other| if Some(other) == rank { len } else { 0 }).collect::<Vec<i64>>();
        let sent = match to {
            Some(_) => {
                let flat = state.iter().map(|tensor| tensor.f_view(-1)).collect::<Result<Vec<_>, _>>()?;
                Tensor::f_cat(&flat, 0)?
            }
            None => Tensor::f_empty([0], options)?,
        };
        let received = Tensor::f_empty([if from.is_some() { len } else { 0 }], options)?;
        collective.all_to_all(&received, &sent, &splits(from), &splits(to)).context("handing the state around")?;
        collective.settle("the state")?;
        if from.is_some() {
            let mut start = 0;
            for tensor in state {
                let count = tensor.numel() as i64;
                tensor.f_view(-1)?.f_copy_(&received.f_narrow(0, start, count)?)?;
                start += count;
            }
            collective.settle("a copy of the state")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::in_process::threads;
    use tch::{Device, Kind};

    #[test]
    fn three_receive_from_two_in_two_rounds_to_the_bit() {
        // Ranks 1 and 3 hold the state; 0 and 2 receive in the first round, 4 in the second.
        let heal = |rank: u32| match rank {
            1 => Heal { rounds: 2, to: vec![0, 4], ..Heal::default() },
            3 => Heal { rounds: 2, to: vec![2], ..Heal::default() },
            0 => Heal { rounds: 2, receives: true, round: 0, from: 1, ..Heal::default() },
            2 => Heal { rounds: 2, receives: true, round: 0, from: 3, ..Heal::default() },
            _ => Heal { rounds: 2, receives: true, round: 1, from: 1, ..Heal::default() },
        };
        for kind in [Kind::Float, Kind::Double] {
            let held = threads(5, move |rank, mut collective| {
                let holds = rank == 1 || rank == 3;
                let fill = |n: i64| {
                    if holds {
                        Tensor::arange(n, (Kind::Double, Device::Cpu)).f_div_scalar(3.0)?.f_to_kind(kind)
                    } else {
                        Tensor::f_zeros([n], (kind, Device::Cpu))
                    }
                };
                let state = [fill(7)?, fill(1)?, fill(12)?];
                hand_around(&mut collective, &heal(rank), 5, &state)?;
                let flat: Vec<Tensor> = state.iter().map(|tensor| tensor.to_kind(Kind::Double)).collect();
                Ok(Vec::<f64>::try_from(Tensor::f_cat(&flat, 0)?)?)
            });
            assert!(held.iter().all(|state| *state == held[1]) && held[1][6] > 1.9);
        }
    }
}
