//! The learning rate of each parameter, as a factor of the schedule's rate.
//!
//! ```text
//! factor = pattern  ×  layer_decay ^ layers above
//! ```
//!
//! The first part is the entry of `lr_factors` that covers the parameter, or `fusion_lr_factor`. The second is layer-wise decay
//! (Clark et al. 2020, section 3.3.2; BEiT, Bao et al. 2022): the nearer a layer is to the input, the less it changes. The layers are counted
//! over the whole path to the heads, through the cross-modal encoder and the uni-modal one. Heads have none above them, the last layer
//! has one, and embeddings have all layers above them and one more. With one encoder alone this is timm's `layer_decay`.

use std::collections::BTreeMap;
use std::fmt::Write;

use unimo_core::parameters::ParameterInfo;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::names::covers;
use unimo_report::numbers::grouped;

use crate::recipe::OptimizerConfig;

/// The factors of a recipe's parameters.
#[derive(Debug, Clone)]
pub struct Rates {
    config: OptimizerConfig,
    depths: Depths,
}

/// Number of layers of the encoders.
#[derive(Debug, Clone, Copy)]
struct Depths {
    text: usize,
    image: usize,
    cross: usize,
    /// Whether the layers of the cross-modal encoder are the text encoder's.
    shared: bool,
}

/// Whether a parameter belongs to a text or image encoder: not to the cross-modal encoder or a head.
pub fn is_uni_modal(name: &str) -> bool {
    let mut path = name.split('.');
    path.next() == Some("backbone")
        && matches!(path.next(), Some("text" | "image" | "regions" | "outside"))
}

impl Rates {
    /// The factors for these encoders.
    pub fn new(config: &OptimizerConfig, model: &BackboneConfig) -> Self {
        let of_fusion = model.fusion.as_ref().map(|fusion| fusion.layers);
        let of_joint = model.joint.as_ref().map(|joint| joint.layers);
        let image = if model.reads_images() {
            model.image_layers()
        } else {
            0
        };
        Self {
            config: config.clone(),
            depths: Depths {
                text: model.text.layers,
                image,
                cross: of_fusion.or(of_joint).unwrap_or(0),
                shared: model.shares_layers(),
            },
        }
    }

    /// The factor of a parameter's learning rate.
    pub fn factor_of(&self, name: &str) -> f64 {
        let pattern = self.pattern_of(name);
        if self.config.layer_decay == 1.0 {
            return pattern;
        }
        let above = self.depths.above(name);
        pattern * self.config.layer_decay.powi(above as i32)
    }

    /// The factor without layer-wise decay.
    fn pattern_of(&self, name: &str) -> f64 {
        let given = self.config.lr_factors.iter();
        let given = given.filter(|(pattern, _)| covers(pattern, name));
        // Among patterns with the same number of parts, the one with the fewest `*`.
        let most = given.max_by_key(|(pattern, _)| {
            let parts = pattern.split('.');
            (parts.clone().count(), parts.filter(|p| *p != "*").count())
        });
        match most {
            Some((_, factor)) => *factor,
            None if is_uni_modal(name) => 1.0,
            None => self.config.fusion_lr_factor,
        }
    }

    /// Which groups of parameters have which factor, a line for each factor, the highest first. What tracks no gradient is left out.
    pub fn account(&self, parameters: &[ParameterInfo]) -> String {
        let mut groups: BTreeMap<u64, (f64, Vec<String>, usize)> = BTreeMap::new();
        for parameter in parameters.iter().filter(|p| p.trainable) {
            let factor = self.factor_of(&parameter.name);
            // Factors are not negative, so their bits are in their order.
            let (_, names, count) =
                groups
                    .entry(factor.to_bits())
                    .or_insert((factor, Vec::new(), 0));
            let group = group_of(&parameter.name);
            if !names.contains(&group) {
                names.push(group);
            }
            *count += parameter.shape.iter().product::<usize>();
        }
        let mut text = String::new();
        for (factor, names, count) in groups.into_values().rev() {
            let numbers = grouped(count as f64);
            let _ = writeln!(
                text,
                "x {factor:<12.6} {numbers:>14} numbers  {}",
                names.join(", ")
            );
        }
        text
    }

    /// A line on how far layer-wise decay spreads the rates; `None` without it.
    pub fn note(&self, parameters: &[ParameterInfo]) -> Option<String> {
        let (low, high) = self.range(parameters)?;
        (self.config.layer_decay < 1.0).then(|| {
            format!(
                "learning rates are {low:.6} to {high:.6} times that of the schedule, by layer; rates.txt lists them"
            )
        })
    }

    /// The lowest and the highest factor of the parameters that learn; `None` if none does.
    pub fn range(&self, parameters: &[ParameterInfo]) -> Option<(f64, f64)> {
        let learning = parameters.iter().filter(|p| p.trainable);
        let factors = learning.map(|p| self.factor_of(&p.name));
        factors.fold(None, |range, factor| match range {
            None => Some((factor, factor)),
            Some((low, high)) => Some((factor.min(low), factor.max(high))),
        })
    }
}

/// The part of a name that is listed: a layer, or one field of an encoder or an objective.
fn group_of(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let is_number = |part: &&str| part.bytes().all(|b| b.is_ascii_digit());
    let layer = parts.iter().position(is_number);
    let fields = match parts.as_slice() {
        ["backbone", "fusion", "text" | "image", ..] => 4,
        ["backbone", ..] => 3,
        _ => 2,
    };
    let length = layer.map_or(fields, |at| at + 1);
    parts[..length.min(parts.len())].join(".")
}

impl Depths {
    /// The layers from a parameter up to the heads, its own one included.
    fn above(&self, name: &str) -> usize {
        let parts: Vec<&str> = name.split('.').collect();
        let index = |at: usize| parts.get(at).and_then(|part| part.parse::<usize>().ok());
        let in_order = |layer: usize, layers: usize| layers.saturating_sub(layer);
        match parts.as_slice() {
            // An encoder of another crate has its name before its fields.
            ["backbone", encoder @ "text", "outside", _, rest @ ..]
            | ["backbone", encoder @ "outside", _, rest @ ..]
            | [
                "backbone",
                encoder @ ("text" | "image" | "regions"),
                rest @ ..,
            ] => {
                let layers = if *encoder == "text" {
                    self.text
                } else {
                    self.image
                };
                let own = match (rest, index(parts.len() - rest.len() + 1)) {
                    (["layers", ..], Some(layer)) => in_order(layer, layers),
                    // The norm at the end belongs to the last layer.
                    (["post_norm", ..], _) => 1,
                    _ => layers + 1,
                };
                match *encoder {
                    "text" if self.shared => own,
                    _ => own + self.cross,
                }
            }
            ["backbone", "fusion", "shared", ..] => in_order(index(3).unwrap_or(0), self.cross),
            ["backbone", "joint", "layers" | "split", ..] => {
                in_order(index(3).unwrap_or(0), self.cross)
            }
            ["backbone", "fusion", "text" | "image", field, ..] => match (*field, index(4)) {
                ("layers" | "links" | "managers", Some(layer)) => in_order(layer, self.cross),
                // The first layer has none.
                ("link_scales" | "link_shares", Some(layer)) => in_order(layer + 1, self.cross),
                ("pooler", _) => 0,
                _ => self.cross,
            },
            // What leads into the cross-modal encoder belongs to its first layer.
            ["backbone", "fusion" | "joint", ..] => self.cross,
            _ => 0,
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;
    use unimo_core::parameters;

    use super::*;
    use crate::freezing;
    use crate::model::Model;
    use crate::recipe::{Overrides, Recipe};

    fn recipe(name: &str, set: &[&str]) -> Recipe {
        let overrides = Overrides {
            data: None,
            set: set.iter().map(|s| (*s).to_owned()).collect(),
        };
        Recipe::load(name, &overrides).unwrap()
    }

    fn rates(recipe: &Recipe) -> Rates {
        Rates::new(&recipe.train.optimizer, &recipe.model)
    }

    #[test]
    fn the_pattern_that_says_most_is_the_factor() {
        let mut recipe = recipe("unimo3-tiny", &["train.optimizer.fusion_lr_factor=5.0"]);
        let of = |recipe: &Recipe| {
            let names = [
                "backbone.text.layers.0.x",
                "backbone.fusion.y",
                "objectives.itm.z",
            ];
            names.map(|name| rates(recipe).factor_of(name))
        };
        assert_eq!(of(&recipe), [1.0, 5.0, 5.0]);
        let given = [
            ("objectives", 2.0),
            ("objectives.itm", 10.0),
            ("backbone.*.layers.0", 0.5),
        ];
        let optimizer = &mut recipe.train.optimizer;
        optimizer.lr_factors = given.map(|(name, factor)| (name.to_owned(), factor)).into();
        assert_eq!(of(&recipe), [0.5, 5.0, 10.0]);
    }

    /// timm 1.0.31's `param_groups_layer_decay` over `vit_*` (`optim/_param_groups.py`, and the groups of `VisionTransformer.group_matcher`):
    ///
    /// ```python
    /// layer_scales = list(layer_decay ** (layer_max - i) for i in range(num_layers))
    /// ```
    ///
    /// with the stem as group 0, block i as group i + 1, its final norm in the group before it, and the head as the last group. With three blocks and 0.65 it prints
    /// 0.178506, 0.274625, 0.4225, 0.65 and 1.
    #[test]
    fn one_encoder_has_the_factors_of_timm() {
        /// A power of doubles against a product of them.
        const TOLERANCE: f64 = 1e-12;
        const DECAY: f64 = 0.65;
        let recipe = recipe(
            "vit-classes-tiny",
            &[
                "train.optimizer.layer_decay=0.65",
                "train.optimizer.fusion_lr_factor=1.0",
            ],
        );
        assert!(!recipe.model.is_fused());
        let layers = recipe.model.image_layers();
        let groups = layers + 2;
        let scales: Vec<f64> = (0..groups)
            .map(|i| (i..groups - 1).fold(1.0, |scale, _| scale * DECAY))
            .collect();
        let rates = rates(&recipe);
        let model = Model::new(&recipe, &Device::flex());
        let mut seen = vec![0; groups];
        for parameter in parameters::list(&model) {
            let name = &parameter.name;
            let group = match name.strip_prefix("backbone.image.") {
                Some(own) => match own.strip_prefix("layers.") {
                    Some(block) => block.split('.').next().unwrap().parse::<usize>().unwrap() + 1,
                    None if own.starts_with("post_norm") => layers,
                    None => 0,
                },
                None if name.starts_with("objectives.") => layers + 1,
                // A text encoder, which timm has not.
                None => continue,
            };
            let (found, expected) = (rates.factor_of(name), scales[group]);
            assert!(
                (found - expected).abs() < TOLERANCE,
                "{name}: {found} {expected}"
            );
            seen[group] += 1;
        }
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    }

    /// Every layer is lower than the one above it, through both encoders, and patterns multiply.
    #[test]
    fn factors_fall_from_the_heads_to_the_embeddings() {
        let both = |name: &str, set: &[&str], ordered: &[&str]| {
            let set = [set, &["train.optimizer.layer_decay=0.5"]].concat();
            let recipe = recipe(name, &set);
            let rates = rates(&recipe);
            let model = Model::new(&recipe, &Device::flex());
            let names: Vec<String> = parameters::list(&model)
                .into_iter()
                .map(|p| p.name)
                .collect();
            for (above, pattern) in ordered.iter().enumerate() {
                let own: Vec<&String> = names.iter().filter(|n| covers(pattern, n)).collect();
                assert!(!own.is_empty(), "{pattern}");
                for name in own {
                    let plain = rates.pattern_of(name);
                    assert_eq!(
                        rates.factor_of(name),
                        plain * 0.5f64.powi(above as i32),
                        "{name}"
                    );
                }
            }
        };
        let small = [
            "model.text.layers=2",
            "model.image.layers=2",
            "model.fusion.layers=2",
        ];
        for encoder in ["text", "image"] {
            let uni = |rest: &str| format!("backbone.{encoder}.{rest}");
            let fused = |rest: &str| format!("backbone.fusion.{encoder}.{rest}");
            let embedding = if encoder == "text" {
                "word_embedding"
            } else {
                "patch_embedding"
            };
            let ordered = [
                "objectives".to_owned(),
                fused("layers.1"),
                fused("layers.0"),
                uni("layers.1"),
                uni("layers.0"),
                uni(embedding),
            ];
            let ordered: Vec<&str> = ordered.iter().map(String::as_str).collect();
            both("unimo3-tiny", &small, &ordered);
        }
        let top = ["backbone.fusion.text.pooler"];
        both("unimo3-tiny", &small, &top);
        let bridges = [&small[..], &["model.fusion.uni_levels=2"]].concat();
        let ordered = [
            "objectives",
            "backbone.fusion.text.links.1",
            "backbone.fusion.text.links.0",
        ];
        both("bridgetower-tiny", &bridges, &ordered);
        let ordered = [
            "objectives",
            "backbone.joint.layers.1",
            "backbone.joint.layers.0",
        ];
        both("unimo2-tiny", &["model.joint.layers=2"], &ordered);
    }

    #[test]
    fn the_account_names_every_group_once() {
        let recipe = recipe("unimo3-tiny", &["train.optimizer.layer_decay=0.5"]);
        let model = Model::new(&recipe, &Device::flex().autodiff());
        let model = freezing::track(model, &|name| !name.starts_with("backbone.image."));
        let all = parameters::list(&model);
        let rates = rates(&recipe);
        let account = rates.account(&all);
        let first = account.lines().next().unwrap();
        assert!(
            first.starts_with("x ") && first.contains("objectives.mlm"),
            "{account}"
        );
        assert_eq!(
            account.matches("backbone.text.layers.0").count(),
            1,
            "{account}"
        );
        assert!(!account.contains("backbone.image"), "{account}");
        assert!(first.contains("backbone.fusion.text.pooler"), "{account}");
        let (low, high) = rates.range(&all).unwrap();
        assert_eq!(high, recipe.train.optimizer.fusion_lr_factor);
        let text = recipe.model.text.layers + recipe.model.fusion.as_ref().unwrap().layers;
        assert_eq!(low, 0.5f64.powi(text as i32 + 1));
    }
}
