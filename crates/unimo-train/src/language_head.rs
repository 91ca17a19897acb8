//! The head of masked language modelling in the checkpoint of a BERT or RoBERTa.

use burn::tensor::Device;
use unimo_batch::MaskSpec;
use unimo_core::init::Init;
use unimo_core::layers::{Activation, LayerNorm, Linear};
use unimo_core::parameters;
use unimo_encoders::import::{Allow, import};
use unimo_encoders::public::{bert, best};
use unimo_encoders::text::Positions;
use unimo_encoders::weights::Weights;
use unimo_objectives::pretraining::mlm::{Mlm, MlmConfig};

use crate::error::TrainError;
use crate::pretrained::{NetworkConfig, Public};

/// The language head in a text encoder's checkpoint; `None` if it has none or the checkpoint is of another kind.
///
/// # Errors
///
/// The checkpoint cannot be read, or its head is incomplete or computes in another way.
pub fn load(public: &Public, device: &Device) -> Result<Option<Mlm>, TrainError> {
    let NetworkConfig::Text(config) = &public.config else {
        return Ok(None);
    };
    let mut weights = Weights::open(&public.weights)?;
    let heads = bert::head_spellings();
    let has = |names: &unimo_encoders::names::Names| {
        names
            .target("dense.weight")
            .is_some_and(|target| weights.info(&target.name).is_some())
    };
    if !heads.iter().any(has) {
        return Ok(None);
    }
    // RoBERTa's head always has GELU; BERT's has the activation of its blocks.
    if config.positions == Positions::FromZero && config.activation != Activation::Gelu {
        return Err(TrainError::Check(format!(
            "the language head of {} has the activation of its blocks, {:?}; only GELU is supported there",
            public.weights.display(),
            config.activation
        )));
    }
    let mut init = Init::blank(device);
    let (width, words) = (config.width, config.vocab_size);
    let head = Mlm {
        dense: Linear::new(&mut init, width, width, true),
        norm: LayerNorm::new(&mut init, width, config.layer_norm_eps),
        decoder: (!public.tied).then(|| Linear::new(&mut init, width, words, true)),
        bias: public.tied.then(|| init.constant([words], 0.0)),
        distil: None,
        config: MlmConfig {
            left_to_right: 0.0,
            weight: 1.0,
            mask: MaskSpec::default(),
            tied: public.tied,
            texts_alone: false,
            patches: None,
            regions: None,
            distil: None,
        },
        every_position: false,
    };
    let ours: Vec<String> = parameters::list(&head)
        .into_iter()
        .map(|parameter| parameter.name)
        .collect();
    let names = best(heads, &ours, &weights);
    // The encoder's own tensors are checked when it is loaded.
    let allow = Allow {
        missing: Vec::new(),
        unexpected: vec!["*".to_owned()],
        left: Vec::new(),
    };
    let (head, _) = import(head, &mut weights, &names, &allow)?;
    Ok(Some(head))
}
