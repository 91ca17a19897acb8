//! How the images of a kind of public checkpoint are prepared, if no file says it.

use unimo_data::processor::Family;
use unimo_encoders::public::Kind;

/// The image preparation of a kind of model.
pub(crate) fn of(kind: Kind) -> Family {
    match kind {
        Kind::Clip | Kind::ClipImage => Family::Clip,
        Kind::Vit => Family::Vit,
        Kind::Deit => Family::Deit,
        Kind::BridgeTower => Family::BridgeTower,
        Kind::Albef => Family::Albef,
        Kind::Bert | Kind::OpenClip | Kind::Meter | Kind::Own => Family::Torchvision,
    }
}
