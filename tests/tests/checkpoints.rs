//! Public checkpoints in every spelling give the same weights, and what is wrong with one is said.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use unimo_core::layers::Activation;
use unimo_core::parameters;
use unimo_encoders::features::Pictures;
use unimo_encoders::weights::Weights;
use unimo_tests::fixture;
use unimo_train::pretrained::{Network, NetworkConfig, Pretrained, describe};

/// A number rounded to f16, whose significand has 11 bits.
const HALF: f32 = 1.0 / 2048.0;

fn load(path: &Path, weights: Option<&Path>) -> Pretrained {
    let public = describe(path, weights).unwrap_or_else(|e| panic!("{e}"));
    public
        .load(&Device::flex())
        .unwrap_or_else(|e| panic!("{e}"))
}

fn values(pretrained: &Pretrained) -> Vec<(String, TensorData)> {
    match &pretrained.network {
        Network::Text(encoder) => parameters::values(&**encoder),
        Network::Image(encoder) => parameters::values(&**encoder),
        Network::Clip(clip) => parameters::values(&**clip),
        Network::Pair(model) => parameters::values(&**model),
    }
}

fn spelling(name: &str) -> std::path::PathBuf {
    fixture::folder().join("spellings").join(name)
}

#[test]
fn an_old_bert_is_the_same_bert() {
    let folder = fixture::folder().join("hf/bert");
    let old = load(&folder, Some(&spelling("bert-old.bin")));
    assert_eq!(values(&load(&folder, None)), values(&old));
    let unused = &old.report.unused;
    assert!(
        unused.contains(&"cls.predictions.transform.LayerNorm.weight".to_owned()),
        "{unused:?}"
    );
}

#[test]
fn openai_and_openclip_name_the_same_clip() {
    let reference = values(&load(&fixture::folder().join("hf/clip"), None));
    // Neither stores a configuration, and no head is 64 wide in a model so small, so the folder's own is taken.
    let folder = fixture::folder().join("hf/clip");
    let openai = values(&load(&folder, Some(&spelling("clip-openai.pt"))));
    assert_eq!(reference, openai);
    let openclip = values(&load(&folder, Some(&spelling("clip-openclip.bin"))));
    for ((name, ours), (_, theirs)) in reference.iter().zip(&openclip) {
        for (a, b) in ours.iter::<f32>().zip(theirs.iter::<f32>()) {
            assert!(
                (a - b).abs() <= HALF * a.abs().max(HALF),
                "{name}: {a} and {b}"
            );
        }
    }
}

#[test]
fn meters_own_file_holds_the_same_weights() {
    let folder = fixture::folder().join("twin/meter");
    let own = load(&folder, Some(&spelling("meter.ckpt")));
    let unused = &own.report.unused;
    assert!(
        unused.contains(&"vit_model.ln_final.weight".to_owned()),
        "{unused:?}"
    );
    let theirs: std::collections::HashMap<_, _> = values(&own).into_iter().collect();
    for (name, value) in values(&load(&folder, None)) {
        assert_eq!(theirs[&name], value, "{name}");
    }
}

/// The heads of METER's tasks and NLVR2's second image come in and compute.
#[test]
fn meters_task_heads_are_loaded_whole() {
    let folder = fixture::folder().join("twin/meter");
    let scratch = tempfile::tempdir().unwrap();
    let weights = fixture::meter_of_two_pictures(scratch.path());
    let public = describe(&folder, Some(&weights)).unwrap();
    let loaded = public.load(&Device::flex()).unwrap();
    let Network::Pair(model) = &loaded.network else {
        panic!("METER is a pair");
    };
    let NetworkConfig::Pair { objectives, .. } = &loaded.config else {
        panic!("METER is a pair");
    };
    let classes = objectives.vqa.as_ref().map(|vqa| vqa.classes);
    assert_eq!(classes, Some(Some(5)));
    let device = Device::flex();
    let pooled = Tensor::<2>::ones([2, 32], &device);
    let both = Tensor::<2>::ones([2, 64], &device);
    let heads = &model.objectives;
    let vqa = heads.vqa.as_ref().map(|vqa| &vqa.classifier);
    let nlvr2 = heads.nlvr2.as_ref().map(|nlvr2| &nlvr2.classifier);
    let snli_ve = heads.snli_ve.as_ref().map(|snli_ve| &snli_ve.classifier);
    for (classifier, input, classes) in
        [(vqa, &pooled, 5), (nlvr2, &both, 2), (snli_ve, &pooled, 3)]
    {
        let logits = classifier.unwrap().head.forward(input.clone());
        assert_eq!(logits.dims(), [2, classes]);
        assert!(logits.abs().min().into_scalar::<f32>() > 0.0);
    }
    let ranking = heads.ranking.as_ref().unwrap();
    assert_eq!(ranking.score.forward(pooled).dims(), [2, 1]);
    let fusion = model.backbone.fusion.as_ref().expect("two streams");
    let [types, _] = fusion.type_embedding.as_ref().unwrap().weight.dims();
    assert_eq!(types, 3);
    let pixels = Pictures::Pixels(Tensor::<4>::ones([1, 3, 32, 32], &device));
    let first = model.backbone.encode_pictures(&pixels, None, 0);
    let second = model.backbone.encode_pictures(&pixels, None, 1);
    first.states[0]
        .to_data()
        .assert_eq(&second.states[0].to_data(), true);
}

#[test]
fn half_precision_fixtures_load() {
    let loaded = load(&fixture::folder().join("hf/bridgetower-itm"), None);
    let Network::Pair(model) = &loaded.network else {
        panic!("a BridgeTower is a pair");
    };
    assert!(model.objectives.itm.is_some());
    assert!(model.objectives.mlm.is_none() && model.objectives.itc.is_none());
}

#[test]
fn weights_of_another_model_are_refused_with_a_table() {
    let folder = fixture::folder().join("hf/bert");
    let other = fixture::folder().join("hf/vit/model.safetensors");
    let public = describe(&folder, Some(&other)).unwrap();
    let message = public.load(&Device::flex()).err().unwrap().to_string();
    for part in ["missing", "unexpected", "embeddings.cls_token"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn shards_are_one_checkpoint() {
    let folder = fixture::folder().join("hf/bert");
    let shards = fixture::folder().join("sharded");
    assert_eq!(
        values(&load(&folder, None)),
        values(&load(&folder, Some(&shards)))
    );
}

/// The tensors of a file under other names, with notes, as safetensors.
fn renamed(from: &Path, to: &Path, notes: &[(&str, &str)], name: impl Fn(&str) -> Option<String>) {
    let mut weights = Weights::open(from).unwrap();
    let all: Vec<(String, Vec<usize>)> = weights
        .infos()
        .map(|(name, info)| (name.to_owned(), info.shape.clone()))
        .collect();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = all
        .into_iter()
        .filter_map(|(own, shape)| {
            let values = weights.read(&own).unwrap();
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            Some((name(&own)?, shape, bytes))
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name.as_str(), view.unwrap())
    });
    let notes = notes
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    safetensors::serialize_to_file(views, Some(notes.collect()), to).unwrap();
}

/// What wrappers and training scripts put around names is left off, in any order, and the account says so.
#[test]
fn wrapped_names_are_unwrapped_and_counted() {
    let folder = fixture::folder().join("hf/bert");
    let expected = values(&load(&folder, None));
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("wrapped.safetensors");
    for prefix in [
        "module.",
        "_orig_mod.",
        "model.",
        "_orig_mod.module.",
        "module._orig_mod.",
        "model._orig_mod.bert.",
        "state_dict.model.module.",
    ] {
        let name = |name: &str| Some(format!("{prefix}{name}"));
        renamed(&folder.join("model.safetensors"), &file, &[], name);
        let loaded = load(&folder, Some(&file));
        assert_eq!(values(&loaded), expected, "{prefix}");
        let account = loaded.report.to_string();
        let left_off = prefix.trim_end_matches("bert.");
        assert!(
            account.contains(&format!("`{left_off}` is left off 39 names")),
            "{prefix}: {account}"
        );
    }
    let middle = |name: &str| Some(name.replace("encoder.layer", "encoder._orig_mod.layer"));
    renamed(&folder.join("model.safetensors"), &file, &[], middle);
    assert_eq!(values(&load(&folder, Some(&file))), expected);
    let nested = load(&folder, Some(&spelling("bert-nested.bin")));
    assert_eq!(values(&nested), expected);
    let account = nested.report.to_string();
    for part in [
        "`model.state_dict._orig_mod.module.`",
        "`ema`",
        "`optimizer`",
    ] {
        assert!(account.contains(part), "{account}");
    }
}

#[test]
fn shards_of_pytorch_files_are_one_checkpoint() {
    let folder = fixture::folder().join("hf/bert");
    let loaded = load(&folder, Some(&spelling("bert-shards")));
    assert_eq!(values(&load(&folder, None)), values(&loaded));
}

/// As OpenAI published CLIP. One matrix there lies in another order than its shape says.
#[test]
fn torchscript_is_read_as_data() {
    let folder = fixture::folder().join("hf/clip");
    let file = spelling("clip-jit.pt");
    let expected = values(&load(&folder, None));
    for ((name, ours), (_, theirs)) in expected.iter().zip(&values(&load(&folder, Some(&file)))) {
        for (a, b) in ours.iter::<f32>().zip(theirs.iter::<f32>()) {
            assert!(
                (a - b).abs() <= HALF * a.abs().max(HALF),
                "{name}: {a} and {b}"
            );
        }
    }
    // Damage is an error of the file, never a panic.
    let scratch = tempfile::tempdir().unwrap();
    let damaged = scratch.path().join("damaged.pt");
    let good = std::fs::read(&file).unwrap();
    for at in (0..good.len()).step_by(997) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x5a;
        std::fs::write(&damaged, &bytes).unwrap();
        let public = describe(&folder, Some(&damaged)).unwrap();
        if let Err(error) = public.load(&Device::flex()) {
            assert!(error.to_string().contains("damaged.pt"), "{error}");
        }
    }
    std::fs::write(&damaged, &good[..good.len() / 2]).unwrap();
    let public = describe(&folder, Some(&damaged)).unwrap();
    let message = public.load(&Device::flex()).err().unwrap().to_string();
    assert!(message.contains("damaged.pt"), "{message}");
}

/// Tensors that share their numbers are stored once, under either name; a file's notes or the kind of model say which.
#[test]
fn tied_tensors_are_found_under_their_other_name() {
    let folder = fixture::folder().join("alone/roberta");
    let by_notes = load(&folder, None);
    let account = by_notes.report.to_string();
    assert!(
        account.contains(
            "roberta.embeddings.word_embeddings.weight is stored as lm_head.decoder.weight"
        ),
        "{account}"
    );
    assert!(
        !account.contains("unused      lm_head.decoder.weight"),
        "{account}"
    );
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("model.safetensors");
    let model = folder.join("model.safetensors");
    renamed(&model, &file, &[], |name| Some(name.to_owned()));
    assert_eq!(values(&load(&folder, Some(&file))), values(&by_notes));
    // Where the description says that they are two, one is missing.
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(folder.join(name), scratch.path().join(name)).unwrap();
    }
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["tie_word_embeddings"] = false.into();
    std::fs::write(scratch.path().join("config.json"), config.to_string()).unwrap();
    let public = describe(scratch.path(), None).unwrap();
    let message = public.load(&Device::flex()).err().unwrap().to_string();
    assert!(message.contains("word_embeddings"), "{message}");
    // Null is absent.
    for key in ["tie_word_embeddings", "layer_norm_eps", "type_vocab_size"] {
        config[key] = serde_json::Value::Null;
    }
    config["layer_norm_eps"] = serde_json::Value::Null;
    std::fs::write(scratch.path().join("config.json"), config.to_string()).unwrap();
    assert_eq!(values(&load(scratch.path(), None)), values(&by_notes));
}

/// A file of a folder is as good as the folder, and what a file lacks is said.
#[test]
fn a_file_is_described_by_what_stands_beside_it() {
    let bert = fixture::folder().join("hf/bert");
    let by_file = load(&bert.join("model.safetensors"), None);
    assert_eq!(values(&by_file), values(&load(&bert, None)));
    let scratch = tempfile::tempdir().unwrap();
    let alone = scratch.path().join("some.safetensors");
    std::fs::copy(bert.join("model.safetensors"), &alone).unwrap();
    let message = describe(&alone, None).err().unwrap().to_string();
    assert!(message.contains("config.json"), "{message}");
    let message = describe(scratch.path(), None).err().unwrap().to_string();
    assert!(message.contains("some.safetensors"), "{message}");
}

/// OpenCLIP's file decides the activation and the heads; without a file a line says what is taken.
#[test]
fn the_activation_of_a_clip_comes_from_its_file() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("open_clip_pytorch_model.bin");
    std::fs::copy(spelling("clip-openai.pt"), &file).unwrap();
    let config = |json: serde_json::Value| {
        let path = scratch.path().join("open_clip_config.json");
        std::fs::write(path, json.to_string()).unwrap();
        let by_folder = describe(scratch.path(), None);
        let by_file = describe(&file, None).map(|public| public.config);
        let both = (by_folder, by_file);
        match both {
            (Ok(public), Ok(config)) => {
                assert_eq!(public.config, config);
                Ok((public.config, public.notes))
            }
            (Err(error), Err(_)) => Err(error.to_string()),
            _ => panic!("the folder and its file are one model"),
        }
    };
    let json = |changes: &[(&str, serde_json::Value)]| {
        let mut json = serde_json::json!({"model_cfg": {
            "embed_dim": 10,
            "vision_cfg": {"image_size": 16, "layers": 2, "width": 16, "patch_size": 8, "head_width": 8},
            "text_cfg": {"context_length": 20, "vocab_size": 43, "width": 12, "heads": 2, "layers": 2},
        }});
        for (pointer, value) in changes {
            let (section, key) = pointer.rsplit_once('/').unwrap();
            json.pointer_mut(section).unwrap()[key] = value.clone();
        }
        json
    };
    let activation = |config: &NetworkConfig| match config {
        NetworkConfig::Clip(clip) => (clip.image.activation, clip.image.heads, clip.text.heads),
        _ => panic!("CLIP"),
    };
    let (found, notes) = config(json(&[])).unwrap();
    assert_eq!(activation(&found), (Activation::Gelu, 2, 2));
    assert!(notes[0].contains("quick_gelu"), "{notes:?}");
    let (found, notes) = config(json(&[("/model_cfg/quick_gelu", true.into())])).unwrap();
    assert_eq!(activation(&found), (Activation::QuickGelu, 2, 2));
    assert_eq!(notes, Vec::<String>::new());
    for (pointer, value, says) in [
        (
            "/model_cfg/vision_cfg/timm_model_name",
            "vit".into(),
            "timm_model_name",
        ),
        (
            "/model_cfg/text_cfg/hf_model_name",
            "roberta".into(),
            "hf_model_name",
        ),
        ("/model_cfg/text_cfg/pool_type", "last".into(), "pool_type"),
        ("/model_cfg/quick_gelu", "yes".into(), "quick_gelu"),
        ("/model_cfg/vision_cfg/layers", 3.into(), "layers"),
    ] {
        let message = config(json(&[(pointer, value)])).err().unwrap();
        assert!(message.contains(says), "{message}");
    }
    std::fs::remove_file(scratch.path().join("open_clip_config.json")).unwrap();
    // No head of this model is 64 wide, so OpenAI's rule does not hold for it, and that is said.
    let message = describe(&file, None).err().unwrap().to_string();
    assert!(message.contains("heads"), "{message}");
}

/// What a pickle can ask for is never done: this one calls `os.system`.
#[test]
fn a_pickle_is_never_executed() {
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("witness");
    let pickle = format!("cos\nsystem\n(S'touch {}'\ntR.", witness.display());
    let path = folder.path().join("model.bin");
    for bytes in [pickle.clone().into_bytes(), zip_of(pickle.as_bytes())] {
        std::fs::write(&path, bytes).unwrap();
        let config = fixture::folder().join("hf/bert");
        let public = describe(&config, Some(&path)).unwrap();
        let message = public.load(&Device::flex()).err().unwrap().to_string();
        assert!(message.contains("model.bin"), "{message}");
        assert!(!witness.exists());
    }
}

/// A zip archive with `archive/data.pkl`, stored.
fn zip_of(pickle: &[u8]) -> Vec<u8> {
    let name = b"archive/data.pkl";
    let crc = crc32(pickle).to_le_bytes();
    let size = (pickle.len() as u32).to_le_bytes();
    let mut zip = b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0".to_vec();
    zip.extend(
        [
            &crc[..],
            &size,
            &size,
            &(name.len() as u16).to_le_bytes(),
            &[0, 0],
        ]
        .concat(),
    );
    zip.extend(name);
    zip.extend(pickle);
    let directory = zip.len() as u32;
    zip.extend(b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0");
    zip.extend([&crc[..], &size, &size, &(name.len() as u16).to_le_bytes()].concat());
    zip.extend([0; 16]);
    zip.extend(name);
    let length = zip.len() as u32 - directory;
    zip.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    zip.extend([length.to_le_bytes(), directory.to_le_bytes()].concat());
    zip.extend([0, 0]);
    zip
}

/// CRC-32 as zip has it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1))
        })
    })
}

/// A description may claim any size; a model is made only if the file can fill it.
#[test]
fn a_claimed_size_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let bert = fixture::folder().join("hf/bert");
    let text = std::fs::read_to_string(bert.join("config.json")).unwrap();
    let good: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in [
        "vocab_size",
        "num_hidden_layers",
        "intermediate_size",
        "hidden_size",
    ] {
        for value in [1u64 << 20, 1 << 40, 1 << 60, u64::MAX] {
            let mut config = good.clone();
            config[key] = value.into();
            let file = folder.path().join("config.json");
            std::fs::write(&file, config.to_string()).unwrap();
            let weights = bert.join("model.safetensors");
            let loaded = describe(folder.path(), Some(&weights))
                .and_then(|public| public.load(&Device::flex()));
            let message = loaded.err().unwrap().to_string();
            // Either the key as the file has it, or the value under the name that it has here.
            let told = message.contains(key) || message.contains(&value.to_string());
            let named = message.contains("config.json") && told;
            assert!(message.contains("needs") || named, "{key}: {message}");
        }
    }
}
