//! A world inside one process, for tests: threads that exchange through shared memory.

use std::sync::{Arc, Barrier, Mutex};

use anyhow::Result;
use tch::Tensor;

use super::Collective;

/// What each thread has posted: a tensor, and how it is split.
type Board = Vec<Option<(Tensor, Vec<i64>)>>;

/// One thread's end.
#[derive(Debug)]
pub(crate) struct Threads {
    rank: usize,
    barrier: Arc<Barrier>,
    board: Arc<Mutex<Board>>,
}

/// Runs `work` on a thread for each rank; what each gave, by rank.
pub(crate) fn threads<T: Send + 'static>(
    world: u32,
    work: impl Fn(u32, Threads) -> Result<T> + Clone + Send + 'static,
) -> Vec<T> {
    let barrier = Arc::new(Barrier::new(world as usize));
    let board = Arc::new(Mutex::new((0..world).map(|_| None).collect()));
    let spawn = |rank: u32| {
        let threads = Threads { rank: rank as usize, barrier: barrier.clone(), board: Arc::clone(&board) };
        let work = work.clone();
        std::thread::spawn(move || work(rank, threads))
    };
    let running: Vec<_> = (0..world).map(spawn).collect();
    running.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
}

impl Threads {
    fn post(&self, tensor: &Tensor, splits: &[i64]) -> Vec<(Tensor, Vec<i64>)> {
        self.barrier.wait();
        self.board.lock().unwrap()[self.rank] = Some((tensor.copy(), splits.to_vec()));
        self.barrier.wait();
        let board = self.board.lock().unwrap();
        board.iter().flatten().map(|(t, s)| (t.shallow_clone(), s.clone())).collect()
    }
}

impl Collective for Threads {
    fn all_to_all(&mut self, output: &Tensor, input: &Tensor, _: &[i64], input_splits: &[i64]) -> Result<()> {
        let posted = self.post(input, input_splits);
        let mine: Vec<Tensor> =
            posted.iter().map(|(t, splits)| t.narrow(0, splits[..self.rank].iter().sum(), splits[self.rank])).collect();
        output.shallow_clone().f_copy_(&Tensor::f_cat(&mine, 0)?)?;
        Ok(())
    }

    fn all_gather(&mut self, output: &Tensor, input: &Tensor) -> Result<()> {
        let all: Vec<Tensor> = self.post(input, &[]).into_iter().map(|(t, _)| t).collect();
        output.view(-1).f_copy_(&Tensor::f_cat(&all, 0)?)?;
        Ok(())
    }

    fn all_reduce(&mut self, tensor: &Tensor) -> Result<()> {
        let sum: Tensor = self.post(tensor, &[]).into_iter().map(|(t, _)| t).sum();
        tensor.shallow_clone().f_copy_(&sum)?;
        Ok(())
    }

    fn settle(&mut self, _: &str) -> Result<()> {
        Ok(())
    }

    fn leave(self: Box<Self>, _: std::time::Duration) {}
}
