//! `column_sums.cu` and `table_gradient.cu`: sums over rows, in a fixed order, that end in gradients.

use std::ops::Range;
use std::ptr::{null, null_mut};

use tch::{Kind, Tensor};

use super::{
    Arguments, Kernels, Read, Write, arguments, blocks, columns, empty_like, int, read, rows, unsigned, write,
};
use crate::Error;
use crate::torch::driver::Launch;

// Shapes of blocks, as the sources have them.
const SUM_THREADS: u32 = 512;
const SUM_COLUMNS: u32 = 256;
const TABLE_PLACES: i64 = 128;
/// Blocks that share the rows of a matrix whose columns are summed.
const SUM_BLOCKS: u32 = 8;

#[repr(C)]
#[derive(Clone, Copy)]
struct ColumnSumArguments {
    matrix: Read,
    weights: Read,
    to: Write,
    alone: Write,
    rows: i32,
    stride: i32,
    weight_stride: i32,
}

arguments!(AddColumnSums { sums: [ColumnSumArguments; 3], columns: i32 });
arguments!(PartialColumnSums { matrix: Read, partial: Write, rows: i32, columns: i32, stride: i32 });
arguments!(TableGradient {
    ids: Read,
    order: Read,
    d_sum: Read,
    parts: Write,
    gradient: Write,
    places: i32,
    skipped: i32,
});

/// The sum of a matrix's rows, each times its weight. All float32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ColumnSum<'a> {
    /// `[R, any]`.
    pub(crate) matrix: &'a Tensor,
    /// The first of the columns that are summed.
    pub(crate) first_column: i64,
    /// `[R]`, or one number `[]` for all rows; all one when `None`.
    pub(crate) weights: Option<&'a Tensor>,
    /// What the sum is added to, `[C]`.
    pub(crate) to: Option<&'a Tensor>,
    /// What becomes the sum itself, `[C]`.
    pub(crate) alone: Option<&'a Tensor>,
}

impl<'a> ColumnSum<'a> {
    /// Of all columns of a matrix, with weights of one.
    pub(crate) fn of(matrix: &'a Tensor, to: &'a Tensor) -> ColumnSum<'a> {
        ColumnSum { matrix, first_column: 0, weights: None, to: Some(to), alone: None }
    }

    fn arguments(&self, width: i64) -> ColumnSumArguments {
        let (count, stride) = (rows(self.matrix), columns(self.matrix));
        assert!(0 <= self.first_column && self.first_column + width <= stride, "columns within the matrix");
        let target = |vector: Option<&Tensor>| vector.map_or(null_mut(), |v| write(v, Kind::Float, width));
        let one_for_all = self.weights.is_some_and(|weights| weights.dim() == 0);
        ColumnSumArguments {
            matrix: offset(read(self.matrix, Kind::Float, count * stride), 4 * self.first_column),
            weights: self
                .weights
                .map_or(null(), |weights| read(weights, Kind::Float, if one_for_all { 1 } else { count })),
            to: target(self.to),
            alone: target(self.alone),
            rows: int(count),
            stride: int(stride),
            weight_stride: i32::from(!one_for_all),
        }
    }
}

impl Kernels {
    /// Up to three sums of `width` columns, C.
    pub(crate) fn add_column_sums(&self, width: i64, sums: &[ColumnSum]) -> Result<(), Error> {
        let nothing = ColumnSumArguments {
            matrix: null(),
            weights: null(),
            to: null_mut(),
            alone: null_mut(),
            rows: 0,
            stride: 0,
            weight_stride: 0,
        };
        let mut all = [nothing; 3];
        for (place, sum) in all.iter_mut().zip(sums) {
            *place = sum.arguments(width);
        }
        let arguments = AddColumnSums { sums: all, columns: int(width) };
        let grid = [blocks(width, 32), unsigned(sums.len() as i64), 1];
        let launch = Launch { grid, threads: SUM_THREADS, shared_memory: 4 * SUM_THREADS };
        // SAFETY: extents checked above.
        unsafe { self.add_column_sums.launch(launch, &arguments) }
    }

    /// Adds the sums of some columns of a bf16 matrix, times the float32 scalar `factor`, to `to`.
    ///
    /// # Shape
    /// - `matrix`: `[any, any]`, its width and the range's bounds multiples of 8; `to`: as many as the range, float32
    pub(crate) fn add_sums_of(
        &self,
        matrix: &Tensor,
        range: Range<i64>,
        factor: Option<&Tensor>,
        to: &Tensor,
    ) -> Result<(), Error> {
        let (count, stride, width) = (rows(matrix), columns(matrix), range.end - range.start);
        assert!(0 <= range.start && range.end <= stride, "columns within the matrix");
        assert!((range.start | width | stride) % 8 == 0, "eight columns are read at a time");
        let partial = empty_like(matrix, [i64::from(SUM_BLOCKS), width], Kind::Float); // [SUM_BLOCKS, C]
        let arguments = PartialColumnSums {
            matrix: offset(read(matrix, Kind::BFloat16, count * stride), 2 * range.start),
            partial: write(&partial, Kind::Float, i64::from(SUM_BLOCKS) * width),
            rows: int(count),
            columns: int(width),
            stride: int(stride),
        };
        let grid = [blocks(width, i64::from(SUM_COLUMNS)), SUM_BLOCKS, 1];
        let launch =
            Launch { grid, threads: SUM_THREADS, shared_memory: 4 * (SUM_THREADS / 32) * SUM_COLUMNS };
        // SAFETY: extents checked above.
        unsafe { self.partial_column_sums.launch(launch, &arguments)? };
        self.add_column_sums(width, &[ColumnSum { weights: factor, ..ColumnSum::of(&partial, to) }])
    }

    /// Adds each row of `d_sum` to the row of `gradient` that its id names, but for those of the id `skipped`.
    ///
    /// # Shape
    /// - `ids`: `[T]`, i32; `d_sum`: `[T, D]`, bf16; `gradient`: `[any, D]`, float32
    pub(crate) fn add_to_table(
        &self,
        ids: &Tensor,
        d_sum: &Tensor,
        gradient: &Tensor,
        skipped: Option<i32>,
    ) -> Result<(), Error> {
        let (count, width) = (rows(ids), self.hidden);
        let (sorted, order) = ids.sort_stable(true, 0, false); // 2 × [T]
        let grid = [blocks(count, TABLE_PLACES), 1, 1];
        let parts = empty_like(d_sum, [i64::from(grid[0]), 2 * width], Kind::Float); // [blocks, 2, D]
        let arguments = TableGradient {
            ids: read(&sorted, Kind::Int, count),
            order: read(&order, Kind::Int64, count),
            d_sum: read(d_sum, Kind::BFloat16, count * width),
            parts: write(&parts, Kind::Float, rows(&parts) * 2 * width),
            gradient: write(gradient, Kind::Float, rows(gradient) * width),
            places: int(count),
            skipped: skipped.unwrap_or(-1),
        };
        let launch = Launch { grid, threads: 32 * blocks(width, 256), shared_memory: 0 };
        // SAFETY: extents checked above; ids are rows of the table, as in the forward pass.
        unsafe {
            self.table_gradient.launch(launch, &arguments)?;
            self.table_gradient_over_borders.launch(launch, &arguments)
        }
    }
}

/// The address so many bytes further on, within the memory that `address` is the beginning of.
fn offset(address: Read, bytes: i64) -> Read {
    address.wrapping_byte_offset(bytes as isize)
}
