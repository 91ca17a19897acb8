//! Public checkpoints in every spelling give the same weights, and what is wrong with one is said.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use unimo_core::parameters;
use unimo_encoders::backbone::Pictures;
use unimo_encoders::tasks::TasksConfig;
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

/// The heads of METER's tasks and NLVR2's second picture come in and compute.
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
    let NetworkConfig::Pair { tasks, .. } = &loaded.config else {
        panic!("METER is a pair");
    };
    let expected = TasksConfig {
        vqa: Some(5),
        nlvr2: Some(2),
        snli_ve: Some(3),
        ranking: true,
    };
    assert_eq!(*tasks, expected);
    let device = Device::flex();
    let pooled = Tensor::<2>::ones([2, 32], &device);
    let both = Tensor::<2>::ones([2, 64], &device);
    let heads = &model.tasks;
    for (head, input, classes) in [
        (&heads.vqa, &pooled, 5),
        (&heads.nlvr2, &both, 2),
        (&heads.snli_ve, &pooled, 3),
    ] {
        let logits = head.as_ref().unwrap().forward(input.clone());
        assert_eq!(logits.dims(), [2, classes]);
        assert!(logits.abs().min().into_scalar::<f32>() > 0.0);
    }
    assert_eq!(
        heads.ranking.as_ref().unwrap().forward(pooled).dims(),
        [2, 1]
    );
    let fusion = model.backbone.fusion.as_ref().expect("two streams");
    let [types, _] = fusion.type_embedding.weight.dims();
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
    for (key, value) in [
        ("vocab_size", 1u64 << 50),
        ("num_hidden_layers", 1 << 60),
        ("intermediate_size", u64::MAX / 2),
        ("hidden_size", 1 << 40),
    ] {
        let mut config = good.clone();
        config[key] = value.into();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let weights = bert.join("model.safetensors");
        let public = describe(folder.path(), Some(&weights)).unwrap();
        let message = public.load(&Device::flex()).err().unwrap().to_string();
        assert!(message.contains("needs"), "{key}: {message}");
    }
}
