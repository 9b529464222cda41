//! `layer_norm.cu` and `embedding.cu`: what works on whole rows, with their LayerNorms.

use std::ptr::{null, null_mut};

use tch::{Kind, Tensor};

use super::{
    Arguments, ColumnSum, Dropout, DropoutArguments, Kernels, Read, Write, arguments, blocks, empty_like,
    int, read, rows, unsigned, write,
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

#[repr(C)]
#[derive(Clone, Copy)]
struct TableArguments {
    ids: Read,
    types_of: Read,
    places_of: Read,
    words: Read,
    types: Read,
    positions: Read,
}

arguments!(EmbeddingForward {
    tables: TableArguments,
    y: Write,
    statistics: Write,
    gamma: Read,
    beta: Read,
    rows: i32,
    epsilon: f32,
    dropout: DropoutArguments,
});
arguments!(EmbeddingBackward {
    tables: TableArguments,
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
    /// Where positions are embedded: that of each token in its sequence, `[T]`, i32, and their table `[positions, D]`, bf16.
    pub(crate) positions: Option<(Tensor, Tensor)>,
}

impl Tables {
    fn arguments(&self, width: i64) -> TableArguments {
        let count = rows(&self.ids);
        let table = |table: &Tensor| read(table, Kind::BFloat16, rows(table) * width);
        TableArguments {
            ids: read(&self.ids, Kind::Int, count),
            types_of: self.types_of.as_ref().map_or(null(), |types| read(types, Kind::Int, count)),
            places_of: self.positions.as_ref().map_or(null(), |(places, _)| read(places, Kind::Int, count)),
            words: table(&self.words),
            types: table(&self.types),
            positions: self.positions.as_ref().map_or(null(), |(_, positions)| table(positions)),
        }
    }
}

impl Kernels {
    /// `LN(z)` with `z = dropout(x + bias) + residual`; z takes the memory of x where it is of its type.
    ///
    /// # Shape
    /// - `x`: `[R, D]`, bf16; `residual`: `[R, D]`, of the stream's type; `bias`, `gamma`, `beta`: `[D]`, float32
    /// - results: LN(z) and z, `[R, D]`, of the stream's type; mean and inverse deviation of each row, `[R, 2]`, float32
    pub(crate) fn layer_norm_forward(
        &self,
        x: Tensor,
        residual: &Tensor,
        [bias, gamma, beta]: [&Tensor; 3],
        epsilon: f64,
        dropout: Dropout,
    ) -> Result<(Tensor, Tensor, Tensor), Error> {
        let (count, width) = (rows(&x), self.hidden);
        let y = empty_like(&x, [count, width], self.stream); // [R, D]
        let z = match self.stream {
            Kind::BFloat16 => x.shallow_clone(),
            other => empty_like(&x, [count, width], other),
        }; // [R, D]
        let statistics = empty_like(&x, [count, 2], Kind::Float); // [R, 2]
        let arguments = LayerNormForward {
            x: read(&x, Kind::BFloat16, count * width),
            bias: read(bias, Kind::Float, width),
            residual: read(residual, self.stream, count * width),
            z: write(&z, self.stream, count * width),
            y: write(&y, self.stream, count * width),
            statistics: write(&statistics, Kind::Float, count * 2),
            gamma: read(gamma, Kind::Float, width),
            beta: read(beta, Kind::Float, width),
            rows: int(count),
            epsilon: epsilon as f32,
            dropout: dropout.arguments(),
        };
        // SAFETY: extents checked above; the kernel may write z over x.
        unsafe { self.layer_norm_forward.launch(self.row_launch(count, 8), &arguments)? };
        Ok((y, z, statistics))
    }

    /// The gradients of z and of x, which are one tensor without dropout in a bf16 stream; adds those of gamma, beta and bias
    /// to `sums`. Into `bias_sum` goes what this pass adds to the bias's.
    ///
    /// # Shape
    /// - `z`, `d_y` and first result: `[R, D]`, of the stream's type; second result: `[R, D]`, bf16
    /// - `statistics`: `[R, 2]`; `gamma`, `bias_sum` and each of `sums`: `[D]`, float32
    pub(crate) fn layer_norm_backward(
        &self,
        [z, d_y, statistics, gamma]: [&Tensor; 4],
        [d_gamma, d_beta, d_bias]: [&Tensor; 3],
        bias_sum: Option<&Tensor>,
        dropout: Dropout,
    ) -> Result<(Tensor, Tensor), Error> {
        let (count, width) = (rows(z), self.hidden);
        let d_residual = empty_like(z, [count, width], self.stream); // [R, D]
        let apart = !dropout.is_off() || self.stream != Kind::BFloat16;
        let d_x = apart.then(|| empty_like(z, [count, width], Kind::BFloat16)); // [R, D]
        let mut launch = self.row_launch(count, self.backward_blocks());
        launch.shared_memory = 12 * unsigned(width);
        let partial = self.partial(z, launch);
        let arguments = LayerNormBackward {
            z: read(z, self.stream, count * width),
            d_y: read(d_y, self.stream, count * width),
            statistics: read(statistics, Kind::Float, count * 2),
            gamma: read(gamma, Kind::Float, width),
            d_residual: write(&d_residual, self.stream, count * width),
            d_x: d_x.as_ref().map_or(null_mut(), |d_x| write(d_x, Kind::BFloat16, count * width)),
            partial: write(&partial, Kind::Float, rows(&partial) * 3 * width),
            rows: int(count),
            dropout: dropout.arguments(),
        };
        // SAFETY: extents checked above.
        unsafe { self.layer_norm_backward.launch(launch, &arguments)? };
        self.add_row_sums(&partial, [Some(d_gamma), Some(d_beta), Some(d_bias)], bias_sum)?;
        Ok((d_residual.shallow_clone(), d_x.unwrap_or(d_residual)))
    }

    /// `dropout(LN(words[ids] + types[types_of] + positions[places]))`.
    ///
    /// # Shape
    /// - `gamma`, `beta`: `[D]`, float32
    /// - results: `[T, D]`, of the stream's type, and mean and inverse deviation of each row `[T, 2]`, float32
    pub(crate) fn embedding_forward(
        &self,
        tables: &Tables,
        [gamma, beta]: [&Tensor; 2],
        epsilon: f64,
        dropout: Dropout,
    ) -> Result<(Tensor, Tensor), Error> {
        let (count, width) = (rows(&tables.ids), self.hidden);
        let y = empty_like(&tables.words, [count, width], self.stream); // [T, D]
        let statistics = empty_like(&tables.words, [count, 2], Kind::Float); // [T, 2]
        let arguments = EmbeddingForward {
            tables: tables.arguments(width),
            y: write(&y, self.stream, count * width),
            statistics: write(&statistics, Kind::Float, count * 2),
            gamma: read(gamma, Kind::Float, width),
            beta: read(beta, Kind::Float, width),
            rows: int(count),
            epsilon: epsilon as f32,
            dropout: dropout.arguments(),
        };
        // SAFETY: extents checked above; ids, types and places within their tables are the batch's promise.
        unsafe { self.embedding_forward.launch(self.row_launch(count, 16), &arguments)? };
        Ok((y, statistics))
    }

    /// The gradient of the sum of the rows looked up; adds those of gamma, beta, and of what all rows add, if it is wanted, to
    /// `sums`.
    ///
    /// # Shape
    /// - `d_y`: `[T, D]`, of the stream's type; `statistics`: `[T, 2]`; `gamma` and each of `sums`: `[D]`, float32
    /// - result: `[T, D]`, bf16
    pub(crate) fn embedding_backward(
        &self,
        tables: &Tables,
        [d_y, statistics, gamma]: [&Tensor; 3],
        sums: [Option<&Tensor>; 3],
        dropout: Dropout,
    ) -> Result<Tensor, Error> {
        let (count, width) = (rows(d_y), self.hidden);
        let d_sum = empty_like(d_y, [count, width], Kind::BFloat16); // [T, D]
        let mut launch = self.row_launch(count, self.backward_blocks());
        launch.shared_memory = 12 * unsigned(width);
        let partial = self.partial(d_y, launch);
        let arguments = EmbeddingBackward {
            tables: tables.arguments(width),
            d_y: read(d_y, self.stream, count * width),
            statistics: read(statistics, Kind::Float, count * 2),
            gamma: read(gamma, Kind::Float, width),
            d_sum: write(&d_sum, Kind::BFloat16, count * width),
            partial: write(&partial, Kind::Float, rows(&partial) * 3 * width),
            rows: int(count),
            dropout: dropout.arguments(),
        };
        // SAFETY: as in the forward pass.
        unsafe { self.embedding_backward.launch(launch, &arguments)? };
        self.add_row_sums(&partial, sums, None)?;
        Ok(d_sum)
    }

    /// Adds the three parts of `partial`, summed over the blocks that left them, to `sums`; `alone` becomes the third sum.
    fn add_row_sums(
        &self,
        partial: &Tensor,
        sums: [Option<&Tensor>; 3],
        alone: Option<&Tensor>,
    ) -> Result<(), Error> {
        let part = |index: usize| ColumnSum {
            matrix: partial,
            first_column: index as i64 * self.hidden,
            weights: None,
            to: sums[index],
            alone: alone.filter(|_| index == 2),
        };
        self.add_column_sums(self.hidden, &[part(0), part(1), part(2)])
    }

    /// A block takes ROW_WARPS rows at a time; at most `per_multiprocessor` blocks a multiprocessor.
    fn row_launch(&self, count: i64, per_multiprocessor: u32) -> Launch {
        let grid =
            [blocks(count, i64::from(ROW_WARPS)).min(per_multiprocessor * self.gpu.multiprocessors), 1, 1];
        Launch { grid, threads: 32 * ROW_WARPS, shared_memory: 0 }
    }

    /// As many blocks as a multiprocessor holds at once (`rows.cuh`), so that partial sums are few.
    fn backward_blocks(&self) -> u32 {
        if self.hidden <= 768 && self.stream == Kind::BFloat16 { 3 } else { 2 }
    }

    /// Memory for the partial sums of a launch, `[blocks, 3, D]`, float32.
    fn partial(&self, like: &Tensor, launch: Launch) -> Tensor {
        empty_like(like, [i64::from(launch.grid[0]), 3 * self.hidden], Kind::Float)
    }
}
