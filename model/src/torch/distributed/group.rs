//! Collectives, whatever they run over.

use tch::Tensor;

use super::gloo::{Gloo, Work};
use super::nccl::Nccl;
use super::stream::Mark;
use crate::Error;

/// The processes of a job, which exchange tensors. All of them start the same operations in the same order.
///
/// An operation that has been started goes on by itself; its tensor is to be left alone until [`Pending::wait`]. Sums are added
/// in the same order in every process: all have the same bits.
#[derive(Debug)]
pub enum Group {
    /// For tensors of the CPU.
    Gloo(Gloo),
    /// For tensors of one GPU a process.
    Nccl(Nccl),
}

/// An operation under way.
#[derive(Debug)]
#[must_use = "the result is not there before `wait`"]
pub struct Pending(Kind);

#[derive(Debug)]
enum Kind {
    Host(Work),
    Device(Mark),
}

impl Group {
    /// This process's number, from 0.
    pub fn rank(&self) -> usize {
        match self {
            Group::Gloo(gloo) => gloo.rank(),
            Group::Nccl(nccl) => nccl.rank(),
        }
    }

    /// Number of processes.
    pub fn world_size(&self) -> usize {
        match self {
            Group::Gloo(gloo) => gloo.world_size(),
            Group::Nccl(nccl) => nccl.world_size(),
        }
    }

    /// The elements of a tensor that are this process's in [`Self::reduce_scatter`] and [`Self::all_gather`].
    ///
    /// # Shape
    /// - `whole`: `[N]`, N a multiple of the number of processes; result: `[N / world_size]`, a view
    pub fn part(&self, whole: &Tensor) -> Tensor {
        let elements = whole.numel() as i64 / self.world_size() as i64;
        whole.narrow(0, self.rank() as i64 * elements, elements) // [N / world_size]
    }

    /// The tensor becomes the sum of all processes' tensors.
    ///
    /// # Errors
    /// [`Error::Collective`] when another process is gone, or the tensor is not one this group takes; so of the others.
    pub fn all_reduce(&self, sum: &Tensor) -> Result<Pending, Error> {
        Ok(Pending(match self {
            Group::Gloo(gloo) => Kind::Host(gloo.all_reduce(sum)?),
            Group::Nccl(nccl) => Kind::Device(nccl.all_reduce(sum)?),
        }))
    }

    /// The tensor becomes that of process `root`.
    ///
    /// # Errors
    /// See [`Self::all_reduce`].
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<Pending, Error> {
        Ok(Pending(match self {
            Group::Gloo(gloo) => Kind::Host(gloo.broadcast(tensor, root)?),
            Group::Nccl(nccl) => Kind::Device(nccl.broadcast(tensor, root)?),
        }))
    }

    /// This process's [part](Self::part) of the tensor becomes the sum of all processes'; the rest holds nothing of use.
    ///
    /// # Shape
    /// - `whole`: `[N]`, N a multiple of the number of processes
    ///
    /// # Errors
    /// See [`Self::all_reduce`].
    pub fn reduce_scatter(&self, whole: &Tensor) -> Result<Pending, Error> {
        self.check_parts("reduce and scatter", whole)?;
        Ok(Pending(match self {
            Group::Gloo(gloo) => Kind::Host(gloo.reduce_scatter(&self.part(whole), whole)?),
            Group::Nccl(nccl) => Kind::Device(nccl.reduce_scatter(whole)?),
        }))
    }

    /// Every process's [part](Self::part) of the tensor goes to all.
    ///
    /// # Shape
    /// - `whole`: `[N]`, N a multiple of the number of processes
    ///
    /// # Errors
    /// See [`Self::all_reduce`].
    pub fn all_gather(&self, whole: &Tensor) -> Result<Pending, Error> {
        self.check_parts("gather", whole)?;
        Ok(Pending(match self {
            Group::Gloo(gloo) => Kind::Host(gloo.all_gather(whole, &self.part(whole))?),
            Group::Nccl(nccl) => Kind::Device(nccl.all_gather(whole)?),
        }))
    }

    /// Whether an operation under way has failed in the background.
    ///
    /// # Errors
    /// [`Error::Collective`] if so. Gloo's operations fail in [`Pending::wait`] instead.
    pub fn check(&self) -> Result<(), Error> {
        match self {
            Group::Gloo(_) => Ok(()),
            Group::Nccl(nccl) => nccl.check(),
        }
    }

    fn check_parts(&self, operation: &'static str, whole: &Tensor) -> Result<(), Error> {
        if whole.dim() == 1 && whole.numel().is_multiple_of(self.world_size()) {
            return Ok(());
        }
        let message = format!("{:?} elements cannot be cut into {} parts", whole.size(), self.world_size());
        Err(Error::Collective { operation, message })
    }
}

impl Pending {
    /// Waits for the result: on the CPU the thread does, on a GPU the stream of operators does and the thread goes on.
    ///
    /// # Errors
    /// [`Error::Collective`] when another process is gone.
    pub fn wait(self) -> Result<(), Error> {
        match self.0 {
            Kind::Host(work) => work.wait(),
            Kind::Device(mark) => mark.block(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;
    use std::time::Duration;

    use tch::{Device, Kind};

    use super::super::Store;
    use super::super::store::tests::local;
    use super::*;

    /// Runs `member` in as many threads as there are ranks, each with a connection and a group of its own.
    fn ranks<T: Send>(world_size: usize, member: impl Fn(&Group) -> T + Sync) -> Vec<T> {
        let (_server, port) = local();
        let timeout = Duration::from_secs(60);
        let join = |rank| {
            let store = Store::connect("127.0.0.1", port, false, timeout).unwrap();
            Group::Gloo(Gloo::join(&store, "test", rank, world_size, Some("127.0.0.1"), timeout).unwrap())
        };
        // Nobody leaves while others still join.
        let joined = Barrier::new(world_size);
        let joined_member = |rank| {
            let group = join(rank);
            joined.wait();
            member(&group)
        };
        thread::scope(|scope| {
            let member = &joined_member;
            let threads: Vec<_> = (0..world_size).map(|rank| scope.spawn(move || member(rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn counting(from: i64, count: i64) -> Tensor {
        Tensor::arange_start(from, from + count, (Kind::Float, Device::Cpu)) // [count]
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor).unwrap()
    }

    #[test]
    fn collectives_do_what_they_are_named_for() {
        for world_size in 1..=3 {
            let n = world_size as i64 * 2;
            let results = ranks(world_size, |group| {
                let rank = group.rank() as i64;
                let sum = counting(rank, n);
                let scattered = sum.copy();
                let (first, second) =
                    (group.all_reduce(&sum).unwrap(), group.reduce_scatter(&scattered).unwrap());
                first.wait().unwrap();
                second.wait().unwrap();
                let whole = Tensor::zeros([n], (Kind::Float, Device::Cpu)); // [n]
                group.part(&whole).copy_(&group.part(&scattered));
                group.all_gather(&whole).unwrap().wait().unwrap();
                let told = Tensor::full([2], rank + 5, (Kind::Double, Device::Cpu)); // [2]
                group.broadcast(&told, world_size - 1).unwrap().wait().unwrap();
                (values(&sum), values(&whole), told.double_value(&[1]))
            });
            let expected: Vec<f32> =
                (0..n).map(|i| (0..world_size as i64).map(|rank| (rank + i) as f32).sum()).collect();
            for (sum, gathered, told) in results {
                assert_eq!((&sum, &gathered), (&expected, &expected));
                assert_eq!(told, world_size as f64 - 1.0 + 5.0);
            }
        }
    }

    #[test]
    fn tensors_that_cannot_be_exchanged_are_refused() {
        ranks(2, |group| {
            let error = group.reduce_scatter(&counting(0, 3)).unwrap_err().to_string();
            assert!(error.contains("[3] elements cannot be cut into 2 parts"), "{error}");
            let strided = Tensor::zeros([4, 2], (Kind::Float, Device::Cpu)).tr(); // [2, 4]
            assert!(matches!(group.all_reduce(&strided), Err(Error::Collective { .. })));
        });
    }

    #[test]
    fn a_member_that_leaves_is_an_error_of_the_others() {
        let results = ranks(2, |group| match group.rank() {
            0 => Ok(()),
            _ => {
                thread::sleep(Duration::from_millis(200));
                let sum = counting(0, 1000);
                group.all_reduce(&sum).and_then(Pending::wait)
            }
        });
        assert!(matches!(results[1], Err(Error::Collective { .. })), "{results:?}");
    }
}
