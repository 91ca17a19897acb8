//! The parts of a model, a line each.

use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::fusion::{FusionConfig, Levels, Link};
use unimo_encoders::image::ImageEncoderConfig;
use unimo_encoders::text::TextEncoderConfig;
use unimo_objectives::ObjectivesConfig;

use super::tables::{grouped, spelled};
use crate::pretrained::NetworkConfig;

/// The name of the system that a configuration is, and its tag. A text stream alone is ALBEF's and CCLM's, which compares texts too. The
/// contrast of translations is InfoXLM's.
pub(super) fn family(
    model: &BackboneConfig,
    objectives: &ObjectivesConfig,
) -> Option<(&'static str, &'static str)> {
    let ObjectivesConfig {
        ttc,
        ttm,
        tlm,
        xlco,
        alignment,
        ..
    } = objectives;
    if model.map.is_some() {
        return Some(("WS-MGMap", "wsmgmap"));
    }
    if alignment.is_some() {
        return Some(("Sugar's structure-induced loss (our reading)", "sugar"));
    }
    if xlco.is_some() && !model.reads_images() {
        return Some(("InfoXLM", "infoxlm"));
    }
    let reads_memory = tlm.as_ref().is_some_and(|tlm| tlm.joined.is_none());
    let over_texts = ttc.is_some() || ttm.is_some() || reads_memory;
    if let Some(FusionConfig {
        levels,
        link,
        image_stream,
        shared,
        ..
    }) = &model.fusion
    {
        return Some(match (levels, link) {
            _ if *shared => ("SIMLA", "simla"),
            _ if !image_stream && over_texts => ("CCLM", "cclm"),
            _ if !image_stream => ("ALBEF", "albef"),
            (Levels::None, Link::None) => ("METER", "meter"),
            (Levels::None, Link::Managers) => ("ManagerTower", "managertower"),
            (Levels::None, _) => ("BridgeTower", "bridgetower"),
            _ => ("UNIMO-3", "unimo3"),
        });
    }
    let joint = model.joint.as_ref()?;
    Some(match joint.grounding {
        Some(_) => ("UNIMO-2", "unimo2"),
        None => ("single-stream", "single-stream"),
    })
}

/// The encoders, a line each.
pub(super) fn parts(config: &NetworkConfig, part: Option<&str>) -> Vec<String> {
    let text = |c: &TextEncoderConfig| {
        format!(
            "text encoder: {} blocks of width {} with {} heads, {} words",
            c.layers,
            c.width,
            c.heads,
            grouped(c.vocab_size)
        )
    };
    let image = |c: &ImageEncoderConfig| {
        format!(
            "image encoder: {} blocks of width {} with {} heads, {} x {} pixels in patches of {}",
            c.layers, c.width, c.heads, c.image_size, c.image_size, c.patch_size
        )
    };
    match config {
        NetworkConfig::Text(config) => vec![text(config)],
        NetworkConfig::Image(config) => vec![image(config)],
        NetworkConfig::Clip(config) if part == Some("image") => vec![image(&config.image)],
        NetworkConfig::Clip(config) => vec![
            "CLIP: two towers that meet in one space".to_owned(),
            image(&config.image),
        ],
        NetworkConfig::Pair { model, objectives } => {
            let of_text = (part != Some("image")).then(|| text(&model.text));
            let of_image = model.image.as_ref().filter(|_| part != Some("text"));
            let mut lines: Vec<String> = of_text.into_iter().chain(of_image.map(image)).collect();
            if part.is_some() {
                return lines;
            }
            if let Some(regions) = &model.regions {
                lines.push(format!(
                    "encoder of detected regions: {} blocks of width {}, {} numbers a region",
                    regions.layers, regions.width, regions.features
                ));
            }
            let name = family(model, objectives).map_or("", |(name, _)| name);
            if let Some(fusion) = &model.fusion {
                let gate = match fusion.levels {
                    Levels::None => String::new(),
                    _ => format!(
                        "; cross-layer attention to `{}`, gate `{}`",
                        spelled(&fusion.levels),
                        spelled(&fusion.gate)
                    ),
                };
                let streams = if fusion.image_stream {
                    "two streams"
                } else if fusion.shared {
                    "the text encoder's own blocks with an attention to the other modality,"
                } else {
                    "a text stream that reads the image encoder's states,"
                };
                lines.push(format!(
                    "cross-modal encoder ({name}): {streams} of {} layers of width {} with {} heads{gate}",
                    fusion.layers, fusion.width, fusion.heads
                ));
            }
            if let Some(joint) = &model.joint {
                let codes = joint.grounding.as_ref().map(|grounding| {
                    format!(
                        "; text and image meet in {} of {} codes",
                        grounding.tokens,
                        grouped(grounding.codes)
                    )
                });
                lines.push(format!(
                    "cross-modal encoder ({name}): one stream of {} layers of width {} with {} heads{}",
                    joint.layers,
                    joint.width,
                    joint.heads,
                    codes.unwrap_or_default()
                ));
            }
            lines
        }
    }
}

pub(super) fn image_size(config: &NetworkConfig) -> Option<usize> {
    match config {
        NetworkConfig::Text(_) => None,
        NetworkConfig::Image(config) => Some(config.image_size),
        NetworkConfig::Clip(config) => Some(config.image.image_size),
        NetworkConfig::Pair { model, .. } => model.image.as_ref().map(|image| image.image_size),
    }
}
