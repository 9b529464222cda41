//! `attention_forward.cu` and `attention_backward.cu`: attention over packed sequences.

use tch::{Kind, Tensor};

use super::{
    Arguments, Dropout, DropoutArguments, HEAD_SIZE, Kernels, Read, Write, arguments, blocks, empty_like,
    int, read, rows, unsigned, write,
};
use crate::Error;
use crate::torch::driver::{Kernel, Launch};

// Shapes of blocks, as the sources have them.
const FORWARD_QUERIES: i64 = 64;
const FORWARD_SHARED: u32 = 40_960;
const QUERY_BLOCK: i64 = 64;
const SHORT_KEYS: i64 = 128;
const SHORT_SHARED: u32 = 106_496;
const LONG_SHARED: u32 = 172_032;

/// What CUDA allows a grid to have in its second and third direction.
const MOST_SEQUENCES: i64 = 65_535;

arguments!(AttentionForward {
    qkv: Read,
    out: Write,
    lost: Write,
    lse: Write,
    cu: Read,
    slopes: Read,
    heads: i32,
    tokens: i32,
    scale: f32,
    dropout: DropoutArguments,
});
arguments!(AttentionBackward {
    qkv: Read,
    out: Read,
    lost: Read,
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
    dropout: DropoutArguments,
});

/// The kernels with dropout of the probabilities, or those without.
#[derive(Debug)]
pub(super) struct AttentionKernels {
    pub(super) forward: Kernel,
    pub(super) backward_short: Kernel,
    pub(super) backward_long: Kernel,
}

/// What attention computes, and keeps for its backward pass.
#[derive(Debug)]
pub(crate) struct Attended {
    /// `[T, H·K]`, bf16.
    pub(crate) out: Tensor,
    /// What rounding took from `out`, `[T, H·K]`, int8.
    pub(crate) lost: Tensor,
    /// Logarithms of the softmax sums, `[H, T]`, float32.
    pub(crate) lse: Tensor,
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

impl Kernels {
    /// # Shape
    /// - `qkv`: `[T, 3·H·K]`; `slopes`: `[H]`, float32
    /// - results: see [`Attended`]
    pub(crate) fn attention_forward(
        &self,
        qkv: &Tensor,
        sequences: &Sequences,
        slopes: &Tensor,
        dropout: Dropout,
    ) -> Result<Attended, Error> {
        if sequences.count > MOST_SEQUENCES {
            return Err(Error::TooManySequences { found: sequences.count, most: MOST_SEQUENCES });
        }
        let (tokens, heads) = (rows(qkv), rows(slopes));
        let out = empty_like(qkv, [tokens, heads * HEAD_SIZE], Kind::BFloat16); // [T, H·K]
        let lost = empty_like(qkv, [tokens, heads * HEAD_SIZE], Kind::Int8); // [T, H·K]
        let lse = empty_like(qkv, [heads, tokens], Kind::Float); // [H, T]
        let arguments = AttentionForward {
            qkv: read(qkv, Kind::BFloat16, tokens * 3 * heads * HEAD_SIZE),
            out: write(&out, Kind::BFloat16, tokens * heads * HEAD_SIZE),
            lost: write(&lost, Kind::Int8, tokens * heads * HEAD_SIZE),
            lse: write(&lse, Kind::Float, heads * tokens),
            cu: read(&sequences.starts, Kind::Int, sequences.count + 1),
            slopes: read(slopes, Kind::Float, heads),
            heads: int(heads),
            tokens: int(tokens),
            scale: attention_scale(),
            dropout: dropout.arguments(),
        };
        let grid = [blocks(sequences.longest, FORWARD_QUERIES), unsigned(heads), unsigned(sequences.count)];
        let launch = Launch { grid, threads: 128, shared_memory: FORWARD_SHARED };
        // SAFETY: extents checked above; `starts` ascends to T, and `longest` bounds its differences (TokenBatch).
        unsafe { self.attention_with(dropout).forward.launch(launch, &arguments)? };
        Ok(Attended { out, lost, lse })
    }

    /// Whether the backward pass of sequences so long fits the card's shared memory.
    pub(crate) fn attention_fits(&self, longest: i64) -> bool {
        self.backward_shape(&self.attention, longest).is_some()
    }

    fn attention_with(&self, dropout: Dropout) -> &AttentionKernels {
        if dropout.is_off() { &self.attention } else { &self.attention_dropout }
    }

    /// The kernel, its threads and its shared memory for sequences of up to `longest` tokens.
    fn backward_shape<'a>(
        &self,
        kernels: &'a AttentionKernels,
        longest: i64,
    ) -> Option<(&'a Kernel, u32, u32)> {
        let rows = 8 * unsigned((longest + QUERY_BLOCK - 1) / QUERY_BLOCK * QUERY_BLOCK); // lse and delta of every query
        let short = (&kernels.backward_short, 128, SHORT_SHARED + rows);
        let long = (&kernels.backward_long, 256, LONG_SHARED + rows);
        let order = if longest <= SHORT_KEYS { [short, long] } else { [long, short] };
        order.into_iter().find(|(_, _, shared)| *shared <= self.gpu.shared_memory)
    }

    /// # Shape
    /// - `qkv`: `[T, 3·H·K]`; `d_out`: `[T, H·K]`
    /// - results: the gradient of `qkv`, and its queries' part summed over the tokens of each sequence, `[B, H·K]`, float32
    pub(crate) fn attention_backward(
        &self,
        qkv: &Tensor,
        Attended { out, lost, lse }: &Attended,
        d_out: &Tensor,
        sequences: &Sequences,
        slopes: &Tensor,
        dropout: Dropout,
    ) -> Result<(Tensor, Tensor), Error> {
        let (tokens, heads) = (rows(qkv), rows(slopes));
        let width = heads * HEAD_SIZE;
        let Some((kernel, threads, shared_memory)) =
            self.backward_shape(self.attention_with(dropout), sequences.longest)
        else {
            let reason =
                format!("sequences of {} tokens do not fit this card's shared memory", sequences.longest);
            return Err(Error::Fused { reason });
        };
        let d_qkv = empty_like(qkv, [tokens, 3 * width], Kind::BFloat16); // [T, 3·H·K]
        let one_block = sequences.longest <= SHORT_KEYS;
        let sums = empty_like(qkv, [if one_block { 0 } else { tokens }, width], Kind::Float); // [T, H·K]
        let query_sums = empty_like(qkv, [sequences.count, width], Kind::Float); // [B, H·K]
        let arguments = AttentionBackward {
            qkv: read(qkv, Kind::BFloat16, tokens * 3 * width),
            out: read(out, Kind::BFloat16, tokens * width),
            lost: read(lost, Kind::Int8, tokens * width),
            d_out: read(d_out, Kind::BFloat16, tokens * width),
            lse: read(lse, Kind::Float, heads * tokens),
            d_qkv: write(&d_qkv, Kind::BFloat16, tokens * 3 * width),
            d_query_sums: write(&sums, Kind::Float, rows(&sums) * width),
            d_query_bias: write(&query_sums, Kind::Float, sequences.count * width),
            cu: read(&sequences.starts, Kind::Int, sequences.count + 1),
            slopes: read(slopes, Kind::Float, heads),
            heads: int(heads),
            tokens: int(tokens),
            scale: attention_scale(),
            longest: int((sequences.longest + QUERY_BLOCK - 1) / QUERY_BLOCK * QUERY_BLOCK),
            dropout: dropout.arguments(),
        };
        let launch = Launch { grid: [unsigned(heads), unsigned(sequences.count), 1], threads, shared_memory };
        // SAFETY: as in the forward pass.
        unsafe { kernel.launch(launch, &arguments)? };
        Ok((d_qkv, query_sums))
    }
}

fn attention_scale() -> f32 {
    1.0 / (HEAD_SIZE as f32).sqrt()
}
