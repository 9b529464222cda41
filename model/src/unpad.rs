//! Between packed tokens and the rectangle that plain attention needs.
//!
//! The encoder works on N rows: the T real tokens, or, when padding is computed on, all B·S slots of the rectangle
//! whose row b holds sequence b, filled up to S. MosaicML does the same with `unpad_input` and `pad_input`
//! (`bert_padding.py`).

use tch::{Device, Kind, Tensor};

use crate::TokenBatch;
use crate::config::Padding;

/// Where each token of a batch lies in the rectangle `[B, S]`.
#[derive(Debug)]
pub(crate) struct Layout {
    /// B.
    pub(crate) sequences: i64,
    /// S, at least 1.
    pub(crate) seq_len: i64,
    /// Number of tokens in each sequence, [B].
    lengths: Vec<i64>,
    /// Slot of each token, [T]; `None` when the sequences fill the rectangle, so that a token is its own slot.
    slots: Option<Tensor>,
    padding: Padding,
    device: Device,
}

impl Layout {
    pub(crate) fn new(batch: &TokenBatch, padding: Padding) -> Layout {
        let device = batch.input_ids.device();
        let lengths: Vec<i64> =
            batch.cu_seqlens.windows(2).map(|pair| i64::from(pair[1] - pair[0])).collect();
        let (sequences, seq_len) = (lengths.len() as i64, batch.max_seqlen.max(1));
        let full = sequences * seq_len == batch.tokens();
        let slots = (!full).then(|| {
            let slots: Vec<i64> =
                (0..).zip(&lengths).flat_map(|(b, &length)| b * seq_len..b * seq_len + length).collect();
            Tensor::from_slice(&slots).to_device(device)
        });
        Layout { sequences, seq_len, lengths, slots, padding, device }
    }

    /// Position of each row in its sequence, `[N]`, i64.
    pub(crate) fn positions(&self) -> Tensor {
        let positions: Vec<i64> = match self.padding {
            Padding::Unpadded => self.lengths.iter().flat_map(|&length| 0..length).collect(),
            Padding::Padded => self.lengths.iter().flat_map(|_| 0..self.seq_len).collect(),
        };
        Tensor::from_slice(&positions).to_device(self.device) // [N]
    }

    /// Zero for the slots of tokens, `masked` for those of padding: `[B, 1, 1, S]`. `None` when there is no padding.
    pub(crate) fn key_bias(&self, masked: f64, kind: Kind) -> Option<Tensor> {
        self.slots.as_ref().map(|slots| {
            let bias = Tensor::full([self.sequences * self.seq_len], masked, (kind, self.device)); // [B·S]
            bias.index_fill(0, slots, 0.0).view([self.sequences, 1, 1, self.seq_len]) // [B, 1, 1, S]
        })
    }

    /// Tokens to rows, for what comes from the batch: `[T, ..]` to `[N, ..]`, padding filled with zeros.
    pub(crate) fn enter(&self, tokens: &Tensor) -> Tensor {
        match self.padding {
            Padding::Unpadded => tokens.shallow_clone(),
            Padding::Padded => self.spread(tokens),
        }
    }

    /// Rows to slots, for attention: `[N, ..]` to `[B·S, ..]`, padding filled with zeros.
    pub(crate) fn pad(&self, rows: &Tensor) -> Tensor {
        match self.padding {
            Padding::Unpadded => self.spread(rows),
            Padding::Padded => rows.shallow_clone(),
        }
    }

    /// Slots to rows, after attention: `[B·S, ..]` to `[N, ..]`.
    pub(crate) fn unpad(&self, slots: &Tensor) -> Tensor {
        match self.padding {
            Padding::Unpadded => self.gather(slots),
            Padding::Padded => slots.shallow_clone(),
        }
    }

    /// Rows to tokens, for what the encoder hands out: `[N, ..]` to `[T, ..]`.
    pub(crate) fn leave(&self, rows: &Tensor) -> Tensor {
        match self.padding {
            Padding::Unpadded => rows.shallow_clone(),
            Padding::Padded => self.gather(rows),
        }
    }

    /// Rows of the tokens at `positions`: `[R]` to `[R]`.
    pub(crate) fn rows_of(&self, positions: &Tensor) -> Tensor {
        match (self.padding, &self.slots) {
            (Padding::Padded, Some(slots)) => slots.index_select(0, positions),
            _ => positions.shallow_clone(),
        }
    }

    /// `[T, ..]` to `[B·S, ..]`.
    fn spread(&self, tokens: &Tensor) -> Tensor {
        let Some(slots) = &self.slots else { return tokens.shallow_clone() };
        let mut shape = tokens.size();
        shape[0] = self.sequences * self.seq_len;
        Tensor::zeros(shape, (tokens.kind(), self.device)).index_copy_(0, slots, tokens) // [B·S, ..]
    }

    /// `[B·S, ..]` to `[T, ..]`.
    fn gather(&self, slots: &Tensor) -> Tensor {
        match &self.slots {
            None => slots.shallow_clone(),
            Some(index) => slots.index_select(0, index),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(cu_seqlens: &[i32], padding: Padding) -> Layout {
        let ids: Vec<i32> = (0..*cu_seqlens.last().unwrap()).collect();
        let batch = TokenBatch::from_host::<i32>(&ids, cu_seqlens, &[], &[], Device::Cpu).unwrap();
        Layout::new(&batch, padding)
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::<f64>::try_from(tensor.flatten(0, -1).to_kind(Kind::Double)).unwrap()
    }

    #[test]
    fn tokens_go_to_their_slots_and_back() {
        let layout = layout(&[0, 2, 2, 5, 6], Padding::Unpadded);
        assert_eq!((layout.sequences, layout.seq_len), (4, 3));
        let tokens = Tensor::from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).view([6, 1]);
        let slots = layout.pad(&tokens);
        assert_eq!(values(&slots), [1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0]);
        assert_eq!(values(&layout.unpad(&slots)), values(&tokens));
        assert_eq!(values(&layout.positions()), [0.0, 1.0, 0.0, 1.0, 2.0, 0.0]);
        let bias = layout.key_bias(-1.0, Kind::Double).unwrap();
        assert_eq!(bias.size(), [4, 1, 1, 3]);
        assert_eq!(values(&bias), [0.0, 0.0, -1.0, -1.0, -1.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0, -1.0]);
    }

    #[test]
    fn padded_rows_are_slots() {
        let layout = layout(&[0, 1, 3], Padding::Padded);
        let tokens = Tensor::from_slice(&[7i64, 8, 9]);
        let rows = layout.enter(&tokens);
        assert_eq!(values(&rows), [7.0, 0.0, 8.0, 9.0]);
        assert_eq!(values(&layout.pad(&rows)), values(&rows));
        assert_eq!(values(&layout.leave(&rows)), [7.0, 8.0, 9.0]);
        assert_eq!(values(&layout.rows_of(&Tensor::from_slice(&[0i64, 2]))), [0.0, 3.0]);
        assert_eq!(values(&layout.positions()), [0.0, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn full_sequences_need_no_index() {
        let layout = layout(&[0, 2, 4], Padding::Unpadded);
        assert!(layout.key_bias(-1.0, Kind::Float).is_none());
        let tokens = Tensor::from_slice(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(layout.pad(&tokens).data_ptr(), tokens.data_ptr());
    }
}
