//! An Arrow table, as a file or as a stream, gives the texts that were put into it and is refused when it is cut; any
//! other bytes are survived.

#![no_main]

use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, LargeStringArray, RecordBatch, StringArray, StringViewArray, UInt32Array,
};
use arrow::datatypes::Int32Type;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use fuzz::{Choices, rows};
use libfuzzer_sys::fuzz_target;

fn table(choices: &mut Choices<'_>, texts: &[Option<String>]) -> RecordBatch {
    let given = texts.iter().map(Option::as_deref);
    let column: ArrayRef = match choices.below(4) {
        0 => Arc::new(StringArray::from_iter(given)),
        1 => Arc::new(LargeStringArray::from_iter(given)),
        2 => Arc::new(StringViewArray::from_iter(given)),
        _ => Arc::new(given.collect::<DictionaryArray<Int32Type>>()),
    };
    let numbers: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..texts.len() as u32));
    RecordBatch::try_from_iter_with_nullable([("number", numbers, false), ("text", column, true)])
        .expect("both columns have as many rows")
}

/// The table in batches of some rows.
fn packed(choices: &mut Choices<'_>, texts: &[Option<String>]) -> Vec<u8> {
    let table = table(choices, texts);
    let compression = [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)][choices.below(3)];
    let options = IpcWriteOptions::default().try_with_compression(compression).expect("both are built in");
    let (is_file, step) = (choices.below(2) == 1, 1 + choices.below(8));
    // A file may have one dictionary only, so that table goes as a whole.
    let step = if is_file { texts.len().max(1) } else { step };
    let batches =
        (0..texts.len()).step_by(step).map(|start| table.slice(start, step.min(texts.len() - start)));
    if is_file {
        let mut writer =
            FileWriter::try_new_with_options(Vec::new(), &table.schema(), options).expect("a table");
        batches.for_each(|batch| writer.write(&batch).expect("memory takes everything"));
        return writer.into_inner().expect("memory takes everything");
    }
    let mut writer =
        StreamWriter::try_new_with_options(Vec::new(), &table.schema(), options).expect("a table");
    batches.for_each(|batch| writer.write(&batch).expect("memory takes everything"));
    writer.into_inner().expect("memory takes everything")
}

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    let mode = choices.below(4);
    if mode == 0 {
        let start: &[u8] = if choices.below(2) == 0 { b"ARROW1\0\0" } else { b"\xff\xff\xff\xff" };
        let _ = rows([start, choices.0].concat());
        return;
    }
    choices.read_table(mode, packed);
});
