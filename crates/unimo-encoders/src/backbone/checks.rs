//! What the encoders of a recipe must be, alone and against each other.

use unimo_batch::{ConfigError, config};

use super::{BackboneConfig, TAG_TYPE};
use crate::fusion::FusionConfig;
use crate::joint::JointConfig;
use crate::registry::OutsideImage;
use crate::text::TextTower;

impl BackboneConfig {
    /// Checks that texts can be read on word by word, for what writes them.
    ///
    /// # Errors
    ///
    /// The text encoder's blocks are those of another crate.
    pub fn check_reading_on(&self) -> Result<(), ConfigError> {
        ConfigError::of_section(
            self.text.outside.is_none(),
            "reads on word by word, which blocks of another crate in the text encoder cannot",
        )
    }

    /// Checks every value, alone and against the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("initializer_range", self.initializer_range)?;
        self.text.validate().map_err(|e| e.within("text"))?;
        let images = match (&self.image, &self.regions, &self.outside) {
            (Some(image), None, None) => {
                image.validate().map_err(|e| e.within("image"))?;
                Some(("image", image.width))
            }
            (None, Some(regions), None) => {
                regions.validate().map_err(|e| e.within("regions"))?;
                Some(("regions", regions.width))
            }
            (None, None, Some(outside)) => {
                outside.validate()?;
                Some((outside.key(), outside.shape().width))
            }
            (None, None, None) => None,
            (image, regions, outside) => {
                let keys = [
                    image.as_ref().map(|_| "image"),
                    regions.as_ref().map(|_| "regions"),
                    outside.as_ref().map(OutsideImage::key),
                ];
                let keys: Vec<&str> = keys.into_iter().flatten().collect();
                return ConfigError::unless(
                    false,
                    &keys.join(" and "),
                    "both",
                    "there must be one of them at most: an image encoder that reads pixels, or one that reads regions",
                );
            }
        };
        let as_wide = images.is_some_and(|(_, width)| width == self.text.width);
        ConfigError::unless(
            !self.image_tags || self.outside.is_none(),
            "image_tags",
            self.image_tags,
            "needs [model.image] or [model.regions]: an image encoder of another crate reads no names of objects",
        )?;
        ConfigError::unless(
            !self.image_tags || self.text.token_types > TAG_TYPE && as_wide,
            "image_tags",
            self.image_tags,
            "needs text.token_types of at least 2 and an image encoder as wide as the text encoder: tags are embedded as words of the \
             second type",
        )?;
        for (key, layers) in [
            ("text", self.text.layers),
            (
                images.map_or("image", |(key, _)| key),
                images.map_or(1, |_| self.image_layers()),
            ),
        ] {
            ConfigError::unless(
                layers > 0 || self.joint.is_some(),
                &format!("{key}.layers"),
                layers,
                "must be at least 1 unless one stream, [model.joint], reads the embeddings",
            )?;
        }
        self.check_drop_path()?;
        ConfigError::unless(
            self.text.tower == TextTower::Bert || !self.is_fused(),
            "text.tower",
            "clip",
            "must be \"bert\" with [model.fusion] or [model.joint]: CLIP has two towers alone",
        )?;
        if let Some(tokens) = &self.representation {
            let checked = tokens.validate_with(&self.text, self.image.as_ref(), self.image_tags);
            checked.map_err(|e| e.within("representation"))?;
        }
        self.check_map()?;
        match (&self.fusion, &self.joint) {
            (None, None) => Ok(()),
            (Some(fusion), None) => {
                ConfigError::unless(
                    images.is_some() || !fusion.image_stream,
                    "fusion",
                    "{}",
                    "needs an image encoder, [model.image] or [model.regions]",
                )?;
                fusion
                    .validate(self.text.layers.min(match images {
                        Some(_) => self.image_layers(),
                        None => self.text.layers,
                    }))
                    .map_err(|e| e.within("fusion"))?;
                self.check_shared(fusion)?;
                let text = Some(("text", self.text.width));
                let all = [text, images].into_iter().flatten();
                for (key, width) in all.filter(|_| !fusion.image_stream) {
                    ConfigError::unless(
                        fusion.width == width,
                        "fusion.width",
                        fusion.width,
                        format_args!("must be {key}.width = {width} without an image stream"),
                    )?;
                }
                Ok(())
            }
            (None, Some(joint)) => {
                joint.validate().map_err(|e| e.within("joint"))?;
                self.check_parts(joint, images.is_some())?;
                ConfigError::unless(
                    joint.interleaved.is_none() || self.reads_pixels(),
                    "joint.interleaved",
                    "{}",
                    "needs an image encoder of pixels, [model.image]: the images of stories are pixels",
                )?;
                let text = Some(("text", self.text.width));
                for (key, width) in [text, images].into_iter().flatten() {
                    ConfigError::unless(
                        joint.width == width,
                        "joint.width",
                        joint.width,
                        format_args!("must be {key}.width = {width}"),
                    )?;
                }
                Ok(())
            }
            (Some(_), Some(_)) => ConfigError::unless(
                false,
                "fusion and joint",
                "both",
                "there must be one of them at most: a cross-modal encoder of two streams, or of one",
            ),
        }
    }

    /// Checks the agent that reads a map.
    fn check_map(&self) -> Result<(), ConfigError> {
        let Some(map) = &self.map else {
            return Ok(());
        };
        map.validate().map_err(|e| e.within("map"))?;
        ConfigError::unless(
            !self.is_fused(),
            "map",
            "{}",
            "must be absent with [model.fusion] and [model.joint]: the agent reads the states of the text encoder itself",
        )
    }

    /// Checks what stands in one stream beside the text.
    fn check_parts(&self, joint: &JointConfig, sees: bool) -> Result<(), ConfigError> {
        ConfigError::unless(
            joint.split.is_none() || sees,
            "joint.split",
            "{}",
            "needs an image encoder, [model.image] or [model.regions]: without images all positions are text",
        )?;
        ConfigError::unless(
            !joint.concepts || sees,
            "joint.concepts",
            true,
            "needs an image encoder, [model.image] or [model.regions]: concepts are the names of an image's objects",
        )?;
        ConfigError::unless(
            !joint.concepts || !self.image_tags,
            "joint.concepts",
            true,
            "must be false with image_tags = true: the names of objects are read by the image encoder, or beside it",
        )?;
        ConfigError::unless(
            !joint.concepts || self.text.token_types > TAG_TYPE,
            "joint.concepts",
            true,
            "needs text.token_types of at least 2: concepts are words of the second type, and would be taken for words of the text",
        )
    }

    /// Checks layers that are the text encoder's own blocks.
    fn check_shared(&self, fusion: &FusionConfig) -> Result<(), ConfigError> {
        if !fusion.shared {
            return Ok(());
        }
        let text = &self.text;
        ConfigError::unless(
            text.outside.is_none(),
            "fusion.shared",
            true,
            "must be false with blocks of another crate in the text encoder, which do not fuse",
        )?;
        let spelled = |value: &dyn std::fmt::Debug| format!("{value:?}");
        macro_rules! as_text {
            ($($key:ident),+) => {
                [$((stringify!($key), spelled(&fusion.$key), spelled(&text.$key))),+]
            };
        }
        for (key, own, given) in as_text!(
            width,
            layers,
            heads,
            feed_forward,
            activation,
            layer_norm_eps,
            dropout,
            drop_path
        ) {
            ConfigError::unless(
                own == given,
                &format!("fusion.{key}"),
                own,
                format_args!(
                    "must be text.{key} = {given} with shared = true: the layers are the text encoder's own"
                ),
            )?;
        }
        let Some(image) = &self.image else {
            return ConfigError::unless(
                false,
                "fusion.shared",
                true,
                "needs an image encoder of pixels, [model.image]",
            );
        };
        let (positions, most) = (image.positions(), text.longest_text());
        ConfigError::unless(
            positions <= most,
            "text.max_positions",
            text.max_positions,
            format_args!(
                "must have room for the {positions} positions of an image with fusion.shared = true; it has room for {most}"
            ),
        )
    }

    /// Drop-path leaves the first layer alone, so it needs a second one.
    fn check_drop_path(&self) -> Result<(), ConfigError> {
        let (image, regions) = (self.image.as_ref(), self.regions.as_ref());
        let (fusion, joint) = (self.fusion.as_ref(), self.joint.as_ref());
        let encoders = [
            ("text", Some((self.text.drop_path, self.text.layers))),
            ("image", image.map(|c| (c.drop_path, c.layers))),
            ("regions", regions.map(|c| (c.drop_path, c.layers))),
            ("fusion", fusion.map(|c| (c.drop_path, c.layers))),
            ("joint", joint.map(|c| (c.drop_path, c.layers))),
        ];
        for (key, encoder) in encoders {
            let Some((rate, layers)) = encoder else {
                continue;
            };
            ConfigError::unless(
                rate == 0.0 || layers > 1,
                &format!("{key}.drop_path"),
                rate,
                format_args!(
                    "must be 0 with {key}.layers = {layers}: it rises from 0 in the first layer"
                ),
            )?;
        }
        Ok(())
    }
}
