//! The objectives of a step: what a family's recipe trains, at a size.

use unimo_batch::{MaskSpec, MaskUnit, PatchMaskKind, PatchMaskSpec};
use unimo_objectives::ObjectivesConfig;
use unimo_objectives::pretraining::itc::{
    ItcConfig, MomentumConfig, Normalised, Projection, Views,
};
use unimo_objectives::pretraining::itm::{Head, ItmConfig, Layout, Negatives};
use unimo_objectives::pretraining::mim::{MimConfig, Target};
use unimo_objectives::pretraining::mlm::MlmConfig;
use unimo_objectives::pretraining::mrm::{Distance, MrmConfig};
use unimo_objectives::pretraining::vq::VqConfig;
use unimo_objectives::pretraining::wpg::{Region, WpgConfig};
use unimo_objectives::teacher::TeacherConfig;
use unimo_train::sizes::{Family, Size};

use super::HIDDEN;

/// How words are hidden in MAMO's step; the noise hides them.
const WORDS: MaskSpec = MaskSpec {
    rate: HIDDEN,
    unit: MaskUnit::Token,
    mask_share: 0.8,
    random_share: 0.1,
    most: None,
    end: false,
};
/// How patches are hidden there.
pub(super) const PATCHES: PatchMaskSpec = PatchMaskSpec {
    rate: 0.75,
    kind: PatchMaskKind::Uniform,
};
/// Features of past batches there.
const QUEUE: usize = 4096;
/// Its teacher.
pub(super) const TEACHER: TeacherConfig = TeacherConfig { decay: 0.995 };

/// MAMO's objectives beside contrast, matching and hidden words.
fn masked(objectives: &mut ObjectivesConfig, with_teacher: bool) {
    if let Some(mlm) = &mut objectives.mlm {
        (mlm.mask, mlm.patches, mlm.tied) = (WORDS, Some(PATCHES), true);
    }
    if let Some(itc) = objectives.itc.as_mut().filter(|_| with_teacher) {
        itc.momentum = Some(MomentumConfig {
            queue: QUEUE,
            alpha: 0.4,
            alpha_ramp: 0,
        });
    }
    objectives.mrm = with_teacher.then_some(MrmConfig {
        weight: 1.0,
        mask: WORDS,
        patches: PATCHES,
        distance: Distance::SmoothL1,
    });
    objectives.mim = Some(MimConfig {
        weight: 1.0,
        target: if with_teacher {
            Target::Teacher
        } else {
            Target::Pixels
        },
        patches: PATCHES,
        mask: Some(WORDS),
        distance: Distance::L2,
        normalised: true,
        decoder_layers: 1,
        codes: None,
        distil: None,
    });
}

/// The objectives of a family; those of MAMO's student alone if it is to have no teacher.
pub(super) fn objectives(size: &Size, family: Family, with_teacher: bool) -> ObjectivesConfig {
    let contrast = |projection: Projection| ItcConfig {
        weight: 1.0,
        views: Views::Two,
        width: size.width,
        temperature: 0.07,
        temperature_range: [0.001, 1.0],
        projection,
        normalised: Normalised::Both,
        momentum: None,
    };
    let (head, layout, itc) = match family {
        Family::Unimo3 | Family::Meter => (Head::Pair, Layout::Half, None),
        Family::Unimo2 => (
            Head::Product,
            Layout::Half,
            Some(contrast(Projection::None)),
        ),
        Family::Mvp => (
            Head::Text,
            Layout::OneToOne,
            Some(contrast(Projection::LinearNoBias)),
        ),
        Family::Mamo => (
            Head::Class,
            Layout::OneToTwo,
            Some(contrast(Projection::Linear)),
        ),
    };
    let mut objectives = ObjectivesConfig {
        itc,
        vq: (family == Family::Unimo2).then_some(VqConfig {
            weight: 1.0,
            commitment: 0.25,
        }),
        wpg: (family == Family::Mvp).then_some(WpgConfig {
            weight: 1.0,
            margin: 0.2,
            region: Region::Nearest,
            negatives: Negatives::Uniform,
        }),
        mlm: Some(MlmConfig {
            left_to_right: 0.0,
            weight: 1.0,
            mask: MaskSpec::default(),
            tied: family == Family::Unimo2,
            texts_alone: false,
            patches: None,
            regions: None,
            distil: None,
        }),
        itm: Some(ItmConfig {
            weight: 1.0,
            negatives: Negatives::Uniform,
            layout,
            head,
            epsilon: None,
        }),
        ..ObjectivesConfig::default()
    };
    if family == Family::Mamo {
        masked(&mut objectives, with_teacher);
    }
    objectives
}
