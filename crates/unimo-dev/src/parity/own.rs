//! A model of this project's own format, beside the PyTorch code that an export has for it: `tests/reference/modeling.py`.

use burn::tensor::Tensor;
use unimo_encoders::output::Keep;
use unimo_train::error::TrainError;
use unimo_train::model::Model;

use super::{Computed, Reference, named, pictures, words};

/// Every output of every head for texts with their images. The loss is the sum of the mean squares of all scores; of the pairs in the
/// common space, which have length 1, half of the numbers count.
pub(super) fn computed(model: &Model, io: &mut Reference) -> Result<Computed, TrainError> {
    let (backbone, heads) = (&model.backbone, &model.objectives);
    let texts = words(&backbone.text, io, "in.input_ids", "in.attention_mask")?;
    let input = backbone
        .text
        .input(&texts.ids, &texts.lengths, texts.length, &io.device);
    let texts = backbone.encode_texts(&input);
    let images = backbone.encode_images(pictures(backbone, io, "in.pixel_values")?);
    let fused = backbone.fuse(&texts, &images, Keep::Gates);

    let mut outputs = vec![
        named("text_state", fused.text()),
        named("image_state", fused.image()),
    ];
    let mut scores = Vec::new();
    if let Some(itc) = &heads.itc {
        let (text, image) = (itc.embed_texts(&texts), itc.embed_images(&images));
        outputs.push(named("text_embeds", &text));
        outputs.push(named("image_embeds", &image));
        scores.push((
            "logits_per_text",
            text.matmul(image.transpose()) * itc.scale(),
        ));
        if let Some(cross) = itc.embed_pairs(backbone, &fused) {
            let [_, width] = cross.dims();
            outputs.push(named("cross_embeds", &cross));
            scores.push(("half of cross_embeds", cross.narrow(1, 0, width / 2)));
        }
    }
    if let Some(itm) = &heads.itm {
        scores.push(("itm_logits", itm.logits(backbone, &fused)));
    }
    if let Some(mlm) = &heads.mlm {
        let [rows, length, width] = fused.text().dims();
        let states = fused.text().clone().reshape([rows * length, width]);
        scores.push((
            "mlm_logits",
            mlm.logits(&backbone.text.word_embedding, states),
        ));
    }
    let vqa = heads.vqa.as_ref().map(|head| &head.classifier);
    let snli_ve = heads.snli_ve.as_ref().map(|head| &head.classifier);
    for (name, classifier) in [("vqa_logits", vqa), ("snli_ve_logits", snli_ve)] {
        if let Some(classifier) = classifier {
            let summary = classifier.summary.forward(backbone, &fused);
            scores.push((name, classifier.head.forward(summary)));
        }
    }
    for (layer, gates) in fused.gates.iter().enumerate() {
        outputs.push(named(format!("gate.text.{layer}"), &gates.text));
        outputs.push(named(format!("gate.image.{layer}"), &gates.image));
    }
    if let Some(grounded) = &fused.grounded {
        outputs.push(named("codes", &grounded.quantised.codes.clone().float()));
    }
    outputs.extend(scores.iter().map(|(name, scores)| named(*name, scores)));
    let losses = scores.into_iter().map(|(_, scores)| scores.square().mean());
    let loss: Option<Tensor<1>> = losses.reduce(|sum, loss| sum + loss);
    let loss = loss.ok_or_else(|| {
        TrainError::Check("the checkpoint has no head, so there is nothing to compare".to_owned())
    })?;
    Ok(Computed::new(model, loss, outputs))
}
