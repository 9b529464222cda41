//! Named tensors in a file, in the [safetensors](https://github.com/huggingface/safetensors) format.

use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, SafeTensorError, SafeTensors, TensorInfo};
use tch::{Kind, Tensor};

use crate::Error;

/// What a safetensors file holds, on the CPU.
#[derive(Debug)]
pub struct TensorFile {
    /// The tensors in the order of their bytes in the file.
    pub tensors: Vec<(String, Tensor)>,
    /// The text the header carries beside them.
    pub metadata: HashMap<String, String>,
}

impl TensorFile {
    /// Reads all of `path`.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Format`] or [`Error::ElementType`].
    pub fn read(path: &Path) -> Result<TensorFile, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let format = |source| Error::Format { path: path.to_owned(), source };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(format)?;
        let file = SafeTensors::deserialize(&bytes).map_err(format)?;
        let mut tensors = Vec::with_capacity(file.len());
        for name in header.offset_keys() {
            let view = file.tensor(&name).map_err(format)?;
            let kind = kind_of(view.dtype()).ok_or_else(|| Error::ElementType {
                path: path.to_owned(),
                name: name.clone(),
                found: view.dtype().to_string(),
            })?;
            let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
            tensors.push((name, Tensor::from_data_size(view.data(), &shape, kind)));
        }
        Ok(TensorFile { tensors, metadata: header.metadata().clone().unwrap_or_default() })
    }
}

/// Writes `tensors` to `path`: beside it first, flushed to disk, then renamed, so that the file exists completely or
/// not at all. Its bytes depend on names and values alone. The metadata is `format: pt`, which Hugging Face asks for.
///
/// # Errors
/// [`Error::Write`], [`Error::ElementType`] for types safetensors does not know, and [`Error::Format`] for a set of
/// tensors no file can hold.
pub fn write<'a>(path: &Path, tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<(), Error> {
    let mut entries: Vec<(&str, Dtype, &Tensor)> = Vec::new();
    for (name, tensor) in tensors {
        let dtype = dtype_of(tensor.kind()).ok_or_else(|| Error::ElementType {
            path: path.to_owned(),
            name: name.to_owned(),
            found: format!("{:?}", tensor.kind()),
        })?;
        entries.push((name, dtype, tensor));
    }
    // The widest elements first, then by name: every tensor is aligned to its element.
    entries.sort_by(|(a, x, _), (b, y, _)| y.bitsize().cmp(&x.bitsize()).then(a.cmp(b)));

    let header = header(&entries).map_err(|source| Error::Format { path: path.to_owned(), source })?;
    let write = |source| Error::Write { path: path.to_owned(), source };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let temporary = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o666)) // less what umask takes away, as for any new file
        .tempfile_in(folder)
        .map_err(write)?;
    let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file());
    out.write_all(&header).map_err(write)?;
    let mut bytes = Vec::new();
    for (_, dtype, tensor) in &entries {
        bytes.resize(tensor.numel() * dtype.bitsize() / 8, 0);
        tensor.contiguous().copy_data_u8(&mut bytes, tensor.numel());
        out.write_all(&bytes).map_err(write)?;
    }
    out.flush().map_err(write)?;
    drop(out);
    temporary.as_file().sync_all().map_err(write)?;
    temporary.persist(path).map_err(|error| write(error.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(write)
}

/// The file's beginning: the header's length in 8 bytes, then its JSON, filled with blanks to a multiple of 8.
fn header(entries: &[(&str, Dtype, &Tensor)]) -> Result<Vec<u8>, SafeTensorError> {
    let mut end = 0;
    let infos = entries.iter().map(|(name, dtype, tensor)| {
        let start = end;
        end += tensor.numel() * dtype.bitsize() / 8;
        let shape = tensor.size().iter().map(|&n| n as usize).collect();
        ((*name).to_owned(), TensorInfo { dtype: *dtype, shape, data_offsets: (start, end) })
    });
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut json = serde_json::to_vec(&Metadata::new(Some(format), infos.collect())?)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    Ok(bytes)
}

/// The torch kind of a safetensors element type.
fn kind_of(dtype: Dtype) -> Option<Kind> {
    KINDS.iter().find(|(_, d)| *d == dtype).map(|(kind, _)| *kind)
}

/// The safetensors element type of a torch kind.
fn dtype_of(kind: Kind) -> Option<Dtype> {
    KINDS.iter().find(|(k, _)| *k == kind).map(|(_, dtype)| *dtype)
}

/// The element types both sides have.
const KINDS: [(Kind, Dtype); 10] = [
    (Kind::Bool, Dtype::BOOL),
    (Kind::Uint8, Dtype::U8),
    (Kind::Int8, Dtype::I8),
    (Kind::Int16, Dtype::I16),
    (Kind::Int, Dtype::I32),
    (Kind::Int64, Dtype::I64),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Float, Dtype::F32),
    (Kind::Double, Dtype::F64),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<(&'static str, Tensor)> {
        let base = Tensor::from_slice(&[1.5, -2.0, 0.25, 3.0, 0.0, -0.5]).view([2, 3]);
        vec![
            ("double", base.shallow_clone()),
            ("transposed", base.tr()),
            ("float", base.to_kind(Kind::Float)),
            ("brain", base.to_kind(Kind::BFloat16)),
            ("half", base.to_kind(Kind::Half)),
            ("ids", Tensor::from_slice(&[1i64, -2])),
            ("flag", Tensor::from_slice(&[true, false, true])),
            ("scalar", Tensor::from(7.0)),
            ("nothing", Tensor::zeros([0, 4], (Kind::Float, tch::Device::Cpu))),
        ]
    }

    #[test]
    fn every_kind_comes_back_with_name_shape_and_value() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sample.safetensors");
        let tensors = sample();
        write(&path, tensors.iter().map(|(name, tensor)| (*name, tensor))).unwrap();
        let file = TensorFile::read(&path).unwrap();
        assert_eq!(file.metadata, HashMap::from([("format".to_owned(), "pt".to_owned())]));
        assert_eq!(file.tensors.len(), tensors.len());
        for (name, expected) in &tensors {
            let (_, found) = file.tensors.iter().find(|(n, _)| n == name).unwrap();
            assert_eq!((found.kind(), found.size()), (expected.kind(), expected.size()), "{name}");
            assert!(found.equal(expected), "{name}: {found} is not {expected}");
        }
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "the temporary file is gone");
    }

    #[test]
    fn the_same_tensors_in_any_order_give_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (forth, back) = (folder.path().join("forth"), folder.path().join("back"));
        let tensors = sample();
        write(&forth, tensors.iter().map(|(name, tensor)| (*name, tensor))).unwrap();
        write(&back, tensors.iter().rev().map(|(name, tensor)| (*name, tensor))).unwrap();
        assert_eq!(std::fs::read(forth).unwrap(), std::fs::read(back).unwrap());
    }

    #[test]
    fn a_file_cut_short_anywhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sample.safetensors");
        let tensors = sample();
        write(&path, tensors.iter().map(|(name, tensor)| (*name, tensor))).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let error = TensorFile::read(&path).unwrap_err();
            assert!(matches!(error, Error::Format { .. }), "cut to {length}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_read_or_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("absent/sample.safetensors");
        let message = TensorFile::read(&absent).unwrap_err().to_string();
        assert!(message.starts_with(&format!("cannot read {}", absent.display())), "{message}");
        let message = write(&absent, []).unwrap_err().to_string();
        assert!(message.starts_with(&format!("cannot write {}", absent.display())), "{message}");
    }
}
