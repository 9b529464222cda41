//! Losses: a sum over examples divided by a number the caller chooses, in float32 or better.
//!
//! The caller divides by the examples of the whole global batch, so that gradients of micro-batches add up to the
//! gradient of the batch, however it was cut.

use tch::{Device, Kind, Reduction, Tensor, no_grad_guard};

/// Labels to ignore; the model passes none, torch wants a number.
const IGNORED: i64 = -100;

/// Bytes of logits in work at a time on the CPU: they stay in the last-level cache from the product that makes them
/// to the products that consume their gradient. Of 2 to 200 MiB, 16 and 32 were fastest: each piece also adds to all
/// of W's gradient.
const LOGITS_AT_ONCE: usize = 16 << 20;

/// Cross-entropy of masked tokens under `softmax(y Wᵀ + b)`, and how many of them have the largest score; of several with
/// that score, which bf16 gives often, the first has it.
///
/// # Shape
/// - `y`: `[M, D]`; `weight`: `[V, D]`; `bias`: `[V]`; `labels`: `[M]`, i64
/// - results: scalars: the sum divided by `normalizer`, and a count (i64)
pub(crate) fn vocabulary_cross_entropy(
    y: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    labels: &Tensor,
    normalizer: f64,
) -> (Tensor, Tensor) {
    if y.device() == Device::Cpu && y.kind() != Kind::BFloat16 {
        return in_pieces(y, weight, bias, labels, normalizer);
    }
    let logits = y.linear(weight, Some(bias)); // [M, V]
    let correct = logits.detach().argmax(-1, false).eq_tensor(labels).sum(Kind::Int64);
    (cross_entropy(&logits, labels, normalizer), correct)
}

/// [`vocabulary_cross_entropy`] with value and gradient computed together, some rows at a time. In a small model on a
/// CPU most of a step goes here; the logits of all rows at once, their logarithms, probabilities and gradient would
/// each be written to memory and read back.
///
/// The gradient of a row's loss by its logits is `softmax(logits) - onehot(label)`; those by y, W and b follow from
/// the product.
fn in_pieces(
    y: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    labels: &Tensor,
    normalizer: f64,
) -> (Tensor, Tensor) {
    let row_bytes = weight.size()[0] as usize * y.kind().elt_size_in_bytes();
    let rows = (LOGITS_AT_ONCE / row_bytes).max(16) as i64;
    // With gradients off, what the model has computed requires none.
    let differentiable = y.requires_grad();
    let mut loss = Tensor::zeros([0i64; 0], (y.kind(), Device::Cpu));
    let mut correct = Tensor::zeros([0i64; 0], (Kind::Int64, Device::Cpu));
    let mut gradients = differentiable.then(|| (Vec::new(), weight.zeros_like(), bias.zeros_like()));
    {
        // A guard, for memory may be used up in here, which is a panic: gradients must be on again then.
        let _guard = no_grad_guard();
        for (y, labels) in y.split(rows, 0).iter().zip(labels.split(rows, 0)) {
            let labels = labels.unsqueeze(1); // [C, 1]
            let mut logits = y.linear(weight, Some(bias)); // [C, V]
            let largest = logits.amax([-1].as_slice(), true); // [C, 1]
            let of_label = logits.gather(1, &labels, false); // [C, 1]
            // Two largest scores are as good as impossible in float32, so no time is spent on which comes first.
            correct += of_label.ge_tensor(&largest).sum(Kind::Int64);
            let mut exponentials = logits.subtract_(&largest).exp_(); // [C, V], in the memory of the logits
            let sum = exponentials.sum_dim_intlist(-1, true, None); // [C, 1]
            loss += (sum.log() + largest - of_label).sum(None);
            if let Some((by_y, by_weight, by_bias)) = &mut gradients {
                let minus_one = Tensor::full(labels.size(), -normalizer.recip(), (y.kind(), Device::Cpu)); // [C, 1]
                let by_logits =
                    exponentials.divide_(&(sum * normalizer)).scatter_add_(1, &labels, &minus_one); // [C, V]
                by_y.push(by_logits.matmul(weight)); // [C, D]
                let _ = by_weight.addmm_(&by_logits.tr(), y); // [V, D]
                *by_bias += by_logits.sum_dim_intlist(0, false, None); // [V]
            }
        }
    }
    loss /= normalizer;
    if let Some((by_y, by_weight, by_bias)) = gradients {
        loss = carrying(loss, &[(y, Tensor::cat(&by_y, 0)), (weight, by_weight), (bias, by_bias)]);
    }
    (loss, correct)
}

/// `value` with the given gradients by the given tensors.
///
/// `Σ x · g` has gradient g by x; taking the same number away without a graph leaves the value and keeps the gradient.
fn carrying(value: Tensor, gradients: &[(&Tensor, Tensor)]) -> Tensor {
    gradients.iter().fold(value, |value, (x, gradient)| {
        let product = x.flatten(0, -1).dot(&gradient.flatten(0, -1));
        value + (&product - product.detach())
    })
}

/// Cross-entropy of `labels` under `softmax(logits)`.
///
/// # Shape
/// - `logits`: `[M, V]`; `labels`: `[M]`, i64
/// - result: scalar
pub(crate) fn cross_entropy(logits: &Tensor, labels: &Tensor, normalizer: f64) -> Tensor {
    let logits = at_least_float(logits); // [M, V]
    logits.cross_entropy_loss::<Tensor>(labels, None, Reduction::Sum, IGNORED, 0.0) / normalizer
}

/// Squared error of a regression.
///
/// # Shape
/// - `predictions` and `targets`: `[B]`
/// - result: scalar
pub(crate) fn squared_error(predictions: &Tensor, targets: &Tensor, normalizer: f64) -> Tensor {
    let predictions = at_least_float(predictions); // [B]
    predictions.mse_loss(&targets.to_kind(predictions.kind()), Reduction::Sum) / normalizer
}

/// bf16 holds three digits: too few for a loss.
fn at_least_float(tensor: &Tensor) -> Tensor {
    if tensor.kind() == Kind::BFloat16 { tensor.to_kind(Kind::Float) } else { tensor.shallow_clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(shape: &[i64], kind: Kind) -> Tensor {
        let count = shape.iter().product::<i64>();
        let values: Vec<f64> = (0..count).map(|i| (i as f64 * 0.7).sin()).collect();
        Tensor::from_slice(&values).view(shape).to_kind(kind).set_requires_grad(true)
    }

    fn assert_close(found: &Tensor, expected: &Tensor) {
        assert!(found.allclose(expected, 1e-12, 1e-14, false), "{found} is not {expected}");
    }

    /// 20 rows of 200,000 words are 32 MB in float64: two pieces.
    #[test]
    fn pieces_agree_with_autograd() {
        let (m, d, v) = (20, 3, 200_000);
        let labels: Vec<i64> = (0..m).map(|i| i * 9_973).collect();
        let labels = Tensor::from_slice(&labels);
        let inputs = || [leaf(&[m, d], Kind::Double), leaf(&[v, d], Kind::Double), leaf(&[v], Kind::Double)];

        let [y, weight, bias] = inputs();
        let (loss, correct) = in_pieces(&y, &weight, &bias, &labels, 7.0);
        loss.backward();

        let [y_plain, weight_plain, bias_plain] = inputs();
        let logits = y_plain.linear(&weight_plain, Some(&bias_plain));
        let plain = cross_entropy(&logits, &labels, 7.0);
        plain.backward();

        assert_close(&loss.detach(), &plain.detach());
        assert_close(&y.grad(), &y_plain.grad());
        assert_close(&weight.grad(), &weight_plain.grad());
        assert_close(&bias.grad(), &bias_plain.grad());
        let expected = logits.argmax(-1, false).eq_tensor(&labels).sum(Kind::Int64);
        assert_eq!(correct.int64_value(&[]), expected.int64_value(&[]));
    }

    #[test]
    fn nothing_masked_is_no_loss_and_no_gradient() {
        let (y, weight, bias) =
            (leaf(&[0, 3], Kind::Float), leaf(&[5, 3], Kind::Float), leaf(&[5], Kind::Float));
        let labels = Tensor::zeros([0], (Kind::Int64, Device::Cpu));
        let (loss, correct) = vocabulary_cross_entropy(&y, &weight, &bias, &labels, 4.0);
        loss.backward();
        assert_eq!((loss.double_value(&[]), correct.int64_value(&[])), (0.0, 0));
        assert_eq!(weight.grad().abs().sum(Kind::Double).double_value(&[]), 0.0);
    }

    #[test]
    fn without_gradients_there_is_no_graph() {
        let (y, weight, bias) =
            (leaf(&[2, 3], Kind::Float), leaf(&[5, 3], Kind::Float), leaf(&[5], Kind::Float));
        let labels = Tensor::from_slice(&[1i64, 4]);
        let (loss, _) = tch::no_grad(|| vocabulary_cross_entropy(&y, &weight, &bias, &labels, 2.0));
        assert!(!loss.requires_grad());
    }

    #[test]
    fn losses_of_bf16_scores_are_float32() {
        let logits = leaf(&[4, 9], Kind::BFloat16);
        let labels = Tensor::from_slice(&[1i64, 4, 0, 8]);
        assert_eq!(cross_entropy(&logits, &labels, 4.0).kind(), Kind::Float);
        let predictions = leaf(&[4], Kind::BFloat16);
        assert_eq!(squared_error(&predictions, &labels, 4.0).kind(), Kind::Float);
    }
}
