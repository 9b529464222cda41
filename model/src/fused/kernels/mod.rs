//! Our kernels as functions of tensors: shapes and types are checked here, once, and memory for results is allocated.
//!
//! Each argument struct repeats, field for field, the one of the same name in `csrc/kernels/*.cu`, which says what the
//! kernel computes and where the algorithm comes from. Everything runs on torch's current stream.

// Kernels work on raw addresses; every launch says what vouches for them.
#![allow(unsafe_code)]

mod attention;
mod elementwise;
mod rows;
mod sums;

use std::ffi::c_void;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

pub(crate) use attention::{Attended, Sequences};
pub(crate) use elementwise::Update;
pub(crate) use rows::Tables;
pub(crate) use sums::ColumnSum;

use attention::AttentionKernels;

use crate::Error;
use crate::torch::cache::cache_folder;
use crate::torch::driver::{Arguments, Gpu, Kernel, Module};
use crate::torch::nvrtc::Compiler;
use crate::torch::products::Products;

/// The head dimension the attention kernels are written for, K.
pub(crate) const HEAD_SIZE: i64 = 64;
/// The widest rows LayerNorm keeps in registers, D.
pub(crate) const WIDEST_ROW: i64 = 1024;
/// The largest vocabulary whose logits a block keeps in registers, V.
pub(crate) const LARGEST_VOCABULARY: i64 = 65_536;

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
    /// Whether nothing is dropped.
    pub(crate) fn is_off(self) -> bool {
        self.arguments().threshold == 0
    }

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

use arguments;

type Read = *const c_void;
type Write = *mut c_void;

/// All kernels, loaded on one GPU for rows of one width.
#[derive(Debug)]
pub(crate) struct Kernels {
    gpu: Arc<Gpu>,
    /// Matrix products, which are not ours.
    pub(crate) products: Products,
    hidden: i64,
    /// Type of the residual stream: bf16 or float32.
    stream: Kind,
    attention: AttentionKernels,
    attention_dropout: AttentionKernels,
    geglu_forward: Kernel,
    geglu_backward: Kernel,
    gelu_forward: Kernel,
    gelu_backward: Kernel,
    layer_norm_forward: Kernel,
    layer_norm_backward: Kernel,
    embedding_forward: Kernel,
    embedding_backward: Kernel,
    table_gradient: Kernel,
    table_gradient_over_borders: Kernel,
    add_column_sums: Kernel,
    partial_column_sums: Kernel,
    cross_entropy_32k: Kernel,
    cross_entropy_64k: Kernel,
    adamw: Kernel,
}

impl Kernels {
    /// Compiles, or finds compiled, and loads the kernels for rows of `hidden` columns on GPU `device`; `stream`, bf16 or
    /// float32, is the type of the residual stream.
    ///
    /// # Errors
    /// [`Error::Library`] without the driver, NVRTC or cuBLASLt, [`Error::Kernel`] and [`Error::Cuda`].
    pub(crate) fn load(device: usize, hidden: i64, stream: Kind) -> Result<Arc<Kernels>, Error> {
        let gpu = Gpu::open(device)?;
        let compiler = Compiler::open()?;
        let cache = cache_folder();
        let mut options = vec![format!("-DHIDDEN={hidden}")];
        if stream == Kind::Float {
            options.push("-DFLOAT_STREAM".to_owned());
        }
        let module = |file| {
            let code = compiler.machine_code(file, &options, gpu.capability, cache.as_deref())?;
            Module::load(&gpu, &code)
        };
        let attention_forward = module("attention_forward.cu")?;
        let attention_backward = module("attention_backward.cu")?;
        let geglu = module("geglu.cu")?;
        let gelu = module("gelu.cu")?;
        let layer_norm = module("layer_norm.cu")?;
        let embedding = module("embedding.cu")?;
        let table_gradient = module("table_gradient.cu")?;
        let sums = module("column_sums.cu")?;
        let cross_entropy = module("cross_entropy.cu")?;
        Ok(Arc::new(Kernels {
            products: Products::open(&gpu)?,
            hidden,
            stream,
            attention: AttentionKernels {
                forward: attention_forward.kernel("attention_forward")?,
                backward_short: attention_backward.kernel("attention_backward_short")?,
                backward_long: attention_backward.kernel("attention_backward_long")?,
            },
            attention_dropout: AttentionKernels {
                forward: attention_forward.kernel("attention_forward_dropout")?,
                backward_short: attention_backward.kernel("attention_backward_short_dropout")?,
                backward_long: attention_backward.kernel("attention_backward_long_dropout")?,
            },
            geglu_forward: geglu.kernel("geglu_forward")?,
            geglu_backward: geglu.kernel("geglu_backward")?,
            gelu_forward: gelu.kernel("gelu_forward")?,
            gelu_backward: gelu.kernel("gelu_backward")?,
            layer_norm_forward: layer_norm.kernel("layer_norm_forward")?,
            layer_norm_backward: layer_norm.kernel("layer_norm_backward")?,
            embedding_forward: embedding.kernel("embedding_forward")?,
            embedding_backward: embedding.kernel("embedding_backward")?,
            table_gradient: table_gradient.kernel("table_gradient")?,
            table_gradient_over_borders: table_gradient.kernel("table_gradient_over_borders")?,
            add_column_sums: sums.kernel("add_column_sums")?,
            partial_column_sums: sums.kernel("partial_column_sums")?,
            cross_entropy_32k: cross_entropy.kernel("cross_entropy_32k")?,
            cross_entropy_64k: cross_entropy.kernel("cross_entropy_64k")?,
            adamw: module("adamw.cu")?.kernel("adamw")?,
            gpu,
        }))
    }
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
