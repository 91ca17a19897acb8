//! MVP's parts against an independent PyTorch reference, written from the paper: `reference/concepts.py`.

use burn::module::Param;
use burn::tensor::{Bool, Int, Tensor};
use unimo_batch::Batch;
use unimo_core::init::Init;
use unimo_core::layers::Activation;
use unimo_encoders::joint::{JointConfig, View};
use unimo_objectives::contrast::Contrast;
use unimo_objectives::partners::{Partners, Similarity};
use unimo_objectives::pretraining::itc::{ItcConfig, Normalised, Projection, Views};
use unimo_objectives::pretraining::itm::{Head, ItmConfig, Layout, Negatives};
use unimo_objectives::pretraining::wpg::{cosines, grounding, hinge};
use unimo_objectives::{Objective, ObjectiveConfig};
use unimo_tests::fixture::{self, Reference};

/// What is hidden, from a mask of what is visible.
fn absent(reference: &Reference, name: &str) -> Tensor<2, Bool> {
    reference.bools::<2>(name).bool_not()
}

/// Cosines with hidden regions far below every other.
fn masked_cosines(
    reference: &Reference,
    phrases: &Tensor<3>,
    regions: &Tensor<3>,
    visible: &str,
) -> Tensor<3> {
    let all = cosines(phrases.clone(), regions.clone());
    let hidden = absent(reference, visible).unsqueeze_dim::<3>(1);
    all.clone().mask_fill(hidden.expand(all.dims()), -10.0)
}

#[test]
fn phrase_grounding_equals_the_reference() {
    let reference = Reference::open("concepts", "wpg");
    for (prefix, top3) in [("", false), ("top3.", true)] {
        let input = |name: &str| reference.tensor::<3>(name);
        let own = (input("phrases_own"), input("regions_own"));
        let other = (input("phrases_other"), input("regions_other"));
        let ranks =
            |name: &str| -> Option<Tensor<2, Int>> { top3.then(|| reference.ints::<2>(name)) };
        let s = |pair: &(Tensor<3>, Tensor<3>), visible: &str, picks: &str| {
            let cosines = masked_cosines(&reference, &pair.0, &pair.1, visible);
            grounding(cosines, absent(&reference, "phrases_visible"), ranks(picks))
        };
        let s_own = s(&own, "regions_own_visible", "top3.pick_own");
        let s_other = s(&other, "regions_other_visible", "top3.pick_other");
        reference.output(&format!("{prefix}s_own"), &s_own);
        reference.output(&format!("{prefix}s_other"), &s_other);
        let visible = reference.numbers("phrases_visible");
        let has_phrases: Vec<bool> = visible.chunks(3).map(|row| row.contains(&1)).collect();
        assert_eq!(has_phrases.iter().filter(|has| **has).count(), 3);
        let loss = hinge(s_own, s_other, &has_phrases, 0.2).loss;
        reference.output(&format!("{prefix}loss"), &loss);
        let gradients = loss.backward();
        for (name, of) in [
            ("phrases_own", &own.0),
            ("regions_own", &own.1),
            ("phrases_other", &other.0),
            ("regions_other", &other.1),
        ] {
            reference.gradient_as(&format!("{prefix}grad.{name}"), of, &gradients);
        }
    }
}

#[test]
fn the_joint_encoder_equals_the_reference() {
    let reference = Reference::open("concepts", "joint");
    let config = JointConfig {
        width: 8,
        layers: reference.number("layers"),
        heads: reference.number("heads"),
        feed_forward: 16,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
        dropout: 0.0,
        drop_path: 0.0,
        image_class: false,
        grounding: None,
        concepts: false,
        split: None,
        interleaved: None,
    };
    let encoder = reference.fill(config.init(&mut Init::new(&reference.device, 0)), "");
    let (text, image) = (
        reference.tensor::<3>("text_out"),
        reference.tensor::<3>("vis_out"),
    );
    // Class token and tags: the backbone leaves the tags out, the encoder the class token, which stands first.
    let dropped = reference.number("dropped");
    let positions = image.dims()[1];
    let seen = image
        .clone()
        .narrow(1, dropped - 1, positions + 1 - dropped);
    let mask = reference.mask("text_visible");
    let ours = encoder.forward(Some((&text, &mask)), Some((&seen, None)), &View::default());
    reference.output("image", ours.image());
    let hidden = mask
        .hidden()
        .unsqueeze_dim::<3>(2)
        .expand(ours.text().dims());
    let visible = |x: Tensor<3>| x.mask_fill(hidden.clone(), 0.0);
    let pooled = {
        let weight = reference.tensor::<2>("pooler.weight").detach();
        let bias = reference.tensor::<1>("pooler.bias").detach();
        let first = ours.text().clone().narrow(1, 0, 1).squeeze_dim::<2>(1);
        (first.matmul(weight) + bias.unsqueeze::<2>()).tanh()
    };
    reference.output("pooled", &pooled);
    let factor = |name: &str| reference.tensor::<3>(name).detach();
    let scalar = (ours.text().clone() * visible(factor("w_text"))).sum()
        + (ours.image().clone() * factor("w_image")).sum()
        + (pooled * reference.tensor::<2>("w_pooled").detach()).sum();
    reference.output("scalar", &scalar);
    let gradients = scalar.backward();
    reference.gradient("text_out", &text, &gradients);
    reference.gradient("vis_out", &image, &gradients);
    assert_eq!(reference.gradients_of(&encoder, "", gradients), 32);
}

#[test]
fn coarse_alignment_and_its_hard_negatives_equal_the_reference() {
    let reference = Reference::open("concepts", "vsc");
    let device = &reference.device;
    let model = fixture::narrow_model();
    let backbone = model.init(&mut Init::new(device, 0));
    let mut itc = ItcConfig {
        weight: 1.0,
        views: Views::Two,
        width: 8,
        temperature: 0.07,
        temperature_range: [0.001, 1.0],
        projection: Projection::LinearNoBias,
        normalised: Normalised::Both,
        momentum: None,
    }
    .init(&mut Init::new(device, 0), &model);
    itc.logit_scale = Param::from_tensor(reference.tensor("s"));
    for (projection, name) in [
        (&mut itc.text_projection, "text.weight"),
        (&mut itc.image_projection, "image.weight"),
    ] {
        let projection = projection.as_mut().unwrap();
        assert!(projection.bias.is_none());
        projection.weight = Param::from_tensor(reference.tensor(name));
    }
    let (texts, images) = (
        reference.tensor::<2>("texts"),
        reference.tensor::<2>("images"),
    );
    let [samples, _] = texts.dims();
    let (batch, mut encoded) = (Batch::default(), fixture::classes(&texts, &images));
    let context = fixture::context(&backbone, &batch, &encoded, device);
    let features = itc.features(&context, &[]);
    let similarity = itc.similarity(&features).unwrap();
    reference.output("similarity", &similarity);
    let loss = itc.loss(&context, &[]).loss;
    reference.output("loss", &loss);
    let gradients = loss.backward();
    reference.gradient("texts", &texts, &gradients);
    reference.gradient("images", &images, &gradients);
    reference.gradient("s", &itc.logit_scale.val(), &gradients);
    let weight = |p: &Option<unimo_core::layers::Linear>| p.as_ref().unwrap().weight.val();
    reference.gradient("text.weight", &weight(&itc.text_projection), &gradients);
    reference.gradient("image.weight", &weight(&itc.image_projection), &gradients);

    encoded.partners = Partners::of_batch(
        &encoded.describing,
        &encoded.pictures,
        Some(Similarity::fetch(similarity)),
    );
    let itm = ItmConfig {
        weight: 1.0,
        negatives: Negatives::HardArgmax,
        layout: Layout::OneToTwo,
        head: Head::Text,
        epsilon: None,
    }
    .init(&mut Init::new(device, 0), &model);
    let mut rng = rand_chacha::rand_core::SeedableRng::seed_from_u64(0);
    let pairs = itm.pairs(&encoded, &mut rng).remove(0);
    let hard = |rows: &[usize]| rows.iter().map(|row| *row as i64).collect::<Vec<_>>();
    let wrong_images = hard(&pairs.images[samples..2 * samples]);
    assert_eq!(wrong_images, reference.numbers("hard_images"));
    let wrong_texts = hard(&pairs.texts[2 * samples..]);
    assert_eq!(wrong_texts, reference.numbers("hard_texts"));
}
