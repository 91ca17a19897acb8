//! The Python files beside an export that transformers does not know: a model for `trust_remote_code`.
//!
//! They are the same for all models. What a model has is said by `model` and `objectives` in its `config.json`, which `auto_map` leads
//! to them. `tests/reference/modeling.py` compares their outputs with those of this project.

use std::path::Path;

use serde_json::{Value, json};
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::text::TextTower;
use unimo_encoders::weights::Dtype;
use unimo_objectives::ObjectivesConfig;

use crate::error::TrainError;
use crate::files;

/// The configuration's class.
pub const CONFIGURATION: &str = include_str!("../../python/configuration_unimo.py");
/// The model's class.
pub const MODELING: &str = include_str!("../../python/modeling_unimo.py");

/// The files with their names.
const FILES: [(&str, &str); 2] = [
    ("configuration_unimo.py", CONFIGURATION),
    ("modeling_unimo.py", MODELING),
];

/// The heads that the model in Python has.
pub const HEADS: [&str; 5] = ["mlm", "itm", "itc", "vqa", "snli_ve"];

/// Why the files cannot express a model; `None` if they can.
pub fn refusal(model: &BackboneConfig) -> Option<&'static str> {
    if model.regions.is_some() {
        return Some("it reads regions that a detector found, [model.regions]");
    }
    if model
        .fusion
        .as_ref()
        .is_some_and(|fusion| !fusion.image_stream)
    {
        return Some(
            "its cross-modal encoder has no image stream, model.fusion.image_stream = false",
        );
    }
    if model.image.as_ref().is_some_and(|i| i.stem.is_some()) {
        return Some("its image encoder begins with convolutions, [model.image.stem]");
    }
    if let Some(joint) = &model.joint {
        if joint.split.is_some() {
            return Some(
                "its image and its text have matrices of their own, [model.joint.split]; --part stream writes a BERT where they are equal",
            );
        }
        if joint.concepts {
            return Some("it reads the names of an image's objects, model.joint.concepts");
        }
    }
    if model.map.is_some() {
        return Some("it is an agent that follows texts over a map, [model.map]");
    }
    if model.outside.is_some() {
        return Some("its image encoder is one of another crate");
    }
    if model.text.outside.is_some() {
        return Some("its text encoder has blocks of another crate");
    }
    if model.text.tower == TextTower::Clip {
        return Some("its text encoder is CLIP's, model.text.tower = \"clip\"");
    }
    None
}

/// What of a model the files leave out, a line each.
pub fn left_out(model: &BackboneConfig, objectives: &ObjectivesConfig) -> Vec<String> {
    let given = objectives.given();
    let others: Vec<&str> = given
        .into_iter()
        .filter(|key| !HEADS.contains(key))
        .collect();
    let mut lines = Vec::new();
    if !others.is_empty() {
        lines.push(format!(
            "modeling_unimo.py has no head for {}: what there is of them in model.safetensors is read by unimo alone",
            others.join(", ")
        ));
    }
    if model.image_tags {
        lines.push(
            "modeling_unimo.py reads images without the names of their objects, [model.image_tags]"
                .to_owned(),
        );
    }
    if model
        .image
        .as_ref()
        .is_some_and(|image| image.mask_embedding)
    {
        lines.push(
            "modeling_unimo.py hides no patches: their embedding in model.safetensors is read by unimo alone"
                .to_owned(),
        );
    }
    let drops = [
        Some(model.text.drop_path),
        model.image.as_ref().map(|image| image.drop_path),
        model.fusion.as_ref().map(|fusion| fusion.drop_path),
        model.joint.as_ref().map(|joint| joint.drop_path),
    ];
    if drops.into_iter().flatten().any(|share| share > 0.0) {
        lines.push(
            "modeling_unimo.py has no drop-path: it computes the same, and would be trained without"
                .to_owned(),
        );
    }
    lines
}

/// Adds to a `config.json` what leads transformers to the files.
pub fn point_to(json: &mut Value, dtype: Dtype) {
    json["architectures"] = json!(["UnimoModel"]);
    json["auto_map"] = json!({
        "AutoConfig": "configuration_unimo.UnimoConfig",
        "AutoModel": "modeling_unimo.UnimoModel",
    });
    json["dtype"] = match dtype {
        Dtype::F16 => "float16",
        Dtype::Bf16 => "bfloat16",
        Dtype::F64 | Dtype::F32 | Dtype::Other => "float32",
    }
    .into();
}

/// Writes the files into a folder.
///
/// # Errors
///
/// They cannot be written.
pub fn write(folder: &Path) -> Result<(), TrainError> {
    for (name, text) in FILES {
        files::write(&folder.join(name), text.as_bytes())?;
    }
    Ok(())
}
