//! UNIMO-2's parts against an independent PyTorch reference, written from the paper: `reference/grounded.py`.

use burn::tensor::Gradients;
use unimo_core::init::Init;
use unimo_core::layers::Activation;
use unimo_encoders::joint::{JointConfig, JointEncoder, View};
use unimo_encoders::quantiser::{Choice, Quantised, QuantiserConfig};
use unimo_objectives::pretraining::vq::{Vq, VqConfig};
use unimo_tests::fixture::{self, Reference};

const COMMITMENT: f64 = 0.25;

fn vq() -> Vq {
    Vq {
        config: VqConfig {
            weight: 1.0,
            commitment: COMMITMENT,
        },
    }
}

fn quantiser(choice: Choice, codes: usize, tokens: usize) -> QuantiserConfig {
    QuantiserConfig {
        codes,
        tokens,
        choice,
        scale: 1.2,
        scale_range: [1.0, 1e4],
    }
}

/// The two losses, their sum, and the codes in their order.
fn same_choice(reference: &Reference, ours: &Quantised, choice: Choice) {
    let indices = reference.numbers("indices");
    let codes: Vec<i64> = ours.codes.clone().into_data().iter::<i64>().collect();
    assert_eq!(codes, indices);
    let loss = vq().of(ours, choice);
    reference.output("loss", &loss);
    let [_, _, width] = ours.tokens.dims();
    let to_states = ours.to_states.clone().sum() / (ours.states.clone().sum() * width as f64);
    reference.output("loss_q", &to_states);
}

#[test]
fn the_dictionary_equals_the_reference() {
    for (name, choice) in [("topk", Choice::TopK), ("nearest", Choice::Nearest)] {
        let reference = Reference::open("grounded", name);
        let config = quantiser(choice, 16, reference.number("k"));
        let mut module = config.init(&mut Init::new(&reference.device, 0), 8);
        module.codebook = burn::module::Param::from_tensor(reference.tensor("codebook"));
        if choice == Choice::TopK {
            module.tau = burn::module::Param::from_tensor(reference.tensor("tau"));
        }
        let states = reference.tensor::<3>("h");
        let ours = module.forward(states.clone(), &reference.mask("visible"));
        same_choice(&reference, &ours, choice);
        reference.output("g", &ours.tokens);
        let mut weights = reference.tensor::<3>("w").detach();
        if let Some(hidden) = &ours.hidden {
            let [rows, tokens, width] = weights.dims();
            let hidden = hidden.hidden();
            let real: Vec<i64> = hidden.clone().bool_not().int().into_data().iter().collect();
            assert_eq!(real, reference.numbers("grounded_visible"));
            let hidden = hidden.unsqueeze_dim::<3>(2).expand([rows, tokens, width]);
            weights = weights.mask_fill(hidden, 0.0);
        }
        let scalar = vq().of(&ours, choice) + (ours.tokens * weights).sum();
        reference.output("scalar", &scalar);
        let gradients = scalar.backward();
        reference.gradient("h", &states, &gradients);
        let found = reference.gradients_of(&module, "", gradients);
        assert_eq!(found, if choice == Choice::TopK { 2 } else { 1 });
    }
}

fn encoder(reference: &Reference) -> JointEncoder {
    let config = JointConfig {
        width: 8,
        layers: reference.number("layers"),
        heads: reference.number("heads"),
        feed_forward: 16,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
        dropout: 0.0,
        drop_path: 0.0,
        image_class: true,
        grounding: Some(quantiser(Choice::TopK, 12, reference.number("k"))),
        concepts: false,
        split: None,
        interleaved: None,
    };
    config.validate().unwrap();
    let blank = config.init(&mut Init::new(&reference.device, 0));
    reference.fill(blank, "")
}

fn grounded_pass(name: &str, text: bool, image: bool, view: &View) {
    let reference = Reference::open("grounded", name);
    let encoder = encoder(&reference);
    let v = image.then(|| reference.tensor::<3>("V"));
    let t = text.then(|| (reference.tensor::<3>("T"), reference.mask("text_visible")));
    let ours = encoder.forward(
        t.as_ref().map(|(t, mask)| (t, mask)),
        v.as_ref().map(|v| (v, None)),
        view,
    );
    let grounded = ours.grounded.as_ref().unwrap();
    same_choice(&reference, &grounded.quantised, Choice::TopK);
    reference.output("g", &grounded.states);
    let factor = |name: &str| reference.tensor::<3>(name).detach();
    let mut scalar =
        vq().of(&grounded.quantised, Choice::TopK) + (grounded.states.clone() * factor("wg")).sum();
    if image {
        reference.output("v", ours.image());
        scalar = scalar + (ours.image().clone() * factor("wv")).sum();
    }
    if let Some((_, mask)) = &t {
        reference.output("t", ours.text());
        let hidden = mask
            .hidden()
            .unsqueeze_dim::<3>(2)
            .expand(ours.text().dims());
        let weights = factor("wt").mask_fill(hidden, 0.0);
        scalar = scalar + (ours.text().clone() * weights).sum();
    }
    reference.output("scalar", &scalar);
    let gradients = scalar.backward();
    if let Some(v) = &v {
        reference.gradient("V", v, &gradients);
    }
    if let Some((t, _)) = &t {
        reference.gradient("T", t, &gradients);
    }
    assert_eq!(reference.gradients_of(&encoder, "", gradients), 36);
}

#[test]
fn the_grounded_transformer_equals_the_reference() {
    let both = View::default();
    grounded_pass("encoder", true, true, &both);
    grounded_pass("image_only", false, true, &both);
    grounded_pass("text_only", true, false, &both);
    let captioning = View {
        prefix: Some(1),
        ..View::default()
    };
    grounded_pass("captioning", true, true, &captioning);
}

mod heads {
    use burn::module::Param;
    use unimo_batch::Batch;
    use unimo_encoders::backbone::{Backbone, BackboneConfig};
    use unimo_encoders::output::FusionOutput;
    use unimo_objectives::pretraining::itc::{Itc, ItcConfig, Normalised, Projection, Views};
    use unimo_objectives::pretraining::itm::{Head, ItmConfig, Layout, Negatives};
    use unimo_objectives::tied::TiedHead;
    use unimo_objectives::{Objective, ObjectiveConfig};

    use super::*;

    fn model(reference: &Reference) -> (BackboneConfig, Backbone) {
        let config = fixture::narrow_model();
        let backbone = config.init(&mut Init::new(&reference.device, 0));
        (config, backbone)
    }

    #[test]
    fn matching_by_product_equals_the_reference() {
        let reference = Reference::open("grounded", "itm");
        let (config, backbone) = model(&reference);
        let head = ItmConfig {
            weight: 1.0,
            negatives: Negatives::Uniform,
            layout: Layout::Half,
            head: Head::Product,
            epsilon: None,
        };
        let head = reference.fill(head.init(&mut Init::new(&reference.device, 0), &config), "");
        let class = |name: &str| reference.tensor::<2>(name);
        let (texts, images) = (class("texts"), class("images"));
        let fused = FusionOutput {
            text: Some(texts.clone().unsqueeze_dim(1)),
            image: Some(images.clone().unsqueeze_dim(1)),
            grounded: None,
            gates: Vec::new(),
            attention: Vec::new(),
            class_attention: None,
            text_attention: None,
        };
        let logits = head.logits(&backbone, &fused);
        reference.output("logits", &logits);
        let loss = unimo_core::kernels::cross_entropy(logits, reference.ints("labels")).mean();
        reference.output("loss", &loss);
        let gradients = loss.backward();
        reference.gradient("texts", &texts, &gradients);
        reference.gradient("images", &images, &gradients);
        assert_eq!(reference.gradients_of(&head, "", gradients), 6);
    }

    #[test]
    fn contrast_without_projection_equals_the_reference() {
        let reference = Reference::open("grounded", "cmcl");
        let (config, backbone) = model(&reference);
        for (prefix, normalised) in [("both", Normalised::Both), ("quirk", Normalised::Images)] {
            let config = ItcConfig {
                weight: 1.0,
                views: Views::Two,
                width: 8,
                temperature: 0.07,
                temperature_range: [0.001, 0.5],
                projection: Projection::None,
                normalised,
                momentum: None,
            }
            .init(&mut Init::new(&reference.device, 0), &config);
            let itc: Itc = config;
            let (texts, images) = (reference.tensor::<2>("texts"), reference.tensor("images"));
            let (batch, encoded) = (Batch::default(), fixture::classes(&texts, &images));
            let context = fixture::context(&backbone, &batch, &encoded, &reference.device);
            let loss = itc.loss(&context, &[]).loss;
            reference.output(&format!("{prefix}.loss"), &loss);
            let gradients: Gradients = loss.backward();
            reference.gradient_as(&format!("{prefix}.grad.texts"), &texts, &gradients);
            reference.gradient_as::<2>(&format!("{prefix}.grad.images"), &images, &gradients);
        }
    }

    #[test]
    fn a_tied_head_equals_the_reference() {
        for (folder, name) in [("grounded", "mlm"), ("concepts", "tags")] {
            let reference = Reference::open(folder, name);
            let table = reference.tensor::<2>("embedding");
            let [entries, width] = table.dims();
            let blank = TiedHead::new(&mut Init::new(&reference.device, 0), width, entries, 1e-5);
            let mut head = reference.fill(blank, "");
            head.bias = Param::from_tensor(reference.tensor("bias"));
            let states = reference.tensor::<2>("states");
            let logits = head.logits(states.clone(), table.clone());
            reference.output("logits", &logits);
            let loss = unimo_core::kernels::cross_entropy(logits, reference.ints("labels")).mean();
            reference.output("loss", &loss);
            let gradients = loss.backward();
            reference.gradient("states", &states, &gradients);
            reference.gradient("embedding", &table, &gradients);
            assert_eq!(reference.gradients_of(&head, "", gradients), 5);
        }
    }
}
