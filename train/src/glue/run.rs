//! Runs GLUE: one fine-tuning a task and seed, by one process or several side by side.
//!
//! All processes go through the same list. Who takes a fine-tuning locks its folder; the system releases the lock when
//! the process ends, however it ends. A finished one has its `result.json`, which is written last, and is not repeated.
//! So the same command continues after a crash, and may even be given on several machines that share the folder.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tch::Device;

use super::data::{TaskData, present};
use super::metrics::{self, Metric};
use super::recipe::{Recipe, StartFrom};
use super::results::{
    GlueResults, ModelSource, SeedKey, SeedResult, TaskResult, make_dir, read_json, write_bytes, write_json,
};
use super::submission;
use super::tasks::{TASKS, Task};
use crate::config::DeviceChoice;
use crate::device;
use crate::error::Error;
use crate::finetune::{self, FinetuneError, Order, Start, examples, prediction};
use crate::model_folder::{ModelFolder, ModelProvenance};
use crate::stop::Stop;

/// How long to wait before looking again for work that depends on somebody else's.
const PATIENCE: Duration = Duration::from_millis(300);

/// What to run.
#[derive(Clone, Debug)]
pub struct GlueJob {
    /// The model: a run, a checkpoint or a model folder.
    pub from: PathBuf,
    /// GLUE's folder.
    pub data: PathBuf,
    /// Where results go; see [`default_out`].
    pub out: Option<PathBuf>,
    /// The tasks; empty takes all that `data` has.
    pub tasks: Vec<Task>,
    /// Name of the recipe, or its file.
    pub recipe: String,
    /// Number of seeds, where it is not to be the recipe's.
    pub seeds: Option<usize>,
    /// The order of training, where it is not to be the recipe's.
    pub order: Option<Order>,
    /// Where to compute.
    pub device: DeviceChoice,
}

/// A run of GLUE, with everything read and checked.
pub struct GlueRun {
    start: Start,
    out: PathBuf,
    recipe_name: String,
    recipe: Recipe,
    tasks: Vec<Task>,
    data: BTreeMap<Task, TaskData>,
    device: Device,
}

/// Where results go when it is not said: into the folder of the checkpoint's run, as `RUN/glue/step-000100-RECIPE`, which
/// is where `train pareto` looks; beside a model folder as `MODEL-glue-RECIPE`.
pub fn default_out(start: &Start, recipe: &str) -> PathBuf {
    let recipe = Path::new(recipe).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let path = fs::canonicalize(&start.folder.path).unwrap_or_else(|_| start.folder.path.clone());
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match (start.progress(), path.parent().and_then(Path::parent)) {
        (Some(_), Some(run)) => run.join("glue").join(format!("{name}-{recipe}")),
        _ => path.with_file_name(format!("{name}-glue-{recipe}")),
    }
}

/// The folder of one fine-tuning.
pub(crate) fn seed_dir(out: &Path, task: Task, seed: u64) -> PathBuf {
    out.join("tasks").join(task.spec().key).join(format!("seed-{seed}"))
}

impl GlueRun {
    /// Reads and checks model, recipe and data; nothing is trained or written.
    ///
    /// # Errors
    /// Whatever is wrong with one of them, by name.
    pub fn prepare(job: &GlueJob) -> Result<GlueRun, Error> {
        let mut recipe = Recipe::find(&job.recipe)?;
        if let Some(seeds) = job.seeds {
            recipe.take_seeds(seeds);
        }
        recipe.order = job.order.unwrap_or(recipe.order);
        let start = Start::open(&job.from)?;
        let asked = match job.tasks.as_slice() {
            [] => present(&job.data)?,
            tasks => tasks.to_vec(),
        };
        let tasks: Vec<Task> = TASKS.into_iter().filter(|task| asked.contains(task)).collect();
        if tasks.is_empty() {
            let known = TASKS.map(|task| task.spec().name).join(", ");
            return Err(FinetuneError::NoTask {
                task: "any task",
                folder: job.data.clone(),
                reason: format!("it has none of the folders {known}"),
            }
            .into());
        }
        let mut data = BTreeMap::new();
        for &task in &tasks {
            recipe.task(task)?;
            start.check(recipe.seq_len, task.spec().pairs())?;
            data.insert(task, TaskData::read(&job.data, task)?);
        }
        let device = device::choose(job.device)?;
        let out = job.out.clone().unwrap_or_else(|| default_out(&start, &job.recipe));
        Ok(GlueRun { start, out, recipe_name: job.recipe.clone(), recipe, tasks, data, device })
    }

    /// Where results go.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// Runs what is not finished, with `jobs` processes, and sums up. `worker` is the command that starts another process
    /// for the same list.
    ///
    /// # Errors
    /// [`FinetuneError::Jobs`] when some failed, [`FinetuneError::Stopped`]; what is finished stays.
    pub fn run(
        &self,
        jobs: usize,
        stop: &Stop,
        worker: impl Fn() -> Result<Command, Error>,
    ) -> Result<GlueResults, Error> {
        make_dir(&self.out)?;
        self.check_finished()?;
        let unfinished =
            self.list().iter().filter(|&&(task, seed)| !self.result_path(task, seed).exists()).count();
        let mut workers = Workers(Vec::new());
        for _ in 1..jobs.clamp(1, unfinished.max(1)) {
            let mut command = worker()?;
            let child = command
                .spawn()
                .map_err(|source| Error::Read { path: command.get_program().into(), source })?;
            workers.0.push(child);
        }
        let done = self.work(jobs, stop);
        match &done {
            Ok(()) => workers.join(),
            Err(_) => workers.stop(),
        }
        done?;
        self.sum_up()
    }

    /// Works through the list until nothing is left that this process could do.
    ///
    /// # Errors
    /// [`FinetuneError::Jobs`], [`FinetuneError::Stopped`].
    pub fn work(&self, jobs: usize, stop: &Stop) -> Result<(), Error> {
        if jobs > 1 && !self.device.is_cuda() {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            device::set_threads((cores / jobs).max(1));
        }
        let list = self.list();
        let mut failed: HashSet<(Task, u64)> = HashSet::new();
        let mut first_failure = None;
        let encoded = Encoded::default();
        loop {
            let mut left = 0;
            let mut progressed = false;
            for &(task, seed) in &list {
                if failed.contains(&(task, seed)) || self.result_path(task, seed).exists() {
                    continue;
                }
                let needed = self.needs(task).map(|seed| (Task::Mnli, seed));
                if needed.is_some_and(|needed| failed.contains(&needed)) {
                    failed.insert((task, seed));
                    continue;
                }
                left += 1;
                if needed.is_some_and(|(task, seed)| !self.result_path(task, seed).exists()) {
                    continue;
                }
                let Some(_lock) = self.lock(task, seed)? else { continue };
                // Somebody else may have finished it between the two looks.
                if self.result_path(task, seed).exists() {
                    continue;
                }
                progressed = true;
                match self.fine_tune(task, seed, &encoded, stop) {
                    Ok(()) => {}
                    Err(error @ Error::Finetune(FinetuneError::Stopped)) => return Err(error),
                    Err(error) => {
                        let what = format!("{} with seed {seed}", task.spec().name);
                        let reason = chain(&error);
                        eprintln!("{what} failed: {reason}");
                        first_failure.get_or_insert(format!("{what}: {reason}"));
                        failed.insert((task, seed));
                    }
                }
            }
            if stop.requested() {
                return Err(FinetuneError::Stopped.into());
            }
            if left == 0 {
                break;
            }
            if !progressed {
                std::thread::sleep(PATIENCE);
            }
        }
        match first_failure {
            None => Ok(()),
            Some(first) => Err(FinetuneError::Jobs { failed: failed.len(), jobs: list.len(), first }.into()),
        }
    }

    /// Task and seed of every fine-tuning: MNLI first, since others wait for it, then the largest.
    fn list(&self) -> Vec<(Task, u64)> {
        let mut tasks = self.tasks.clone();
        let steps = |task: &Task| {
            let settings = self.recipe.settings(*task).map_or(0, |s| s.steps(self.data[task].train.len()));
            (*task != Task::Mnli, std::cmp::Reverse(settings))
        };
        tasks.sort_by_key(steps);
        let seeds = |task: Task| self.recipe.tasks[&task].seeds.iter().map(move |&seed| (task, seed));
        tasks.into_iter().flat_map(seeds).collect()
    }

    /// The seed of MNLI whose result a task starts from, if it does.
    fn needs(&self, task: Task) -> Option<u64> {
        let wanted = self.recipe.tasks[&task].start == StartFrom::Mnli && self.tasks.contains(&Task::Mnli);
        wanted.then(|| self.recipe.tasks[&Task::Mnli].seeds[0])
    }

    fn result_path(&self, task: Task, seed: u64) -> PathBuf {
        seed_dir(&self.out, task, seed).join("result.json")
    }

    fn model_path(&self, seed: u64) -> PathBuf {
        seed_dir(&self.out, Task::Mnli, seed).join("model")
    }

    /// Takes a fine-tuning, unless another process has it.
    fn lock(&self, task: Task, seed: u64) -> Result<Option<File>, Error> {
        let dir = seed_dir(&self.out, task, seed);
        make_dir(&dir)?;
        let path = dir.join("lock");
        let file = File::options().create(true).write(true).truncate(false).open(&path);
        let file = file.map_err(|source| Error::Write { path: path.clone(), source })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(Error::Write { path, source: error.into() }),
        }
    }

    /// What decides a fine-tuning.
    fn key(&self, task: Task) -> Result<SeedKey, Error> {
        Ok(SeedKey {
            model_blake3: self.start.identity.model_blake3.clone(),
            data_blake3: self.data[&task].blake3.clone(),
            settings: self.recipe.settings(task)?,
            started_from: match self.needs(task) {
                Some(seed) => format!("mnli, seed {seed}"),
                None => "pretrained".to_owned(),
            },
            device: device::name(self.device).to_owned(),
        })
    }

    /// Refuses a folder whose finished results are of something else.
    fn check_finished(&self) -> Result<(), Error> {
        for (task, seed) in self.list() {
            let path = self.result_path(task, seed);
            if path.exists() {
                let found: SeedResult = read_json(&path)?;
                if let Some((what, found, expected)) = found.key.difference(&self.key(task)?) {
                    let path = self.out.clone();
                    return Err(FinetuneError::OtherResults { path, what, found, expected }.into());
                }
            }
        }
        Ok(())
    }

    /// One fine-tuning: training, evaluation, predictions, and last its result.
    fn fine_tune(&self, task: Task, seed: u64, encoded: &Encoded, stop: &Stop) -> Result<(), Error> {
        let (spec, data, key) = (task.spec(), &self.data[&task], self.key(task)?);
        let begun = Instant::now();
        let examples = encoded.get(data, &self.start, self.recipe.seq_len)?;
        let from = self.needs(task).map(|seed| Start::open(&self.model_path(seed))).transpose()?;
        let start = from.as_ref().unwrap_or(&self.start);
        let kind = key.settings.precision.compute_kind(self.device);
        let model = start.classifier(spec.num_labels(), seed, self.device, kind)?;
        let epochs = key.settings.epochs;
        let said = |epoch, loss| {
            eprintln!("{:<5} seed {seed:<5} epoch {epoch}/{epochs}  loss {loss:.4}", spec.name);
        };
        let fitted = finetune::fit(&model, &examples.train, &key.settings, seed, self.device, stop, said)?;

        let dir = seed_dir(&self.out, task, seed);
        let predict = |set: &[finetune::Example]| -> Result<Vec<f64>, Error> {
            Ok(finetune::scores(&model, set, self.device)?.iter().map(|scores| prediction(scores)).collect())
        };
        let mut results = BTreeMap::new();
        for (number, (set, texts)) in examples.dev.iter().zip(&data.dev).enumerate() {
            let predictions = predict(set)?;
            let labels: Vec<f64> = texts.iter().map(|text| text.label).collect();
            for &metric in spec.metrics.iter().chain(spec.also) {
                // The second set of MNLI has a measure of its own.
                if (metric == Metric::AccuracyMismatched) == (number == 1) {
                    results.insert(metric, metric.of(&labels, &predictions));
                }
            }
            let path = dir.join(format!("{}.tsv", spec.dev[number].tsv));
            write_bytes(&path, submission::with_labels(spec, &predictions, texts).as_bytes())?;
        }
        for (set, split) in examples.test.iter().zip(spec.test) {
            let path = dir.join(split.submission.unwrap_or(split.tsv));
            write_bytes(&path, submission::submission(spec, &predict(set)?).as_bytes())?;
        }
        let is_start = |&other: &Task| other != task && self.recipe.tasks[&other].start == StartFrom::Mnli;
        if task == Task::Mnli && self.tasks.iter().any(is_start) {
            self.save_model(&model, &self.model_path(seed))?;
        }
        let counted: Vec<f64> = spec.metrics.iter().map(|metric| results[metric]).collect();
        let seconds = begun.elapsed().as_secs_f64();
        let score = metrics::mean(&counted);
        let shown: Vec<String> =
            results.iter().map(|(metric, value)| format!("{} {:.2}", metric.name(), 100.0 * value)).collect();
        eprintln!("{:<5} seed {seed:<5} done in {seconds:.0} s: {}", spec.name, shown.join(", "));
        write_json(
            &self.result_path(task, seed),
            &SeedResult { task, seed, key, metrics: results, score, fitted, seconds },
        )
    }

    /// Saves what other tasks start from.
    fn save_model(&self, model: &model::SequenceClassifier, path: &Path) -> Result<(), Error> {
        // Left over from a process that was killed before its result was written.
        if path.exists() {
            fs::remove_dir_all(path).map_err(|source| Error::Write { path: path.to_owned(), source })?;
        }
        let notes = vec!["fine-tuned on MNLI, for the tasks that start from it".to_owned()];
        let provenance = ModelProvenance::now("train glue", &self.start.folder.path, &[], notes)?;
        let (tokenizer, tensors) = (self.start.folder.tokenizer.bytes(), model.parameters().iter());
        ModelFolder::write(path, &self.start.folder.config, tokenizer, tensors, &provenance)
    }

    /// Reads all results and writes the summary and the submission.
    fn sum_up(&self) -> Result<GlueResults, Error> {
        let mut tasks = Vec::new();
        for &task in &self.tasks {
            let seeds: Vec<SeedResult> = self.recipe.tasks[&task]
                .seeds
                .iter()
                .map(|&seed| read_json(&self.result_path(task, seed)))
                .collect::<Result<_, _>>()?;
            let data = &self.data[&task];
            let mut notes = Vec::new();
            if self.recipe.tasks[&task].start == StartFrom::Mnli && self.needs(task).is_none() {
                notes
                    .push("MNLI was not run: it started from the pretrained model, not from MNLI".to_owned());
            }
            if self.needs(task).is_some() && !self.data[&Task::Mnli].unofficial.is_empty() {
                notes.push("it started from an MNLI that is not the official one".to_owned());
            }
            if let Some(seed) = submission::collect(&self.out, task.spec(), &seeds)? {
                notes.push(format!("submission: seed {seed}, the best on the development set"));
            }
            tasks.push(TaskResult::of(
                &seeds,
                &data.unofficial,
                notes,
                data.train.len(),
                data.dev_examples(),
            ));
        }
        let model = ModelSource {
            path: self.start.identity.path.clone(),
            blake3: self.start.identity.model_blake3.clone(),
            progress: self.start.progress(),
            config: self.start.folder.config.clone(),
        };
        let device = device::name(self.device);
        let results = GlueResults::of(model, &self.recipe_name, self.recipe.clone(), device, tasks);
        results.write(&self.out)?;
        Ok(results)
    }
}

/// An error with all its causes.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// The processes that work beside this one.
struct Workers(Vec<Child>);

impl Workers {
    /// Waits for them.
    fn join(&mut self) {
        for child in &mut self.0 {
            // Their failures are on the screen, and what they left undone this process has tried too.
            let _ = child.wait();
        }
    }

    /// Asks them to stop, and waits.
    fn stop(&mut self) {
        for child in &self.0 {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // One that has ended already cannot be asked.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        self.join();
    }
}

/// A task's examples as token ids.
struct EncodedTask {
    train: Vec<finetune::Example>,
    dev: Vec<Vec<finetune::Example>>,
    test: Vec<Vec<finetune::Example>>,
}

/// The examples of the task at hand: seeds of one task follow each other.
#[derive(Default)]
struct Encoded(RefCell<Option<(Task, std::rc::Rc<EncodedTask>)>>);

impl Encoded {
    fn get(&self, data: &TaskData, start: &Start, seq_len: usize) -> Result<std::rc::Rc<EncodedTask>, Error> {
        if let Some((task, encoded)) = &*self.0.borrow()
            && *task == data.task
        {
            return Ok(encoded.clone());
        }
        let encode = |texts: &Vec<examples::Text>| examples::encode(texts, &start.folder.tokenizer, seq_len);
        let encoded = std::rc::Rc::new(EncodedTask {
            train: encode(&data.train)?,
            dev: data.dev.iter().map(encode).collect::<Result<_, _>>()?,
            test: data.test.iter().map(encode).collect::<Result<_, _>>()?,
        });
        *self.0.borrow_mut() = Some((data.task, encoded.clone()));
        Ok(encoded)
    }
}
