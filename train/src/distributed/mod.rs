//! Several processes that train one model, each on its part of every batch: data parallelism.
//!
//! [`Launch`] reads off the environment which of them this is, [`Ranks`] is the job, [`Reducer`] sums gradients over it.
//! `judge.rs` and `watch.rs` see to it that a rank which dies or hangs ends the job by name. The processes are started by
//! `torchrun`, `srun` or `mpirun`; they exchange tensors over libtorch's c10d and NCCL ([`model::torch::distributed`]).
//!
//! Every rank reads the shards; rank 0 alone has the run's folder, and tells the others what they need of it.

mod buckets;
mod judge;
mod launch;
mod nodelist;
mod reducer;
mod watch;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use model::torch::distributed::{Gloo, Group, Nccl, Store, end_process, use_device};
use tch::{Device, Tensor};

pub use launch::Launch;
pub use reducer::{Reducer, Shard};

use crate::error::Error;
use judge::Doing;
use watch::Watch;

/// How long ranks wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For all to be there when the job starts.
    pub join: Duration,
    /// For a sign of life of each while it runs.
    pub silence: Duration,
}

/// Longest time of one exchange over Gloo. It is the watch that ends a job which stands still.
const EXCHANGE: Duration = Duration::from_hours(24);

/// The processes of a job, of which this is one; or this process alone. Copies are handles on the same job.
#[derive(Clone, Debug, Default)]
pub struct Ranks(Option<Arc<Job>>);

#[derive(Debug)]
struct Job {
    launch: Launch,
    store: Store,
    prefix: String,
    patience: Patience,
    /// For tensors of the CPU.
    host: Arc<Group>,
    /// For tensors of this rank's GPU.
    device: OnceLock<Arc<Group>>,
    watch: Arc<Watch>,
    /// Texts that were shared.
    texts: AtomicU64,
}

/// Says what the training thread does while it is alive; see [`Ranks::waiting`].
#[derive(Debug)]
#[must_use = "what is said ends when it is dropped"]
pub struct Said<'a> {
    watch: Option<&'a Watch>,
    before: Doing,
}

impl Drop for Said<'_> {
    fn drop(&mut self) {
        if let Some(watch) = self.watch {
            watch.set(self.before);
        }
    }
}

impl Ranks {
    /// This process alone.
    pub fn alone() -> Ranks {
        Ranks(None)
    }

    /// The job that this process was started for: waits for the other ranks. Alone where no launcher has started it.
    ///
    /// # Errors
    /// [`Error::Launch`] when the environment makes no sense; [`Error::Join`] when ranks are missing or counted twice;
    /// [`Error::Model`] when the store or the network cannot be reached.
    pub fn join(patience: Patience) -> Result<Ranks, Error> {
        match Launch::from_environment()? {
            Some(launch) => Ranks::of(launch, patience),
            None => Ok(Ranks(None)),
        }
    }

    fn of(launch: Launch, patience: Patience) -> Result<Ranks, Error> {
        let Launch { rank, world_size, address, port, .. } = &launch;
        let connect = |serve| {
            Store::connect(address, *port, serve, patience.join).map_err(|source| Error::Store {
                address: format!("{address}:{port}"),
                keeper: if launch.keeps_store() {
                    "this process is to keep it"
                } else {
                    "another process keeps it"
                },
                source: Box::new(source),
            })
        };
        let store = connect(launch.keeps_store())?;
        let prefix = format!("tessera/{}", launch.attempt);
        let hosts = assemble(&launch, &store, &prefix, patience.join)?;
        let watch = Watch::start(&launch, connect(false)?, prefix.clone(), hosts, patience.silence)?;
        // On one machine there may be no other network, and no name.
        let loopback = ["127.0.0.1", "localhost", "::1"].contains(&address.as_str()).then_some("127.0.0.1");
        let name = format!("{prefix}/gloo");
        let gloo = Gloo::join(&store, &name, *rank, *world_size, loopback, EXCHANGE)?;
        let (host, device) = (Arc::new(Group::Gloo(gloo)), OnceLock::new());
        let texts = AtomicU64::new(0);
        Ok(Ranks(Some(Arc::new(Job { launch, store, prefix, patience, host, device, watch, texts }))))
    }

    /// Whether this process is one of a job's, be it the only one.
    pub fn is_job(&self) -> bool {
        self.0.is_some()
    }

    /// This process's number.
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |job| job.launch.rank)
    }

    /// Number of processes.
    pub fn world_size(&self) -> usize {
        self.0.as_ref().map_or(1, |job| job.launch.world_size)
    }

    /// Whether this process has the run's folder, and talks.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// The GPU that is this process's, among the `count` it can see: the only one, or the one of its number on its machine.
    ///
    /// # Errors
    /// [`Error::TooFewGpus`].
    pub fn card(&self, count: usize) -> Result<usize, Error> {
        let Some(job) = &self.0 else { return Ok(0) };
        let local_rank = job.launch.local_rank;
        if count != 1 && local_rank >= count {
            return Err(Error::TooFewGpus { rank: job.launch.rank, local_rank, count });
        }
        let card = if count == 1 { 0 } else { local_rank };
        use_device(card)?;
        Ok(card)
    }

    /// The group for tensors on `device`; all ranks ask for the first time together.
    ///
    /// # Errors
    /// [`Error::Model`] when NCCL cannot be used. [`Error::Join`] without a job.
    pub(crate) fn group(&self, device: Device) -> Result<Arc<Group>, Error> {
        let Some(job) = &self.0 else {
            return Err(Error::Join { reason: "this process is alone".to_owned() });
        };
        let Device::Cuda(card) = device else { return Ok(job.host.clone()) };
        if let Some(group) = job.device.get() {
            return Ok(group.clone());
        }
        let Launch { rank, world_size, .. } = job.launch;
        let name = format!("{}/nccl", job.prefix);
        let nccl = Nccl::join(&job.store, &name, rank, world_size, card, job.patience.join)?;
        if rank == 0 {
            eprintln!("{nccl:?}");
        }
        let group = Arc::new(Group::Nccl(nccl));
        job.watch.look_after(&group);
        Ok(job.device.get_or_init(|| group).clone())
    }

    /// A text that rank 0 makes and all get.
    ///
    /// # Errors
    /// Those of `make`; [`Error::Model`] when rank 0 is gone.
    pub fn share_text(&self, make: impl FnOnce() -> Result<String, Error>) -> Result<String, Error> {
        let Some(job) = &self.0 else { return make() };
        let key = format!("{}/text/{}", job.prefix, job.texts.fetch_add(1, Ordering::SeqCst));
        if self.is_first() {
            let text = make()?;
            job.store.set(&key, text.as_bytes())?;
            return Ok(text);
        }
        let _waiting = self.waiting();
        // Rank 0 may have much to read; if it is gone, the watch knows.
        let bytes = job.store.get(&key, EXCHANGE)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Replaces each number by the sum of all ranks' numbers.
    ///
    /// # Errors
    /// [`Error::Model`] when a rank is gone.
    pub fn sum(&self, numbers: &mut [f64]) -> Result<(), Error> {
        let Some(job) = &self.0 else { return Ok(()) };
        let sums = Tensor::from_slice(numbers); // [N]
        let _waiting = self.waiting();
        job.host.all_reduce(&sums)?.wait()?;
        numbers.copy_from_slice(&Vec::<f64>::try_from(&sums)?);
        Ok(())
    }

    /// Of each question, whether any rank says yes.
    ///
    /// # Errors
    /// [`Error::Model`] when a rank is gone.
    pub fn any<const N: usize>(&self, yes: [bool; N]) -> Result<[bool; N], Error> {
        let mut votes = yes.map(f64::from);
        self.sum(&mut votes)?;
        Ok(votes.map(|votes| votes > 0.0))
    }

    /// The number that rank 0 gives.
    ///
    /// # Errors
    /// [`Error::Model`] when a rank is gone.
    pub fn from_first(&self, number: f64) -> Result<f64, Error> {
        let mut numbers = [if self.is_first() { number } else { 0.0 }];
        self.sum(&mut numbers)?;
        Ok(numbers[0])
    }

    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// [`Error::Model`] when a rank is gone.
    pub fn barrier(&self) -> Result<(), Error> {
        self.any([false]).map(|_| ())
    }

    /// Tells the others that the training thread computes a step, and what is done: from now on it should tick.
    pub fn working(&self, step: u64) -> Said<'_> {
        if let Some(job) = &self.0 {
            job.watch.set_step(step);
        }
        self.say(Doing::Working)
    }

    /// Tells the others that the training thread waits for them, or for its device to hear from them.
    pub fn waiting(&self) -> Said<'_> {
        self.say(Doing::Waiting)
    }

    /// Tells the others that the training thread does something that may take long: reads, evaluates or saves.
    pub fn resting(&self) -> Said<'_> {
        self.say(Doing::Other)
    }

    /// Tells the others how many steps are done.
    pub fn done(&self, step: u64) {
        if let Some(job) = &self.0 {
            job.watch.set_step(step);
        }
    }

    /// Tells the others that the training thread gets on.
    pub fn tick(&self) {
        if let Some(job) = &self.0 {
            job.watch.tick();
        }
    }

    fn say(&self, doing: Doing) -> Said<'_> {
        let watch = self.0.as_ref().map(|job| &*job.watch);
        let before = watch.map_or(Doing::Other, |watch| watch.set(doing));
        Said { watch, before }
    }

    /// Leaves the job: to be called with what became of it, last of all. When it went well, all ranks leave together. When it
    /// did not, the others are told, and the process ends here: its device may be waiting for what will not come.
    ///
    /// # Errors
    /// Those of the result of a process that is alone; [`Error::Model`] when a rank is gone.
    pub fn leave<T, E>(self, result: Result<T, E>) -> Result<T, E>
    where
        E: std::fmt::Display + AsRef<dyn std::error::Error + Send + Sync>,
    {
        let Some(job) = &self.0 else { return result };
        let error = match result {
            Ok(value) => match self.barrier() {
                Ok(()) => {
                    job.watch.finish();
                    return Ok(value);
                }
                // All that was asked for is done.
                Err(_) => return Ok(value),
            },
            Err(error) => error,
        };
        let rank = job.launch.rank;
        if is_of_exchange(error.as_ref()) {
            // The watch ends the process as soon as it knows who is gone.
            job.watch.find_the_culprit();
        }
        let reason = format!("{error:#}");
        eprintln!("train: rank {rank}: {reason}");
        job.watch.fail(&reason);
        end_process(1)
    }
}

/// Whether an error is that of an exchange with others, who are then to blame.
fn is_of_exchange(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if matches!(error.downcast_ref(), Some(model::Error::Collective { .. }))
            || matches!(error.downcast_ref(), Some(Error::Model(model::Error::Collective { .. })))
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// Waits until all ranks are there; gives their machines' names.
fn assemble(launch: &Launch, store: &Store, prefix: &str, patience: Duration) -> Result<Vec<String>, Error> {
    let (rank, world_size) = (launch.rank, launch.world_size);
    let count = store.add(&format!("{prefix}/count/{rank}"), 1)?;
    if count != 1 {
        let reason = format!("{count} processes say that they are rank {rank} of {world_size}");
        return Err(Error::Join { reason });
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    store.set(&format!("{prefix}/host/{rank}"), name.trim().as_bytes())?;
    let begun = Instant::now();
    let mut hosts = Vec::with_capacity(world_size);
    while hosts.len() < world_size {
        match store.find(&format!("{prefix}/host/{}", hosts.len()))? {
            Some(host) => hosts.push(String::from_utf8_lossy(&host).into_owned()),
            None if begun.elapsed() < patience => std::thread::sleep(Duration::from_millis(20)),
            None => {
                let missing: Result<Vec<String>, Error> = (0..world_size)
                    .filter_map(|rank| match store.find(&format!("{prefix}/host/{rank}")) {
                        Ok(Some(_)) => None,
                        Ok(None) => Some(Ok(rank.to_string())),
                        Err(error) => Some(Err(error.into())),
                    })
                    .collect();
                let reason = format!(
                    "of {world_size} ranks, these have not come within {} s: {}; look at their output, or allow more \
                     time with --join-timeout",
                    patience.as_secs(),
                    missing?.join(", ")
                );
                return Err(Error::Join { reason });
            }
        }
    }
    Ok(hosts)
}
