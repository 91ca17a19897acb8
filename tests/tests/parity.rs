//! Outputs and gradients of METER and UNIMO-3 against the PyTorch twin.
//!
//! The fixtures were written by the twin's `golden` command at width 16; with UNIMO_SHARED set, the larger ones in its
//! `golden/twin` are compared too.

use std::collections::HashMap;
use std::path::Path;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use unimo_core::parameters;
use unimo_encoders::backbone::ImageFeatures;
use unimo_tests::fixture::{self, Stored, relative_error};
use unimo_tests::twin::{self, TwinFolder};

/// f32 on both sides, sums in another order, three layers deep.
const OUTPUT_TOLERANCE: f64 = 1e-4;
/// As above, through the backward pass.
const GRADIENT_TOLERANCE: f64 = 1e-3;
/// A gradient that is zero but for rounding (an attention's key bias) has no scale of its own.
const GRADIENT_FLOOR: f64 = 1e-4;

fn host<const D: usize>(x: &Tensor<D>) -> Vec<f64> {
    let data = x.clone().without_autodiff().into_data();
    data.iter::<f32>().map(f64::from).collect()
}

fn compare(folder: &Path) {
    let device = Device::flex().autodiff();
    let TwinFolder { model, io } = twin::load(folder, &device);
    let floats = |name: &str| -> (&Stored, Vec<f32>) {
        let stored = &io[name];
        (stored, stored.values.iter().map(|v| *v as f32).collect())
    };
    let keep = &io["in.keep"];
    let [rows, length] = keep.shape[..] else {
        panic!("in.keep is [B, L]")
    };
    let lengths: Vec<usize> = keep
        .values
        .chunks(length)
        .map(|row| row.iter().filter(|v| **v == 1.0).count())
        .collect();
    let (shape, pixels) = floats("in.pixels");
    let shape: [usize; 4] = shape.shape.as_slice().try_into().unwrap();
    let pixels = Tensor::<4>::from_data(TensorData::new(pixels, shape), &device);

    // The twin's step: masked captions with their images, clean captions with half of the images rolled by one.
    let backbone = &model.backbone;
    let images = backbone.encode_images(pixels);
    let texts = |name: &str| {
        let ids = twin::integers(&io[name]);
        let input = backbone.text.input(&ids, &lengths, length, &device);
        backbone.encode_texts(&input)
    };
    let masked = backbone.fuse(&texts("in.masked_ids"), &images, false);
    let half = rows / 2;
    let rolled: Vec<i32> = (0..half)
        .chain([rows - 1])
        .chain(half..rows - 1)
        .map(|i| i as i32)
        .collect();
    let rolled = Tensor::from_data(TensorData::new(rolled, [rows]), &device);
    let swapped: ImageFeatures = images.select(&rolled);
    let matched = backbone.fuse(&texts("in.ids"), &swapped, true);

    let [_, _, width] = masked.text.dims();
    let mlm_logits = model
        .mlm
        .logits(masked.text.clone().reshape([rows * length, width]));
    let itm_logits = model.itm.logits(&backbone.fusion, &matched);
    let labels = twin::integers(&io["in.labels"]);
    let (at, labels): (Vec<i32>, Vec<i32>) = labels
        .iter()
        .enumerate()
        .filter(|(_, l)| **l >= 0)
        .map(|(i, l)| (i as i32, *l))
        .unzip();
    let n = at.len();
    let at = Tensor::from_data(TensorData::new(at, [n]), &device);
    let labels = Tensor::from_data(TensorData::new(labels, [n]), &device);
    let mlm = unimo_core::kernels::cross_entropy(mlm_logits.clone().select(0, at), labels).mean();
    let truth: Vec<i32> = (0..rows).map(|i| i32::from(i < half)).collect();
    let truth = Tensor::from_data(TensorData::new(truth, [rows]), &device);
    let itm = unimo_core::kernels::cross_entropy(itm_logits.clone(), truth).mean();
    let loss = mlm.clone() + itm.clone();

    let mut outputs = vec![
        ("out.text".to_owned(), host(&matched.text)),
        ("out.image".to_owned(), host(&matched.image)),
        ("out.mlm_logits".to_owned(), host(&mlm_logits)),
        ("out.itm_logits".to_owned(), host(&itm_logits)),
        ("out.loss_mlm".to_owned(), host(&mlm)),
        ("out.loss_itm".to_owned(), host(&itm)),
        ("out.loss".to_owned(), host(&loss)),
    ];
    for (layer, gates) in matched.gates.iter().enumerate() {
        outputs.push((format!("out.gate.text.{layer}"), host(&gates.text)));
        outputs.push((format!("out.gate.image.{layer}"), host(&gates.image)));
    }
    let expected = io.keys().filter(|k| k.starts_with("out.")).count();
    assert_eq!(outputs.len(), expected, "every output is compared");
    for (name, ours) in &outputs {
        let error = relative_error(ours, &io[name].values, 0.0);
        assert!(error < OUTPUT_TOLERANCE, "{name}: {error:e}");
    }

    let gradients = GradientsParams::from_grads(loss.backward(), &model);
    let mut gradients: HashMap<String, TensorData> = parameters::gradients(&model, &gradients)
        .into_iter()
        .collect();
    let mut compared = 0;
    let mut worst = (0.0, String::new());
    for parameter in parameters::list(&model) {
        let ours: Option<Vec<f64>> = gradients
            .remove(&parameter.name)
            .map(|gradient| gradient.iter::<f64>().collect());
        let reference = io.get(&format!("grad.{}", twin::twin_name(&parameter.name)));
        match (ours, reference) {
            (Some(ours), Some(reference)) => {
                let reference = twin::to_ours(reference, &parameter.shape);
                let error = relative_error(&ours, &reference, GRADIENT_FLOOR);
                assert!(error < GRADIENT_TOLERANCE, "{}: {error:e}", parameter.name);
                if error > worst.0 {
                    worst = (error, parameter.name);
                }
                compared += 1;
            }
            (None, None) => {}
            (ours, reference) => panic!(
                "{}: gradient here {}, there {}",
                parameter.name,
                ours.is_some(),
                reference.is_some()
            ),
        }
    }
    assert_eq!(
        compared,
        io.keys().filter(|k| k.starts_with("grad.")).count()
    );
    println!(
        "{}: {compared} gradients, worst {:e} in {}",
        folder.display(),
        worst.0,
        worst.1
    );
}

#[test]
fn meter_equals_the_twin() {
    compare(&fixture::folder().join("twin/meter"));
}

#[test]
fn unimo3_with_cls_gates_equals_the_twin() {
    compare(&fixture::folder().join("twin/unimo3-cls"));
}

#[test]
fn unimo3_with_token_gates_equals_the_twin() {
    compare(&fixture::folder().join("twin/unimo3-token"));
}

#[test]
fn shared_twins_are_equal_too() {
    let Some(shared) = fixture::shared() else {
        return;
    };
    for name in ["meter", "unimo3-cls", "unimo3-token"] {
        compare(&shared.join("golden/twin").join(name));
    }
}
