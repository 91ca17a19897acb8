//! A single stream that begins as the blocks of a public text encoder, such as BERT's (VLP, DiMBERT as read here).

use std::path::PathBuf;

use unimo_encoders::import::{Allow, Report, import};
use unimo_encoders::public::best;
use unimo_encoders::weights::Weights;

use super::{blocks, fits, names_of};
use crate::error::TrainError;
use crate::hub;
use crate::model::Model;
use crate::recipe::Recipe;
use crate::recipe::init::InitConfig;

/// A model whose stream has been read.
pub(super) struct Begun {
    pub(super) model: Model,
    pub(super) report: Report,
    pub(super) notes: Vec<String>,
    pub(super) path: PathBuf,
    pub(super) weights: Weights,
}

/// What a text encoder has beside its blocks. A stream does not read it: `init.text` does.
const BESIDE_BLOCKS: [&str; 5] = [
    "word_embedding.weight",
    "position_embedding.weight",
    "type_embedding.weight",
    "embedding_norm.weight",
    "embedding_norm.bias",
];

/// Reads the blocks. Matrices of further parts, with `model.joint.split`, become copies of them, and are accounted for as read.
pub(super) fn begin(
    mut model: Model,
    recipe: &Recipe,
    (init, given): (&InitConfig, &str),
    allow: &Allow,
) -> Result<Begun, TrainError> {
    let path = hub::resolve(given)?;
    let (public, theirs) = fits::joint(recipe, given, &path)?;
    let (Some(ours), Some(joint)) = (&recipe.model.joint, model.backbone.joint.take()) else {
        return Err(fits::no_stream(given));
    };
    let mut notes = Vec::new();
    let taken = blocks(init, "joint", ours.layers, theirs.layers, &mut notes)?;
    let mut weights = Weights::open(&public.weights)?;
    let parameters = names_of(&joint);
    let names = best(public.spellings.clone(), &parameters, &weights);
    let mut allow = Allow {
        missing: ["split", "quantiser", "norm"].map(str::to_owned).to_vec(),
        unexpected: allow.unexpected.clone(),
        left: Vec::new(),
    };
    let beside = BESIDE_BLOCKS.iter().filter_map(|name| names.target(name));
    allow.unexpected.extend(beside.map(|target| target.name));
    allow.unexpected.extend(taken.left(&names));
    let names = names.numbering("layers", &taken.taken);
    let (joint, mut report) = import(joint, &mut weights, &names, &allow)?;
    report.new.clear();
    for (own, _) in &mut report.used {
        *own = format!("backbone.joint.{own}");
    }
    model.backbone.joint = Some(joint.split_anew());
    notes.extend(account_for_copies(&model, &mut report));
    Ok(Begun {
        model,
        report,
        notes,
        path,
        weights,
    })
}

/// Accounts for the matrices of further parts, which are copies of the blocks', as read from where these were. A line about them, if there are
/// any.
pub(super) fn account_for_copies(model: &Model, report: &mut Report) -> Option<String> {
    let copies: Vec<(String, String)> = names_of(model)
        .into_iter()
        .filter_map(|name| {
            let of = copied_from(&name)?;
            let (_, stored) = report.used.iter().find(|(own, _)| *own == of)?;
            Some((name, stored.clone()))
        })
        .collect();
    report
        .new
        .retain(|name| !copies.iter().any(|(copy, _)| copy == name));
    let any = !copies.is_empty();
    report.used.extend(copies);
    any.then(|| {
        "backbone.joint.split: the matrices of every part begin as those of the blocks, which are the text's (model.joint.split)"
            .to_owned()
    })
}

/// The parameter of a block that one of a further part is a copy of: `backbone.joint.split.3.attention.0.key.bias` of
/// `backbone.joint.layers.3.attention.key.bias`.
fn copied_from(name: &str) -> Option<String> {
    let rest = name.strip_prefix("backbone.joint.split.")?;
    let mut parts = rest.splitn(4, '.');
    let (layer, field, _, param) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some(format!("backbone.joint.layers.{layer}.{field}.{param}"))
}
