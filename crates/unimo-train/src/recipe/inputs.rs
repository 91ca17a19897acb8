//! Whether what is said of inputs, images, episodes and codes of patches, is what the model and the objectives read.

use unimo_batch::ConfigError;
use unimo_objectives::request::{Inputs, SliceForm, What};

use super::Recipe;

impl Recipe {
    /// Whether it trains an objective that retrieval can use.
    pub(crate) fn retrieves(&self) -> bool {
        self.objectives.itc.is_some() || self.objectives.scores_pairs()
    }

    /// Whether a matching head ranks again what a contrast has found.
    pub(crate) fn ranks_again(&self) -> bool {
        self.objectives.itc.is_some() && self.objectives.scores_pairs()
    }

    /// Whether an objective reads texts.
    pub(crate) fn reads_texts(&self) -> bool {
        let each = self.objectives.each().into_iter();
        let mut requests = each.flat_map(|(_, settings)| settings.requests());
        requests.any(|request| {
            matches!(
                request.what,
                What::Text(_) | What::Words | What::Slices(SliceForm::InOrder)
            )
        })
    }

    /// Checks the images against the encoder that reads them.
    pub(super) fn check_pictures(&self) -> Result<(), ConfigError> {
        if let Some(image_size) = self.model.image_size() {
            let key = self.model.outside.as_ref().map_or("image", |o| o.key());
            ConfigError::unless(
                self.data.image_size == image_size,
                "data.image_size",
                self.data.image_size,
                format_args!("must equal model.{key}.image_size = {image_size}"),
            )?;
        }
        let of_data = self.data.region_features();
        let of_model = self.model.regions.as_ref().map(|r| r.features);
        match (of_data, of_model) {
            (None, Some(_)) => ConfigError::unless(
                false,
                "data.regions",
                "absent",
                "is needed by [model.regions], which reads regions",
            ),
            (Some(_), None) => ConfigError::unless(
                false,
                "model.regions",
                "absent",
                "is needed by [data.regions], which gives regions instead of pixels",
            ),
            (Some(given), Some(read)) => ConfigError::unless(
                given == read,
                "model.regions.features",
                read,
                format_args!("must be the numbers of a region that [data.regions] gives, {given}"),
            ),
            (None, None) => Ok(()),
        }
    }

    /// Checks that what is said of walks is used.
    pub(super) fn check_walks(&self, inputs: &Inputs) -> Result<(), ConfigError> {
        for (section, data) in self.each_data() {
            ConfigError::unless(
                data.walks.is_none() || inputs.walks,
                &format!("{section}.walks"),
                "{}",
                "must be absent: no objective of this recipe reads the episodes of an agent",
            )?;
        }
        ConfigError::unless(
            self.model.map.is_none() || inputs.walks,
            "model.map",
            "{}",
            "must be absent: no objective of this recipe reads the episodes of an agent",
        )
    }

    /// Checks codes of patches against the encoder whose patches they are of and the objectives that need them.
    pub(super) fn check_codes(&self, inputs: &Inputs) -> Result<(), ConfigError> {
        let Some(codes) = &self.data.codes else {
            return ConfigError::unless(
                !inputs.codes,
                "data.codes",
                "absent",
                "is needed by [objectives.mim] with target = \"codes\"",
            );
        };
        ConfigError::unless(
            inputs.codes,
            "data.codes",
            "{}",
            "must be absent: no objective of this recipe reads codes of patches",
        )?;
        let own = self.model.image.as_ref().map(|image| image.patch_size);
        let given = codes.patch_size();
        ConfigError::unless(
            given.is_none() || own.is_none() || given == own,
            "data.codes.patch_size",
            given.unwrap_or_default(),
            format_args!(
                "must be model.image.patch_size = {}",
                own.unwrap_or_default()
            ),
        )?;
        let read = self.objectives.mim.as_ref().and_then(|mim| mim.codes);
        ConfigError::unless(
            read.is_none_or(|read| read == codes.count()),
            "objectives.mim.codes",
            read.unwrap_or_default(),
            format_args!("must be data.codes.codes = {}", codes.count()),
        )
    }
}
