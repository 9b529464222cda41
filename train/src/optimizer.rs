//! Decoupled AdamW as Composer defines it (`composer/optim/decoupled_weight_decay.py`, `DecoupledAdamW`).
//!
//! With gradient g, parameter p, moments m and v, update number t (from 1), learning rate lr and peak lr₀:
//!
//! ```text
//! p ← p · (1 − (lr / lr₀) · weight_decay)          every parameter, biases and LayerNorms included
//! m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
//! p ← p − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
//! ```
//!
//! The decay is multiplied by lr / lr₀ and not by lr as in Loshchilov and Hutter's AdamW as PyTorch writes it, so
//! `weight_decay` is the share of a weight lost per update at the peak, whatever the learning rate.
//!
//! On the fused path one kernel does it all, and it is decided on the card whether a gradient is usable, so that the host
//! never waits for it. Elsewhere it is torch's element-wise operators: all arithmetic is in place. The gradients serve as scratch memory, so nothing is allocated after the first
//! update; and since torch's element-wise kernels each make one pass over memory, large parameters are walked in
//! pieces that stay in the processor's cache from the first kernel to the last.

use std::collections::HashMap;
use std::path::Path;

use model::tensor_file::TensorFile;
use model::{AdamW, MaskedLm, SequenceClassifier};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use crate::distributed::{Reducer, Shard};
use crate::error::Error;

/// Elements handled at a time on the CPU: four tensors of 4 bytes each make 1 MiB, a second-level cache.
const PIECE: i64 = 1 << 16;

/// Hyperparameters of [`DecoupledAdamW`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Peak learning rate lr₀; the schedule multiplies it.
    pub lr: f64,
    /// Decay rates of the two moments, each in `[0, 1)`.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Share of every weight that is lost per update at the peak learning rate.
    pub weight_decay: f64,
    /// A gradient whose norm is above this is scaled down to it; 0 never does.
    pub clip_norm: f64,
}

/// The optimizer and its state: two moments a parameter and the number of updates done.
#[derive(Debug)]
pub struct DecoupledAdamW {
    config: OptimizerConfig,
    slots: Vec<Slot>,
    /// Updates made so far, where `fused` does not count them.
    updates: u64,
    /// The update as one kernel, over the moments in `slots`.
    fused: Option<AdamW>,
    /// What sums the gradients over the ranks of a job.
    reducer: Option<Reducer>,
    /// `[elements of this rank's share]` each: the memory of the moments, where the optimizer is sharded.
    shares: Option<[Tensor; 2]>,
}

/// One parameter with its moments; all three have the same shape, kind and device. Where the optimizer is sharded, a part of one.
#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Tensor,
    first: Tensor,
    second: Tensor,
    /// That of a part.
    gradient: Option<Tensor>,
}

impl Slot {
    /// The gradient, undefined if there is none.
    fn gradient(&self) -> Tensor {
        self.gradient.as_ref().map_or_else(|| self.parameter.grad(), Tensor::shallow_clone)
    }
}

impl DecoupledAdamW {
    /// An optimizer over `parameters`, with moments of zero. The tensors are shared, not copied.
    pub fn new<'a>(
        config: OptimizerConfig,
        parameters: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    ) -> DecoupledAdamW {
        let slots = parameters
            .into_iter()
            .map(|(name, parameter)| Slot {
                name: name.to_owned(),
                parameter: parameter.shallow_clone(),
                first: no_grad(|| parameter.zeros_like()),
                second: no_grad(|| parameter.zeros_like()),
                gradient: None,
            })
            .collect();
        DecoupledAdamW { config, slots, updates: 0, fused: None, reducer: None, shares: None }
    }

    /// The optimizer of `model`: the fused one where the model is on the fused path. In a job of several ranks, `reducer` sums
    /// the gradients first.
    ///
    /// # Errors
    /// [`Error::Model`] when the card refuses.
    pub fn of(
        config: OptimizerConfig,
        model: &MaskedLm,
        reducer: Option<Reducer>,
    ) -> Result<DecoupledAdamW, Error> {
        if let Some((shards, elements)) = reducer.as_ref().filter(|one| one.is_sharded()).map(Reducer::shards)
        {
            let optimizer = DecoupledAdamW::sharded(config, model, shards, elements)?;
            return Ok(DecoupledAdamW { reducer, ..optimizer });
        }
        let mut optimizer =
            DecoupledAdamW { reducer, ..DecoupledAdamW::new(config, model.parameters().iter()) };
        if model.is_fused() {
            optimizer.fused = Some(model.fused_adamw(&optimizer.moments())?);
        }
        Ok(optimizer)
    }

    /// As [`Self::of`], for fine-tuning.
    ///
    /// # Errors
    /// [`Error::Model`] when the card refuses.
    pub fn of_classifier(
        config: OptimizerConfig,
        model: &SequenceClassifier,
    ) -> Result<DecoupledAdamW, Error> {
        let mut optimizer = DecoupledAdamW::new(config, model.parameters().iter());
        if model.is_fused() {
            optimizer.fused = Some(model.fused_adamw(&optimizer.moments())?);
        }
        Ok(optimizer)
    }

    /// The moments of each parameter.
    fn moments(&self) -> Vec<[&Tensor; 2]> {
        self.slots.iter().map(|slot| [&slot.first, &slot.second]).collect()
    }

    /// An optimizer over this rank's share of the parameters, of so many elements.
    fn sharded(
        config: OptimizerConfig,
        model: &MaskedLm,
        shards: Vec<Shard>,
        elements: usize,
    ) -> Result<DecoupledAdamW, Error> {
        let mut optimizer = DecoupledAdamW::new(config, []);
        let (_, like) = model.parameters().iter().next().expect("a model has parameters");
        let zeros = || Tensor::f_zeros([elements as i64], (like.kind(), like.device()));
        let shares = [zeros()?, zeros()?]; // [elements of the share] each
        for Shard { parameter, range, values, gradient } in shards {
            let [first, second] =
                shares.each_ref().map(|share| share.narrow(0, range.start as i64, range.len() as i64)); // [N] each
            let name = format!("part of parameter {parameter}");
            optimizer.slots.push(Slot { name, parameter: values, first, second, gradient: Some(gradient) });
        }
        if model.is_fused() && !optimizer.slots.is_empty() {
            let piece = |slot: &Slot| {
                [
                    slot.parameter.shallow_clone(),
                    slot.gradient(),
                    slot.first.shallow_clone(),
                    slot.second.shallow_clone(),
                ]
            };
            optimizer.fused = Some(model.fused_adamw_of_pieces(optimizer.slots.iter().map(piece).collect())?);
        }
        optimizer.shares = Some(shares);
        Ok(optimizer)
    }

    /// What sums the gradients, in a job of several ranks.
    pub fn reducer(&self) -> Option<&Reducer> {
        self.reducer.as_ref()
    }

    /// Number of updates done so far (t of the formula). Skipped steps do not count. On the fused path this waits for
    /// the card.
    pub fn updates(&self) -> u64 {
        self.fused.as_ref().map_or(self.updates, AdamW::updates)
    }

    /// Euclidean norm of all gradients together, a scalar on the parameters' device; of this rank's share where the optimizer is
    /// sharded.
    ///
    /// # Errors
    /// [`Error::Model`] when there is no gradient at all.
    pub fn gradient_norm(&self) -> Result<Tensor, Error> {
        let gradients: Vec<Tensor> = self.slots.iter().map(Slot::gradient).filter(Tensor::defined).collect();
        if let (true, Some([share, _])) = (gradients.is_empty(), &self.shares) {
            // All of this rank's share is between parameters.
            return Ok(Tensor::f_zeros([0i64; 0], (share.kind(), share.device()))?);
        }
        Ok(model::torch::norm(&gradients.iter().collect::<Vec<_>>())?)
    }

    /// One update where `numbers` are all finite, none where one of them is not; the gradients are zero afterwards. Their
    /// `norm` is what they are clipped by, if at all: multiplied by `clip_norm / (norm + 1e-6)` where that is below 1, as
    /// PyTorch's `clip_grad_norm_` does. On the fused path nothing is waited for.
    ///
    /// # Shape
    /// - `numbers`: `[N]`, `norm`: `[1]`, both float64, on the parameters' device
    ///
    /// # Errors
    /// [`Error::Model`] or [`Error::Torch`] when the device refuses.
    pub fn step_if_finite(&mut self, lr: f64, numbers: &Tensor, norm: &Tensor) -> Result<(), Error> {
        let finite = numbers.isfinite().all().view(1); // [1]
        let factor = match self.config.clip_norm {
            0.0 => finite.to_kind(Kind::Double),
            clip => {
                let scale = ((norm + 1e-6).reciprocal() * clip).clamp_max(1.0); // [1]
                scale.where_self(&finite, &scale.zeros_like()) // [1]: not a number times zero is none
            }
        };
        match &self.fused {
            Some(fused) => fused.update(lr, self.config.betas, self.config.eps, self.keep(lr), &factor)?,
            None => match factor.f_double_value(&[0])? {
                0.0 => self.zero_gradients(),
                factor => self.step(lr, factor),
            },
        }
        self.reducer.as_ref().map_or(Ok(()), Reducer::gather_parameters)
    }

    /// What weight decay leaves of a weight.
    fn keep(&self, lr: f64) -> f64 {
        1.0 - lr / self.config.lr * self.config.weight_decay
    }

    /// One update with the learning rate `lr` from the gradients that backward passes have accumulated, times `factor`.
    ///
    /// The gradients are consumed: afterwards they are zero, ready for the next step. A parameter that took no
    /// part in the loss has no gradient and is left as it is, weight decay included, as in PyTorch.
    fn step(&mut self, lr: f64, factor: f64) {
        self.updates += 1;
        let [beta1, beta2] = self.config.betas;
        let t = self.updates as f64;
        let update = Update {
            factor,
            keep: self.keep(lr),
            beta1,
            beta2,
            eps: self.config.eps,
            step_size: lr / (1.0 - beta1.powf(t)),
            root_correction: (1.0 - beta2.powf(t)).sqrt(),
        };
        no_grad(|| {
            for slot in &self.slots {
                let gradient = slot.gradient();
                if gradient.defined() {
                    update.apply(&slot.parameter, &slot.first, &slot.second, &gradient);
                }
            }
        });
    }

    /// Sets every gradient to zero, for a step whose gradients are not to be used.
    pub(crate) fn zero_gradients(&self) {
        no_grad(|| {
            for slot in &self.slots {
                let mut gradient = slot.gradient();
                if gradient.defined() {
                    let _ = gradient.zero_();
                }
            }
        });
    }

    /// The moments by name, in parameter order; those of a sharded optimizer are brought together on the CPU of rank 0 by all
    /// ranks together, and the others get nothing.
    ///
    /// # Errors
    /// [`Error::Model`] when a rank is gone.
    pub fn whole_state(&self) -> Result<Vec<(String, Tensor)>, Error> {
        let (Some([first, second]), Some(reducer)) = (&self.shares, &self.reducer) else {
            return Ok(self.state().map(|(name, tensor)| (name, tensor.shallow_clone())).collect());
        };
        let (first, second) = (reducer.gather(first)?, reducer.gather(second)?);
        let moments = first.into_iter().zip(second);
        Ok(reducer
            .parameters()
            .zip(moments)
            .flat_map(|((name, _), (first, second))| {
                let [of_first, of_second] = moment_names(name);
                [(of_first, first), (of_second, second)]
            })
            .collect())
    }

    /// Reads the moments that were saved under the names of [`Self::state`] after `updates` updates. In a job all ranks call
    /// it together; only rank 0 needs the file, and the others give none.
    ///
    /// # Errors
    /// [`Error::Model`] when the file cannot be read, [`Error::OptimizerState`] when its tensors are not exactly
    /// those of the parameters.
    pub fn load(&mut self, path: Option<&Path>, updates: u64) -> Result<(), Error> {
        match (&self.shares, &self.reducer) {
            (Some([first, second]), Some(reducer)) => {
                let moments = match path {
                    Some(path) => read_moments(path, reducer.parameters())?,
                    None => Vec::new(),
                };
                let (firsts, seconds): (Vec<_>, Vec<_>) = moments.into_iter().unzip();
                reducer.scatter(&firsts, first)?;
                reducer.scatter(&seconds, second)?;
            }
            (_, reducer) => {
                if let Some(path) = path {
                    let own = self.slots.iter().map(|slot| (slot.name.as_str(), &slot.first));
                    let moments = read_moments(path, own)?;
                    for (slot, (first, second)) in self.slots.iter().zip(&moments) {
                        no_grad(|| slot.first.shallow_clone().f_copy_(first))?;
                        no_grad(|| slot.second.shallow_clone().f_copy_(second))?;
                    }
                }
                if let Some(reducer) = reducer {
                    let moments = self.slots.iter().flat_map(|slot| [&slot.first, &slot.second]);
                    reducer.broadcast(moments.map(Tensor::shallow_clone))?;
                }
            }
        }
        self.updates = updates;
        if let Some(fused) = &self.fused {
            fused.set_updates(updates);
        }
        Ok(())
    }

    /// The moments by name, `NAME.exp_avg` (m) and `NAME.exp_avg_sq` (v) for each parameter, in parameter order.
    pub fn state(&self) -> impl Iterator<Item = (String, &Tensor)> {
        self.slots.iter().flat_map(|slot| {
            let [first, second] = moment_names(&slot.name);
            [(first, &slot.first), (second, &slot.second)]
        })
    }
}

/// What the moments of a parameter are called in files.
fn moment_names(parameter: &str) -> [String; 2] {
    [format!("{parameter}.exp_avg"), format!("{parameter}.exp_avg_sq")]
}

/// The two moments of each of `parameters`, which have its shape and kind, out of a file that holds exactly those.
fn read_moments<'a>(
    path: &Path,
    parameters: impl Iterator<Item = (&'a str, &'a Tensor)>,
) -> Result<Vec<(Tensor, Tensor)>, Error> {
    let mut found: HashMap<String, Tensor> = TensorFile::read(path)?.tensors.into_iter().collect();
    let refuse = |found, expected| Error::OptimizerState { path: path.to_owned(), found, expected };
    let mut take = |name: String, own: &Tensor| {
        let Some(read) = found.remove(&name) else {
            return Err(refuse(format!("no tensor {name}"), "one for each parameter".to_owned()));
        };
        if (read.size(), read.kind()) != (own.size(), own.kind()) {
            let describe = |tensor: &Tensor| format!("{:?} {:?}", tensor.kind(), tensor.size());
            return Err(refuse(format!("tensor {name} is {}", describe(&read)), describe(own)));
        }
        Ok(read)
    };
    let mut moments = Vec::new();
    for (name, own) in parameters {
        let [first, second] = moment_names(name);
        moments.push((take(first, own)?, take(second, own)?));
    }
    match found.into_keys().min() {
        Some(name) => Err(refuse(format!("a tensor {name}"), "only those of the parameters".to_owned())),
        None => Ok(moments),
    }
}

/// The scalars of one update.
struct Update {
    /// What gradients are multiplied by first.
    factor: f64,
    keep: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    step_size: f64,
    root_correction: f64,
}

impl Update {
    /// Updates one parameter, in cache-sized pieces where memory and not launches are the cost.
    fn apply(&self, parameter: &Tensor, first: &Tensor, second: &Tensor, gradient: &Tensor) {
        let elements = parameter.numel() as i64;
        if parameter.device().is_cuda() || elements <= PIECE || !gradient.is_contiguous() {
            return self.apply_piece(
                parameter.shallow_clone(),
                first.shallow_clone(),
                second.shallow_clone(),
                gradient.shallow_clone(),
            );
        }
        let flat = [parameter, first, second, gradient].map(|tensor| tensor.view(-1)); // [N]
        for start in (0..elements).step_by(PIECE as usize) {
            let length = PIECE.min(elements - start);
            let [p, m, v, g] = flat.each_ref().map(|tensor| tensor.narrow(0, start, length)); // [PIECE]
            self.apply_piece(p, m, v, g);
        }
    }

    /// The formula of the module's head; the gradient's memory ends up zeroed.
    fn apply_piece(&self, mut p: Tensor, mut m: Tensor, mut v: Tensor, mut g: Tensor) {
        if self.factor != 1.0 {
            let _ = g.g_mul_scalar_(self.factor);
        }
        if self.keep != 1.0 {
            let _ = p.g_mul_scalar_(self.keep);
        }
        let _ = m.lerp_(&g, 1.0 - self.beta1);
        let _ = g.square_();
        let _ = v.lerp_(&g, 1.0 - self.beta2);
        // With a learning rate of zero the scaled denominator below would be infinite (and 0 · ∞ not a number).
        if self.step_size != 0.0 {
            // addcdiv_ takes no factor, so the step size goes into the denominator: p += m / −((√v/c + ε)/s).
            let _ = v.sqrt_out(&g);
            let _ = g.g_mul_scalar_(-1.0 / (self.root_correction * self.step_size));
            let _ = g.g_add_scalar_(-self.eps / self.step_size);
            let _ = p.addcdiv_(&m, &g);
        }
        let _ = g.zero_();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::tensor_file;
    use tch::{Device, Kind};

    fn config() -> OptimizerConfig {
        OptimizerConfig { lr: 0.1, betas: [0.9, 0.98], eps: 1e-6, weight_decay: 0.5, clip_norm: 0.0 }
    }

    fn parameter(values: &[f64]) -> Tensor {
        Tensor::from_slice(values).set_requires_grad(true)
    }

    #[test]
    fn a_learning_rate_of_zero_moves_only_the_moments() {
        let p = parameter(&[1.0, -2.0, 3.0]);
        let mut optimizer = DecoupledAdamW::new(config(), [("p", &p)]);
        let weights = Tensor::from_slice(&[0.0, 2.0, 2.0]);
        (&p * weights).sum(Kind::Double).backward();
        optimizer.step(0.0, 1.0);
        assert_eq!(Vec::<f64>::try_from(&p).unwrap(), [1.0, -2.0, 3.0]);
        let (name, first) = optimizer.state().next().unwrap();
        assert_eq!(name, "p.exp_avg");
        assert!((first.double_value(&[1]) - 0.2).abs() < 1e-15);
        assert_eq!(p.grad().abs().max().double_value(&[]), 0.0);
    }

    #[test]
    fn state_comes_back_and_foreign_state_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("optimizer.safetensors");
        let p = parameter(&[1.0, 2.0]);
        let mut optimizer = DecoupledAdamW::new(config(), [("p", &p)]);
        (&p * &p).sum(Kind::Double).backward();
        optimizer.step(0.1, 1.0);
        let state: Vec<_> = optimizer.state().collect();
        tensor_file::write(&path, state.iter().map(|(name, tensor)| (name.as_str(), *tensor))).unwrap();

        let mut other = DecoupledAdamW::new(config(), [("p", &p)]);
        other.load(Some(&path), 1).unwrap();
        assert_eq!(other.updates(), 1);
        assert!(optimizer.state().zip(other.state()).all(|(one, two)| one.1.equal(two.1)));

        let wide = parameter(&[1.0, 2.0, 3.0]);
        let refusal = |parameters: Vec<(&str, &Tensor)>| {
            DecoupledAdamW::new(config(), parameters).load(Some(&path), 1).unwrap_err().to_string()
        };
        assert!(refusal(vec![("p", &wide)]).contains("tensor p.exp_avg is Double [2], expected Double [3]"));
        assert!(refusal(vec![("q", &p)]).contains("no tensor q.exp_avg"));
        assert!(refusal(vec![]).contains("a tensor p.exp_avg, expected only"));
    }

    #[test]
    fn a_parameter_without_gradient_is_left_alone() {
        let (used, unused) = (parameter(&[1.0]), parameter(&[1.0]));
        let mut optimizer = DecoupledAdamW::new(config(), [("used", &used), ("unused", &unused)]);
        used.sum(Kind::Double).backward();
        optimizer.step(0.1, 1.0);
        assert_eq!(unused.double_value(&[0]), 1.0);
        assert!(used.double_value(&[0]) < 0.5);
    }

    /// Gradient (3, 4), norm 5: clipped to 1 it is (0.6, 0.8), clipped to 10 it is itself.
    #[test]
    fn clipping_scales_a_long_gradient_and_leaves_a_short_one() {
        let moments = |clip_norm: f64| {
            let p = parameter(&[0.0, 0.0]);
            let mut optimizer = DecoupledAdamW::new(OptimizerConfig { clip_norm, ..config() }, [("p", &p)]);
            (&p * Tensor::from_slice(&[3.0, 4.0])).sum(Kind::Double).backward();
            let norm = optimizer.gradient_norm().unwrap().view(1); // [1]
            optimizer.step_if_finite(0.1, &norm, &norm).unwrap();
            let (_, first) = optimizer.state().next().unwrap();
            (first.double_value(&[0]), first.double_value(&[1]), optimizer.updates())
        };
        let (x, y, updates) = moments(1.0);
        assert!((x - 0.06).abs() < 1e-6 && (y - 0.08).abs() < 1e-6 && updates == 1, "{x} {y}");
        assert_eq!(moments(10.0), moments(0.0));
    }

    #[test]
    fn a_norm_that_is_not_finite_updates_nothing_even_when_clipping() {
        for clip_norm in [0.0, 1.0] {
            let p = parameter(&[1.0, 2.0]);
            let mut optimizer = DecoupledAdamW::new(OptimizerConfig { clip_norm, ..config() }, [("p", &p)]);
            (&p * f64::NAN).sum(Kind::Double).backward();
            let norm = optimizer.gradient_norm().unwrap().view(1); // [1]
            optimizer.step_if_finite(0.1, &norm, &norm).unwrap();
            assert_eq!(Vec::<f64>::try_from(&p).unwrap(), [1.0, 2.0]);
            assert_eq!((optimizer.updates(), p.grad().abs().max().double_value(&[])), (0, 0.0));
        }
    }

    #[test]
    fn pieces_change_nothing() {
        let elements = 2 * PIECE + 17;
        tch::manual_seed(3);
        let start = Tensor::randn([elements], (Kind::Double, Device::Cpu)); // [N]
        let gradient = Tensor::randn([elements], (Kind::Double, Device::Cpu)); // [N]
        let whole = start.copy().set_requires_grad(true);
        let halves: Vec<Tensor> =
            start.split(PIECE, 0).into_iter().map(|piece| piece.copy().set_requires_grad(true)).collect();
        let mut one = DecoupledAdamW::new(config(), [("whole", &whole)]);
        let mut many = DecoupledAdamW::new(config(), halves.iter().map(|piece| ("piece", piece)));
        for _ in 0..3 {
            (&whole * &gradient).sum(Kind::Double).backward();
            (Tensor::cat(&halves, 0) * &gradient).sum(Kind::Double).backward();
            assert!(
                (one.gradient_norm().unwrap() - many.gradient_norm().unwrap()).abs().double_value(&[]) < 1e-9
            );
            one.step(0.05, 1.0);
            many.step(0.05, 1.0);
        }
        assert!(whole.equal(&Tensor::cat(&halves, 0)));
    }
}
