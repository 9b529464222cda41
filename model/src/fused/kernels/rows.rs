//! `layer_norm.cu` and `embedding.cu`: what works on whole rows, with their LayerNorms.

use std::ptr::{null, null_mut};

use tch::{Kind, Tensor};

use super::{
    Arguments, Dropout, DropoutArguments, Kernels, Read, Write, arguments, blocks, empty_like, int, read,
    rows, unsigned, write,
};
use crate::Error;
use crate::torch::driver::Launch;

/// Warps of a block, each with its own row, as `rows.cuh` has it.
const ROW_WARPS: u32 = 4;

arguments!(LayerNormForward {
    x: Read,
    bias: Read,
    residual: Read,
    z: Write,
    y: Write,
    statistics: Write,
    gamma: Read,
    beta: Read,
    rows: i32,
    epsilon: f32,
    dropout: DropoutArguments,
});
arguments!(LayerNormBackward {
    z: Read,
    d_y: Read,
    statistics: Read,
    gamma: Read,
    d_residual: Write,
    d_x: Write,
    partial: Write,
    rows: i32,
    dropout: DropoutArguments,
});
arguments!(EmbeddingForward {
    ids: Read,
    types_of: Read,
    words: Read,
    types: Read,
    y: Write,
    statistics: Write,
    gamma: Read,
    beta: Read,
    rows: i32,
    epsilon: f32,
    dropout: DropoutArguments,
});
arguments!(EmbeddingBackward {
    ids: Read,
    types_of: Read,
    words: Read,
    types: Read,
    d_y: Read,
    statistics: Read,
    gamma: Read,
    d_sum: Write,
    partial: Write,
    rows: i32,
    dropout: DropoutArguments,
});

/// What the embedding looks up, and where.
#[derive(Debug)]
pub(crate) struct Tables {
    /// `[T]`, i32.
    pub(crate) ids: Tensor,
    /// `[T]`, i32; all 0 when `None`.
    pub(crate) types_of: Option<Tensor>,
    /// `[V, D]`, bf16.
    pub(crate) words: Tensor,
    /// `[types, D]`, bf16.
    pub(crate) types: Tensor,
}

impl Kernels {
    /// `LN(z)` with `z = dropout(x + bias) + residual`; `x` becomes z.
    ///
    /// # Shape
    /// - `x`, `residual` and result: `[R, D]`; `bias`, `gamma`, `beta`: `[D]`, float32
    /// - second result: mean and inverse deviation of each row, `[R, 2]`, float32
    pub(crate) fn layer_norm_forward(
        &self,
        x: &Tensor,
        residual: &Tensor,
        [bias, gamma, beta]: [&Tensor; 3],
        epsilon: f64,
        dropout: Dropout,
    ) -> Result<(Tensor, Tensor), Error> {
        let (count, width) = (rows(x), self.hidden);
        let y = empty_like(x, [count, width], Kind::BFloat16); // [R, D]
        let statistics = empty_like(x, [count, 2], Kind::Float); // [R, 2]
        let arguments = LayerNormForward {
            x: read(x, Kind::BFloat16, count * width),
            bias: read(bias, Kind::Float, width),
            residual: read(residual, Kind::BFloat16, count * width),
            z: write(x, Kind::BFloat16, count * width),
            y: write(&y, Kind::BFloat16, count * width),
            statistics: write(&statistics, Kind::Float, count * 2),
            gamma: read(gamma, Kind::Float, width),
            beta: read(beta, Kind::Float, width),
            rows: int(count),
            epsilon: epsilon as f32,
            dropout: dropout.arguments(),
        };
        // SAFETY: extents checked above; the kernel may write z over x.
        unsafe { self.layer_norm_forward.launch(self.row_launch(count, 8), &arguments)? };
        Ok((y, statistics))
    }

    /// The gradients of z and of x, which are one tensor without dropout; adds those of gamma, beta and bias to `sums`.
    ///
    /// # Shape
    /// - `z`, `d_y` and results: `[R, D]`; `statistics`: `[R, 2]`; `gamma` and each of `sums`: `[D]`, float32
    pub(crate) fn layer_norm_backward(
        &self,
        [z, d_y, statistics, gamma]: [&Tensor; 4],
        sums: [&Tensor; 3],
        dropout: Dropout,
    ) -> Result<(Tensor, Tensor), Error> {
        let (count, width) = (rows(z), self.hidden);
        let d_residual = empty_like(z, [count, width], Kind::BFloat16); // [R, D]
        let dropout = dropout.arguments();
        let d_x = (dropout.threshold > 0).then(|| empty_like(z, [count, width], Kind::BFloat16)); // [R, D]
        let mut launch = self.row_launch(count, self.backward_blocks());
        launch.shared_memory = 12 * unsigned(width);
        let partial = self.partial(z, launch);
        let arguments = LayerNormBackward {
            z: read(z, Kind::BFloat16, count * width),
            d_y: read(d_y, Kind::BFloat16, count * width),
            statistics: read(statistics, Kind::Float, count * 2),
            gamma: read(gamma, Kind::Float, width),
            d_residual: write(&d_residual, Kind::BFloat16, count * width),
            d_x: d_x.as_ref().map_or(null_mut(), |d_x| write(d_x, Kind::BFloat16, count * width)),
            partial: write(&partial, Kind::Float, rows(&partial) * 3 * width),
            rows: int(count),
            dropout,
        };
        // SAFETY: extents checked above.
        unsafe { self.layer_norm_backward.launch(launch, &arguments)? };
        self.add_column_sums(&partial, &sums)?;
        Ok((d_residual.shallow_clone(), d_x.unwrap_or(d_residual)))
    }

    /// `dropout(LN(words[ids] + types[types_of]))`.
    ///
    /// # Shape
    /// - `ids` and `types_of`: `[T]`, i32; `words`: `[V, D]` and `types`: `[2, D]`, bf16; `gamma`, `beta`: `[D]`, float32
    /// - results: `[T, D]`, and mean and inverse deviation of each row `[T, 2]`, float32
    pub(crate) fn embedding_forward(
        &self,
        tables: &Tables,
        [gamma, beta]: [&Tensor; 2],
        epsilon: f64,
        dropout: Dropout,
    ) -> Result<(Tensor, Tensor), Error> {
        let (count, width) = (rows(&tables.ids), self.hidden);
        let y = empty_like(&tables.words, [count, width], Kind::BFloat16); // [T, D]
        let statistics = empty_like(&tables.words, [count, 2], Kind::Float); // [T, 2]
        let arguments = EmbeddingForward {
            ids: read(&tables.ids, Kind::Int, count),
            types_of: tables.types_of.as_ref().map_or(null(), |types| read(types, Kind::Int, count)),
            words: read(&tables.words, Kind::BFloat16, rows(&tables.words) * width),
            types: read(&tables.types, Kind::BFloat16, rows(&tables.types) * width),
            y: write(&y, Kind::BFloat16, count * width),
            statistics: write(&statistics, Kind::Float, count * 2),
            gamma: read(gamma, Kind::Float, width),
            beta: read(beta, Kind::Float, width),
            rows: int(count),
            epsilon: epsilon as f32,
            dropout: dropout.arguments(),
        };
        // SAFETY: extents checked above; ids below V and types below their number are the batch's promise.
        unsafe { self.embedding_forward.launch(self.row_launch(count, 16), &arguments)? };
        Ok((y, statistics))
    }

    /// The gradient of the sum of the two rows; adds those of gamma, beta, and of what all rows add to `sums`.
    ///
    /// # Shape
    /// - `d_y` and result: `[T, D]`; `statistics`: `[T, 2]`; `gamma` and each of `sums`: `[D]`, float32
    pub(crate) fn embedding_backward(
        &self,
        tables: &Tables,
        [d_y, statistics, gamma]: [&Tensor; 3],
        sums: [&Tensor; 3],
        dropout: Dropout,
    ) -> Result<Tensor, Error> {
        let (count, width) = (rows(d_y), self.hidden);
        let d_sum = empty_like(d_y, [count, width], Kind::BFloat16); // [T, D]
        let mut launch = self.row_launch(count, self.backward_blocks());
        launch.shared_memory = 12 * unsigned(width);
        let partial = self.partial(d_y, launch);
        let arguments = EmbeddingBackward {
            ids: read(&tables.ids, Kind::Int, count),
            types_of: tables.types_of.as_ref().map_or(null(), |types| read(types, Kind::Int, count)),
            words: read(&tables.words, Kind::BFloat16, rows(&tables.words) * width),
            types: read(&tables.types, Kind::BFloat16, rows(&tables.types) * width),
            d_y: read(d_y, Kind::BFloat16, count * width),
            statistics: read(statistics, Kind::Float, count * 2),
            gamma: read(gamma, Kind::Float, width),
            d_sum: write(&d_sum, Kind::BFloat16, count * width),
            partial: write(&partial, Kind::Float, rows(&partial) * 3 * width),
            rows: int(count),
            dropout: dropout.arguments(),
        };
        // SAFETY: as in the forward pass.
        unsafe { self.embedding_backward.launch(launch, &arguments)? };
        self.add_column_sums(&partial, &sums)?;
        Ok(d_sum)
    }

    /// A block takes ROW_WARPS rows at a time; at most `per_multiprocessor` blocks a multiprocessor.
    fn row_launch(&self, count: i64, per_multiprocessor: u32) -> Launch {
        let grid =
            [blocks(count, i64::from(ROW_WARPS)).min(per_multiprocessor * self.gpu.multiprocessors), 1, 1];
        Launch { grid, threads: 32 * ROW_WARPS, shared_memory: 0 }
    }

    /// As many blocks as a multiprocessor holds at once (`rows.cuh`), so that partial sums are few.
    fn backward_blocks(&self) -> u32 {
        if self.hidden <= 768 { 3 } else { 2 }
    }

    /// Memory for the partial sums of a launch, `[blocks, 3, D]`, float32.
    fn partial(&self, like: &Tensor, launch: Launch) -> Tensor {
        empty_like(like, [i64::from(launch.grid[0]), 3 * self.hidden], Kind::Float)
    }
}
