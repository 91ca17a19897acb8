//! Variants of public encoders: what was read goes out as it came in.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use unimo_core::parameters;
use unimo_encoders::weights::Dtype;
use unimo_tests::fixture;
use unimo_train::export::{self, ExportArgs, Part};
use unimo_train::pretrained::{Network, Pretrained, describe};

fn load(path: &Path) -> Pretrained {
    let public = describe(path, None).unwrap_or_else(|e| panic!("{e}"));
    public
        .load(&Device::flex())
        .unwrap_or_else(|e| panic!("{e}"))
}

fn values(network: &Network) -> Vec<(String, TensorData)> {
    fn of<M: Module>(module: &M) -> Vec<(String, TensorData)> {
        parameters::values(module)
    }
    match network {
        Network::Text(encoder) => of(&**encoder),
        Network::Image(encoder) => of(&**encoder),
        Network::Clip(clip) => of(&**clip),
        Network::Pair(model) => of(&**model),
    }
}

#[test]
fn variants_go_out_as_they_came_in() {
    let scratch = tempfile::tempdir().unwrap();
    let hf = fixture::folder().join("hf");
    let alone = ["bert-gelu-new", "roberta-relu", "vit-tanh", "deit-silu"].map(|n| hf.join(n));
    let linked = ["bridgetower-scaled", "bridgetower-interpolate"].map(|name| {
        let folder = scratch.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        fixture::linked_bridgetower(name, &folder);
        folder
    });
    for (number, folder) in alone.into_iter().chain(linked).enumerate() {
        let out: PathBuf = scratch.path().join(number.to_string());
        let args = ExportArgs {
            model: folder.display().to_string(),
            out: out.clone(),
            part: Part::Whole,
            dtype: Dtype::F32,
            step: None,
            licence: None,
        };
        export::run(&args).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let (there, back) = (load(&folder), load(&out));
        assert_eq!(there.config, back.config, "{}", folder.display());
        assert_eq!(values(&there.network), values(&back.network));
    }
}
