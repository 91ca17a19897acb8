//! Where fixtures are.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};
use unimo_batch::Batch;
use unimo_core::mask::PaddingMask;
use unimo_core::parameters;
use unimo_core::world::World;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::features::{ImageFeatures, TextFeatures};
use unimo_encoders::names::covers;
use unimo_objectives::Context;
use unimo_objectives::encoded::Encoded;
use unimo_objectives::request::{ImageKind, TextKind};
use unimo_train::recipe::{Overrides, Recipe};

/// The fixture folder of the repository.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// What a test needs that not every machine has: the folder that an environment variable names. Where it names none, one line on
/// stderr, past the harness that hides what passing tests print, says that `test` was skipped.
pub fn given(variable: &str, test: &str) -> Option<PathBuf> {
    use std::io::Write;

    let given = std::env::var_os(variable).filter(|value| !value.is_empty());
    if given.is_none() {
        let line = format!("SKIPPED: {test}: set {variable} to run it\n");
        // Where stderr is closed nobody could read it anyway.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    given.map(PathBuf::from)
}

/// The folder of shared data and references, if the user has one; `test` says that it was skipped if not.
pub fn shared(test: &str) -> Option<PathBuf> {
    given("UNIMO_SHARED", test)
}

/// METER's fixture as NLVR2 makes it: a third row in the type embedding, which begins as a copy of the second. Written into
/// `folder`.
pub fn meter_of_two_pictures(folder: &Path) -> PathBuf {
    meter_with(folder, |name, shape, values| {
        if name == "token_type_embeddings.weight" {
            values.extend_from_within(values.len() / 2..);
            shape[0] = 3;
        }
        true
    })
}

/// METER's fixture with tensors changed: `change` is given name, shape and values of each, and says whether it stays. Written into
/// `folder`.
pub fn meter_with(
    folder: &Path,
    change: impl Fn(&str, &mut Vec<usize>, &mut Vec<f32>) -> bool,
) -> PathBuf {
    use safetensors::tensor::TensorView;

    let file = self::folder().join("spellings/meter.ckpt");
    let mut weights = unimo_encoders::weights::Weights::open(&file).expect("the fixture");
    let names: Vec<(String, Vec<usize>)> = weights
        .infos()
        .map(|(name, info)| (name.to_owned(), info.shape.clone()))
        .collect();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = names
        .into_iter()
        .filter_map(|(name, mut shape)| {
            let mut values = weights.read(&name).expect("the fixture's tensor");
            let stays = change(&name, &mut shape, &mut values);
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            stays.then_some((name, shape, bytes))
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.as_str(), view.expect("shape and bytes agree"))
    });
    let path = folder.join("meter.safetensors");
    safetensors::serialize_to_file(views, None, &path).expect("a temporary file");
    path
}

/// A BridgeTower of `hf/NAME`, which holds only what it has beside or instead of the weights of `hf/bridgetower-itm`. Written into
/// `folder`.
pub fn linked_bridgetower(name: &str, folder: &Path) {
    use safetensors::tensor::TensorView;

    let hf = self::folder().join("hf");
    let further = std::fs::read(hf.join(name).join("further.safetensors")).expect("the fixture");
    let base = std::fs::read(hf.join("bridgetower-itm/model.safetensors")).expect("the fixture");
    let further = SafeTensors::deserialize(&further).expect("the fixture");
    let base = SafeTensors::deserialize(&base).expect("the fixture");
    // A layer that is several here is none of the base's.
    let replaced = |name: &str| {
        let (layer, tensor) = name.rsplit_once('.').expect("a tensor of a layer");
        further.tensor(&format!("{layer}.0.{tensor}")).is_ok()
    };
    let kept = base.iter().filter(|(name, _)| !replaced(name));
    let all: Vec<(String, TensorView<'_>)> = kept
        .chain(further.iter())
        .map(|(name, view)| (name.to_owned(), view))
        .collect();
    let path = folder.join("model.safetensors");
    safetensors::serialize_to_file(all, None, &path).expect("a temporary file");
    let config = hf.join(name).join("config.json");
    std::fs::copy(config, folder.join("config.json")).expect("the fixture's description");
}

/// The smallest model of one stream, of the width of the references; only heads on top of it are compared.
pub fn narrow_model() -> BackboneConfig {
    let set = ["text", "image", "joint"].map(|part| format!("model.{part}.width=8"));
    let set = set.into_iter().chain(["objectives.itc.width=8".to_owned()]);
    let overrides = Overrides {
        data: None,
        set: set.collect(),
    };
    let recipe = Recipe::load("unimo2-tiny", &overrides).expect("a recipe that ships");
    recipe.model
}

/// A batch of which only the class tokens are known.
pub fn classes(texts: &Tensor<2>, images: &Tensor<2>) -> Encoded {
    let [samples, _] = texts.dims();
    let images = ImageFeatures {
        states: Vec::new(),
        class: images.clone(),
        tags: None,
        concepts: None,
        mask: None,
        layers: BTreeMap::new(),
        represented: None,
    };
    let texts = TextFeatures {
        states: Vec::new(),
        class: texts.clone(),
        mask: PaddingMask::from_lengths(&vec![1; samples], 1, &texts.device()),
        layers: BTreeMap::new(),
    };
    let batch = Batch {
        samples: vec![String::new(); samples],
        ..Batch::default()
    };
    Encoded::new(&batch)
        .with_texts(TextKind::Plain, texts)
        .with_images(ImageKind::Plain, images)
}

/// What a loss over such a batch is computed from.
pub fn context<'a>(
    backbone: &'a Backbone,
    batch: &'a Batch,
    encoded: &'a Encoded,
    device: &'a Device,
) -> Context<'a> {
    Context {
        backbone,
        teacher: None,
        batch,
        encoded,
        device,
        world: &World::ALONE,
    }
}

/// Outputs within this share of the reference's largest value: f32 sums over a few layers of width 8, the reference in f64.
pub const OUTPUTS: f64 = 1e-5;
/// Gradients: longer sums of the same kind.
pub const GRADIENTS: f64 = 1e-4;
/// What is 0 in exact arithmetic, as the gradient of a key's bias, is compared with this instead.
const ZERO: f64 = 1e-6;

/// One of the files that `reference/grounded.py` and `reference/concepts.py` write.
pub struct Reference {
    name: String,
    floats: HashMap<String, TensorData>,
    whole: HashMap<String, (Vec<i64>, Vec<usize>)>,
    metadata: HashMap<String, String>,
    /// Where tensors are placed.
    pub device: Device,
}

impl Reference {
    /// Reads `fixtures/FOLDER/NAME.safetensors`; tensors will track gradients.
    pub fn open(folder: &str, name: &str) -> Self {
        let path = self::folder()
            .join(folder)
            .join(format!("{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("the fixture's header");
        let tensors = SafeTensors::deserialize(&bytes).expect("the fixture");
        let (mut floats, mut whole) = (HashMap::new(), HashMap::new());
        for (name, view) in tensors.tensors() {
            let (data, shape) = (view.data(), view.shape().to_vec());
            match view.dtype() {
                Dtype::F32 => {
                    let values = data.as_chunks::<4>().0.iter();
                    let values: Vec<f32> = values.map(|b| f32::from_le_bytes(*b)).collect();
                    floats.insert(name, TensorData::new(values, shape));
                }
                Dtype::I64 => {
                    let values = data.as_chunks::<8>().0.iter();
                    let values = values.map(|b| i64::from_le_bytes(*b)).collect();
                    whole.insert(name, (values, shape));
                }
                _ => {
                    let values = data.iter().map(|b| i64::from(*b)).collect();
                    whole.insert(name, (values, shape));
                }
            }
        }
        Self {
            name: format!("{folder}/{name}"),
            floats,
            whole,
            metadata: header.metadata().clone().unwrap_or_default(),
            device: Device::flex().autodiff(),
        }
    }

    /// A number of the metadata.
    pub fn number(&self, key: &str) -> usize {
        self.metadata[key].parse().expect("a number")
    }

    /// A tensor of floats that tracks gradients.
    pub fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        Tensor::from_data(self.floats[name].clone(), &self.device).require_grad()
    }

    /// A tensor of whole numbers.
    pub fn ints<const D: usize>(&self, name: &str) -> Tensor<D, Int> {
        let (values, shape) = self.whole[name].clone();
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    /// Whole numbers on the host.
    pub fn numbers(&self, name: &str) -> Vec<i64> {
        self.whole[name].0.clone()
    }

    /// A mask that the file holds as 1 for what is visible.
    pub fn mask(&self, name: &str) -> PaddingMask {
        PaddingMask::from_visible(self.ints(name))
    }

    /// Truth values, 1 as `true`.
    pub fn bools<const D: usize>(&self, name: &str) -> Tensor<D, Bool> {
        self.ints::<D>(name).equal_scalar(1)
    }

    /// A module with the file's weights; every parameter must be there under `prefix`.
    pub fn fill<M: Module>(&self, module: M, prefix: &str) -> M {
        parameters::replace(module, |name, _| {
            let name = format!("{prefix}{name}");
            let found = self.floats.get(&name).cloned();
            assert!(found.is_some(), "{} has no {name}", self.name);
            found
        })
    }

    /// The file's weights of this name, if it has them.
    pub fn known(&self, name: &str) -> Option<TensorData> {
        self.floats.get(name).cloned()
    }

    fn close(&self, name: &str, ours: &TensorData, tolerance: f64) {
        let theirs = &self.floats[name];
        let largest = theirs.iter::<f64>().fold(0.0, |m: f64, v| m.max(v.abs()));
        let pairs = ours.iter::<f64>().zip(theirs.iter::<f64>());
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let count = (ours.num_elements(), theirs.num_elements());
        assert_eq!(count.0, count.1, "{}: {name}", self.name);
        assert!(
            worst <= tolerance * largest.max(ZERO / tolerance),
            "{}: {name} differs by {worst}, of {largest}",
            self.name
        );
    }

    /// Values on the host equal the file's, as an output does.
    pub fn values(&self, name: &str, ours: &TensorData) {
        self.close(name, ours, OUTPUTS);
    }

    /// A gradient on the host equals the file's.
    pub fn gradient_values(&self, name: &str, ours: &TensorData) {
        self.close(name, ours, GRADIENTS);
    }

    /// An output equals the file's.
    pub fn output<const D: usize>(&self, name: &str, ours: &Tensor<D>) {
        let ours = ours.clone().without_autodiff().into_data().convert::<f32>();
        self.close(name, &ours, OUTPUTS);
    }

    /// The gradient of an input equals the file's.
    pub fn gradient<const D: usize>(
        &self,
        name: &str,
        of: &Tensor<D>,
        gradients: &burn::tensor::Gradients,
    ) {
        self.gradient_as(&format!("grad.{name}"), of, gradients);
    }

    /// As [`gradient`](Self::gradient), by the whole name in the file.
    pub fn gradient_as<const D: usize>(
        &self,
        name: &str,
        of: &Tensor<D>,
        gradients: &burn::tensor::Gradients,
    ) {
        let ours = of.grad(gradients);
        let ours = ours.unwrap_or_else(|| panic!("{}: no {name}", self.name));
        self.close(name, &ours.into_data(), GRADIENTS);
    }

    /// The gradients of all parameters equal the file's; how many there were.
    pub fn gradients_of<M: Module>(
        &self,
        module: &M,
        prefix: &str,
        gradients: burn::tensor::Gradients,
    ) -> usize {
        let ours = GradientsParams::from_grads(gradients, module);
        let ours = parameters::gradients(module, &ours);
        for (name, values) in &ours {
            self.close(&format!("grad.{prefix}{name}"), values, GRADIENTS);
        }
        ours.len()
    }

    /// As [`gradients_of`](Self::gradients_of), where the reference lacks the parameters below `ours_alone` (whole names).
    pub fn known_gradients<M: Module>(
        &self,
        module: &M,
        prefix: &str,
        gradients: &mut burn::tensor::Gradients,
        ours_alone: &[&str],
    ) -> usize {
        let ours = GradientsParams::from_module(gradients, module);
        let ours = parameters::gradients(module, &ours).into_iter();
        let ours = ours.map(|(name, values)| (format!("{prefix}{name}"), values));
        let (_, known): (Vec<_>, Vec<_>) =
            ours.partition(|(name, _)| ours_alone.iter().any(|own| covers(own, name)));
        for (name, values) in &known {
            self.close(&format!("grad.{name}"), values, GRADIENTS);
        }
        known.len()
    }
}

/// What makes the encoders of a recipe as small as those of references.
const TOWERS: [&str; 15] = [
    "model.text.width=8",
    "model.text.layers=2",
    "model.text.heads=2",
    "model.text.feed_forward=16",
    "model.text.max_positions=8",
    "model.text.positions=from_zero",
    "model.image.image_size=8",
    "model.image.patch_size=4",
    "model.image.width=8",
    "model.image.layers=2",
    "model.image.heads=2",
    "model.image.feed_forward=16",
    "model.image.activation=gelu",
    "model.image.pre_norm=false",
    "model.image.patch_bias=true",
];

/// A recipe that ships, with encoders as small as those of references, these changes, and this number of words.
pub fn recipe(name: &str, changes: &[&str], vocabulary: usize) -> Recipe {
    let set = TOWERS.iter().chain(changes).map(|set| (*set).to_owned());
    let overrides = Overrides {
        data: None,
        set: set.collect(),
    };
    let mut recipe = Recipe::load(name, &overrides).expect("a recipe that ships");
    // No tokenizer has so few words.
    recipe.model.text.vocab_size = vocabulary;
    recipe
}
