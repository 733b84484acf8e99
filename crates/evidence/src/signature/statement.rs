//! What is signed: an in-toto statement v1 that lists a model's files with their digests.

use super::{Differences, Digests, Ignored, SignatureError};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";
/// What `model_signing` calls the only file of a model that is one file.
const ITSELF: &str = ".";

/// A model's files, and what of it is not covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    model: String,
    files: Digests,
    ignored: Ignored,
}

impl Statement {
    /// States that the directory `model` (a name that informs, nothing more) consists of `files`, besides what is ignored.
    ///
    /// # Errors
    /// Returns [`SignatureError::Statement`] if there is no file, or if a name could mean two places.
    pub fn of_directory(model: &str, files: Digests, ignored: Ignored) -> Result<Self, SignatureError> {
        files.keys().try_for_each(|name| check_name(name))?;
        Self { model: model.to_owned(), files, ignored }.not_empty()
    }

    /// States that the model is one file with this SHA-256.
    pub fn of_file(model: &str, digest: [u8; 32]) -> Self {
        Self { model: model.to_owned(), files: Digests::from([(ITSELF.to_owned(), digest)]), ignored: Ignored::new([]) }
    }

    /// The name that the model had when it was signed.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Files with their SHA-256. The only file of a model that is one file can be called `.`.
    pub fn files(&self) -> &Digests {
        &self.files
    }

    /// What is not covered.
    pub fn ignored(&self) -> &Ignored {
        &self.ignored
    }

    /// The signed digest of the file `name` of a model that consists of `count` files.
    pub fn digest_of(&self, name: &str, count: usize) -> Option<&[u8; 32]> {
        let alone = || self.files.get(ITSELF).filter(|_| count == 1 && self.files.len() == 1);
        self.files.get(name).or_else(alone)
    }

    /// How `found` differs from what was signed.
    pub fn differences(&self, found: &Digests) -> Differences {
        let mut differences = Differences::default();
        for (name, digest) in found {
            match self.digest_of(name, found.len()) {
                Some(signed) if signed == digest => {}
                Some(_) => differences.changed.push(name.clone()),
                None => differences.unsigned.push(name.clone()),
            }
        }
        let alone = found.len() == 1 && self.files.len() == 1 && self.files.contains_key(ITSELF);
        let missing = self.files.keys().filter(|name| !alone && !found.contains_key(*name));
        differences.missing = missing.cloned().collect();
        differences
    }

    /// The statement as it is signed.
    pub(super) fn to_json(&self) -> String {
        let resource =
            |(name, digest): (&String, &[u8; 32])| json!({ "name": name, "algorithm": "sha256", "digest": hex::encode(digest) });
        json!({
            "_type": STATEMENT_TYPE,
            "subject": [{ "name": self.model, "digest": { "sha256": root(self.files.values()) } }],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": false,
                    "ignore_paths": self.ignored.paths(),
                },
                "resources": self.files.iter().map(resource).collect::<Vec<_>>(),
            },
        })
        .to_string()
    }

    pub(super) fn parse(payload: &[u8]) -> Result<Self, SignatureError> {
        let json: Json = serde_json::from_slice(payload).map_err(|e| SignatureError::Statement(e.to_string()))?;
        json.check()?;
        let subject = match json.subject.as_slice() {
            [one] => one,
            many => return Err(SignatureError::Statement(format!("{} subjects; a model has one", many.len()))),
        };
        let (mut files, mut digests) = (Digests::new(), Vec::new());
        for resource in &json.predicate.resources {
            let digest = resource.digest()?;
            digests.push(digest);
            if files.insert(resource.name.clone(), digest).is_some() {
                return Err(SignatureError::Statement(format!("`{}` is listed twice", resource.name)));
            }
        }
        if files.len() > 1 || !files.contains_key(ITSELF) {
            files.keys().try_for_each(|name| check_name(name))?;
        }
        let (signed, computed) = (&subject.digest.sha256, root(&digests));
        if *signed != computed {
            return Err(SignatureError::Statement(format!("its files give the digest {computed}, its subject has {signed}")));
        }
        let ignored = Ignored::new(json.predicate.serialization.ignore_paths.iter().map(String::as_str));
        Self { model: subject.name.clone(), files, ignored }.not_empty()
    }

    fn not_empty(self) -> Result<Self, SignatureError> {
        if self.files.is_empty() { Err(SignatureError::Statement("it lists no file".into())) } else { Ok(self) }
    }
}

/// SHA-256 over the files' digests in the order in which they are listed.
fn root<'a>(digests: impl IntoIterator<Item = &'a [u8; 32]>) -> String {
    let mut hasher = Sha256::new();
    digests.into_iter().for_each(|digest| hasher.update(digest));
    hex::encode(hasher.finalize())
}

/// A path in the model that means one place and no other.
fn check_name(name: &str) -> Result<(), SignatureError> {
    match name.contains('\0') || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        true => Err(SignatureError::Statement(format!("`{name}` is no path inside a model"))),
        false => Ok(()),
    }
}

/// Fields that are unknown are for later versions, as in-toto demands; a field twice is refused.
#[derive(Deserialize)]
struct Json {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Deserialize)]
struct Subject {
    name: String,
    digest: SubjectDigest,
}

#[derive(Deserialize)]
struct SubjectDigest {
    sha256: String,
}

#[derive(Deserialize)]
struct Predicate {
    serialization: Serialization,
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Serialization {
    method: String,
    hash_type: String,
    #[serde(rename = "allow_symlinks")]
    _allow_symlinks: bool,
    #[serde(default)]
    ignore_paths: Vec<String>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    algorithm: String,
    digest: String,
}

impl Json {
    fn check(&self) -> Result<(), SignatureError> {
        let serialization = &self.predicate.serialization;
        let fields = [
            ("_type", &self.kind, STATEMENT_TYPE),
            ("predicateType", &self.predicate_type, PREDICATE_TYPE),
            ("serialization.method", &serialization.method, "files"),
            ("serialization.hash_type", &serialization.hash_type, "sha256"),
        ];
        for (field, found, known) in fields {
            if found != known {
                return Err(SignatureError::Statement(format!("{field} is `{found}`; only `{known}` is known here")));
            }
        }
        Ok(())
    }
}

impl Resource {
    fn digest(&self) -> Result<[u8; 32], SignatureError> {
        let mut digest = [0; 32];
        let decoded = self.algorithm == "sha256" && hex::decode_to_slice(&self.digest, &mut digest).is_ok();
        match decoded {
            true => Ok(digest),
            false => Err(SignatureError::Statement(format!("`{}` has no SHA-256, 64 digits of hex", self.name))),
        }
    }
}
