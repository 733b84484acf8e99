//! The demo model through every container, and what is refused on the way.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use coffer_checkpoint::{DType, FileAt, TensorSource, gguf::GgufFile};
use coffer_seal::{Identity, Recipient, bundle::BundleWriter};
use coffer_store::{Container, Destination, FileSet, Model, ModelWriter, StoreError, Target, WorkId, convert, open};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::TempDir;

fn scribe_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/scribe-8m")
}

fn scribe() -> Model {
    open(&scribe_path(), &[]).unwrap()
}

fn converted(model: &Model, out: &Path, target: Target, dtype: Option<DType>) -> Model {
    convert(model, out, target, dtype, &mut |_, _| ()).unwrap();
    open(out, &[]).unwrap()
}

/// A copy of the demo model that a test may break.
fn copy(dir: &TempDir) -> PathBuf {
    let to = dir.path().join("copy");
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(scribe_path()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

/// All but the weights, whose file may order its tensors otherwise.
fn same_side_files(a: &Path, b: &Path) {
    let names = |dir: &Path| FileSet::open(dir, &[]).unwrap().list().iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
    assert_eq!(names(a), names(b));
    for name in names(a).into_iter().filter(|n| n != "model.safetensors") {
        assert!(fs::read(a.join(&name)).unwrap() == fs::read(b.join(&name)).unwrap(), "{name} differs");
    }
}

#[test]
fn there_and_back_is_equal_bit_for_bit() {
    let dir = TempDir::new().unwrap();
    let original = scribe();
    let gguf = converted(&original, &dir.path().join("a.gguf"), Target::Gguf, None);
    assert_eq!((gguf.container, &gguf.config), (Container::Gguf, &original.config));
    let digest = original.weights_digest().unwrap();
    assert_eq!(gguf.weights_digest().unwrap(), digest);
    assert_eq!(gguf.variant_digest(digest, "c", "k"), original.variant_digest(digest, "c", "k"));
    // The name of the directory is the name of the model.
    let back = dir.path().join("scribe-8m");
    let again = converted(&gguf, &back, Target::HuggingFace, None);
    assert_eq!(again.weights_digest().unwrap(), digest);
    same_side_files(&scribe_path(), &back);
    converted(&again, &dir.path().join("b.gguf"), Target::Gguf, None);
    assert!(fs::read(dir.path().join("a.gguf")).unwrap() == fs::read(dir.path().join("b.gguf")).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "temporary files were left");
}

#[test]
fn gguf_rows_are_permuted_and_vectors_are_f32() {
    let dir = TempDir::new().unwrap();
    let (original, path) = (scribe(), dir.path().join("a.gguf"));
    convert(&original, &path, Target::Gguf, None, &mut |_, _| ()).unwrap();
    let file = GgufFile::open("a.gguf", Arc::new(FileAt::open(&path).unwrap())).unwrap();
    let row = |source: &dyn TensorSource, name: &str, row: u64| {
        let id = source.index().find(name).unwrap();
        let mut bytes = vec![0; source.index().get(id).row_bytes().unwrap() as usize];
        source.read_rows(id, row..row + 1, &mut bytes).unwrap();
        bytes
    };
    // Head 1 of width 32: canonical row 32 + 16 + 3 is paired with row 32 + 3, and comes right after it.
    let q = row(&*original.weights, "model.layers.2.self_attn.q_proj.weight", 51);
    assert_eq!(q, row(&file, "blk.2.attn_q.weight", 32 + 7));
    let norm = file.index().get(file.index().find("blk.0.attn_norm.weight").unwrap());
    assert_eq!(norm.dtype, DType::F32);
}

#[test]
fn rows_may_be_read_in_any_pieces() {
    let dir = TempDir::new().unwrap();
    let (original, path) = (scribe(), dir.path().join("a.gguf"));
    let gguf = converted(&original, &path, Target::Gguf, None);
    let name = "model.layers.0.self_attn.k_proj.weight";
    let read = |model: &Model, rows: std::ops::Range<u64>| {
        let id = model.weights.index().find(name).unwrap();
        let mut bytes = vec![0; model.weights.index().get(id).row_bytes().unwrap() as usize * (rows.end - rows.start) as usize];
        model.weights.read_rows(id, rows, &mut bytes).map(|()| bytes)
    };
    for rows in [0..128, 0..1, 31..33, 5..100, 127..128, 7..7] {
        assert_eq!(read(&gguf, rows.clone()).unwrap(), read(&original, rows).unwrap());
    }
    assert!(read(&gguf, 100..129).is_err());
}

#[test]
fn float_types_are_changed_on_demand() {
    let dir = TempDir::new().unwrap();
    let original = scribe();
    let wide = converted(&original, &dir.path().join("f32"), Target::HuggingFace, Some(DType::F32));
    assert!(fs::read_to_string(dir.path().join("f32/config.json")).unwrap().contains("\"torch_dtype\": \"float32\""));
    let back = converted(&wide, &dir.path().join("bf16"), Target::HuggingFace, Some(DType::BF16));
    assert_eq!(back.weights_digest().unwrap(), original.weights_digest().unwrap());
    let error = convert(&original, &dir.path().join("q"), Target::Gguf, Some(DType::Q8_0), &mut |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("Q8_0"));
}

#[test]
fn outputs_appear_whole_or_not_at_all() {
    let dir = TempDir::new().unwrap();
    let model = scribe();
    let infos: Vec<_> = model.weights.index().iter().map(|(_, info)| info.clone()).collect();
    for target in [Target::Gguf, Target::HuggingFace] {
        let mut writer = ModelWriter::create(&dir.path().join("out"), target, &model, &infos).unwrap();
        writer.write(&[0; 512]).unwrap();
        assert!(writer.finish().unwrap_err().to_string().contains("missing"));
        let mut writer = ModelWriter::create(&dir.path().join("out"), target, &model, &infos).unwrap();
        assert!(writer.write(&vec![0; 4096 * 512 + 1]).is_err());
        drop(writer);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    let error = convert(&model, dir.path(), Target::Gguf, None, &mut |_, _| ()).unwrap_err();
    assert!(matches!(error, StoreError::Exists(_)));
    let missing = convert(&model, &dir.path().join("no/where"), Target::Gguf, None, &mut |_, _| ()).unwrap_err();
    assert!(missing.to_string().contains("no"));
}

#[test]
fn interrupted_work_goes_on_at_every_tensor_to_the_same_bytes() {
    let dir = TempDir::new().unwrap();
    let model = scribe();
    let tensors: Vec<_> = model.weights.index().iter().collect();
    let infos: Vec<_> = tensors.iter().map(|(_, info)| (*info).clone()).collect();
    let bytes = |i: usize| {
        let (id, info) = tensors[i];
        let mut bytes = vec![0; info.bytes().unwrap() as usize];
        model.weights.read_rows(id, 0..info.rows(), &mut bytes).unwrap();
        bytes
    };
    for target in [Target::Gguf, Target::HuggingFace] {
        let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
        convert(&model, &whole, target, None, &mut |_, _| ()).unwrap();
        let create = |work: &[u8]| {
            let output = Destination { path: &out, recipients: &[], work: Some(WorkId::of(&[work])) };
            ModelWriter::create(output, target, &model, &infos).unwrap()
        };
        // Interrupted again and again: after so many tensors, and in the middle of the next one.
        let mut next = 0;
        for stop in [1, 2, 7, 40, infos.len() - 1] {
            let mut writer = create(b"this");
            assert_eq!(writer.kept(), next);
            for i in next..stop {
                writer.write(&bytes(i)).unwrap();
            }
            let some = bytes(stop);
            writer.write(&some[..some.len() / 2 / 4 * 4]).unwrap();
            assert!(writer.leave().unwrap().ends_with("out.partial"));
            next = stop;
        }
        let mut writer = create(b"this");
        assert_eq!(writer.kept(), infos.len() - 1);
        writer.write(&bytes(infos.len() - 1)).unwrap();
        writer.finish().unwrap();
        let file = |path: &Path| if path.is_dir() { path.join("model.safetensors") } else { path.to_owned() };
        assert!(fs::read(file(&out)).unwrap() == fs::read(file(&whole)).unwrap(), "{target:?}");
        let remove = |path: &Path| if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        [&out, &whole].into_iter().for_each(|path| remove(path).unwrap());

        let mut writer = create(b"this");
        writer.write(&bytes(0)).unwrap();
        writer.leave().unwrap();
        assert_eq!(create(b"other work").kept(), 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "what is dropped is removed");
    }
}

#[test]
fn a_bundle_is_the_same_model() {
    let dir = TempDir::new().unwrap();
    let identity = Identity::generate();
    let recipient = Recipient::parse(&identity.recipient().unwrap()).unwrap();
    let path = dir.path().join("scribe.coffer");
    let mut writer = BundleWriter::create(&path, &[recipient]).unwrap();
    for (name, _) in FileSet::open(&scribe_path(), &[]).unwrap().list() {
        writer.add(name, &mut fs::File::open(scribe_path().join(name)).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    assert!(open(&path, &[Identity::generate()]).is_err());
    let (sealed, plain) = (open(&path, &[identity]).unwrap(), scribe());
    assert!(sealed.sealed && !plain.sealed);
    assert_eq!(sealed.weights_digest().unwrap(), plain.weights_digest().unwrap());
}

#[test]
fn broken_directories_are_refused_by_name() {
    let error = |break_it: &dyn Fn(&Path)| {
        let dir = TempDir::new().unwrap();
        let path = copy(&dir);
        break_it(&path);
        open(&path, &[]).err().expect("refused").to_string()
    };
    let replace = |file: &'static str, from: &'static str, to: &'static str| {
        error(&move |dir| {
            let text = fs::read_to_string(dir.join(file)).unwrap();
            assert!(text.contains(from));
            fs::write(dir.join(file), text.replacen(from, to, 1)).unwrap();
        })
    };
    let truncate =
        |dir: &Path| fs::OpenOptions::new().write(true).open(dir.join("model.safetensors")).unwrap().set_len(5000).unwrap();
    assert!(error(&truncate).contains("model.safetensors"));
    assert!(error(&|dir| fs::remove_file(dir.join("model.safetensors")).unwrap()).contains("model.safetensors"));
    assert!(error(&|dir| fs::remove_file(dir.join("config.json")).unwrap()).contains("config.json"));
    assert!(error(&|dir| fs::write(dir.join("tokenizer.json"), "{").unwrap()).contains("tokenizer.json"));
    assert!(replace("config.json", "\"hidden_size\": 256", "\"hidden_size\": 512").contains("demands"));
    assert!(replace("config.json", "\"num_hidden_layers\": 8", "\"num_hidden_layers\": 9").contains("model.layers.8."));
    assert!(replace("config.json", "LlamaForCausalLM", "FalconForCausalLM").contains("FalconForCausalLM"));
    assert!(replace("tokenizer_config.json", "{% endfor %}", "{% endfro %}").contains("chat template"));
    assert!(error(&|dir| fs::write(dir.join("config.json"), vec![b' '; (1 << 20) + 1]).unwrap()).contains("limit"));
}

#[test]
fn links_must_stay_inside() {
    let dir = TempDir::new().unwrap();
    let path = copy(&dir);
    fs::rename(path.join("config.json"), dir.path().join("outside.json")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("outside.json"), path.join("config.json")).unwrap();
    let files = FileSet::open(&path, &[]).unwrap();
    assert!(!files.has("config.json"));
    assert!(files.read("config.json", 1 << 20).unwrap_err().to_string().contains("leads out"));
    assert!(files.file("../outside.json").is_err());
    assert_eq!(files.read("absent", 1).unwrap(), None);
    fs::rename(path.join("generation_config.json"), path.join("g")).unwrap();
    std::os::unix::fs::symlink("g", path.join("generation_config.json")).unwrap();
    assert!(FileSet::open(&path, &[]).unwrap().has("generation_config.json"));
}

#[test]
fn places_without_a_model_say_what_is_there() {
    let dir = TempDir::new().unwrap();
    assert!(open(dir.path(), &[]).err().unwrap().to_string().contains("neither config.json nor a GGUF"));
    assert!(open(&dir.path().join("absent"), &[]).is_err());
    fs::write(dir.path().join("a.gguf"), b"GGUF").unwrap();
    assert!(open(dir.path(), &[]).is_err());
    fs::write(dir.path().join("b.gguf"), b"GGUF").unwrap();
    assert!(open(dir.path(), &[]).err().unwrap().to_string().contains("2 GGUF files"));
}

/// Names of everything under a folder that is not inside a bundle.
fn outside_bundles(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !folder.join(name).join("coffer.bundle").exists()).collect()
}

#[test]
fn a_sealed_output_is_the_plain_one_and_no_plain_file_is_ever_there() {
    let dir = TempDir::new().unwrap();
    let (model, identity) = (scribe(), Identity::generate());
    let recipients = [Recipient::parse(&identity.recipient().unwrap()).unwrap()];
    for target in [Target::Gguf, Target::HuggingFace] {
        let (plain, place) = (dir.path().join(format!("plain-{target:?}")), dir.path().join(format!("{target:?}")));
        converted(&model, &plain, target, None);
        fs::create_dir(&place).unwrap();
        let sealed = place.join("out.coffer");
        let output = Destination { path: &sealed, recipients: &recipients, work: None };
        let mut seen = 0;
        convert(&model, output, target, None, &mut |_, _| {
            seen += 1;
            assert_eq!(outside_bundles(&place), Vec::<String>::new());
        })
        .unwrap();
        assert!(seen > 10 && outside_bundles(&place).is_empty());
        let (plain, sealed) =
            (FileSet::open(&plain, &[]).unwrap(), FileSet::open(&sealed, std::slice::from_ref(&identity)).unwrap());
        assert!(sealed.is_sealed() && sealed.list().len() == plain.list().len());
        for ((plain_name, size), (name, _)) in plain.list().iter().zip(sealed.list()) {
            assert!(name == plain_name || target == Target::Gguf && name == "out.gguf", "{name}");
            assert!(plain.read(plain_name, *size).unwrap() == sealed.read(name, *size).unwrap(), "{name}");
        }
    }
}

#[test]
fn a_sealed_output_that_fails_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let (model, out) = (scribe(), dir.path().join("out"));
    let recipients = [Recipient::parse(&Identity::generate().recipient().unwrap()).unwrap()];
    let infos: Vec<_> = model.weights.index().iter().map(|(_, info)| info.clone()).collect();
    let output = Destination { path: &out, recipients: &recipients, work: None };
    for target in [Target::Gguf, Target::HuggingFace] {
        let mut writer = ModelWriter::create(output, target, &model, &infos).unwrap();
        writer.write(&[0; 512]).unwrap();
        assert!(matches!(writer.finish(), Err(StoreError::Sequence { .. })));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    fs::write(&out, "in the way").unwrap();
    let error = convert(&model, output, Target::Gguf, None, &mut |_, _| ()).unwrap_err();
    assert!(matches!(error, StoreError::Exists(_)), "{error}");
}
