//! A Parquet table gives the texts that were put into it, however it was packed; any other bytes are survived.

#![no_main]

use std::sync::Arc;

use arrow::array::{ArrayRef, LargeStringArray, RecordBatch, StringArray, StringViewArray, UInt32Array};
use fuzz::{Choices, rows};
use libfuzzer_sys::fuzz_target;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};

fn packed(choices: &mut Choices<'_>, texts: &[Option<String>]) -> Vec<u8> {
    let column: ArrayRef = match choices.below(3) {
        0 => Arc::new(StringArray::from(texts.to_vec())),
        1 => Arc::new(LargeStringArray::from(texts.to_vec())),
        _ => Arc::new(StringViewArray::from_iter(texts.iter().map(Option::as_deref))),
    };
    let numbers: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..texts.len() as u32));
    let table =
        RecordBatch::try_from_iter_with_nullable([("number", numbers, false), ("text", column, true)]);
    let table = table.expect("both columns have as many rows");
    let compression = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::LZ4_RAW,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
    ][choices.below(5)];
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_dictionary_enabled(choices.below(2) == 1)
        .set_writer_version([WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0][choices.below(2)])
        .set_max_row_group_row_count(Some(1 + choices.below(8)))
        .set_data_page_row_count_limit(1 + choices.below(4))
        .set_write_batch_size(1 + choices.below(4))
        .build();
    let mut writer =
        ArrowWriter::try_new(Vec::new(), table.schema(), Some(properties)).expect("it is a table");
    writer.write(&table).expect("memory takes everything");
    writer.into_inner().expect("memory takes everything")
}

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    let mode = choices.below(4);
    if mode == 0 {
        let footer = choices.0;
        let _ = rows([b"PAR1", footer, &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat());
        return;
    }
    choices.read_table(mode, packed);
});
