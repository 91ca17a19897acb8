//! A public checkpoint is an encoder in one call, with the weights that a whole model of it has.

use std::path::PathBuf;

use burn::tensor::{Device, TensorData};
use safetensors::SafeTensors;
use unimo_core::parameters;
use unimo_encoders::public::{EncoderConfig, Kind, meter};
use unimo_encoders::weights::Weights;
use unimo_encoders::{Encoder, Loaded};
use unimo_tests::fixture;
use unimo_train::pretrained::{Network, NetworkConfig, describe};

/// As `parity.rs` has it: rounding of a few layers in f32.
const TOLERANCE: f32 = 1e-5;

fn checkpoint(name: &str) -> PathBuf {
    fixture::folder().join(name)
}

fn load(path: &std::path::Path) -> Loaded {
    unimo_encoders::load(path, &Device::flex()).unwrap_or_else(|e| panic!("{e}"))
}

fn values(encoder: &Encoder) -> Vec<(String, TensorData)> {
    match encoder {
        Encoder::Text(encoder) => parameters::values(&**encoder),
        Encoder::Image(encoder) => parameters::values(&**encoder),
        Encoder::Clip(clip) => parameters::values(&**clip),
        Encoder::Backbone(backbone) => parameters::values(&**backbone),
    }
}

#[test]
fn every_kind_gives_the_encoder_of_its_whole_model() {
    for (name, kind) in [
        ("hf/bert", Kind::Bert),
        ("hf/roberta", Kind::Bert),
        ("hf/xlm-roberta", Kind::Bert),
        ("hf/vit", Kind::Vit),
        ("hf/deit", Kind::Deit),
        ("hf/clip", Kind::Clip),
        ("hf/clip-vision", Kind::ClipImage),
        ("hf/bridgetower-mlm", Kind::BridgeTower),
        ("hf/bridgetower-itm", Kind::BridgeTower),
        ("hf/bridgetower-itc", Kind::BridgeTower),
    ] {
        let path = checkpoint(name);
        let loaded = load(&path);
        assert_eq!(loaded.kind, kind, "{name}");
        assert!(loaded.report.fits(), "{name}: {}", loaded.report);
        let whole = describe(&path, None)
            .unwrap()
            .load(&Device::flex())
            .unwrap();
        let whole = match &whole.network {
            Network::Text(encoder) => parameters::values(&**encoder),
            Network::Image(encoder) => parameters::values(&**encoder),
            Network::Clip(clip) => parameters::values(&**clip),
            Network::Pair(model) => parameters::values(&model.backbone),
        };
        assert!(values(&loaded.encoder) == whole, "{name}");
    }
}

/// Heads of METER are 64 wide, which no fixture is, so the sizes are those of the twin that it was made from.
#[test]
fn a_backbone_of_meter_is_loaded_without_its_heads() {
    let file = checkpoint("spellings/meter.ckpt");
    let device = Device::flex();
    let public = describe(&checkpoint("twin/meter"), Some(&file)).unwrap();
    let NetworkConfig::Pair { model: config, .. } = &public.config else {
        panic!("not a pair")
    };
    let names = [meter::names_without_heads()];
    let config = EncoderConfig::Backbone(config.clone());
    let (encoder, report) = config.load(&file, &names, &device).unwrap();
    assert!(report.fits(), "{report}");
    let Network::Pair(whole) = public.load(&device).unwrap().network else {
        panic!("not a pair")
    };
    assert!(values(&encoder) == parameters::values(&whole.backbone));
}

#[test]
fn a_bert_computes_what_the_original_computed() {
    let folder = checkpoint("hf/bert");
    let Encoder::Text(bert) = load(&folder).encoder else {
        panic!("not a text encoder")
    };
    let file = folder.join("io.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let integers = |name: &str| -> Vec<i32> {
        let words = tensors.tensor(name).unwrap().data().as_chunks::<8>().0;
        words
            .iter()
            .map(|word| i64::from_le_bytes(*word) as i32)
            .collect()
    };
    let (ids, mask) = (integers("in.input_ids"), integers("in.attention_mask"));
    let length = 7;
    let lengths: Vec<usize> = mask
        .chunks(length)
        .map(|row| row.iter().filter(|visible| **visible == 1).count())
        .collect();
    let input = bert.input(&ids, &lengths, length, &Device::flex());
    let ours = bert.forward(&input, 1).remove(0).into_data();
    let theirs = Weights::open(&file)
        .unwrap()
        .read("out.last_hidden_state")
        .unwrap();
    for (at, (ours, theirs)) in ours.iter::<f32>().zip(theirs).enumerate() {
        // What stands at padding is nobody's.
        if mask[at / 16] == 1 {
            assert!(
                (ours - theirs).abs() < TOLERANCE,
                "{at}: {ours}, not {theirs}"
            );
        }
    }
}

#[test]
fn a_tokenizer_is_named_where_texts_are_read() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, reads_texts) in [("bert", true), ("clip", true), ("vit", false)] {
        let folder = scratch.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        for file in ["config.json", "model.safetensors"] {
            let from = checkpoint("hf").join(name).join(file);
            std::fs::copy(from, folder.join(file)).unwrap();
        }
        assert_eq!(load(&folder).tokenizer, None, "{name}");
        for file in ["vocab.txt", "tokenizer.json"] {
            std::fs::write(folder.join(file), "").unwrap();
            let expected = reads_texts.then(|| folder.join(file));
            assert_eq!(load(&folder).tokenizer, expected, "{name}");
        }
    }
}

#[test]
fn what_is_no_checkpoint_is_said() {
    let empty = tempfile::tempdir().unwrap();
    let error = unimo_encoders::load(empty.path(), &Device::flex()).unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
}
