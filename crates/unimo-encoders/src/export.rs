//! Writes a module's weights under public names, so that other programs can read them.
//!
//! The inverse of [`crate::import`]: weights that were imported and not trained come out bit for bit.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use burn::module::Module;
use safetensors::tensor::View;
use unimo_core::parameters::{self, Handle};

use crate::import::{invert, shape_there};
use crate::names::{Conversion, Names};
use crate::weights::{Dtype, write_noted_safetensors};

/// A tensor for the file; its values are fetched when it is written.
pub struct Exported {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    dtype: Dtype,
    parts: Vec<(Handle, Conversion)>,
}

impl View for &Exported {
    fn dtype(&self) -> safetensors::Dtype {
        match self.dtype {
            Dtype::F16 => safetensors::Dtype::F16,
            Dtype::Bf16 => safetensors::Dtype::BF16,
            Dtype::F64 | Dtype::F32 | Dtype::Other => safetensors::Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = Vec::with_capacity(self.data_len());
        for (handle, conversion) in &self.parts {
            let values: Vec<f32> = handle.fetch().iter::<f32>().collect();
            let values = invert(&values, &handle.shape, *conversion);
            match self.dtype {
                Dtype::F16 => bytes.extend(
                    values
                        .iter()
                        .flat_map(|v| half::f16::from_f32(*v).to_le_bytes()),
                ),
                Dtype::Bf16 => bytes.extend(
                    values
                        .iter()
                        .flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()),
                ),
                Dtype::F64 | Dtype::F32 | Dtype::Other => {
                    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
                }
            }
        }
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        let size = match self.dtype {
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::F64 | Dtype::F32 | Dtype::Other => 4,
        };
        self.shape.iter().product::<usize>() * size
    }
}

/// Every parameter of a module under its public name.
///
/// # Errors
///
/// The names of the parameters that such checkpoints cannot hold.
pub fn export<M: Module>(
    module: &M,
    names: &Names,
    dtype: Dtype,
) -> Result<Vec<Exported>, Vec<String>> {
    let mut exported: Vec<Exported> = Vec::new();
    let mut at: HashMap<String, usize> = HashMap::new();
    let mut nameless = Vec::new();
    for handle in parameters::handles(module) {
        let Some(target) = names.target(&handle.name) else {
            nameless.push(handle.name);
            continue;
        };
        let shape = shape_there(&handle.shape, target.conversion);
        let index = *at.entry(target.name.clone()).or_insert_with(|| {
            exported.push(Exported {
                name: target.name.clone(),
                shape: Vec::new(),
                dtype,
                parts: Vec::new(),
            });
            exported.len() - 1
        });
        let entry = &mut exported[index];
        match entry.shape.first_mut() {
            Some(rows) if !entry.parts.is_empty() => *rows += shape[0],
            _ => entry.shape = shape,
        }
        entry.parts.push((handle, target.conversion));
    }
    for entry in &mut exported {
        entry.parts.sort_by_key(|(_, conversion)| match conversion {
            Conversion::Third(part) => *part,
            _ => 0,
        });
    }
    if nameless.is_empty() {
        Ok(exported)
    } else {
        Err(nameless)
    }
}

/// The first tensor with a value that is finite in f32 but not in the dtype it is written as, and that value. f16 ends at 65,504,
/// bf16 just below the end of f32.
pub fn out_of_range(tensors: &[Exported]) -> Option<(&str, f32)> {
    tensors.iter().find_map(|tensor| {
        let fits = |value: f32| match tensor.dtype {
            Dtype::F16 => half::f16::from_f32(value).is_finite(),
            Dtype::Bf16 => half::bf16::from_f32(value).is_finite(),
            Dtype::F64 | Dtype::F32 | Dtype::Other => true,
        };
        let values = tensor.parts.iter().flat_map(|(handle, _)| {
            let values = handle.fetch();
            values.iter::<f32>().collect::<Vec<_>>()
        });
        let mut lost = values.filter(|value| value.is_finite() && !fits(*value));
        lost.next().map(|value| (tensor.name.as_str(), value))
    })
}

/// Writes a safetensors file as Hugging Face does, with checksums in its notes.
///
/// # Errors
///
/// `out` cannot be written.
pub fn write(out: &mut dyn Write, tensors: &[Exported]) -> io::Result<()> {
    let notes = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let named = tensors.iter().map(|tensor| (&tensor.name, tensor));
    write_noted_safetensors(out, named.collect(), &notes)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use std::fs::File;

    use burn::tensor::{Device, TensorData};
    use unimo_core::init::Init;
    use unimo_core::layers::Activation;

    use super::*;
    use crate::image::{ImageEncoder, ImageEncoderConfig};
    use crate::import::{Allow, import};
    use crate::names::Section;
    use crate::public::{clip, vit};
    use crate::weights::Weights;

    fn encoder(seed: u64, vit: bool) -> ImageEncoder {
        let config = ImageEncoderConfig {
            image_size: 8,
            patch_size: 4,
            width: 8,
            layers: 2,
            heads: 2,
            feed_forward: 16,
            activation: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            pre_norm: !vit,
            patch_bias: vit,
            distillation_token: vit,
            qkv_bias: true,
            stem: None,
            mask_embedding: false,
            dropout: 0.0,
            drop_path: 0.0,
        };
        config.init(&mut Init::new(&Device::flex(), seed))
    }

    #[test]
    fn what_goes_out_comes_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let openai = clip::image_spellings().pop().unwrap();
        for (names, is_vit, name, shape) in [
            (
                openai,
                false,
                "visual.transformer.resblocks.1.attn.in_proj_weight",
                vec![24, 8],
            ),
            (
                clip::image_spellings().remove(0),
                false,
                "embeddings.patch_embedding.weight",
                vec![8, 3, 4, 4],
            ),
            (
                vit::spellings().remove(0),
                true,
                "embeddings.position_embeddings",
                vec![1, 6, 8],
            ),
        ] {
            let from = encoder(1, is_vit);
            let tensors = export(&from, &names, Dtype::F32).unwrap();
            write(&mut File::create(&path).unwrap(), &tensors).unwrap();
            let mut weights = Weights::open(folder.path()).unwrap();
            assert_eq!(weights.info(name).unwrap().shape, shape);
            let (to, report) =
                import(encoder(2, is_vit), &mut weights, &names, &Allow::default()).unwrap();
            assert!(report.fits() && report.unused.is_empty(), "{report}");
            assert_eq!(parameters::values(&from), parameters::values(&to));
        }
    }

    #[test]
    fn nothing_is_left_out_silently() {
        let nameless = export(
            &encoder(1, true),
            &clip::image_spellings().remove(0),
            Dtype::F32,
        );
        let nameless = nameless.err().unwrap();
        assert_eq!(nameless, ["distillation_embedding"]);
    }

    #[test]
    fn a_value_that_the_dtype_cannot_hold_is_named() {
        let names = vit::spellings().remove(0);
        let large = parameters::replace(encoder(1, true), |name, shape| {
            let count = shape.iter().product();
            (name == "class_embedding")
                .then(|| TensorData::new(vec![7e4f32; count], shape.to_vec()))
        });
        let lost = |dtype| {
            let tensors = export(&large, &names, dtype).unwrap();
            out_of_range(&tensors).map(|(name, value)| (name.to_owned(), value))
        };
        let name = "embeddings.cls_token".to_owned();
        assert_eq!(lost(Dtype::F16), Some((name, 7e4)));
        assert_eq!(lost(Dtype::Bf16), None);
        assert_eq!(lost(Dtype::F32), None);
    }

    #[test]
    fn every_difference_is_reported_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let names = clip::image_spellings().remove(0);
        write(
            &mut File::create(&path).unwrap(),
            &export(&encoder(1, false), &names, Dtype::F32).unwrap(),
        )
        .unwrap();
        let without = |pattern: &str| Names {
            sections: names
                .sections
                .iter()
                .map(|section| Section {
                    ours: format!("{}{pattern}", section.ours),
                    ..section.clone()
                })
                .collect(),
            unused: names.unused.clone(),
            tied: Vec::new(),
            own: None,
            numbered: Vec::new(),
        };
        let mut weights = Weights::open(&path).unwrap();
        let error = import(
            encoder(2, false),
            &mut weights,
            &without("elsewhere"),
            &Allow::default(),
        );
        let message = error.err().unwrap().to_string();
        assert!(
            message.contains("missing") && message.contains("unexpected"),
            "{message}"
        );
        assert!(
            message.contains("encoder.layers.{0-1}.layer_norm1.weight (2)"),
            "{message}"
        );
    }
}
