//! Tensors by the names, and cut as, other programs have them.

use tch::Tensor;

const MAPS: [&str; 3] = ["query", "key", "value"];
/// The decoder's bias hangs on the decoder, or beside it.
const BIAS_BESIDE: &str = "cls.predictions.bias";
const BIAS_ON: &str = "cls.predictions.decoder.bias";

/// One map to queries, keys and values, and the bias on the decoder, whatever the positions: as `modeling_mosaic_bert.py`
/// has them.
pub(super) fn mosaic_bert(tensors: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
    let map_of = |name: &str| MAPS.iter().position(|map| name.contains(&format!(".attention.self.{map}.")));
    let find =
        |name: &str| tensors.iter().find(|(have, _)| have == name).map(|(_, tensor)| tensor.shallow_clone());
    let mut out = Vec::with_capacity(tensors.len());
    for (name, tensor) in &tensors {
        match map_of(name) {
            Some(0) => {
                let parts: Vec<Tensor> =
                    MAPS.iter().filter_map(|map| find(&name.replace("query", map))).collect(); // 3 × [D, D] or [D]
                out.push((name.replace("query", "Wqkv"), Tensor::cat(&parts, 0))); // [3·D, D] or [3·D]
            }
            Some(_) => {}
            None if name == BIAS_BESIDE => out.push((BIAS_ON.to_owned(), tensor.shallow_clone())),
            None => out.push((name.clone(), tensor.shallow_clone())),
        }
    }
    out
}

/// Three maps, as JinaBERT has them; its decoder's bias is stored both on and beside the decoder.
pub(super) fn jina_bert(tensors: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
    let mut out = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        if name.contains(".attention.self.Wqkv.") {
            for (map, part) in MAPS.iter().zip(tensor.chunk(3, 0)) {
                out.push((name.replace("Wqkv", map), part.contiguous())); // [D, D] or [D]
            }
        } else if name == BIAS_ON {
            out.push((BIAS_BESIDE.to_owned(), tensor.copy()));
            out.push((name, tensor));
        } else {
            out.push((name, tensor));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn random(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    #[test]
    fn cutting_into_three_maps_and_joining_them_gives_the_same() {
        let layer = "bert.encoder.layer.3.attention.self.Wqkv";
        let tensors = vec![
            (format!("{layer}.weight"), random(&[12, 4])),
            (format!("{layer}.bias"), random(&[12])),
            (BIAS_ON.to_owned(), random(&[9])),
        ];
        let copy = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect();
        let three = jina_bert(copy);
        assert_eq!(three.len(), 8);
        let value = three.iter().find(|(name, _)| name.ends_with("self.value.weight")).unwrap();
        assert!(value.1.equal(&tensors[0].1.narrow(0, 8, 4)));
        let beside = three.into_iter().filter(|(name, _)| name != BIAS_ON).collect();
        let joined = mosaic_bert(beside);
        assert_eq!(joined.len(), 3);
        for (name, tensor) in &tensors {
            let found = joined.iter().find(|(have, _)| have == name).unwrap();
            assert!(found.1.equal(tensor), "{name}");
        }
    }
}
