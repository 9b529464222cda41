//! Ranks that die or hang end the job, by name.
//!
//! Two threads of every rank. One, the pulse, tells the store what the rank is doing, reads what the others tell, and judges
//! ([`super::judge`]); a rank that fails by itself tells why. The other thread watches the pulse, which hangs when the store
//! does. Whichever notices that the job cannot go on says who is to blame and ends the process, since its training thread may be
//! waiting inside a library for somebody who will not come.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use model::torch::distributed::{Group, Store, end_process};

use super::judge::{Beat, Doing, Judge};
use super::launch::Launch;
use crate::error::Error;

/// Between two beats.
const BEAT: Duration = Duration::from_millis(500);

/// How long a rank may be silent once an exchange has failed somewhere: then somebody is dead, and it is only asked who.
const TROUBLED: Duration = Duration::from_secs(10);

/// How long the keeper of the store stays, so that the others learn why the job ends.
const LINGER: Duration = Duration::from_secs(3);

/// The key of the reason why the job ends.
const FAILED: &str = "failed";
/// The key that is there once an exchange has failed.
const TROUBLE: &str = "trouble";

/// What this rank's threads share.
#[derive(Debug)]
pub(super) struct Watch {
    doing: AtomicU8,
    ticks: AtomicU64,
    step: AtomicU64,
    /// Milliseconds since `begun` when the pulse last came round.
    pulse: AtomicU64,
    begun: Instant,
    /// No more judging: the job is over.
    over: AtomicBool,
    store: Store,
    prefix: String,
    launch: Launch,
    patience: Duration,
    /// The exchange on the device, which may fail without anybody waiting for it.
    group: Mutex<Option<Arc<Group>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Watch {
    /// Starts the threads, over a connection to the store of their own; `hosts` are all ranks' machines.
    ///
    /// # Errors
    /// [`Error::Threads`] when the system gives no thread.
    pub(super) fn start(
        launch: &Launch,
        store: Store,
        prefix: String,
        hosts: Vec<String>,
        patience: Duration,
    ) -> Result<Arc<Watch>, Error> {
        let watch = Arc::new(Watch {
            doing: AtomicU8::new(Doing::Other as u8),
            ticks: AtomicU64::new(0),
            step: AtomicU64::new(0),
            pulse: AtomicU64::new(0),
            begun: Instant::now(),
            over: AtomicBool::new(false),
            store,
            prefix,
            launch: launch.clone(),
            patience,
            group: Mutex::new(None),
            threads: Mutex::new(Vec::new()),
        });
        for (name, run) in [("pulse", Watch::pulse as fn(&Watch, &[String])), ("watch", Watch::watch)] {
            let (own, hosts) = (watch.clone(), hosts.clone());
            let thread = thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || run(&own, &hosts))
                .map_err(|source| Error::Threads { source })?;
            watch.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(watch)
    }

    /// What the training thread does from now on.
    pub(super) fn set(&self, doing: Doing) -> Doing {
        self.ticks.fetch_add(1, Ordering::Relaxed);
        Doing::of(self.doing.swap(doing as u8, Ordering::Relaxed))
    }

    /// The training thread gets on.
    pub(super) fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// Steps done.
    pub(super) fn set_step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }

    /// Looks after a group whose operations fail without anybody waiting for them.
    pub(super) fn look_after(&self, group: &Arc<Group>) {
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = Some(group.clone());
    }

    /// The job is over in good order, for all ranks. Whoever keeps the store waits until the others do not need it any more.
    pub(super) fn finish(&self) {
        self.set(Doing::Done);
        self.over.store(true, Ordering::SeqCst);
        // Their last requests come before the store is closed.
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            thread.thread().unpark();
            let _ = thread.join();
        }
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let own = self.key(&format!("beat/{}", self.launch.rank));
        let _ = self.store.set(&own, self.beat(u64::MAX).to_text().as_bytes());
        let left = |rank: usize| match self.store.find(&self.key(&format!("beat/{rank}"))) {
            Ok(Some(text)) => Beat::read(&text).is_some_and(|beat| beat.doing == Doing::Done),
            _ => false,
        };
        let begun = Instant::now();
        while self.launch.keeps_store() && begun.elapsed() < LINGER && !(0..self.launch.world_size).all(left)
        {
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// An exchange has failed: somebody is gone. Returns when nobody could say who.
    pub(super) fn find_the_culprit(&self) {
        let _ = self.store.set(&self.key(TROUBLE), b"");
        // The pulse ends the process when it knows.
        thread::sleep(TROUBLED.min(self.patience) * 2 + 10 * BEAT);
    }

    /// This rank gives up because of `reason`, which the others are told.
    pub(super) fn fail(&self, reason: &str) {
        self.over.store(true, Ordering::SeqCst);
        self.tell(&format!("rank {} failed: {reason}", self.launch.rank));
        self.linger();
    }

    fn beat(&self, number: u64) -> Beat {
        Beat {
            number,
            doing: Doing::of(self.doing.load(Ordering::Relaxed)),
            ticks: self.ticks.load(Ordering::Relaxed),
            step: self.step.load(Ordering::Relaxed),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    fn pulse(&self, hosts: &[String]) {
        let mut judge = Judge::new(self.launch.rank, hosts.to_vec(), self.patience, self.begun.elapsed());
        let mut beats = vec![Beat::default(); hosts.len()];
        for number in 1.. {
            match self.round(number, &mut judge, &mut beats) {
                _ if self.over.load(Ordering::SeqCst) => return,
                Ok(None) => {}
                Ok(Some(verdict)) => {
                    self.tell(&verdict);
                    self.end(&verdict);
                }
                Err(error) => self.end(&format!("{} is gone: {error}", self.keeper(hosts))),
            }
            self.pulse.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
            thread::park_timeout(BEAT);
        }
    }

    /// One beat, and one look at the others. Gives the reason for the job to end, if there is one.
    fn round(
        &self,
        number: u64,
        judge: &mut Judge,
        beats: &mut [Beat],
    ) -> Result<Option<String>, model::Error> {
        self.store
            .set(&self.key(&format!("beat/{}", self.launch.rank)), self.beat(number).to_text().as_bytes())?;
        if let Some(reason) = self.store.find(&self.key(FAILED))? {
            return Ok(Some(String::from_utf8_lossy(&reason).into_owned()));
        }
        let group = self.group.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(Err(error)) = group.map(|group| group.check()) {
            eprintln!("train: rank {}: {error}", self.launch.rank);
            self.store.set(&self.key(TROUBLE), b"")?;
            // Once is enough.
            *self.group.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let trouble = self.store.find(&self.key(TROUBLE))?.map(|_| TROUBLED);
        for rank in judge.watched() {
            let beat = &mut beats[rank];
            if let Some(text) = self.store.find(&self.key(&format!("beat/{rank}")))? {
                *beat = Beat::read(&text).unwrap_or(*beat);
            }
        }
        Ok(judge.look(self.begun.elapsed(), beats, trouble))
    }

    /// Watches the pulse.
    fn watch(&self, hosts: &[String]) {
        let (mut looked, mut quiet) = (Instant::now(), Duration::ZERO);
        let mut last = 0;
        while !self.over.load(Ordering::SeqCst) {
            thread::park_timeout(BEAT / 2);
            // Not the time that this process itself did not run for.
            quiet += looked.elapsed().min(BEAT);
            looked = Instant::now();
            let pulse = self.pulse.load(Ordering::Relaxed);
            if pulse != last {
                (last, quiet) = (pulse, Duration::ZERO);
            }
            if quiet > self.patience && !self.over.load(Ordering::SeqCst) {
                let since = quiet.as_secs();
                self.end(&format!("{} has not answered for {since} s", self.keeper(hosts)));
            }
        }
    }

    /// Who keeps the store.
    fn keeper(&self, hosts: &[String]) -> String {
        let Launch { address, port, agent_store, .. } = &self.launch;
        match (agent_store, hosts.first()) {
            (false, Some(host)) => format!("rank 0 ({host}), which keeps the job's store,"),
            _ => format!("the launcher's store at {address}:{port}"),
        }
    }

    /// Writes the reason to the store, unless another rank has written one.
    fn tell(&self, reason: &str) {
        if self.store.add(&self.key("failures"), 1).is_ok_and(|count| count == 1) {
            let _ = self.store.set(&self.key(FAILED), reason.as_bytes());
        }
    }

    fn linger(&self) {
        if self.launch.keeps_store() {
            thread::sleep(LINGER);
        }
    }

    /// Ends this process.
    fn end(&self, reason: &str) -> ! {
        eprintln!(
            "train: rank {}: the job ends, because {reason}. What has been saved is good: start it again with `--resume`",
            self.launch.rank
        );
        self.linger();
        end_process(1)
    }
}
