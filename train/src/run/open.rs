//! How a run comes to be: new, branched off another one, or resumed from its newest usable checkpoint.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use loader::{Corpus, ShardFolder};
use model::MaskedLm;
use tch::Device;

use super::plan::{Beginning, Plan};
use super::{Run, length};
use crate::budget::Budget;
use crate::card;
use crate::checkpoint::{self, Checkpoint, Identity, Saver, State, Window};
use crate::config::{Config, DeviceChoice, PathChoice};
use crate::device;
use crate::distributed::{Ranks, Reducer};
use crate::error::Error;
use crate::eval;
use crate::folder::{RunFolder, RunLock};
use crate::host::{self, Data, Host, Provenance, Resumption};
use crate::journal::Journal;
use crate::layers;
use crate::micro_batch::{self, MicroBatchTokens};
use crate::model_folder::ModelFolder;
use crate::optimizer::DecoupledAdamW;
use crate::schedule::{MaskSchedule, Shape};

impl Run {
    /// A new run in `out`, trained on `shards`. It begins with the weights of `init`, where given, whose architecture the
    /// configuration must have; everything else begins anew.
    ///
    /// # Errors
    /// A folder that holds a run already, shards that cannot be read or do not fit the model, no such device.
    pub fn start(
        out: &Path,
        shards: &[ShardFolder],
        config: Config,
        init: Option<&ModelFolder>,
        ranks: &Ranks,
    ) -> Result<Run, Error> {
        // Everything that can be wrong is found before anything is written.
        let corpus = config.open_corpus(shards)?;
        check_vocabulary(&config, &corpus)?;
        let initial = init.map(|init| init.initial(&config, &corpus)).transpose()?;
        let device = device::choose_for(config.train.device, ranks)?;
        let pace = length::pace(&config, &corpus, 0)?;
        let (folder, lock) = RunFolder::create(out)?;
        let data = describe(&corpus, shards)?;
        let state = State::start(identity(&data), config.seed, pace);
        let beginning = if initial.is_some() { Beginning::Weights } else { Beginning::New };
        Plan::of(&folder, &config, &data, &state, beginning).tell(ranks)?;
        let (model, optimizer) = build(&config, device, ranks)?;
        let mut provenance = provenance(&config, data, device);
        if let Some(initial) = initial {
            provenance.init_from = Some(initial.load(model.parameters())?);
            optimizer.reducer().map_or(Ok(()), Reducer::share_parameters)?;
        }
        provenance.write(&folder.provenance())?;
        folder.write_config(&config)?;
        Run::assemble(folder, Some(lock), config, corpus, device, model, optimizer, state, ranks)
    }

    /// A new run in `out` that goes on from the checkpoint `trunk` of another one, whose learning rate is at its peak, and
    /// does nothing but decay, for as long as `decay` says. Counters, sample order and optimizer go on where the trunk's
    /// were; `sets` changes single values of its configuration. Without `shards` the trunk's are taken.
    ///
    /// # Errors
    /// [`Error::NotStable`] for a checkpoint of warm-up or decay; what [`Run::start`] and [`Run::resume`] refuse.
    pub fn branch(
        trunk: Checkpoint,
        out: &Path,
        shards: &[ShardFolder],
        decay: Budget,
        sets: &[String],
        device: Option<DeviceChoice>,
        ranks: &Ranks,
    ) -> Result<Run, Error> {
        let step = trunk.state.step;
        let progress = trunk.state.pace.progress(step);
        let mut config = trunk.config.clone();
        if !config.schedule.is_stable(progress) {
            let factor = config.schedule.factor(progress);
            return Err(Error::NotStable { path: trunk.path, factor });
        }
        (config.schedule.shape, config.schedule.warmup_fraction) = (Shape::Wsd, 0.0);
        config.schedule.decay_fraction = 1.0;
        if let MaskSchedule::Linear(line) = &mut config.train.mask_rate {
            line.from += (line.to - line.from) * progress;
        }
        (config.train.steps, config.train.budget) = match decay {
            Budget::Steps(steps) => (step + steps, None),
            other => (config.train.steps, Some(other)),
        };
        config.train.device = device.unwrap_or(config.train.device);
        let config = layers::change(&config, sets)?;
        let shards = match shards {
            [] => trunk.shards()?,
            shards => shards.to_vec(),
        };
        let corpus = config.open_corpus(&shards)?;
        check_vocabulary(&config, &corpus)?;
        let data = describe(&corpus, &shards)?;
        trunk.check(&config, identity(&data))?;
        let device = device::choose_for(config.train.device, ranks)?;
        let pace = length::pace(&config, &corpus, step)?;
        let (folder, lock) = RunFolder::create(out)?;
        let mut state = trunk.state.clone();
        state.pace = pace;
        (state.origin, state.mark) = (state.spent(), state.spent());
        (state.skipped_in_a_row, state.window) = (0, Window::default());
        state.files.clear();
        Plan::of(&folder, &config, &data, &state, Beginning::Branch).tell(ranks)?;
        let (model, mut optimizer) = build(&config, device, ranks)?;
        load(Some(&trunk), &state, &model, &mut optimizer)?;
        let mut provenance = provenance(&config, data, device);
        provenance.branched_from = Some(fs::canonicalize(&trunk.path).unwrap_or_else(|_| trunk.path.clone()));
        provenance.write(&folder.provenance())?;
        folder.write_config(&config)?;
        let mut run =
            Run::assemble(folder, Some(lock), config, corpus, device, model, optimizer, state, ranks)?;
        // From here on the branch needs its trunk no more, whatever happens.
        run.begin_to_save(run.state.clone())?;
        run.saver.wait()?;
        eprintln!("branched from {} at step {step}", trunk.path.display());
        Ok(run)
    }

    /// The run in `path`, from its newest usable checkpoint, or from the beginning when it has not saved yet.
    /// `shards` and `device` replace where the data lies and what computes, `micro_batch` in what pieces, `sets` other values that
    /// change no result; all must give the same results but for rounding.
    ///
    /// # Errors
    /// A folder that holds no run, one that another process trains in, checkpoints that are all unusable, or a
    /// checkpoint of another model or other data.
    pub fn resume(
        path: &Path,
        shards: &[ShardFolder],
        sets: &[String],
        device: Option<DeviceChoice>,
        micro_batch: Option<MicroBatchTokens>,
        ranks: &Ranks,
    ) -> Result<Run, Error> {
        let folder = RunFolder::open(path)?;
        let lock = folder.lock()?;
        let mut config = folder.read_config()?;
        config.train.device = device.unwrap_or(config.train.device);
        config.validate()?;
        if !sets.is_empty() {
            config = layers::change(&config, sets)?;
            folder.write_config(&config)?;
        }
        if let Some(asked) = micro_batch {
            micro_batch::resolve(asked, &mut config)?;
            folder.write_config(&config)?;
        }
        let mut provenance = Provenance::read(&folder.provenance())?;
        let shards = if shards.is_empty() { provenance.data.folders() } else { shards.to_vec() };
        let corpus = config.open_corpus(&shards)?;
        check_vocabulary(&config, &corpus)?;
        let data = describe(&corpus, &shards)?;
        let device = device::choose_for(config.train.device, ranks)?;
        fs::create_dir_all(folder.checkpoints())
            .map_err(|source| Error::Write { path: folder.checkpoints(), source })?;
        checkpoint::remove_unfinished(&folder.checkpoints())?;
        let found = checkpoint::latest(path, |error| eprintln!("{error}; trying the one before"))?;
        let (state, beginning) = match &found {
            Some(checkpoint) => {
                checkpoint.check(&config, identity(&data))?;
                (checkpoint.state.clone(), Beginning::Checkpoint)
            }
            None => {
                if let Some(trunk) = &provenance.branched_from {
                    return Err(Error::LostBranch { path: path.to_owned(), trunk: trunk.clone() });
                }
                eprintln!("{} has no checkpoint yet; starting from step 0", path.display());
                let pace = length::pace(&config, &corpus, 0)?;
                (State::start(identity(&data), config.seed, pace), Beginning::New)
            }
        };
        Plan::of(&folder, &config, &data, &state, beginning).tell(ranks)?;
        let (model, mut optimizer) = build(&config, device, ranks)?;
        if let Some(checkpoint) = &found {
            load(found.as_ref(), &state, &model, &mut optimizer)?;
            eprintln!("resuming from {}", checkpoint.path.display());
        }
        let program = host::PROGRAM.to_owned();
        provenance.resumptions.push(Resumption { step: state.step, at: host::now(), program });
        provenance.data = data;
        provenance.write(&folder.provenance())?;
        Run::assemble(folder, Some(lock), config, corpus, device, model, optimizer, state, ranks)
    }

    /// The run that rank 0 of a job starts, branches off or resumes, on a rank other than 0: nothing of it lies here but the
    /// shards, for which `shards` says where if not where rank 0 has them.
    ///
    /// # Errors
    /// [`Error::Join`] when the shards are others than rank 0's; shards that cannot be read; no such device.
    pub fn follow(shards: &[ShardFolder], ranks: &Ranks) -> Result<Run, Error> {
        let plan = Plan::hear(ranks)?;
        let shards = if shards.is_empty() { plan.folders() } else { shards.to_vec() };
        let (config, state) = (plan.config()?, plan.state);
        let corpus = config.open_corpus(&shards)?;
        check_vocabulary(&config, &corpus)?;
        let found = describe(&corpus, &shards)?.manifest_blake3;
        if found != state.manifest_blake3 {
            let reason = format!(
                "rank {} reads other shards than rank 0: their manifest is {found}, that of rank 0 is {}",
                ranks.rank(),
                state.manifest_blake3
            );
            return Err(Error::Join { reason });
        }
        let device = device::choose_for(config.train.device, ranks)?;
        let (model, mut optimizer) = build(&config, device, ranks)?;
        match plan.beginning {
            Beginning::New => {}
            Beginning::Weights => optimizer.reducer().map_or(Ok(()), Reducer::share_parameters)?,
            Beginning::Checkpoint | Beginning::Branch => load(None, &state, &model, &mut optimizer)?,
        }
        let folder = RunFolder::of_another(&plan.folder);
        let mut run = Run::assemble(folder, None, config, corpus, device, model, optimizer, state, ranks)?;
        if plan.beginning == Beginning::Branch {
            run.begin_to_save(run.state.clone())?;
        }
        Ok(run)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the structure, collected in two ways")]
    fn assemble(
        folder: RunFolder,
        lock: Option<RunLock>,
        config: Config,
        corpus: Arc<Corpus>,
        device: Device,
        model: MaskedLm,
        optimizer: DecoupledAdamW,
        state: State,
        ranks: &Ranks,
    ) -> Result<Run, Error> {
        if corpus.held_out_documents() == 0 && corpus.stored().is_some() {
            let hint = ", or ingest again with a larger --held-out";
            return Err(loader::Error::EmptySplit { split: "held-out", hint }.into());
        }
        let (journal, unigram) = match (&lock, corpus.stored()) {
            (Some(_), stored) => {
                let unigram = match stored {
                    None => Some(eval::unigram(&corpus, config.loader.policy, config.train.seq_len)?),
                    // The first evaluation counts: training need not wait for the ends of all shards.
                    Some(stored) => {
                        eprintln!("{stored}");
                        None
                    }
                };
                (Some(Journal::resume(&folder, state.step)?), unigram)
            }
            // Rank 0 writes.
            (None, _) => (None, None),
        };
        let peak = card::name(device).as_deref().and_then(card::peak_tflops);
        let saver = Saver::new(folder.checkpoints(), config.clone(), corpus.tokenizer_json());
        Ok(Run {
            folder,
            _lock: lock,
            config,
            corpus,
            device,
            model,
            optimizer,
            state,
            journal,
            saver,
            unigram,
            peak: peak.map(|peak| peak * ranks.world_size() as f64),
            ranks: ranks.clone(),
        })
    }
}

/// What a run that begins now comes from.
fn provenance(config: &Config, data: Data, device: Device) -> Provenance {
    Provenance {
        program: host::PROGRAM.to_owned(),
        commit: host::commit(),
        torch: host::TORCH.to_owned(),
        started: host::now(),
        command: std::env::args().collect(),
        host: Host::detect(),
        device: device::name(device).to_owned(),
        threads: tch::get_num_threads() as usize,
        data,
        parameters: config.model.parameter_count() as u64,
        branched_from: None,
        init_from: None,
        resumptions: Vec::new(),
    }
}

/// Model and optimizer of a configuration, with initial weights; in a job the same on all ranks, which call it together.
pub(crate) fn build(
    config: &Config,
    device: Device,
    ranks: &Ranks,
) -> Result<(MaskedLm, DecoupledAdamW), Error> {
    device::set_threads(config.train.threads);
    let mut model = MaskedLm::new(&config.model, config.seed, device, device::compute_kind(device))?;
    match config.train.path {
        PathChoice::Fused => model.use_fused_path()?,
        PathChoice::Auto if device.is_cuda() => {
            if let Err(reason) = model.use_fused_path()
                && ranks.is_first()
            {
                eprintln!("note: training on the reference path, which is slower: {reason}");
            }
        }
        PathChoice::Auto | PathChoice::Reference => {}
    }
    let reducer = match ranks.is_job() {
        true => Some(Reducer::new(ranks, model.parameters(), device, config.train.shard_optimizer)?),
        false => None,
    };
    let optimizer = DecoupledAdamW::of(config.optimizer.clone(), &model, reducer)?;
    Ok((model, optimizer))
}

/// Loads weights and moments; in a job all ranks call it together, and only rank 0 has the checkpoint.
fn load(
    checkpoint: Option<&Checkpoint>,
    state: &State,
    model: &MaskedLm,
    optimizer: &mut DecoupledAdamW,
) -> Result<(), Error> {
    if let Some(checkpoint) = checkpoint {
        checkpoint.load_parameters(model.parameters())?;
    }
    if let Some(reducer) = optimizer.reducer() {
        reducer.share_parameters()?;
    }
    match checkpoint {
        Some(checkpoint) => checkpoint.load_optimizer(optimizer),
        None => optimizer.load(None, state.updates),
    }
}

/// Refuses shards whose ids the model has no rows for.
pub(crate) fn check_vocabulary(config: &Config, corpus: &Corpus) -> Result<(), Error> {
    let (found, expected) = (config.model.vocab_size, corpus.tokenizer().model_vocab_size);
    match found == i64::from(expected) {
        true => Ok(()),
        false => Err(Error::Vocabulary { found, expected }),
    }
}

fn identity(data: &Data) -> Identity<'_> {
    Identity { manifest_blake3: &data.manifest_blake3, tokenizer_blake3: &data.tokenizer_blake3 }
}

/// Describes a corpus for the provenance.
fn describe(corpus: &Corpus, shards: &[ShardFolder]) -> Result<Data, Error> {
    let manifests = corpus.manifests();
    let weights = corpus.weights().unwrap_or_default().to_vec();
    let sums: Vec<String> = manifests.iter().map(|manifest| manifest.blake3()).collect();
    let manifest_blake3 = match sums.as_slice() {
        // Another mixture is another corpus.
        [_, _, ..] if !weights.is_empty() => {
            blake3::hash(format!("{sums:?} {weights:?}").as_bytes()).to_hex().to_string()
        }
        [one] => one.clone(),
        _ => blake3::hash(sums.concat().as_bytes()).to_hex().to_string(),
    };
    Ok(Data {
        shards: shards.iter().map(|folder| loader::absolute(&folder.path)).collect::<Result<_, _>>()?,
        weights,
        manifest_blake3,
        tokenizer_blake3: corpus.tokenizer().blake3.clone(),
        vocab_size: corpus.tokenizer().vocab_size,
        documents: manifests.iter().map(|manifest| manifest.documents).sum(),
        held_out_documents: manifests.iter().map(|manifest| manifest.held_out_documents).sum(),
        tokens: manifests.iter().map(|manifest| manifest.tokens).sum(),
        text_bytes: manifests.iter().map(|manifest| manifest.text_bytes).sum(),
        inputs: manifests
            .iter()
            .flat_map(|manifest| &manifest.ingest.inputs)
            .map(|input| input.path.rsplit('/').next().unwrap_or_default().to_owned())
            .collect(),
    })
}
