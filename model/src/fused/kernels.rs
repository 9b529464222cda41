//! Our kernels as functions of tensors: shapes and types are checked here, once, and memory for results is allocated.
//!
//! Each argument struct repeats, field for field, the one of the same name in `csrc/kernels/*.cu`, which says what the
//! kernel computes and where the algorithm comes from. Everything runs on torch's current stream.

// Kernels work on raw addresses; every launch says what vouches for them.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::Error;
use crate::torch::driver::{Arguments, Gpu, Kernel, Launch, Module};
use crate::torch::nvrtc::{Compiler, cache_folder};

/// The head dimension the attention kernels are written for, K.
pub(crate) const HEAD_SIZE: i64 = 64;
/// The widest rows LayerNorm keeps in registers, D.
pub(crate) const WIDEST_ROW: i64 = 1024;
/// The largest vocabulary whose logits a block keeps in registers, V.
pub(crate) const LARGEST_VOCABULARY: i64 = 65_536;

// Shapes of blocks, as the sources have them.
const FORWARD_QUERIES: i64 = 64;
const FORWARD_SHARED: u32 = 40_960;
const QUERY_BLOCK: i64 = 64;
const SHORT_KEYS: i64 = 128;
const SHORT_SHARED: u32 = 106_496;
const LONG_SHARED: u32 = 172_032;
const ROW_WARPS: u32 = 4;
const SUM_THREADS: u32 = 512;
const SUM_COLUMNS: u32 = 256;
/// Blocks that share the rows of a matrix whose columns are summed.
const SUM_BLOCKS: u32 = 8;

/// Which mask dropout applies: a pure function of the three.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    /// Probability of an element to be dropped, in [0, 1).
    pub(crate) probability: f64,
    /// Of the forward pass.
    pub(crate) seed: u64,
    /// Of the place in the model.
    pub(crate) stream: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct DropoutArguments {
    seed: u64,
    stream: u64,
    threshold: u32,
    scale: f32,
}

impl Dropout {
    fn arguments(self) -> DropoutArguments {
        // The kernels compare 16 random bits: the probability is rounded to 1/65536, and the scale is that of the rounded one.
        let threshold = (self.probability * 65_536.0).round().min(65_535.0);
        DropoutArguments {
            seed: self.seed,
            stream: self.stream,
            threshold: threshold as u32,
            scale: (1.0 / (1.0 - threshold / 65_536.0)) as f32,
        }
    }
}

/// Declares the argument struct of a kernel.
macro_rules! arguments {
    ($name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct $name { $($field: $type),* }
        // SAFETY: repr(C), and the fields of the struct of this name in csrc/kernels.
        unsafe impl Arguments for $name {}
    };
}

type Read = *const c_void;
type Write = *mut c_void;

arguments!(AttentionForward {
    qkv: Read,
    out: Write,
    lse: Write,
    cu: Read,
    slopes: Read,
    heads: i32,
    tokens: i32,
    scale: f32,
});
arguments!(AttentionBackward {
    qkv: Read,
    out: Read,
    d_out: Read,
    lse: Read,
    d_qkv: Write,
    d_query_sums: Write,
    d_query_bias: Write,
    cu: Read,
    slopes: Read,
    heads: i32,
    tokens: i32,
    scale: f32,
    longest: i32,
});
arguments!(GegluForward { h: Read, y: Write, rows: i32, width: i32, dropout: DropoutArguments });
arguments!(GegluBackward {
    h: Read,
    d_y: Read,
    d_h: Write,
    rows: i32,
    width: i32,
    dropout: DropoutArguments
});
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
arguments!(AddColumnSums { matrix: Read, to: [Write; 3], rows: i32, parts: i32, columns: i32 });
arguments!(PartialColumnSums { matrix: Read, partial: Write, rows: i32, columns: i32 });
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
    gradient_factor: Read,
    beta1: f32,
    beta2: f32,
    keep: f32,
    rate: f32,
    inverse_bias2: f32,
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
    /// Learning rate over the first moment's bias.
    pub(crate) rate: f64,
    /// One over the root of the second moment's bias.
    pub(crate) inverse_bias2: f64,
    pub(crate) epsilon: f64,
}

/// The sequences of a batch, on the card.
#[derive(Debug)]
pub(crate) struct Sequences {
    /// Where each starts, `[B + 1]`, i32.
    pub(crate) starts: Tensor,
    /// B.
    pub(crate) count: i64,
    /// Tokens of the longest.
    pub(crate) longest: i64,
}

impl Sequences {
    pub(crate) fn shallow_clone(&self) -> Sequences {
        Sequences { starts: self.starts.shallow_clone(), ..*self }
    }
}

/// All kernels, loaded on one GPU for rows of one width.
#[derive(Debug)]
pub(crate) struct Kernels {
    gpu: Arc<Gpu>,
    hidden: i64,
    attention_forward: Kernel,
    attention_backward_short: Kernel,
    attention_backward_long: Kernel,
    geglu_forward: Kernel,
    geglu_backward: Kernel,
    layer_norm_forward: Kernel,
    layer_norm_backward: Kernel,
    embedding_forward: Kernel,
    embedding_backward: Kernel,
    add_column_sums: Kernel,
    partial_column_sums: Kernel,
    cross_entropy_32k: Kernel,
    cross_entropy_64k: Kernel,
    adamw: Kernel,
}

impl Kernels {
    /// Compiles, or finds compiled, and loads the kernels for rows of `hidden` columns on GPU `device`.
    ///
    /// # Errors
    /// [`Error::Library`] without the driver or NVRTC, [`Error::Kernel`] and [`Error::Cuda`].
    pub(crate) fn load(device: usize, hidden: i64) -> Result<Arc<Kernels>, Error> {
        let gpu = Gpu::open(device)?;
        let compiler = Compiler::open()?;
        let cache = cache_folder();
        let options = [format!("-DHIDDEN={hidden}")];
        let module = |file| {
            let code = compiler.machine_code(file, &options, gpu.capability, cache.as_deref())?;
            Module::load(&gpu, &code)
        };
        let attention = module("attention.cu")?;
        let geglu = module("geglu.cu")?;
        let layer_norm = module("layer_norm.cu")?;
        let embedding = module("embedding.cu")?;
        let sums = module("column_sums.cu")?;
        let cross_entropy = module("cross_entropy.cu")?;
        Ok(Arc::new(Kernels {
            hidden,
            attention_forward: attention.kernel("attention_forward")?,
            attention_backward_short: attention.kernel("attention_backward_short")?,
            attention_backward_long: attention.kernel("attention_backward_long")?,
            geglu_forward: geglu.kernel("geglu_forward")?,
            geglu_backward: geglu.kernel("geglu_backward")?,
            layer_norm_forward: layer_norm.kernel("layer_norm_forward")?,
            layer_norm_backward: layer_norm.kernel("layer_norm_backward")?,
            embedding_forward: embedding.kernel("embedding_forward")?,
            embedding_backward: embedding.kernel("embedding_backward")?,
            add_column_sums: sums.kernel("add_column_sums")?,
            partial_column_sums: sums.kernel("partial_column_sums")?,
            cross_entropy_32k: cross_entropy.kernel("cross_entropy_32k")?,
            cross_entropy_64k: cross_entropy.kernel("cross_entropy_64k")?,
            adamw: module("adamw.cu")?.kernel("adamw")?,
            gpu,
        }))
    }

    /// # Shape
    /// - `qkv`: `[T, 3·H·K]`; `slopes`: `[H]`, float32
    /// - results: `[T, H·K]`, and the logarithms of the softmax sums `[H, T]`, float32
    pub(crate) fn attention_forward(
        &self,
        qkv: &Tensor,
        sequences: &Sequences,
        slopes: &Tensor,
    ) -> Result<(Tensor, Tensor), Error> {
        let (tokens, heads) = (rows(qkv), rows(slopes));
        let out = empty_like(qkv, [tokens, heads * HEAD_SIZE], Kind::BFloat16); // [T, H·K]
        let lse = empty_like(qkv, [heads, tokens], Kind::Float); // [H, T]
        let arguments = AttentionForward {
            qkv: read(qkv, Kind::BFloat16, tokens * 3 * heads * HEAD_SIZE),
            out: write(&out, Kind::BFloat16, tokens * heads * HEAD_SIZE),
            lse: write(&lse, Kind::Float, heads * tokens),
            cu: read(&sequences.starts, Kind::Int, sequences.count + 1),
            slopes: read(slopes, Kind::Float, heads),
            heads: int(heads),
            tokens: int(tokens),
            scale: attention_scale(),
        };
        let grid = [blocks(sequences.longest, FORWARD_QUERIES), unsigned(heads), unsigned(sequences.count)];
        let launch = Launch { grid, threads: 128, shared_memory: FORWARD_SHARED };
        // SAFETY: extents checked above; `starts` ascends to T, and `longest` bounds its differences (TokenBatch).
        unsafe { self.attention_forward.launch(launch, &arguments)? };
        Ok((out, lse))
    }

    /// Whether the backward pass of sequences so long fits the card's shared memory.
    pub(crate) fn attention_fits(&self, longest: i64) -> bool {
        self.backward_shape(longest).is_some()
    }

    /// The kernel, its threads and its shared memory for sequences of up to `longest` tokens.
    fn backward_shape(&self, longest: i64) -> Option<(&Kernel, u32, u32)> {
        let rows = 8 * unsigned((longest + QUERY_BLOCK - 1) / QUERY_BLOCK * QUERY_BLOCK); // lse and delta of every query
        let short = (&self.attention_backward_short, 128, SHORT_SHARED + rows);
        let long = (&self.attention_backward_long, 256, LONG_SHARED + rows);
        let order = if longest <= SHORT_KEYS { [short, long] } else { [long, short] };
        order.into_iter().find(|(_, _, shared)| *shared <= self.gpu.shared_memory)
    }

    /// # Shape
    /// - `qkv`: `[T, 3·H·K]`; `out`, `d_out`: `[T, H·K]`; `lse`: `[H, T]`, float32
    /// - results: the gradient of `qkv`, and that of the queries' part of its bias `[H·K]`, float32
    pub(crate) fn attention_backward(
        &self,
        [qkv, out, lse, d_out]: [&Tensor; 4],
        sequences: &Sequences,
        slopes: &Tensor,
    ) -> Result<(Tensor, Tensor), Error> {
        let (tokens, heads) = (rows(qkv), rows(slopes));
        let width = heads * HEAD_SIZE;
        let Some((kernel, threads, shared_memory)) = self.backward_shape(sequences.longest) else {
            let reason =
                format!("sequences of {} tokens do not fit this card's shared memory", sequences.longest);
            return Err(Error::Fused { reason });
        };
        let d_qkv = empty_like(qkv, [tokens, 3 * width], Kind::BFloat16); // [T, 3·H·K]
        let one_block = sequences.longest <= SHORT_KEYS;
        let sums = empty_like(qkv, [if one_block { 0 } else { tokens }, width], Kind::Float); // [T, H·K]
        // Empty sequences write nothing.
        let bias = Tensor::zeros([sequences.count, width], (Kind::Float, qkv.device())); // [B, H·K]
        let arguments = AttentionBackward {
            qkv: read(qkv, Kind::BFloat16, tokens * 3 * width),
            out: read(out, Kind::BFloat16, tokens * width),
            d_out: read(d_out, Kind::BFloat16, tokens * width),
            lse: read(lse, Kind::Float, heads * tokens),
            d_qkv: write(&d_qkv, Kind::BFloat16, tokens * 3 * width),
            d_query_sums: write(&sums, Kind::Float, rows(&sums) * width),
            d_query_bias: write(&bias, Kind::Float, sequences.count * width),
            cu: read(&sequences.starts, Kind::Int, sequences.count + 1),
            slopes: read(slopes, Kind::Float, heads),
            heads: int(heads),
            tokens: int(tokens),
            scale: attention_scale(),
            longest: int((sequences.longest + QUERY_BLOCK - 1) / QUERY_BLOCK * QUERY_BLOCK),
        };
        let launch = Launch { grid: [unsigned(heads), unsigned(sequences.count), 1], threads, shared_memory };
        // SAFETY: as in the forward pass.
        unsafe { kernel.launch(launch, &arguments)? };
        Ok((d_qkv, bias.sum_dim_intlist(0, false, None)))
    }

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
        unsafe { self.geglu_forward.launch(self.geglu_launch(count * width), &arguments)? };
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
        unsafe { self.geglu_backward.launch(self.geglu_launch(count * width), &arguments) }
    }

    fn geglu_launch(&self, elements: i64) -> Launch {
        let grid = [blocks(elements, 8 * 256).min(8 * self.gpu.multiprocessors), 1, 1];
        Launch { grid, threads: 256, shared_memory: 0 }
    }

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

    /// Adds `matrix`, `[any, parts·C]`, summed over its rows, to the `parts` vectors `to`, `[C]`. All float32.
    fn add_column_sums(&self, matrix: &Tensor, to: &[&Tensor]) -> Result<(), Error> {
        let parts = to.len() as i64;
        let (count, width) = (rows(matrix), columns(matrix) / parts);
        let mut pointers = [null_mut(); 3];
        for (pointer, vector) in pointers.iter_mut().zip(to) {
            *pointer = write(vector, Kind::Float, width);
        }
        let arguments = AddColumnSums {
            matrix: read(matrix, Kind::Float, count * parts * width),
            to: pointers,
            rows: int(count),
            parts: int(parts),
            columns: int(width),
        };
        let grid = [blocks(width, 32), unsigned(parts), 1];
        let launch = Launch { grid, threads: SUM_THREADS, shared_memory: 4 * SUM_THREADS };
        // SAFETY: extents checked above.
        unsafe { self.add_column_sums.launch(launch, &arguments) }
    }

    /// The sums of the columns of a bf16 matrix.
    ///
    /// # Shape
    /// - `matrix`: `[any, C]`; result: `[C]`, float32
    pub(crate) fn column_sums(&self, matrix: &Tensor) -> Result<Tensor, Error> {
        let (count, width) = (rows(matrix), columns(matrix));
        let partial = empty_like(matrix, [i64::from(SUM_BLOCKS), width], Kind::Float); // [SUM_BLOCKS, C]
        let arguments = PartialColumnSums {
            matrix: read(matrix, Kind::BFloat16, count * width),
            partial: write(&partial, Kind::Float, i64::from(SUM_BLOCKS) * width),
            rows: int(count),
            columns: int(width),
        };
        let grid = [blocks(width, i64::from(SUM_COLUMNS)), SUM_BLOCKS, 1];
        let launch =
            Launch { grid, threads: SUM_THREADS, shared_memory: 4 * (SUM_THREADS / 32) * SUM_COLUMNS };
        // SAFETY: extents checked above.
        unsafe { self.partial_column_sums.launch(launch, &arguments)? };
        Ok(partial.sum_dim_intlist(0, false, None))
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
    /// # Safety
    /// The addresses in `pieces` are those of live, distinct tensors on this GPU with at least `count` elements.
    pub(crate) unsafe fn adamw(
        &self,
        pieces: &Tensor,
        factor: Option<&Tensor>,
        update: Update,
    ) -> Result<(), Error> {
        let arguments = AdamW {
            pieces: read(pieces, Kind::Int64, rows(pieces) * 6),
            gradient_factor: factor.map_or(null(), |factor| read(factor, Kind::Float, 1)),
            beta1: update.beta1 as f32,
            beta2: update.beta2 as f32,
            keep: update.keep as f32,
            rate: update.rate as f32,
            inverse_bias2: update.inverse_bias2 as f32,
            epsilon: update.epsilon as f32,
            clear_gradients: 1,
        };
        let launch = Launch { grid: [unsigned(rows(pieces)), 1, 1], threads: 256, shared_memory: 0 };
        // SAFETY: the caller's promise.
        unsafe { self.adamw.launch(launch, &arguments) }
    }
}

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

fn attention_scale() -> f32 {
    1.0 / (HEAD_SIZE as f32).sqrt()
}

fn rows(tensor: &Tensor) -> i64 {
    tensor.size()[0]
}

fn columns(tensor: &Tensor) -> i64 {
    tensor.size()[1]
}

fn empty_like(like: &Tensor, shape: [i64; 2], kind: Kind) -> Tensor {
    Tensor::empty(shape, (kind, like.device()))
}

fn int(value: i64) -> i32 {
    i32::try_from(value).expect("sizes of a micro-batch fit 31 bits")
}

fn unsigned(value: i64) -> u32 {
    u32::try_from(value).expect("sizes of a micro-batch fit 31 bits")
}

/// Blocks of `size` that cover `count`.
fn blocks(count: i64, size: i64) -> u32 {
    unsigned((count + size - 1) / size)
}

/// The address of a tensor that a kernel reads or writes as `count` elements of `kind`, one behind the other on a GPU. A
/// tensor that is not so is a mistake of this crate, which must not reach the card.
fn read(tensor: &Tensor, kind: Kind, count: i64) -> *const c_void {
    assert!(
        tensor.kind() == kind
            && tensor.numel() as i64 == count
            && tensor.is_contiguous()
            && matches!(tensor.device(), Device::Cuda(_)),
        "a kernel was given {:?} {:?} on {:?}, contiguous: {}; it wants {count} of {kind:?} on a GPU",
        tensor.kind(),
        tensor.size(),
        tensor.device(),
        tensor.is_contiguous(),
    );
    tensor.data_ptr()
}

fn write(tensor: &Tensor, kind: Kind, count: i64) -> *mut c_void {
    read(tensor, kind, count).cast_mut()
}
