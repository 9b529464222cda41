//! The model's input: the tokens of several sequences, one behind the other, without padding.

use tch::kind::Element;
use tch::{Device, Kind, Tensor};

use crate::Error;
use crate::torch::upload;

/// A packed batch of B sequences with T tokens in all, of which M are masked.
#[derive(Debug)]
pub struct TokenBatch {
    /// Token ids, `[T]`, i32 or i64.
    pub input_ids: Tensor,
    /// Where each sequence starts in `input_ids`, and T at the end: `[B + 1]`, ascending from 0. An empty sequence
    /// is two equal entries.
    pub cu_seqlens: Vec<i32>,
    /// At least the longest sequence's tokens; shorter rows of attention are filled up to it.
    pub max_seqlen: i64,
    /// Segment ids, `[T]`; `None` is segment 0 throughout.
    pub token_type_ids: Option<Tensor>,
    /// Positions in `input_ids` whose token is to be predicted, `[M]`, i64.
    pub masked_positions: Tensor,
    /// The tokens to predict there, `[M]`, i64.
    pub labels: Tensor,
}

impl TokenBatch {
    /// A batch from host memory, checked, on `device`.
    ///
    /// # Shape
    /// - `input_ids`: `[T]`, `cu_seqlens`: `[B + 1]`, `masked_positions` and `labels`: `[M]`, i32 or i64; they are copied to
    ///   the device as they are and widened there
    ///
    /// # Errors
    /// [`Error::Batch`] where the lengths contradict each other or a position lies outside the batch.
    pub fn from_host<I: Element + Copy + Into<i64>>(
        input_ids: &[i32],
        cu_seqlens: &[i32],
        masked_positions: &[I],
        labels: &[I],
        device: Device,
    ) -> Result<TokenBatch, Error> {
        let refuse = |what, found: String, expected: String| Err(Error::Batch { what, found, expected });
        let tokens = input_ids.len();
        let ends_right = cu_seqlens.last().is_some_and(|&end| usize::try_from(end) == Ok(tokens));
        if cu_seqlens.first() != Some(&0) || !ends_right {
            let found = format!("from {:?} to {:?}", cu_seqlens.first(), cu_seqlens.last());
            return refuse("cu_seqlens", found, format!("from 0 to the number of tokens, {tokens}"));
        }
        if let Some(pair) = cu_seqlens.windows(2).find(|pair| pair[0] > pair[1]) {
            return refuse("cu_seqlens", format!("{} before {}", pair[0], pair[1]), "ascending".to_owned());
        }
        if labels.len() != masked_positions.len() {
            let expected = format!("as many as masked positions, {}", masked_positions.len());
            return refuse("the number of labels", labels.len().to_string(), expected);
        }
        let outside = |position: &i64| !(0..tokens as i64).contains(position);
        if let Some(position) = masked_positions.iter().map(|&position| position.into()).find(outside) {
            return refuse("a masked position", position.to_string(), format!("within the {tokens} tokens"));
        }
        Ok(TokenBatch {
            input_ids: upload(input_ids, device)?,
            cu_seqlens: cu_seqlens.to_vec(),
            max_seqlen: i64::from(cu_seqlens.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)),
            token_type_ids: None,
            masked_positions: upload(masked_positions, device)?.to_kind(Kind::Int64), // [M]
            labels: upload(labels, device)?.to_kind(Kind::Int64),                     // [M]
        })
    }

    /// The batch with segment ids, `[T]`.
    #[must_use]
    pub fn with_token_types(self, token_type_ids: &[i32]) -> TokenBatch {
        let device = self.input_ids.device();
        // Without waiting for the device where memory allows.
        let types = upload(token_type_ids, device)
            .unwrap_or_else(|_| Tensor::from_slice(token_type_ids).to_device(device)); // [T]
        TokenBatch { token_type_ids: Some(types), ..self }
    }

    /// Number of sequences, B.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    /// Number of tokens, T.
    pub fn tokens(&self) -> i64 {
        self.cu_seqlens.last().copied().map_or(0, i64::from)
    }

    /// Positions of the first token of each sequence, `[B]`.
    ///
    /// # Errors
    /// As [`upload`].
    pub(crate) fn first_tokens(&self) -> Result<Tensor, Error> {
        let starts: Vec<i64> =
            self.cu_seqlens[..self.sequences()].iter().map(|&start| start.into()).collect();
        upload(&starts, self.input_ids.device()) // [B]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(ids: &[i32], cu_seqlens: &[i32], positions: &[i64], labels: &[i64]) -> String {
        TokenBatch::from_host(ids, cu_seqlens, positions, labels, Device::Cpu).unwrap_err().to_string()
    }

    #[test]
    fn contradictions_are_refused_with_both_values() {
        assert_eq!(
            refusal(&[5, 6, 7], &[0, 2], &[], &[]),
            "the batch is not consistent: cu_seqlens is from Some(0) to Some(2), \
             expected from 0 to the number of tokens, 3"
        );
        assert!(refusal(&[5, 6, 7], &[0, 3, 2, 3], &[], &[]).contains("3 before 2, expected ascending"));
        assert!(refusal(&[5], &[], &[], &[]).contains("from None to None"));
        assert!(refusal(&[5], &[0, 1], &[0], &[]).contains("the number of labels is 0"));
        assert!(refusal(&[5], &[0, 1], &[1], &[9]).contains("a masked position is 1"));
        assert!(refusal(&[5], &[0, 1], &[-1], &[9]).contains("a masked position is -1"));
    }

    #[test]
    fn empty_sequences_and_empty_batches_are_allowed() {
        let batch = TokenBatch::from_host(&[5, 6], &[0, 0, 2, 2], &[1], &[9], Device::Cpu).unwrap();
        assert_eq!((batch.sequences(), batch.tokens(), batch.max_seqlen), (3, 2, 2));
        let batch = TokenBatch::from_host::<i32>(&[], &[0], &[], &[], Device::Cpu).unwrap();
        assert_eq!((batch.sequences(), batch.tokens(), batch.max_seqlen), (0, 0, 0));
    }
}
