//! Shards, gathered, are what one process would have written; anything else is refused.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must panic")]

use coffer_checkpoint::DType;
use coffer_compress::{
    Calibration, CompressError, Curvature,
    quantize::{Inputs, QuantizeParams, Rounded, Scheme, quantize},
    shard::{self, Gathered, Part},
};
use coffer_engine::LoadOptions;
use coffer_evidence::{Recipe, receipt::Parameters};
use coffer_kernels::{Isa, KvFormat};
use coffer_seal::{Identity, Recipient};
use coffer_store::{Destination, Model, Shard, convert, open};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

fn scribe() -> Model {
    open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/scribe-8m"), &[]).unwrap()
}

fn params(scheme: Scheme) -> QuantizeParams {
    QuantizeParams { scheme, types: BTreeMap::new(), requantize: false, inputs: Inputs::Unknown, threads: 2 }
}

fn recipe(model: &Model, params: &QuantizeParams) -> Recipe {
    let parameters = Parameters { scheme: params.scheme.to_string(), types: BTreeMap::new(), requantize: false };
    let method = Rounded::with(model, params).method().to_owned();
    Recipe { contract: coffer_kernels::CONTRACT.to_owned(), method, parameters, learned: None }
}

fn write(model: &Model, params: &QuantizeParams, out: Destination<'_>, part: &str) {
    let part: Part = part.parse().unwrap();
    let header = shard::header(model, params, part, recipe(model, params), &mut |_, _| ()).unwrap();
    shard::quantize_part(model, out, params, &header, &mut |_, _| ()).unwrap();
}

/// All shards of a model in `dir`.
fn shards(dir: &Path, model: &Model, params: &QuantizeParams, count: usize) -> Vec<PathBuf> {
    let one = |i| {
        let path = dir.join(format!("shard-{i}-of-{count}"));
        write(model, params, (&path).into(), &format!("{i}/{count}"));
        path
    };
    (0..count).map(one).collect()
}

fn gathered(model: &Model, paths: &[PathBuf]) -> Result<Gathered, CompressError> {
    let opened = paths.iter().map(|path| Shard::open(path, &[])).collect::<Result<_, _>>()?;
    let gathered = Gathered::new(model, opened)?;
    gathered.verify(model, &mut |_, _| ())?;
    Ok(gathered)
}

fn whole(model: &Model, params: &QuantizeParams, out: &Path) -> PathBuf {
    quantize(model, out, params, &mut |_, _| ()).unwrap();
    if out.is_dir() { out.join("model.safetensors") } else { out.to_owned() }
}

#[test]
fn shards_gather_to_the_bytes_of_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let model = scribe();
    let text = "The lamp had burned low, and the clerk went on writing. ".repeat(20);
    let calibration = Calibration::new("a text", &text, model.tokenizer.as_ref().unwrap(), 64, 256).unwrap();
    let options = LoadOptions { isa: Isa::detect().unwrap(), threads: 2, context: None, kv_format: KvFormat::F16 };
    let curvature = Arc::new(Curvature::new(&model, options, &calibration));
    let gptq = QuantizeParams { inputs: Inputs::Curvature(curvature), ..params(Scheme::W4A16) };
    // More shards than tensors leave some empty.
    for (name, params, count) in [("q4", params(Scheme::Q4_K_M), 3), ("q8", params(Scheme::Q8_0), 100), ("w4", gptq, 2)] {
        let place = dir.path().join(name);
        fs::create_dir(&place).unwrap();
        let mut paths = shards(&place, &model, &params, count);
        paths.reverse();
        let gathered = gathered(&model, &paths).unwrap();
        let out = place.join("gathered");
        let summary = shard::gather(&gathered, &model, &out, 2, &mut |_, _| ()).unwrap().place(&out).unwrap();
        assert_eq!(gathered.plan(&model, 2).unwrap().summary, summary);
        let out = if out.is_dir() { out.join("model.safetensors") } else { out };
        let expected = whole(&model, &params, &place.join("whole"));
        assert!(fs::read(out).unwrap() == fs::read(expected).unwrap(), "{name} in {count} shards");
    }
}

#[test]
fn sealed_shards_gather_with_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let (model, params) = (scribe(), params(Scheme::Q8_0));
    let identities = [Identity::generate()];
    let recipients = [Recipient::parse(&identities[0].recipient().unwrap()).unwrap()];
    let paths = ["0/2", "1/2"].map(|part| {
        let path = dir.path().join(part.replace('/', "-"));
        write(&model, &params, Destination { path: &path, recipients: &recipients, work: None }, part);
        assert!(Shard::open(&path, &[]).is_err());
        path
    });
    let opened = paths.iter().map(|path| Shard::open(path, &identities).unwrap()).collect();
    let out = dir.path().join("out.gguf");
    shard::gather(&Gathered::new(&model, opened).unwrap(), &model, &out, 1, &mut |_, _| ()).unwrap().place(&out).unwrap();
    assert!(fs::read(out).unwrap() == fs::read(whole(&model, &params, &dir.path().join("whole"))).unwrap());
}

#[test]
fn shards_that_are_not_one_model_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (model, params) = (scribe(), params(Scheme::Q8_0));
    let all = shards(dir.path(), &model, &params, 3);
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let others = shards(&other, &model, &QuantizeParams { scheme: Scheme::Q4_0, ..params.clone() }, 3);
    let halves = shards(&other, &model, &params, 2);
    let refused =
        |paths: &[&PathBuf]| gathered(&model, &paths.iter().map(|&p| p.clone()).collect::<Vec<_>>()).err().unwrap().to_string();
    assert!(refused(&[]).contains("no shard is named"));
    assert!(refused(&[&all[0], &all[2]]).contains("shard 1 of 3 is missing"));
    assert!(refused(&[&all[0], &all[1]]).contains("shard 2 of 3 is missing"));
    assert!(refused(&[&all[0], &all[1], &all[1], &all[2]]).contains("there twice"));
    assert!(refused(&[&all[0], &others[1], &all[2]]).contains("not made by the same method"));
    assert!(refused(&[&all[0], &halves[1], &all[2]]).contains("one of 2"));

    // The same shapes, other weights.
    let changed = dir.path().join("changed");
    convert(&model, &changed, coffer_store::Target::HuggingFace, Some(DType::F32), &mut |_, _| ()).unwrap();
    let path = changed.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 1] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = gathered(&open(&changed, &[]).unwrap(), &all).err().unwrap().to_string();
    assert!(error.contains(" of the model was another one") && error.contains("shard-"), "{error}");
}

#[test]
fn damaged_shards_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (model, params) = (scribe(), params(Scheme::Q4_0));
    let paths = shards(dir.path(), &model, &params, 2);
    let good = fs::read(&paths[0]).unwrap();
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let refused = |bytes: &[u8]| {
        fs::write(&paths[0], bytes).unwrap();
        gathered(&model, &paths).err()
    };
    let flips = (0..header).step_by(7).chain((header..good.len()).step_by(9973)).chain([good.len() - 1]);
    for at in flips {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        // Spaces behind the header mean nothing.
        assert!(bytes[at] == 0x30 && at > header - 8 || refused(&bytes).is_some(), "byte {at} flipped");
    }
    for len in [0, 7, 100, header, good.len() - 1] {
        assert!(refused(&good[..len]).is_some(), "cut at {len}");
    }
    assert!(refused(&[&good[..], b"x"].concat()).is_some());
    assert!(refused(&good).is_none());
    let model_file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/scribe-8m/model.safetensors");
    assert!(Shard::open(&model_file, &[]).err().unwrap().to_string().contains("but no shard"));
    assert!(Shard::open(model_file.parent().unwrap(), &[]).err().unwrap().to_string().contains("it is no shard"));
}
