//! What can be wrong with a configuration, a batch or a file of parameters.

use std::path::PathBuf;

use tch::Kind;

/// The errors of this crate. Shapes are printed as `[rows, columns]`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of a [`ModelConfig`](crate::ModelConfig) is out of its range.
    #[error("model.{field} is {found}; it must be {expected}")]
    Config {
        /// Name of the field.
        field: &'static str,
        /// The value it has.
        found: String,
        /// The values it may have.
        expected: String,
    },
    /// A [`TokenBatch`](crate::TokenBatch) contradicts itself.
    #[error("the batch is not consistent: {what} is {found}, expected {expected}")]
    Batch {
        /// The part that is wrong.
        what: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}; the file that may have been there before is untouched", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is not in the safetensors format, or is cut short or damaged.
    #[error("{} is not a complete safetensors file: {source}; restore it or use another checkpoint", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        source: safetensors::SafeTensorError,
    },
    /// A tensor's element type has no counterpart in torch.
    #[error("{}: tensor {name} has element type {found}, which torch cannot hold", path.display())]
    ElementType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type as the file names it.
        found: String,
    },
    /// The parameters are those of another model: their names differ.
    #[error(
        "{origin} holds the parameters of another model: {} and {}; use the configuration it was saved with",
        listing(missing, "expected and not found"),
        listing(unexpected, "found and not expected")
    )]
    Names {
        /// The file, or a word for where the tensors came from.
        origin: String,
        /// Parameters of this model that are not there.
        missing: Vec<String>,
        /// Parameters there that this model does not have.
        unexpected: Vec<String>,
    },
    /// A parameter has another shape than this model's.
    #[error(
        "{origin}: tensor {name} has shape {found:?}, expected {expected:?}; use the configuration it was saved with"
    )]
    Shape {
        /// The file, or a word for where the tensors came from.
        origin: String,
        /// The parameter.
        name: String,
        /// The shape there.
        found: Vec<i64>,
        /// The shape of this model's parameter.
        expected: Vec<i64>,
    },
    /// A parameter has another element type than this model's.
    #[error("{origin}: tensor {name} has element type {found:?}, expected {expected:?}; convert the file")]
    Kind {
        /// The file, or a word for where the tensors came from.
        origin: String,
        /// The parameter.
        name: String,
        /// The element type there.
        found: Kind,
        /// The element type of this model's parameter.
        expected: Kind,
    },
    /// libtorch refused an operation.
    #[error("libtorch: {operation}: {message}")]
    Torch {
        /// What was asked of it.
        operation: &'static str,
        /// Its reason.
        message: String,
    },
    /// The memory of the device, or of the machine, does not hold what was asked for.
    #[error("out of memory: {operation}: {message}; make the micro-batches smaller")]
    OutOfMemory {
        /// What was asked for.
        operation: &'static str,
        /// libtorch's or the driver's account of it.
        message: String,
    },
    /// A CUDA library is missing, or one of its functions is.
    #[error("{library} cannot be used: {message}; without it the reference path still works")]
    Library {
        /// The library.
        library: &'static str,
        /// What the loader or the library says.
        message: String,
    },
    /// The CUDA driver refused an operation.
    #[error("CUDA: {operation}: {message}")]
    Cuda {
        /// What was asked of it.
        operation: String,
        /// The driver's reason.
        message: String,
    },
    /// An exchange with the other processes of a job failed, usually because one of them is gone.
    #[error("{operation}: {message}")]
    Collective {
        /// What was asked for.
        operation: &'static str,
        /// The library's reason.
        message: String,
    },
    /// A kernel's source does not compile for the card.
    #[error("{file} does not compile for {architecture}:\n{log}")]
    Kernel {
        /// The source.
        file: &'static str,
        /// The architecture, such as sm_90.
        architecture: String,
        /// The compiler's words.
        log: String,
    },
    /// The fused path does not support the model or the device.
    #[error("the fused path cannot be used: {reason}; use the reference path")]
    Fused {
        /// What stands in its way.
        reason: String,
    },
    /// The fused path's attention cannot be launched for so many.
    #[error(
        "a micro-batch has {found} sequences, and the attention kernels take at most {most}; make the micro-batches smaller"
    )]
    TooManySequences {
        /// Sequences in the micro-batch.
        found: i64,
        /// What a launch allows.
        most: i64,
    },
    /// The arithmetic asked for is not one the model supports.
    #[error("the model does not compute in {found:?}; use Float, BFloat16 or Double")]
    ComputeKind {
        /// The kind asked for.
        found: Kind,
    },
}

impl Error {
    /// What libtorch answered to `operation`. Its account begins with the reason; a trace of its functions may follow, on
    /// further lines, and is left out.
    pub(crate) fn torch(operation: &'static str, account: &str) -> Error {
        let message = account.lines().next().unwrap_or_default().trim_end().to_owned();
        // libtorch's own words for the two kinds of memory.
        if message.contains("out of memory") || message.contains("can't allocate memory") {
            // What follows counts PyTorch's own pools and names settings of Python.
            let reason = message.split(" Including non-PyTorch memory").next().unwrap_or_default();
            return Error::OutOfMemory { operation, message: reason.trim_end_matches('.').to_owned() };
        }
        Error::Torch { operation, message }
    }
}

/// "2 tensors expected and not found (first: a)": a count and one example, since a whole model may differ.
fn listing(names: &[String], what: &str) -> String {
    match names {
        [] => format!("no tensor {what}"),
        [only] => format!("tensor {only} {what}"),
        [first, ..] => format!("{} tensors {what} (first: {first})", names.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_used_up_is_told_from_other_refusals() {
        let full = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB of which 1.60 GiB is free. \
                    Including non-PyTorch memory, this process has 138.20 GiB memory in use. If reserved but unallocated memory is \
                    large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True.\nException raised from malloc at …";
        let error = Error::torch("forward pass", full);
        assert!(matches!(error, Error::OutOfMemory { .. }));
        assert_eq!(
            error.to_string(),
            "out of memory: forward pass: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB \
             of which 1.60 GiB is free; make the micro-batches smaller"
        );
        let error =
            Error::torch("forward pass", "mat1 and mat2 shapes cannot be multiplied\nException raised");
        assert_eq!(error.to_string(), "libtorch: forward pass: mat1 and mat2 shapes cannot be multiplied");
    }
}
