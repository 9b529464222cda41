//! Matrix products by cuBLASLt, each with the algorithm that is fastest on this card.
//!
//! cuBLASLt proposes several algorithms for a product and orders them by a model of the card. For long and thin factors, as an
//! encoder's are, the first is up to 18 % slower than the best (measured on an H200 at 131,072 rows of 768 columns). So the
//! proposals for a large product are timed the first time its shape is met. What was chosen is kept in the user's cache, by
//! library, card and shape, and never changed: the same step gives the same bits in the next process too. Where there is no
//! cache to keep it in, the first proposal is taken.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use super::cache::{cache_folder, keep_first, read_cached};
use super::cublaslt::{
    Algorithm, Api, BFLOAT16, COMPUTE_FLOAT, DESCRIPTION_BIAS_POINTER, DESCRIPTION_EPILOGUE,
    DESCRIPTION_TRANSPOSE_A, DESCRIPTION_TRANSPOSE_B, EPILOGUE_BIAS, FLOAT, Object, PREFERENCE_ALIGNMENTS,
    PREFERENCE_REDUCTION_SCHEMES, PREFERENCE_WORKSPACE_BYTES, Proposal, REDUCTION_OUT_OF_PLACE, Status,
    checked,
};
use super::driver::Gpu;
use super::memory::current_stream;
use crate::Error;

const WORKSPACE: i64 = 64 << 20;
/// Proposals asked for.
const PROPOSALS: usize = 16;
/// Products of fewer multiplications and additions take the first proposal.
const WORTH_TIMING: f64 = 1e10;
/// How often the proposals are gone through, and how long each is run every time: long enough for the card to be as busy, and
/// its clock as low, as in a training step.
const ROUNDS: usize = 3;
const RUN: Duration = Duration::from_millis(6);
/// A product takes over what was chosen for the same one over up to this many times more tokens: the last micro-batch of a step
/// has any size, and should not stop the run for a choice of its own.
const BORROWED: i64 = 8;
/// A proposal must be this much faster than the first to be taken instead.
const ADVANTAGE: f64 = 1.005;

/// All that decides which algorithms there are for a product, and how fast they are: as the library sees it, which counts
/// columns first, so that out becomes `outᵀ = rightᵀ leftᵀ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    transposed: [bool; 2],
    /// m, n and k.
    sizes: [i64; 3],
    /// Elements from one column to the next: of the two factors and the result.
    strides: [i64; 3],
    /// Bytes that the addresses are multiples of.
    alignments: [u32; 3],
    float_result: bool,
    add: bool,
    bias: bool,
}

impl Shape {
    fn result_type(&self) -> c_int {
        if self.float_result { FLOAT } else { BFLOAT16 }
    }

    fn operations(&self) -> f64 {
        self.sizes.iter().map(|&size| size as f64).product::<f64>() * 2.0
    }

    /// The shape whose algorithm this one takes: sizes rounded up to powers of two, for micro-batches differ in their numbers
    /// of tokens. Widths are told apart by the strides.
    fn class(mut self) -> Shape {
        for size in &mut self.sizes {
            *size = size.unsigned_abs().next_power_of_two() as i64;
        }
        self
    }

    /// Whether this is the same product over fewer tokens, up to [`BORROWED`] times fewer.
    fn is_part_of(&self, larger: &Shape) -> bool {
        let differing: Vec<usize> = (0..3).filter(|&i| self.sizes[i] != larger.sizes[i]).collect();
        let [i] = differing[..] else { return false };
        let alike = Shape { sizes: larger.sizes, ..*self } == *larger;
        alike && self.sizes[i] < larger.sizes[i] && larger.sizes[i] <= BORROWED * self.sizes[i]
    }
}

/// A factor as it lies in memory: rows or columns one behind the other.
struct Factor {
    address: *const c_void,
    /// Whether columns lie one behind the other.
    columns_first: bool,
    stride: i64,
}

impl Factor {
    fn of(tensor: &Tensor) -> Factor {
        let (size, stride) = (tensor.size(), tensor.stride());
        assert!(
            size.len() == 2 && tensor.kind() == Kind::BFloat16 && matches!(tensor.device(), Device::Cuda(_)),
            "a factor is a bf16 matrix on a GPU, not {tensor:?}"
        );
        // Where a matrix has one row or one column, either order describes it.
        let columns_first = stride[1] != 1 && stride[0] == 1;
        let (inner, outer) = if columns_first { (0, 1) } else { (1, 0) };
        assert!(stride[inner] == 1, "a factor's rows or columns lie one behind the other");
        Factor { address: tensor.data_ptr(), columns_first, stride: stride[outer].max(size[inner]) }
    }
}

/// cuBLASLt on one GPU.
pub(crate) struct Products {
    api: Api,
    gpu: Arc<Gpu>,
    handle: *mut c_void,
    /// For partial sums: `[WORKSPACE]`, bytes. One stream uses it.
    workspace: Tensor,
    /// Where choices are kept, if anywhere.
    cache: Option<PathBuf>,
    chosen: Mutex<HashMap<Shape, (Shape, Algorithm)>>,
}

// SAFETY: the library's handle may be used from any thread; the workspace is used in the order of one stream.
unsafe impl Send for Products {}
// SAFETY: as above; what changes is behind a mutex.
unsafe impl Sync for Products {}

impl std::fmt::Debug for Products {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cuBLASLt on {:?}", self.gpu)
    }
}

impl Products {
    /// # Errors
    /// [`Error::Library`] without cuBLASLt; [`Error::Cuda`] and [`Error::OutOfMemory`] where the card refuses.
    pub(crate) fn open(gpu: &Arc<Gpu>) -> Result<Products, Error> {
        let api = Api::open()?;
        gpu.enter()?;
        let mut handle = null_mut();
        // SAFETY: the result outlives the call. The handle stays for the life of the process.
        checked(unsafe { (api.create)(&raw mut handle) }, "open cuBLASLt")?;
        let workspace = Tensor::f_empty([WORKSPACE], (Kind::Uint8, Device::Cuda(gpu.index)))
            .map_err(|error| Error::torch("allocate a workspace", &error.to_string()))?;
        Ok(Products {
            api,
            gpu: gpu.clone(),
            handle,
            workspace,
            cache: cache_folder(),
            chosen: Mutex::default(),
        })
    }

    /// `left right + bias` as a new bf16 tensor.
    ///
    /// # Shape
    /// - `left`: `[M, K]` and `right`: `[K, N]`, bf16, either may be transposed; `bias`: `[N]`, bf16; result: `[M, N]`
    pub(crate) fn product(
        &self,
        left: &Tensor,
        right: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor, Error> {
        let size = [left.size()[0], right.size()[1]];
        let out = Tensor::f_empty(size, (Kind::BFloat16, left.device()))
            .map_err(|error| Error::torch("allocate a product", &error.to_string()))?; // [M, N]
        self.multiply(left, right, bias, &out, false)?;
        Ok(out)
    }

    /// Adds `left right` to `sum`, with float32 inside the product.
    ///
    /// # Shape
    /// - `left`: `[M, K]` and `right`: `[K, N]`, bf16, either may be transposed; `sum`: `[M, N]`, float32 or bf16
    pub(crate) fn add_product(&self, sum: &Tensor, left: &Tensor, right: &Tensor) -> Result<(), Error> {
        self.multiply(left, right, None, sum, true)
    }

    fn multiply(
        &self,
        left: &Tensor,
        right: &Tensor,
        bias: Option<&Tensor>,
        out: &Tensor,
        add: bool,
    ) -> Result<(), Error> {
        let (rows, columns, inner) = (left.size()[0], right.size()[1], left.size()[1]);
        assert!(
            right.size()[0] == inner && out.size() == [rows, columns] && out.is_contiguous(),
            "{left:?} times {right:?} is not {out:?}"
        );
        assert!(matches!(out.kind(), Kind::BFloat16 | Kind::Float), "a product is bf16 or float32");
        if let Some(bias) = bias {
            let fits = bias.size() == [columns] && bias.is_contiguous() && bias.kind() == Kind::BFloat16;
            assert!(fits && !add && out.kind() == Kind::BFloat16, "a bias is a bf16 vector, not {bias:?}");
        }
        if rows == 0 || columns == 0 {
            return Ok(());
        }
        assert!(inner > 0, "a sum over nothing");
        let factors = [Factor::of(right), Factor::of(left)];
        let addresses = [factors[0].address, factors[1].address, out.data_ptr().cast_const()];
        let shape = Shape {
            transposed: [factors[0].columns_first, factors[1].columns_first],
            sizes: [columns, rows, inner],
            strides: [factors[0].stride, factors[1].stride, columns],
            alignments: addresses.map(|address| 1 << address.addr().trailing_zeros().min(8)),
            float_result: out.kind() == Kind::Float,
            add,
            bias: bias.is_some(),
        };
        self.gpu.enter()?;
        let call = Call::new(self, shape, bias)?;
        let algorithm = self.algorithm(shape, &call, addresses)?;
        // SAFETY: factors and result are live matrices of the shape just described, on this GPU.
        checked(unsafe { call.run(&algorithm, addresses, out.data_ptr()) }?, "multiply matrices")
    }

    /// The algorithm for a shape: that of its class, which is chosen now if this is the first of it.
    fn algorithm(
        &self,
        shape: Shape,
        call: &Call,
        addresses: [*const c_void; 3],
    ) -> Result<Algorithm, Error> {
        let class = shape.class();
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let (example, algorithm) = match chosen.get(&class) {
            Some(&found) => found,
            None => {
                let larger = chosen.iter().filter(|(known, _)| class.is_part_of(known));
                let larger =
                    larger.min_by_key(|(known, _)| known.sizes).map(|(_, (_, algorithm))| *algorithm);
                let algorithm = self.choose(shape, call, addresses, larger)?;
                chosen.insert(class, (shape, algorithm));
                (shape, algorithm)
            }
        };
        drop(chosen);
        if example == shape || call.accepts(&algorithm) {
            return Ok(algorithm);
        }
        Ok(call.proposals(1)?[0].algorithm)
    }

    fn choose(
        &self,
        shape: Shape,
        call: &Call,
        addresses: [*const c_void; 3],
        larger: Option<Algorithm>,
    ) -> Result<Algorithm, Error> {
        let path = self.cache.as_deref().map(|folder| folder.join(self.cache_name(shape.class())));
        let kept = |path: &Path| {
            let words: Vec<u64> = read_cached(path)?
                .chunks_exact(8)
                .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
                .collect();
            Algorithm::try_from(words).ok().filter(|algorithm| call.accepts(algorithm))
        };
        if let Some(algorithm) = path.as_deref().and_then(kept) {
            return Ok(algorithm);
        }
        let proposals = call.proposals(PROPOSALS)?;
        let Some(path) = path.filter(|_| shape.operations() >= WORTH_TIMING && proposals.len() > 1) else {
            return Ok(proposals[0].algorithm);
        };
        let fastest = match larger.filter(|algorithm| call.accepts(algorithm)) {
            Some(algorithm) => algorithm,
            None => self.fastest(&proposals, shape, call, addresses)?,
        };
        let bytes: Vec<u8> = fastest.iter().flat_map(|word| word.to_le_bytes()).collect();
        keep_first(&path, &bytes);
        // Another process may have been first; and if nothing can be kept, nothing may depend on a clock.
        Ok(kept(&path).unwrap_or(proposals[0].algorithm))
    }

    /// The fastest of the proposals by the clock, on a result of its own.
    fn fastest(
        &self,
        proposals: &[Proposal],
        shape: Shape,
        call: &Call,
        addresses: [*const c_void; 3],
    ) -> Result<Algorithm, Error> {
        let [columns, rows, _] = shape.sizes;
        let kind = if shape.float_result { Kind::Float } else { Kind::BFloat16 };
        let Ok(scratch) = Tensor::f_zeros([rows, columns], (kind, Device::Cuda(self.gpu.index))) else {
            return Ok(proposals[0].algorithm); // memory is short: choose without a clock
        };
        let device = i64::try_from(self.gpu.index).unwrap_or(0);
        let mut seconds = vec![0.0; proposals.len()];
        let mut runs = vec![0; proposals.len()];
        // The first round loads what the algorithms need, and the second tells how often a run fits the time.
        for round in 0..ROUNDS + 2 {
            for (i, proposal) in proposals.iter().enumerate() {
                let repeats = if round < 2 { 1 } else { runs[i] };
                tch::Cuda::synchronize(device);
                let start = Instant::now();
                for _ in 0..repeats {
                    // SAFETY: as in `multiply`, with the scratch for the result.
                    if unsafe { call.run(&proposal.algorithm, addresses, scratch.data_ptr()) }? != 0 {
                        seconds[i] = f64::INFINITY;
                    }
                }
                tch::Cuda::synchronize(device);
                let elapsed = start.elapsed().as_secs_f64();
                match round {
                    0 => {}
                    1 => runs[i] = (RUN.as_secs_f64() / elapsed).clamp(2.0, 100.0) as usize,
                    _ => seconds[i] += elapsed / repeats as f64,
                }
            }
        }
        let best = (0..seconds.len()).min_by(|&a, &b| seconds[a].total_cmp(&seconds[b])).unwrap_or(0);
        let better = seconds[best] * ADVANTAGE < seconds[0];
        Ok(proposals[if better { best } else { 0 }].algorithm)
    }

    fn cache_name(&self, class: Shape) -> String {
        // SAFETY: no arguments to promise anything about.
        let version = unsafe { (self.api.version)() };
        let (gpu, capability) = (self.gpu.multiprocessors, self.gpu.capability);
        let text = format!("cublasLt {version} {capability:?} {gpu} {class:?}");
        format!("product-{}", &blake3::hash(text.as_bytes()).to_hex()[..32])
    }
}

/// A product as the library wants it described.
struct Call<'a> {
    products: &'a Products,
    shape: Shape,
    description: Object,
    /// Of the two factors and the result.
    layouts: [Object; 3],
}

impl<'a> Call<'a> {
    fn new(products: &'a Products, shape: Shape, bias: Option<&Tensor>) -> Result<Call<'a>, Error> {
        let api = &products.api;
        let mut handle = null_mut();
        // SAFETY: the result outlives the call.
        let status = unsafe { (api.description_create)(&raw mut handle, COMPUTE_FLOAT, FLOAT) };
        checked(status, "describe a product")?;
        let description = Object { handle, destroy: api.description_destroy };
        let set = |attribute: c_int, value: &[u8]| {
            // SAFETY: a live description; the value is read during the call and has the attribute's size.
            let status = unsafe {
                (api.description_set)(description.handle, attribute, value.as_ptr().cast(), value.len())
            };
            checked(status, "describe a product")
        };
        for (attribute, transposed) in
            [DESCRIPTION_TRANSPOSE_A, DESCRIPTION_TRANSPOSE_B].into_iter().zip(shape.transposed)
        {
            set(attribute, &c_int::from(transposed).to_ne_bytes())?;
        }
        if let Some(bias) = bias {
            set(DESCRIPTION_EPILOGUE, &EPILOGUE_BIAS.to_ne_bytes())?;
            set(DESCRIPTION_BIAS_POINTER, &bias.data_ptr().addr().to_ne_bytes())?;
        }
        let [m, n, k] = shape.sizes;
        let layout = |kind: c_int, rows: i64, columns: i64, stride: i64| {
            let mut handle = null_mut();
            // SAFETY: the result outlives the call.
            let status = unsafe {
                (api.layout_create)(
                    &raw mut handle,
                    kind,
                    rows.unsigned_abs(),
                    columns.unsigned_abs(),
                    stride,
                )
            };
            checked(status, "describe a matrix").map(|()| Object { handle, destroy: api.layout_destroy })
        };
        let turned = |transposed: bool, rows: i64, columns: i64| {
            if transposed { (columns, rows) } else { (rows, columns) }
        };
        let (a, b) = (turned(shape.transposed[0], m, k), turned(shape.transposed[1], k, n));
        let layouts = [
            layout(BFLOAT16, a.0, a.1, shape.strides[0])?,
            layout(BFLOAT16, b.0, b.1, shape.strides[1])?,
            layout(shape.result_type(), m, n, shape.strides[2])?,
        ];
        Ok(Call { products, shape, description, layouts })
    }

    /// Up to `count` algorithms, at least one, the library's favourite first.
    fn proposals(&self, count: usize) -> Result<Vec<Proposal>, Error> {
        let api = &self.products.api;
        let mut handle = null_mut();
        // SAFETY: the result outlives the call.
        checked(unsafe { (api.preference_create)(&raw mut handle) }, "find an algorithm")?;
        let preference = Object { handle, destroy: api.preference_destroy };
        let set = |attribute: c_int, value: &[u8]| {
            // SAFETY: a live preference; the value is read during the call and has the attribute's size.
            let status = unsafe {
                (api.preference_set)(preference.handle, attribute, value.as_ptr().cast(), value.len())
            };
            checked(status, "find an algorithm")
        };
        set(PREFERENCE_WORKSPACE_BYTES, &WORKSPACE.to_ne_bytes())?;
        set(PREFERENCE_REDUCTION_SCHEMES, &REDUCTION_OUT_OF_PLACE.to_ne_bytes())?;
        let [a, b, d] = self.shape.alignments;
        for (attribute, alignment) in PREFERENCE_ALIGNMENTS.into_iter().zip([a, b, d, d]) {
            set(attribute, &alignment.to_ne_bytes())?;
        }
        let mut proposals = vec![Proposal::default(); count];
        let mut found = 0;
        let [a, b, d] = self.layouts.each_ref().map(|layout| layout.handle);
        // SAFETY: all handles are live; there is room for `count` proposals.
        let status = unsafe {
            (api.propose)(
                self.products.handle,
                self.description.handle,
                a,
                b,
                d,
                d,
                preference.handle,
                c_int::try_from(count).expect("a handful"),
                proposals.as_mut_ptr(),
                &raw mut found,
            )
        };
        checked(status, "find an algorithm")?;
        proposals.truncate(usize::try_from(found).unwrap_or(0));
        proposals.retain(|proposal| proposal.state == 0);
        if proposals.is_empty() {
            let message = format!("cuBLASLt has none for {:?}", self.shape);
            return Err(Error::Cuda { operation: "find an algorithm".to_owned(), message });
        }
        Ok(proposals)
    }

    /// Whether the algorithm can make this product within the workspace.
    fn accepts(&self, algorithm: &Algorithm) -> bool {
        let [a, b, d] = self.layouts.each_ref().map(|layout| layout.handle);
        let mut result = Proposal::default();
        // SAFETY: all handles are live; the result outlives the call.
        let status = unsafe {
            (self.products.api.check)(
                self.products.handle,
                self.description.handle,
                a,
                b,
                d,
                d,
                algorithm,
                &raw mut result,
            )
        };
        status == 0 && result.workspace <= WORKSPACE as usize
    }

    /// Puts the product on torch's current stream; the library's status.
    ///
    /// # Safety
    /// The first two addresses are those of factors of this shape, `out` that of a result of this shape, on this GPU.
    unsafe fn run(
        &self,
        algorithm: &Algorithm,
        addresses: [*const c_void; 3],
        out: *mut c_void,
    ) -> Result<Status, Error> {
        let stream = current_stream(self.products.gpu.index)?;
        let (alpha, beta) = (1.0_f32, if self.shape.add { 1.0_f32 } else { 0.0 });
        let [a, b, d] = self.layouts.each_ref().map(|layout| layout.handle);
        // SAFETY: the caller's promise; handles are live; the scalars are read during the call; the workspace has that size
        // and is used in the order of the stream.
        Ok(unsafe {
            (self.products.api.multiply)(
                self.products.handle,
                self.description.handle,
                (&raw const alpha).cast(),
                addresses[0],
                a,
                addresses[1],
                b,
                (&raw const beta).cast(),
                out.cast_const(),
                d,
                out,
                d,
                algorithm,
                self.products.workspace.data_ptr(),
                WORKSPACE as usize,
                stream,
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(sizes: [i64; 3]) -> Shape {
        Shape {
            transposed: [true, false],
            sizes,
            strides: [768, 768, 2304],
            alignments: [256; 3],
            float_result: false,
            add: false,
            bias: true,
        }
    }

    #[test]
    fn shapes_that_differ_by_some_tokens_are_of_one_class() {
        let class = |rows| shape([2304, rows, 768]).class();
        assert_eq!(class(39_321), class(59_400));
        assert_ne!(class(65_536), class(65_537));
        assert_eq!(class(65_536).sizes, [4096, 65_536, 1024]);
        assert_eq!(class(65_536).class(), class(65_536));
    }

    #[test]
    fn fewer_tokens_take_the_choice_of_more() {
        let class = |rows| shape([2304, rows, 768]).class();
        assert!(class(20_000).is_part_of(&class(65_536)));
        assert!(!class(65_536).is_part_of(&class(20_000)));
        assert!(!class(65_536).is_part_of(&class(65_536)));
        assert!(!class(1000).is_part_of(&class(65_536)), "too few tokens");
        let other = Shape { strides: [768, 768, 768], ..class(65_536) };
        assert!(!class(20_000).is_part_of(&other), "another product");
    }

    #[test]
    fn layouts_and_counts_are_those_of_the_library() {
        assert_eq!(size_of::<Proposal>(), 96, "as cublasLt.h lays it out");
        assert_eq!(shape([2, 3, 4]).operations(), 48.0);
    }
}
