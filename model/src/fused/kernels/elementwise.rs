//! `geglu.cu`, `gelu.cu`, `cross_entropy.cu` and `adamw.cu`.

use tch::{Kind, Tensor};

use super::{
    Arguments, Dropout, DropoutArguments, Kernels, Read, Write, arguments, blocks, columns, empty_like, int,
    read, rows, unsigned, write,
};
use crate::Error;
use crate::torch::driver::Launch;

arguments!(GegluForward { h: Read, y: Write, rows: i32, width: i32, dropout: DropoutArguments });
arguments!(GegluBackward {
    h: Read,
    d_y: Read,
    d_h: Write,
    rows: i32,
    width: i32,
    dropout: DropoutArguments
});
arguments!(GeluForward { x: Read, y: Write, elements: i64 });
arguments!(GeluBackward { x: Read, d_y: Read, d_x: Write, elements: i64 });
arguments!(CrossEntropy {
    logits: Write,
    labels: Read,
    loss: Write,
    correct: Write,
    columns: i32,
    gradient: i32,
    scale: f32,
});
arguments!(AdamW {
    pieces: Read,
    control: Read,
    beta1: f32,
    beta2: f32,
    keep: f32,
    learning_rate: f32,
    epsilon: f32,
    clear_gradients: i32,
});

/// What one update of AdamW needs besides the tensors; see `adamw.cu`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update {
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    /// What weight decay leaves of a weight.
    pub(crate) keep: f64,
    pub(crate) learning_rate: f64,
    pub(crate) epsilon: f64,
}

impl Kernels {
    /// # Shape
    /// - `h`: `[R, 2·I]`; result: `[R, I]`
    pub(crate) fn geglu_forward(&self, h: &Tensor, dropout: Dropout) -> Result<Tensor, Error> {
        let (count, width) = (rows(h), columns(h) / 2);
        let y = empty_like(h, [count, width], Kind::BFloat16); // [R, I]
        let arguments = GegluForward {
            h: read(h, Kind::BFloat16, count * 2 * width),
            y: write(&y, Kind::BFloat16, count * width),
            rows: int(count),
            width: int(width),
            dropout: dropout.arguments(),
        };
        // SAFETY: extents checked above.
        unsafe { self.geglu_forward.launch(self.elementwise_launch(count * width), &arguments)? };
        Ok(y)
    }

    /// Replaces `h` by its gradient.
    ///
    /// # Shape
    /// - `h`: `[R, 2·I]`; `d_y`: `[R, I]`
    pub(crate) fn geglu_backward(&self, h: &Tensor, d_y: &Tensor, dropout: Dropout) -> Result<(), Error> {
        let (count, width) = (rows(h), columns(h) / 2);
        let arguments = GegluBackward {
            h: read(h, Kind::BFloat16, count * 2 * width),
            d_y: read(d_y, Kind::BFloat16, count * width),
            d_h: write(h, Kind::BFloat16, count * 2 * width),
            rows: int(count),
            width: int(width),
            dropout: dropout.arguments(),
        };
        // SAFETY: extents checked above; the kernel may work in place.
        unsafe { self.geglu_backward.launch(self.elementwise_launch(count * width), &arguments) }
    }

    /// # Shape
    /// - `x` and result: `[R, I]`
    pub(crate) fn gelu_forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        let elements = rows(x) * columns(x);
        let y = empty_like(x, [rows(x), columns(x)], Kind::BFloat16); // [R, I]
        let arguments = GeluForward {
            x: read(x, Kind::BFloat16, elements),
            y: write(&y, Kind::BFloat16, elements),
            elements,
        };
        // SAFETY: extents checked above.
        unsafe { self.gelu_forward.launch(self.elementwise_launch(elements), &arguments)? };
        Ok(y)
    }

    /// Replaces `d_y` by the gradient of `x`.
    ///
    /// # Shape
    /// - `x` and `d_y`: `[R, I]`
    pub(crate) fn gelu_backward(&self, x: &Tensor, d_y: &Tensor) -> Result<(), Error> {
        let elements = rows(x) * columns(x);
        let arguments = GeluBackward {
            x: read(x, Kind::BFloat16, elements),
            d_y: read(d_y, Kind::BFloat16, elements),
            d_x: write(d_y, Kind::BFloat16, elements),
            elements,
        };
        // SAFETY: extents checked above; the kernel may work in place.
        unsafe { self.gelu_backward.launch(self.elementwise_launch(elements), &arguments) }
    }

    /// A thread takes eight elements at a time.
    fn elementwise_launch(&self, elements: i64) -> Launch {
        let grid = [blocks(elements, 8 * 256).min(8 * self.gpu.multiprocessors), 1, 1];
        Launch { grid, threads: 256, shared_memory: 0 }
    }

    /// Loss of each row, and whether its label has the largest logit. With `gradient`, the logits become the gradient of the
    /// losses' sum times that number.
    ///
    /// # Shape
    /// - `logits`: `[M, V]`; `labels`: `[M]`, i64, each in 0…V-1
    /// - results: `[M]`, float32 and i32
    pub(crate) fn cross_entropy(
        &self,
        logits: &Tensor,
        labels: &Tensor,
        gradient: Option<f64>,
    ) -> Result<(Tensor, Tensor), Error> {
        let (count, width) = (rows(logits), columns(logits));
        let loss = empty_like(logits, [count, 1], Kind::Float).view([count]); // [M]
        let correct = empty_like(logits, [count, 1], Kind::Int).view([count]); // [M]
        let arguments = CrossEntropy {
            logits: write(logits, Kind::BFloat16, count * width),
            labels: read(labels, Kind::Int64, count),
            loss: write(&loss, Kind::Float, count),
            correct: write(&correct, Kind::Int, count),
            columns: int(width),
            gradient: i32::from(gradient.is_some()),
            scale: gradient.unwrap_or(0.0) as f32,
        };
        let (kernel, threads) =
            if width <= 32_768 { (&self.cross_entropy_32k, 512) } else { (&self.cross_entropy_64k, 1024) };
        let launch = Launch { grid: [unsigned(count), 1, 1], threads, shared_memory: 4 * 64 };
        // SAFETY: extents checked above; labels in range are the batch's promise.
        unsafe { kernel.launch(launch, &arguments)? };
        Ok((loss, correct))
    }

    /// One update of all tensors behind `pieces` (`AdamWPiece` in `adamw.cu`, 6 × i64 each).
    ///
    /// # Shape
    /// - `control`: `[3]`, float32: see `adamw.cu`
    ///
    /// # Safety
    /// The addresses in `pieces` are those of live, distinct tensors on this GPU with at least `count` elements.
    pub(crate) unsafe fn adamw(
        &self,
        pieces: &Tensor,
        control: &Tensor,
        update: Update,
    ) -> Result<(), Error> {
        let arguments = AdamW {
            pieces: read(pieces, Kind::Int64, rows(pieces) * 6),
            control: read(control, Kind::Float, 3),
            beta1: update.beta1 as f32,
            beta2: update.beta2 as f32,
            keep: update.keep as f32,
            learning_rate: update.learning_rate as f32,
            epsilon: update.epsilon as f32,
            clear_gradients: 1,
        };
        let launch = Launch { grid: [unsigned(rows(pieces)), 1, 1], threads: 256, shared_memory: 0 };
        // SAFETY: the caller's promise.
        unsafe { self.adamw.launch(launch, &arguments) }
    }
}
