//! An image encoder that begins with convolutions: outputs and gradients against an independent PyTorch reference,
//! `reference/stem.py`, and what does not fit.

use unimo_core::init::Init;
use unimo_core::layers::Activation;
use unimo_encoders::image::ImageEncoderConfig;
use unimo_encoders::public::vit;
use unimo_encoders::stem::StemConfig;
use unimo_tests::fixture::Reference;
use unimo_train::export::python;
use unimo_train::recipe::{Overrides, Recipe};

fn config() -> ImageEncoderConfig {
    ImageEncoderConfig {
        image_size: 8,
        patch_size: 4,
        width: 8,
        layers: 2,
        heads: 2,
        feed_forward: 16,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
        pre_norm: false,
        patch_bias: true,
        distillation_token: false,
        qkv_bias: true,
        stem: Some(StemConfig {
            channels: vec![4, 6],
        }),
        mask_embedding: false,
        dropout: 0.0,
        drop_path: 0.0,
    }
}

#[test]
fn an_encoder_with_a_stem_equals_the_reference() {
    let reference = Reference::open("stem", "stem");
    config().validate().unwrap();
    let encoder = config().init(&mut Init::new(&reference.device, 0));
    let encoder = reference.fill(encoder, "image.");
    let pixels = reference.tensor::<4>("pixels");
    let state = encoder.finish(encoder.forward(pixels.clone(), 1).remove(0));
    reference.output("state", &state);
    let gradients = (state * reference.tensor::<3>("w")).sum().backward();
    reference.gradient("pixels", &pixels, &gradients);
    // Three of each convolution, the 1x1 one, class token and positions, 16 of each block, and the last norm.
    let found = reference.gradients_of(&encoder, "image.", gradients);
    assert_eq!(found, 2 * 3 + 2 + 2 + 2 * 16 + 2);
}

#[test]
fn a_stem_says_what_it_cannot_do() {
    let masked = ImageEncoderConfig {
        mask_embedding: true,
        ..config()
    };
    let error = masked.validate().unwrap_err().to_string();
    assert!(error.contains("hidden patches"), "{error}");
    let larger = ImageEncoderConfig {
        patch_size: 8,
        ..config()
    };
    let error = larger.validate().unwrap_err().to_string();
    assert!(error.contains("stem.channels"), "{error}");
    let error = vit::to_json(&config()).unwrap_err();
    assert!(error.contains("image.stem"), "{error}");
    let set = ["model.image.stem={ channels = [4, 8, 8] }".to_owned()];
    let overrides = Overrides {
        data: None,
        set: set.into(),
    };
    let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
    assert!(python::refusal(&recipe.model).unwrap().contains("stem"));
}
