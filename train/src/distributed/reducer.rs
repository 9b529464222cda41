//! Gradients summed over the ranks while the backward pass still runs.
//!
//! Backward passes add to one piece of memory, cut into [buckets](super::buckets). As soon as the last pass of a step has
//! completed a bucket, and all before it, its exchange begins, in this order on every rank. [`Reducer::finish`] begins what is
//! left, as on a rank whose passes skipped parameters or that had no pass at all, and waits.
//!
//! With `train.shard_optimizer` (ZeRO stage 1, Rajbhandari et al. 2020, <https://arxiv.org/abs/1910.02054>) a rank gets the sum
//! of its share of each bucket only, updates its share of the parameters, which lie in memory as the gradients do, and
//! [`Reducer::gather_parameters`] brings the shares together again.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::Parameters;
use model::torch::distributed::{Group, Pending, Timer};
use model::torch::{count_write, set_gradient, set_memory, watch_gradient};
use tch::{Device, Tensor, no_grad};

use super::Ranks;
use super::buckets::{BUCKET_ELEMENTS, Buckets};
use crate::error::Error;

/// Steps whose waiting times are kept as marks in the device's stream before they are read.
const TIMERS: usize = 2;

/// The exchange of one model's gradients.
#[derive(Debug)]
pub struct Reducer {
    ranks: Ranks,
    group: Arc<Group>,
    /// Handles on the parameters, in the model's order.
    parameters: Vec<(String, Tensor)>,
    buckets: Arc<Buckets>,
    device: Device,
    /// `[elements]`: the memory of all gradients.
    gradients: Tensor,
    /// `[elements]`: that of all parameters, where the optimizer is sharded.
    memory: Option<Tensor>,
    exchange: Arc<Mutex<Exchange>>,
    waited: Mutex<Waited>,
}

/// The buckets of the step under way.
#[derive(Debug)]
struct Exchange {
    group: Arc<Group>,
    buckets: Arc<Buckets>,
    gradients: Tensor,
    scatter: bool,
    /// Whether the backward pass under way is the step's last.
    armed: bool,
    /// By place: whether its gradient is complete.
    complete: Vec<bool>,
    /// By bucket: how many of its gradients are not.
    missing: Vec<usize>,
    /// The first bucket that is not under way.
    next: usize,
    under_way: Vec<Pending>,
    /// What went wrong in a backward pass: libtorch would hand on no more than its text.
    failure: Option<model::Error>,
}

/// How long the exchange was waited for.
#[derive(Debug, Default)]
struct Waited {
    seconds: f64,
    timers: VecDeque<[Timer; 2]>,
}

/// A part of a parameter that is in this rank's share, with all that lies beside it.
#[derive(Debug)]
pub struct Shard {
    /// The parameter's number in the model's order.
    pub parameter: usize,
    /// Its elements among those of the share.
    pub range: Range<usize>,
    /// `[N]`, a view of the parameter's memory.
    pub values: Tensor,
    /// `[N]`, a view of its gradient's.
    pub gradient: Tensor,
}

impl Reducer {
    /// Puts the gradients of `parameters`, on `device`, into one piece of memory, and the parameters themselves if `shard`. All
    /// ranks' parameters become those of rank 0.
    ///
    /// # Errors
    /// [`Error::Model`] when the ranks cannot reach each other or memory is used up.
    pub fn new(
        ranks: &Ranks,
        parameters: &Parameters,
        device: Device,
        shard: bool,
    ) -> Result<Reducer, Error> {
        let group = ranks.group(device)?;
        let parameters: Vec<(String, Tensor)> =
            parameters.iter().map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect();
        let sizes: Vec<usize> = parameters.iter().map(|(_, tensor)| tensor.numel()).collect();
        let buckets = Arc::new(Buckets::new(&sizes, ranks.world_size(), BUCKET_ELEMENTS));
        let elements = buckets.elements() as i64;
        let kind = parameters[0].1.kind();
        let gradients = Tensor::f_zeros([elements], (kind, device))?; // [elements]
        let memory = match shard {
            true => Some(Tensor::f_zeros([elements], (kind, device))?), // [elements]
            false => None,
        };
        let exchange = Arc::new(Mutex::new(Exchange {
            group: group.clone(),
            buckets: buckets.clone(),
            gradients: gradients.shallow_clone(),
            scatter: shard,
            armed: false,
            complete: Vec::new(),
            missing: Vec::new(),
            next: 0,
            under_way: Vec::new(),
            failure: None,
        }));
        for (index, place) in buckets.places.iter().enumerate() {
            let parameter = &parameters[place.parameter].1;
            let within = |memory: &Tensor| slice(memory, &place.range).view_as(parameter);
            set_gradient(parameter, &within(&gradients))?;
            if let Some(memory) = &memory {
                let place = within(memory);
                no_grad(|| place.shallow_clone().f_copy_(parameter))?;
                set_memory(parameter, &place)?;
            }
            let exchange = exchange.clone();
            let told = move || {
                locked(&exchange).completed(index);
                Ok(())
            };
            watch_gradient(parameter, Some(Box::new(told)))?;
        }
        let waited = Mutex::default();
        let ranks = ranks.clone();
        let reducer =
            Reducer { ranks, group, parameters, buckets, device, gradients, memory, exchange, waited };
        reducer.share_parameters()?;
        Ok(reducer)
    }

    /// This process's number.
    pub fn rank(&self) -> usize {
        self.ranks.rank()
    }

    /// Names and handles of the parameters, in the model's order.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.parameters.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The ranks.
    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// All ranks' parameters become those of rank 0.
    ///
    /// # Errors
    /// [`Error::Model`] when a rank is gone.
    pub fn share_parameters(&self) -> Result<(), Error> {
        self.broadcast(self.parameters.iter().map(|(_, tensor)| tensor.detach()))?;
        self.count_writes()
    }

    /// All ranks' tensors, of the same shapes in the same order, become those of rank 0.
    ///
    /// # Errors
    /// [`Error::Model`] when a rank is gone.
    pub fn broadcast(&self, tensors: impl Iterator<Item = Tensor>) -> Result<(), Error> {
        let under_way: Vec<Pending> =
            tensors.map(|tensor| self.group.broadcast(&tensor, 0)).collect::<Result<_, _>>()?;
        Ok(under_way.into_iter().try_for_each(Pending::wait)?)
    }

    /// To be called before the last backward pass of a step: buckets may be exchanged from now on.
    pub fn arm(&self) {
        locked(&self.exchange).arm();
    }

    /// Sums what has not been summed yet, and waits for all of it: on the CPU the thread does, on a GPU its stream.
    ///
    /// # Errors
    /// [`Error::Model`] when a rank is gone.
    pub fn finish(&self) -> Result<(), Error> {
        let under_way = {
            let mut exchange = locked(&self.exchange);
            // A rank without a backward pass has not armed it.
            if !exchange.armed {
                exchange.arm();
            }
            exchange.begin_rest();
            exchange.armed = false;
            if let Some(failure) = exchange.failure.take() {
                return Err(failure.into());
            }
            std::mem::take(&mut exchange.under_way)
        };
        self.timed(|| Ok(under_way.into_iter().try_for_each(Pending::wait)?))
    }

    /// Sums over the ranks, of which each gives `sums` of its part of the batch and the `norm` of the gradient that it knows: of
    /// the whole one, or of its share. All ranks get the same bits.
    ///
    /// # Shape
    /// - `sums`: `[N]`, `norm`: `[1]`, both float64; result: `[N + 1]`, the norm last
    ///
    /// # Errors
    /// [`Error::Model`] when a rank is gone.
    pub fn numbers(&self, sums: &Tensor, norm: &Tensor) -> Result<Tensor, Error> {
        let part = match (&self.memory, self.rank()) {
            (Some(_), _) => norm.square(), // [1]
            (None, 0) => norm.shallow_clone(),
            // Every rank has computed it; that of rank 0 is the one that counts.
            (None, _) => norm.zeros_like(),
        };
        let numbers = Tensor::cat(&[sums, &part], 0); // [N + 1]
        self.timed(|| Ok(self.group.all_reduce(&numbers)?.wait()?))?;
        if self.memory.is_some() {
            let _ = numbers.narrow(0, -1, 1).sqrt_();
        }
        Ok(numbers)
    }

    /// Whether the optimizer is sharded.
    pub fn is_sharded(&self) -> bool {
        self.memory.is_some()
    }

    /// What this rank updates where the optimizer is sharded, in the order of memory, and the elements of its share.
    pub fn shards(&self) -> (Vec<Shard>, usize) {
        let (mut shards, mut before) = (Vec::new(), 0);
        let Some(memory) = &self.memory else { return (shards, 0) };
        for bucket in 0..self.buckets.ranges.len() {
            let part = self.part(bucket);
            for piece in self.buckets.pieces(&part) {
                let offset = piece.range.start - part.start;
                shards.push(Shard {
                    parameter: piece.parameter,
                    range: before + offset..before + offset + piece.range.len(),
                    values: slice(memory, &piece.range),
                    gradient: slice(&self.gradients, &piece.range),
                });
            }
            before += part.len();
        }
        (shards, before)
    }

    /// Brings the shares of the parameters together after an update, and zeroes the gradients, where the optimizer is sharded.
    ///
    /// # Errors
    /// [`Error::Model`] when a rank is gone.
    pub fn gather_parameters(&self) -> Result<(), Error> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let _ = no_grad(|| self.gradients.shallow_clone().zero_());
        let gather = |range| self.group.all_gather(&slice(memory, range));
        let under_way: Vec<Pending> = self.buckets.ranges.iter().map(gather).collect::<Result<_, _>>()?;
        self.timed(|| Ok(under_way.into_iter().try_for_each(Pending::wait)?))?;
        self.count_writes()
    }

    /// A tensor for each parameter out of the shares of all ranks, on the CPU; nothing on ranks other than 0.
    ///
    /// # Shape
    /// - `share`: `[elements of this rank's share]`
    ///
    /// # Errors
    /// [`Error::Model`] when a rank is gone.
    pub fn gather(&self, share: &Tensor) -> Result<Vec<Tensor>, Error> {
        let first = self.rank() == 0;
        let whole: Vec<Tensor> = match first {
            true => self.parameters.iter().map(|(_, tensor)| host(tensor)).collect(),
            false => Vec::new(),
        };
        self.by_bucket(share, |bucket, part, own| {
            no_grad(|| self.group.part(bucket).f_copy_(own))?;
            self.group.all_gather(bucket)?.wait()?;
            for piece in self.buckets.pieces(&part).filter(|_| first) {
                let (from, to) = self.within(&piece.range, piece.parameter);
                let source = slice(bucket, &(piece.range.start - part.start..piece.range.end - part.start));
                no_grad(|| whole[piece.parameter].view(-1).narrow(0, from, to - from).f_copy_(&source))?;
            }
            Ok(())
        })?;
        Ok(whole)
    }

    /// The opposite of [`Self::gather`]: rank 0 gives a tensor for each parameter, the others none, and each gets its share.
    ///
    /// # Errors
    /// [`Error::Model`] when a rank is gone.
    pub fn scatter(&self, whole: &[Tensor], share: &Tensor) -> Result<(), Error> {
        self.by_bucket(share, |bucket, part, own| {
            for piece in self.buckets.pieces(&part).filter(|_| !whole.is_empty()) {
                let (from, to) = self.within(&piece.range, piece.parameter);
                let target = slice(bucket, &(piece.range.start - part.start..piece.range.end - part.start));
                let source = whole[piece.parameter].view(-1).narrow(0, from, to - from);
                no_grad(|| target.shallow_clone().f_copy_(&source))?;
            }
            self.group.broadcast(bucket, 0)?.wait()?;
            no_grad(|| own.shallow_clone().f_copy_(&self.group.part(bucket)))?;
            Ok(())
        })
    }

    /// Calls `each` with memory for a bucket, the bucket's elements, and this rank's part of it in `share`.
    fn by_bucket(
        &self,
        share: &Tensor,
        mut each: impl FnMut(&Tensor, Range<usize>, &Tensor) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut before = 0;
        for (number, range) in self.buckets.ranges.iter().enumerate() {
            let bucket = Tensor::f_zeros([range.len() as i64], (share.kind(), self.device))?; // [bucket]
            let own = self.part(number).len();
            each(&bucket, range.clone(), &slice(share, &(before..before + own)))?;
            before += own;
        }
        Ok(())
    }

    /// Where elements of memory lie within their parameter.
    fn within(&self, range: &Range<usize>, parameter: usize) -> (i64, i64) {
        let place = self.buckets.places.iter().find(|place| place.parameter == parameter);
        let start = place.map_or(0, |place| place.range.start);
        ((range.start - start) as i64, (range.end - start) as i64)
    }

    /// This rank's part of a bucket.
    fn part(&self, bucket: usize) -> Range<usize> {
        self.buckets.part(bucket, self.rank(), self.ranks.world_size())
    }

    /// The bf16 copies of the fused path follow the parameters' versions, which the exchange does not change.
    fn count_writes(&self) -> Result<(), Error> {
        Ok(self.parameters.iter().try_for_each(|(_, tensor)| count_write(tensor))?)
    }

    /// Seconds that training has stood still for exchanges since the last call, the steps of which are over.
    ///
    /// # Errors
    /// [`Error::Model`] when work on the device has failed.
    pub fn waited(&self) -> Result<Duration, Error> {
        let mut waited = lock(&self.waited);
        waited.read(0)?;
        Ok(Duration::from_secs_f64(std::mem::take(&mut waited.seconds).max(0.0)))
    }

    /// Runs `wait` and adds how long training stands still for it.
    fn timed(&self, wait: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        if let Device::Cuda(device) = self.device {
            // The thread goes on at once; the device's stream is what waits.
            let before = Timer::record(device)?;
            wait()?;
            let mut waited = lock(&self.waited);
            waited.timers.push_back([before, Timer::record(device)?]);
            // Three exchanges a step at most.
            return waited.read(3 * TIMERS);
        }
        let (doing, start) = (self.ranks.waiting(), Instant::now());
        wait()?;
        drop(doing);
        lock(&self.waited).seconds += start.elapsed().as_secs_f64();
        Ok(())
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // The parameters may live longer than the group.
        for (_, parameter) in &self.parameters {
            let _ = watch_gradient(parameter, None);
        }
    }
}

impl Exchange {
    fn arm(&mut self) {
        self.armed = true;
        self.next = 0;
        self.complete = vec![false; self.buckets.places.len()];
        self.missing = vec![0; self.buckets.ranges.len()];
        for place in &self.buckets.places {
            self.missing[place.bucket] += 1;
        }
    }

    /// A backward pass has completed the gradient at a place. Anything but the last pass of a step is ignored.
    fn completed(&mut self, place: usize) {
        if !self.armed || std::mem::replace(&mut self.complete[place], true) {
            return;
        }
        self.missing[self.buckets.places[place].bucket] -= 1;
        while self.missing.get(self.next) == Some(&0) {
            self.begin();
        }
    }

    fn begin_rest(&mut self) {
        while self.next < self.buckets.ranges.len() {
            self.begin();
        }
    }

    /// Begins to exchange the next bucket.
    fn begin(&mut self) {
        let bucket = slice(&self.gradients, &self.buckets.ranges[self.next]);
        self.next += 1;
        if self.failure.is_some() {
            return;
        }
        let begun = match self.scatter {
            true => self.group.reduce_scatter(&bucket),
            false => self.group.all_reduce(&bucket),
        };
        match begun {
            Ok(pending) => self.under_way.push(pending),
            Err(error) => self.failure = Some(error),
        }
    }
}

impl Waited {
    /// Reads timers until `left` are left; the device has passed those of earlier steps.
    fn read(&mut self, left: usize) -> Result<(), Error> {
        while self.timers.len() > left {
            if let Some([before, after]) = self.timers.pop_front() {
                self.seconds += before.until(&after)? / 1e3;
            }
        }
        Ok(())
    }
}

/// Some elements of a tensor of one dimension, as a view.
fn slice(tensor: &Tensor, range: &Range<usize>) -> Tensor {
    tensor.narrow(0, range.start as i64, range.len() as i64)
}

/// Memory of the CPU for a copy.
fn host(like: &Tensor) -> Tensor {
    Tensor::zeros(like.size(), (like.kind(), Device::Cpu))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn locked(exchange: &Arc<Mutex<Exchange>>) -> MutexGuard<'_, Exchange> {
    lock(exchange)
}
