//! Where fixtures are.

use std::path::{Path, PathBuf};

/// The fixture folder of the repository.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The folder of shared references, if the user has one.
pub fn shared() -> Option<PathBuf> {
    std::env::var_os("UNIMO_SHARED").map(PathBuf::from)
}

/// METER's fixture as NLVR2 makes it: a third row in the type embedding, which begins as a copy of the second. Written into
/// `folder`.
pub fn meter_of_two_pictures(folder: &Path) -> PathBuf {
    use safetensors::tensor::TensorView;

    const TYPES: &str = "token_type_embeddings.weight";
    let file = self::folder().join("spellings/meter.ckpt");
    let mut weights = unimo_encoders::weights::Weights::open(&file).expect("the fixture");
    let names: Vec<(String, Vec<usize>)> = weights
        .infos()
        .map(|(name, info)| (name.to_owned(), info.shape.clone()))
        .collect();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = names
        .into_iter()
        .map(|(name, mut shape)| {
            let mut values = weights.read(&name).expect("the fixture's tensor");
            if name == TYPES {
                values.extend_from_within(values.len() / 2..);
                shape[0] = 3;
            }
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.as_str(), view.expect("shape and bytes agree"))
    });
    let path = folder.join("meter.safetensors");
    safetensors::serialize_to_file(views, None, &path).expect("a temporary file");
    path
}
